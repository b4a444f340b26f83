/**
 * Where a VMDK's descriptor is, and the parent that it names (VMware, "Virtual Disk Format 5.0", section "The
 * Descriptor File").
 *
 * A parent is known by its content id, which changes when it is written: a child lies over the one whose id it
 * holds, and over no other. The name is a hint, from the host that wrote it: a relative one is taken as it is, and
 * of a path on a Windows or ESX host only the last part means anything here, the parent beside the image.
 */

import { DriftmapError } from '../../base/errors.ts';
import { VMDK_MAX_DESCRIPTOR_BYTES } from '../../base/limits.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { type ByteSource, readWhole } from './byte-source.ts';
import type { BackingImage, ImageHost } from './image.ts';
import { isCowd } from './vmdk-cowd.ts';
import { readVmdkDescriptor, type VmdkDescriptor } from './vmdk-descriptor.ts';
import { isSeSparse } from './vmdk-se-sparse.ts';
import { isSparse, readSparseHeader, type VmdkSparseHeader } from './vmdk-sparse.ts';

export interface VmdkStart {
  readonly descriptor: VmdkDescriptor;
  /** Where the disk is in this file; null where the descriptor names the files it is in. */
  readonly sparse: VmdkSparseHeader | null;
}

/**
 * Reads what a VMDK begins with: a descriptor, or an extent that holds one.
 * @throws DriftmapError `unsupported` for an extent whose descriptor is elsewhere, `malformed`, `limit`, `policy`
 */
export async function readVmdkStart(source: ByteSource): Promise<VmdkStart> {
  const head = new Uint8Array(Math.min(8, source.size));
  await readWhole(source, 'a VMDK', 0, head);
  if (isCowd(head) || isSeSparse(head)) throw lonely(source);
  if (!isSparse(head)) {
    if (source.size > VMDK_MAX_DESCRIPTOR_BYTES) throw noStart(source);
    return { descriptor: await readVmdkDescriptor(source, 0, source.size), sparse: null };
  }
  const header = await readSparseHeader(source);
  if (header.descriptor === null) throw lonely(source);
  const { offset, length } = header.descriptor;
  if (await isBlank(source, offset)) throw lonely(source);
  const descriptor = await readVmdkDescriptor(source, offset, length);
  return { descriptor, sparse: header.capacity === 0 ? null : header };
}

/** Extents of a split disk have room for a descriptor, and nothing in it. */
async function isBlank(source: ByteSource, offset: number): Promise<boolean> {
  const first = new Uint8Array(1);
  await readWhole(source, 'the VMDK descriptor', offset, first);
  return first[0] === 0;
}

function noStart(source: ByteSource): DriftmapError {
  const reason = `expected a VMDK: a sparse extent, or a descriptor, which is a text of at most ${VMDK_MAX_DESCRIPTOR_BYTES} bytes; the contents of a flat disk are opened by their descriptor, or as raw`;
  return new DriftmapError('malformed', reason, { path: source.name, offset: 0 });
}

function lonely(source: ByteSource): DriftmapError {
  const reason =
    'one extent of a VMDK, which alone does not say what the disk is: open the descriptor that names it';
  return new DriftmapError('unsupported', reason, { path: source.name });
}

/** The parent that a descriptor names. */
export function parentOfVmdk(host: ImageHost, { parent }: VmdkDescriptor): BackingImage | null {
  if (parent === null) return null;
  const check = (unit: LogicalUnit) => checkParent(host, parent.cid, unit);
  return { name: parentName(parent.hint), format: 'vmdk', check };
}

function parentName(hint: string): string {
  const elsewhere = /^(?:[a-z]:|\\|\/vmfs\/)/i.test(hint);
  const path = hint.replaceAll('\\', '/');
  return elsewhere ? path.slice(path.lastIndexOf('/') + 1) : path;
}

/** @throws DriftmapError `mismatch` where the unit is not the parent that was meant, naming both */
async function checkParent(host: ImageHost, wanted: number, unit: LogicalUnit): Promise<void> {
  const { cid } = (await readVmdkStart(unit)).descriptor;
  if (cid === wanted) return;
  const reason = `expected a parent with the CID ${hex(wanted)}, got ${unit.name} with ${hex(cid)}: it was written since, or is another disk`;
  throw new DriftmapError('mismatch', reason, { path: host.path });
}

function hex(cid: number): string {
  return cid.toString(16).padStart(8, '0');
}
