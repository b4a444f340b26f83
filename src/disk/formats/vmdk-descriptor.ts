/**
 * The descriptor of a VMDK: a text that says what the disk is made of (VMware, "Virtual Disk Format 5.0",
 * section "The Descriptor File"). It is a file of its own, or lies within a sparse extent.
 *
 * A line is a comment (`#`), a value (`CID=5fa2e1b0`, `createType="vmfs"`) or an extent
 * (`RW 4192256 SPARSE "disk-s001.vmdk"`). Lines end in LF or CRLF, the text ends at the first zero byte. What is
 * none of these is damage: a line that cannot be read could have been an extent. Values that are not needed here
 * are passed over, whatever they are called.
 */

import { DriftmapError, type ErrorKind } from '../../base/errors.ts';
import { MAX_DISK_SIZE, VMDK_MAX_DESCRIPTOR_BYTES, VMDK_MAX_EXTENTS } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, readWhole } from './byte-source.ts';

export const SECTOR = 512;

/** How an extent is stored. Devices that ESX maps are recognised and refused. */
export type VmdkExtentType = 'FLAT' | 'VMFS' | 'SPARSE' | 'VMFSSPARSE' | 'SESPARSE' | 'ZERO';

/** One extent: a run of the disk, in the order of the lines. */
export interface VmdkExtent {
  readonly type: VmdkExtentType;
  readonly length: ByteCount;
  /** Empty for `ZERO`, which has no file. */
  readonly name: string;
  /** Flat extents: where in the file the run begins. */
  readonly start: ByteOffset;
  /** Of its line, for messages. */
  readonly at: ByteOffset;
}

export interface VmdkDescriptor {
  /** Content id: changes when the disk is first written after it was opened. */
  readonly cid: number;
  /** Null where there is no parent. */
  readonly parent: { readonly cid: number; readonly hint: string } | null;
  readonly extents: readonly VmdkExtent[];
}

/** `parentCID` of an image that stands alone. */
const NO_PARENT = 0xffffffff;

const createTypes: readonly string[] = [
  'monolithicsparse',
  'monolithicflat',
  'twogbmaxextentsparse',
  'twogbmaxextentflat',
  '2gbmaxextentsparse',
  '2gbmaxextentflat',
  'streamoptimized',
  'vmfs',
  'vmfsthin',
  'vmfspreallocated',
  'vmfseagerzeroedthick',
  'vmfssparse',
  'sesparse',
  'fulldevice',
  'partitioneddevice',
  'custom',
];
/** Disks that are a device of the ESX host. */
const deviceTypes: readonly string[] = [
  'vmfsraw',
  'vmfsrdm',
  'vmfsrdmp',
  'vmfsrawdevicemap',
  'vmfspassthroughrawdevicemap',
];
const extentTypes: readonly string[] = ['FLAT', 'VMFS', 'SPARSE', 'VMFSSPARSE', 'SESPARSE', 'ZERO'];
const deviceExtents: readonly string[] = ['VMFSRAW', 'VMFSRDM'];

const EXTENT = /^(RW|RDONLY|NOACCESS)\s+(\S+)\s+([A-Z0-9]+)(?:\s+"([^"]*)"(?:\s+(\S+)(?:\s+\S.*)?)?)?$/i;

/**
 * Reads and parses a descriptor that lies at an offset.
 * @param length bytes that may be text
 * @throws DriftmapError `malformed`, `unsupported`, `limit` or `policy`, with the offset of the line
 */
export async function readVmdkDescriptor(
  source: ByteSource,
  offset: ByteOffset,
  length: ByteCount,
): Promise<VmdkDescriptor> {
  if (length > VMDK_MAX_DESCRIPTOR_BYTES) {
    const reason = `expected a VMDK descriptor of at most ${VMDK_MAX_DESCRIPTOR_BYTES} bytes`;
    throw new DriftmapError('limit', reason, { path: source.name, offset, length });
  }
  const bytes = new Uint8Array(length);
  await readWhole(source, 'the VMDK descriptor', offset, bytes);
  return new DescriptorParser(source.name, bytes, offset).parse();
}

class DescriptorParser {
  private readonly path: string;
  private readonly base: ByteOffset;
  /** One character a byte, so that places in it are offsets. */
  private readonly text: string;
  private readonly values = new Map<string, { readonly text: string; readonly at: ByteOffset }>();
  private readonly extents: VmdkExtent[] = [];
  private size: ByteCount = 0;
  private decoder: InstanceType<typeof TextDecoder> | null = null;

  constructor(path: string, bytes: Uint8Array, base: ByteOffset) {
    const end = bytes.indexOf(0);
    this.path = path;
    this.base = base;
    this.text = Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1');
  }

  parse(): VmdkDescriptor {
    const { text, base } = this;
    const extents: { readonly line: string; readonly at: ByteOffset }[] = [];
    for (let from = 0; from < text.length; ) {
      const newline = text.indexOf('\n', from);
      const end = newline < 0 ? text.length : newline;
      const line = text.slice(from, end).trim();
      const at = base + from;
      from = end + 1;
      if (line === '' || line.startsWith('#')) continue;
      if (!/^(?:RW|RDONLY|NOACCESS)\s/i.test(line)) this.addValue(line, at);
      else if (extents.push({ line, at }) > VMDK_MAX_EXTENTS) {
        throw this.error('limit', at, `expected at most ${VMDK_MAX_EXTENTS} extents`);
      }
    }
    this.checkKind();
    // Names are in the encoding that a value tells, and that may come anywhere.
    for (const { line, at } of extents) this.addExtent(line, at);
    return { cid: this.contentId('cid'), parent: this.parent(), extents: this.extents };
  }

  private addValue(line: string, at: ByteOffset): void {
    const equals = line.indexOf('=');
    const name = line.slice(0, Math.max(0, equals)).trim();
    if (!/^[^\s"]+$/.test(name)) {
      const shown = printable(line);
      throw this.error('malformed', at, `expected a comment, a value or an extent, got '${shown}'`);
    }
    const key = name.toLowerCase();
    const written = line.slice(equals + 1).trim();
    const text = /^"[^"]*"$/.test(written) ? written.slice(1, -1) : written;
    const known = this.values.get(key);
    if (known !== undefined && known.text !== text && !key.startsWith('ddb.')) {
      throw this.error(
        'malformed',
        at,
        `${printable(name)} has two values, '${printable(known.text)}' and '${printable(text)}'`,
      );
    }
    this.values.set(key, { text, at });
  }

  /** What kind of disk it is; it is read by its extents, so this only refuses. */
  private checkKind(): void {
    const version = this.needed('version');
    if (!/^[123]$/.test(version.text)) {
      throw this.error('unsupported', version.at, `expected version 1, 2 or 3, got '${version.text}'`);
    }
    const type = this.needed('createType');
    const name = type.text.toLowerCase();
    if (deviceTypes.includes(name)) throw this.deviceRefusal(type.text, type.at);
    if (!createTypes.includes(name)) {
      throw this.error('unsupported', type.at, `an unknown type of disk, '${printable(type.text)}'`);
    }
    const encrypted = this.values.get('encryptionkeys');
    if (encrypted) throw this.error('unsupported', encrypted.at, 'an encrypted disk: decrypt it in VMware');
    const native = this.values.get('isnativesnapshot');
    if (native?.text.toLowerCase() === 'yes') {
      const reason = 'a native snapshot, whose contents are in the storage array: consolidate it in VMware';
      throw this.error('unsupported', native.at, reason);
    }
  }

  private addExtent(line: string, at: ByteOffset): void {
    const match = EXTENT.exec(line);
    if (match === null) throw this.badExtent(line, at, 'access, size in sectors, type, quoted name, offset');
    const [, access, sectors, word, quoted, offset] = match;
    const type = word!.toUpperCase();
    if (deviceExtents.includes(type)) throw this.deviceRefusal(type, at);
    if (!isExtentType(type)) {
      const known = extentTypes.join(', ');
      throw this.error('unsupported', at, `expected an extent of type ${known}, got ${printable(type)}`);
    }
    if (access!.toUpperCase() === 'NOACCESS') {
      const reason = 'an extent that no guest can read (NOACCESS): the disk has no contents there';
      throw this.error('unsupported', at, reason);
    }
    const length = wholeNumber(sectors!) * SECTOR;
    const isTooLong = /^0*[1-9]\d{16,}$/.test(sectors!);
    if (!isTooLong && !(length > 0)) throw this.badExtent(line, at, 'a size of at least one sector');
    this.size += length;
    if (isTooLong || this.size > MAX_DISK_SIZE)
      throw this.error('malformed', at, 'expected a disk below 2^53 bytes');
    const start = this.startOf(type, offset, line, at);
    if ((quoted === undefined) !== (type === 'ZERO')) {
      throw this.badExtent(line, at, type === 'ZERO' ? 'no name' : 'a quoted name');
    }
    this.extents.push({ type, length, name: this.decoded(quoted ?? '', at), start, at });
  }

  private startOf(type: VmdkExtentType, offset: string | undefined, line: string, at: ByteOffset): number {
    if (offset === undefined) {
      if (type !== 'FLAT') return 0;
      throw this.badExtent(line, at, 'an offset in sectors after the name');
    }
    const start = wholeNumber(offset) * SECTOR;
    const flat = type === 'FLAT' || type === 'VMFS';
    if (!(start <= MAX_DISK_SIZE) || (!flat && start !== 0)) {
      throw this.badExtent(line, at, flat ? 'an offset in sectors after the name' : 'no offset');
    }
    return start;
  }

  private parent(): VmdkDescriptor['parent'] {
    const cid = this.contentId('parentcid');
    const hint = this.values.get('parentfilenamehint');
    if (hint?.text.includes('"')) throw this.error('malformed', hint.at, 'expected a quoted name');
    if (cid === NO_PARENT) {
      if (hint === undefined || hint.text === '') return null;
      const reason = `parentCID says that there is no parent, and parentFileNameHint names one`;
      throw this.error('malformed', hint.at, reason);
    }
    if (hint === undefined || hint.text === '') {
      const { at } = this.needed('parentCID');
      throw this.error('malformed', at, 'parentCID says that there is a parent, and nothing names it');
    }
    return { cid, hint: this.decoded(hint.text, hint.at) };
  }

  private contentId(key: 'cid' | 'parentcid'): number {
    const { text, at } = this.needed(key === 'cid' ? 'CID' : 'parentCID');
    if (/^[0-9a-f]{1,8}$/i.test(text)) return Number.parseInt(text, 16);
    throw this.error('malformed', at, `expected eight hexadecimal digits, got '${printable(text)}'`);
  }

  private needed(name: string): { readonly text: string; readonly at: ByteOffset } {
    const found = this.values.get(name.toLowerCase());
    if (found !== undefined) return found;
    throw this.error('malformed', this.base, `expected a value for ${name}, got none`);
  }

  /** A name, from the descriptor's encoding: UTF-8 where it says none. */
  private decoded(latin1: string, at: ByteOffset): string {
    const bytes = Buffer.from(latin1, 'latin1');
    if (bytes.every((byte) => byte < 0x80)) return latin1;
    const label = this.values.get('encoding')?.text ?? 'UTF-8';
    try {
      this.decoder ??= new TextDecoder(label, { fatal: true, ignoreBOM: true });
      return this.decoder.decode(bytes);
    } catch (cause) {
      const kind = cause instanceof RangeError ? 'unsupported' : 'malformed';
      throw this.error(kind, at, `expected a name in ${printable(label)}`);
    }
  }

  private badExtent(line: string, at: ByteOffset, expected: string): DriftmapError {
    return this.error('malformed', at, `an extent: expected ${expected}, got '${printable(line)}'`);
  }

  /** What ESX calls a raw device mapping: the disk is elsewhere, and a device is not opened on an image's word. */
  private deviceRefusal(what: string, at: ByteOffset): DriftmapError {
    return this.error('policy', at, `a device of the ESX host (${what}): open the device itself, as raw`);
  }

  private error(kind: ErrorKind, offset: ByteOffset, reason: string): DriftmapError {
    return new DriftmapError(kind, `VMDK descriptor: ${reason}`, { path: this.path, offset });
  }
}

function isExtentType(word: string): word is VmdkExtentType {
  return extentTypes.includes(word);
}

/** NaN for what is no whole number in digits. */
function wholeNumber(digits: string): number {
  return /^\d{1,16}$/.test(digits) ? Number(digits) : Number.NaN;
}

/** Text of an image on its way to a terminal. */
export function printable(text: string): string {
  const clean = text.replace(/[^ -~]/g, '?');
  return clean.length > 80 ? `${clean.slice(0, 80)}…` : clean;
}
