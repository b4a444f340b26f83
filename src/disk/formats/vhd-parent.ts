/**
 * The parent of a differencing VHD: by which name, and whether it is the one that was meant ("Virtual Hard
 * Disk Image Format Specification" 1.0, sections "Implementing a Differencing Hard Disk" and "Identification
 * of the Parent Hard Disk Image").
 */

import { fstatSync } from 'node:fs';
import { DriftmapError } from '../../base/errors.ts';
import { VHD_MAX_LOCATOR_BYTES } from '../../base/limits.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { ViewUnit } from '../view-unit.ts';
import { type ByteSource, readWhole } from './byte-source.ts';
import type { BackingImage, ImageHost } from './image.ts';
import { readVhdFooter, type VhdFooter, type VhdLocator, type VhdParent } from './vhd-footer.ts';

/** Seconds from 1970 to 2000, where VHD begins to count. */
const EPOCH = 946_684_800;
/** File times are rounded to two seconds on FAT. */
const TOLERANCE = 2;
/** Xen's name for a parent that is a raw disk. */
const NO_UUID = '0'.repeat(32);

/** The parent that an image names. @throws DriftmapError `malformed` where it names none */
export async function parentOfVhd(host: ImageHost, parent: VhdParent): Promise<BackingImage> {
  const name = await parentName(host.unit, parent);
  const check = (unit: LogicalUnit) => checkParent(host, parent, unit);
  return { name, format: parent.uuid === NO_UUID ? 'raw' : 'vpc', check };
}

/**
 * The name to look for. Images come from machines with other folders, so a relative name goes before an
 * absolute one; and of a Windows path only the last part means anything here: the parent beside the image.
 */
async function parentName(source: ByteSource, parent: VhdParent): Promise<string> {
  const locator = (platform: string) => parent.locators.find((one) => one.platform === platform);
  const relative = locator('W2ru');
  if (relative) return fromWindows(await readUtf16(source, relative));
  const url = locator('MacX');
  if (url) return fromUrl(source, url);
  const absolute = locator('W2ku');
  const path = absolute ? await readUtf16(source, absolute) : parent.unicodeName;
  const name = lastPart(path);
  if (name !== '') return name;
  const reason =
    'a differencing VHD that does not name its parent (no W2ru, W2ku or MacX locator): its contents cannot be known without it';
  throw new DriftmapError('malformed', reason, { path: source.name });
}

/** `.\folder\parent.vhd` → `folder/parent.vhd`. */
export function fromWindows(path: string): string {
  return withoutDot(path.replaceAll('\\', '/'));
}

/** So that messages name the file as the user would. */
function withoutDot(path: string): string {
  return path.replace(/^(?:\.\/+)+/, '');
}

/** `\\?\d:\folder\parent.vhd` → `parent.vhd`. */
export function lastPart(path: string): string {
  return /[^\\/:]*$/.exec(path)![0];
}

/** `file://./parent.vhd` is relative to the image (Xen); `file://localhost/folder/parent.vhd` is absolute. */
async function fromUrl(source: ByteSource, locator: VhdLocator): Promise<string> {
  const url = await readLocator(source, locator, 'utf-8');
  const path = /^file:\/\/(?:localhost(?=\/))?(.+)$/.exec(url)?.[1];
  if (path !== undefined) {
    try {
      return withoutDot(decodeURIComponent(path));
    } catch {
      // Not an escape: the same error as below.
    }
  }
  throw badLocator(source, locator, 'expected a file: URL');
}

function readUtf16(source: ByteSource, locator: VhdLocator): Promise<string> {
  return readLocator(source, locator, 'utf-16le');
}

async function readLocator(
  source: ByteSource,
  locator: VhdLocator,
  encoding: 'utf-8' | 'utf-16le',
): Promise<string> {
  if (locator.length === 0 || locator.length > VHD_MAX_LOCATOR_BYTES) {
    const reason = `expected a name of 1 to ${VHD_MAX_LOCATOR_BYTES} bytes, got ${locator.length}`;
    throw badLocator(source, locator, reason);
  }
  const bytes = new Uint8Array(locator.length);
  await readWhole(source, `the name of the VHD's parent (${locator.platform})`, locator.offset, bytes);
  try {
    // Some writers end it with zeros, some count them in.
    const name = new TextDecoder(encoding, { fatal: true }).decode(bytes).replace(/\0+$/, '');
    if (name !== '' && !name.includes('\0')) return name;
  } catch {
    // Not text: the same error as below.
  }
  throw badLocator(source, locator, `expected a name in ${encoding} without zeros`);
}

function badLocator(source: ByteSource, { platform, offset }: VhdLocator, reason: string): DriftmapError {
  return new DriftmapError('malformed', `the name of the VHD's parent (${platform}): ${reason}`, {
    path: source.name,
    offset,
  });
}

/**
 * @throws DriftmapError `mismatch` where the unit is not the parent: its UUID is another's. The time stamp
 * only warns: it is the parent file's modification time, which many ways of copying do not keep.
 */
async function checkParent(host: ImageHost, wanted: VhdParent, unit: LogicalUnit): Promise<void> {
  if (wanted.uuid === NO_UUID) return refuseVhd(host, unit);
  const footer = await readVhdFooter(unit);
  if (footer.uuid !== wanted.uuid) {
    const reason = `expected the parent with the UUID ${wanted.uuid}, got ${unit.name} with ${footer.uuid}: it is another disk, or was made anew`;
    throw new DriftmapError('mismatch', reason, { path: host.path });
  }
  const modified = modificationTime(unit);
  const known = wanted.timestamp === 0 || wanted.timestamp === footer.timestamp || modified === null;
  if (known || Math.abs(modified - wanted.timestamp) <= TOLERANCE) return;
  const time = (stamp: number) => new Date((stamp + EPOCH) * 1000).toISOString();
  host.warn(
    `${host.path}: its parent ${unit.name} was modified at ${time(modified)}, and the image lies over the one of ${time(wanted.timestamp)}: if the parent was written since, the contents are wrong (a copy that did not keep the file's time looks the same)`,
  );
}

/** Without a UUID the parent is a raw disk; a VHD there would be read as one, and is not what was meant. */
async function refuseVhd(host: ImageHost, unit: LogicalUnit): Promise<void> {
  let footer: VhdFooter;
  try {
    footer = await readVhdFooter(unit);
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'malformed') return;
    throw error;
  }
  const reason = `a differencing VHD without a parent UUID lies over a raw disk, and ${unit.name} is a VHD (UUID ${footer.uuid})`;
  throw new DriftmapError('mismatch', reason, { path: host.path });
}

/** Seconds since 2000; null where the unit is no file. */
function modificationTime(unit: LogicalUnit): number | null {
  if (unit instanceof ViewUnit) return null;
  const handle = unit.handle();
  if (handle.kind !== 'file') return null;
  return Math.floor(fstatSync(handle.fd).mtimeMs / 1000) - EPOCH;
}
