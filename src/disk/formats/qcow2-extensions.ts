/**
 * Header extensions of qcow2 (QEMU docs/interop/qcow2.txt, sections "Header extensions", "String header
 * extensions" and "Feature name table"): type, length, data, padding to 8 bytes, until type 0 or the end of
 * the area. Unknown types are skipped, as the specification says.
 */

import { DriftmapError } from '../../base/errors.ts';
import { QCOW2_MAX_DATA_FILE_NAME } from '../../base/limits.ts';
import { alignUp, type ByteOffset } from '../../base/units.ts';
import { readName, viewOf } from './byte-source.ts';

export interface Extensions {
  readonly backingFormat: string | null;
  readonly dataFileName: string | null;
  /** The bitmaps extension as it stands there, for whoever asks for bitmaps: reading the disk needs none of it. */
  readonly bitmaps: RawExtension | null;
  /** Names of incompatible features by bit. */
  readonly featureNames: ReadonlyMap<number, string>;
}

export interface RawExtension {
  /** Of its data in the image. */
  readonly offset: ByteOffset;
  readonly data: Uint8Array;
}

const END = 0;
const BACKING_FORMAT = 0xe2792aca;
const FEATURE_NAMES = 0x6803f857;
const DATA_FILE = 0x44415441;
const BITMAPS = 0x23852875;

/** QEMU's cap; no format has a longer name. */
const MAX_FORMAT_NAME = 15;
const FEATURE_NAME_BYTES = 48;
const INCOMPATIBLE = 0;

/**
 * @param area the image from its first byte to the end of the extension area
 * @param from where extensions begin: the header's length
 */
export function readExtensions(path: string, area: Uint8Array, from: ByteOffset): Extensions {
  let backingFormat: string | null = null;
  let dataFileName: string | null = null;
  let bitmaps: RawExtension | null = null;
  let featureNames: ReadonlyMap<number, string> = new Map();
  const view = viewOf(area);
  for (let at = from; at + 8 <= area.length; ) {
    const type = view.getUint32(at);
    if (type === END) break;
    const length = view.getUint32(at + 4);
    const data = at + 8;
    if (length > area.length - data) {
      const reason = `header extension 0x${type.toString(16)}: expected at most ${area.length - data} bytes, got ${length}`;
      throw new DriftmapError('malformed', reason, { path, offset: at });
    }
    const bytes = area.subarray(data, data + length);
    if (type === BACKING_FORMAT) backingFormat = readName(bytes, MAX_FORMAT_NAME, { path, offset: data });
    else if (type === DATA_FILE)
      dataFileName = readName(bytes, QCOW2_MAX_DATA_FILE_NAME, { path, offset: data });
    else if (type === BITMAPS) bitmaps = { offset: data, data: bytes.slice() };
    else if (type === FEATURE_NAMES) featureNames = readFeatureNames(bytes);
    at = alignUp(data + length, 8);
  }
  return { backingFormat, dataFileName, bitmaps, featureNames };
}

function readFeatureNames(bytes: Uint8Array): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (let at = 0; at + FEATURE_NAME_BYTES <= bytes.length; at += FEATURE_NAME_BYTES) {
    if (bytes[at] !== INCOMPATIBLE) continue;
    const padded = new TextDecoder().decode(bytes.subarray(at + 2, at + FEATURE_NAME_BYTES));
    // Names are the image's own words and reach a terminal: printable ASCII only.
    const name = padded.split('\0', 1)[0]!.replace(/[^ -~]/g, '?');
    if (name !== '') names.set(bytes[at + 1]!, name);
  }
  return names;
}
