/**
 * What a file's contents are, and where they lie: the unnamed $DATA attribute as an extent map.
 *
 * Not every file's bytes stand where its data attribute says. Compressed data is unpacked, encrypted data
 * decrypted, and for files with a reparse point a driver of Windows makes the contents: a deduplicated file,
 * for one, looks like a hole from end to end. Such files are listed under their kind and refused when they are
 * to be mapped. A value in the MFT record is mapped where it lies, byte by byte; the two bytes of it that a
 * fixup may have replaced lie in the record's update sequence array, and so that is where they are mapped.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { viewOf } from '../formats/byte-source.ts';
import type { FileEntry } from './container.ts';
import { type AttributePiece, type Mft, type NtfsFile, runsOf } from './ntfs-mft.ts';
import {
  AttributeType,
  COMPRESSION_BITS,
  damage,
  ENCRYPTED,
  FIXUP_STRIDE,
  type FileReference,
  type NtfsRecord,
  SPARSE,
} from './ntfs-record.ts';
import { HOLE } from './ntfs-runs.ts';

export interface Contents {
  readonly size: ByteCount;
  /** `sparse`, `compressed`, `deduplicated` …; empty for a plain file. */
  readonly kind: string;
  /** Why it cannot be mapped; null where it can. */
  readonly refusal: string | null;
}

/** Tags of reparse points ([MS-FSCC] 2.1.2.1) whose file is a file, and why its data is not its contents. */
const filtered: ReadonlyMap<number, readonly [kind: string, refusal: string]> = new Map([
  [0x80000013, ['deduplicated', 'its data is in the chunk store of Data Deduplication: unoptimize it first']],
  [0x80000017, ['compressed', 'it is compressed by the Windows Overlay Filter: compact /u /exe unpacks it']],
  [0x80000007, ['deduplicated', 'its data is in a common store of Single Instance Storage']],
  [0xc0000004, ['offline', 'its data was moved to other storage: recall it first']],
  [0x80000006, ['offline', 'its data was moved to other storage: recall it first']],
]);
/** Tags of what is no file of its own: it stands for another, or is what Unix calls a special file. */
const substitutes: ReadonlyMap<number, string> = new Map([
  [0xa000000c, 'a symbolic link'],
  [0xa0000003, 'a mount point or junction'],
  [0xa000001d, 'a symbolic link of WSL'],
  [0x80000023, 'a socket'],
  [0x80000024, 'a named pipe of WSL'],
  [0x80000025, 'a character device of WSL'],
  [0x80000026, 'a block device of WSL'],
  [0x80000014, 'a special file of NFS'],
  [0x8000001b, 'an application link'],
]);
/** The bit of tags whose file stands for another one. */
const NAME_SURROGATE = 0x20000000;

/** The reparse tag of a file or directory; null where it has no reparse point. */
export async function reparseTagOf(file: NtfsFile): Promise<number | null> {
  const piece = await file.first(AttributeType.reparsePoint, '');
  if (piece === null) return null;
  const { record, attribute } = piece;
  const { resident, extent } = attribute;
  const length = resident?.length ?? extent!.size;
  if (length < 4) {
    const reason = `MFT record ${record.number}: expected a reparse point with a tag, got ${length} bytes`;
    throw damage(record.where, attribute.at, reason);
  }
  if (resident !== null) return record.view.getUint32(resident.at, true);
  const reader = await file.reader(AttributeType.reparsePoint, '', 'reparse point');
  return viewOf(await reader.bytes(0, 4)).getUint32(0, true);
}

/** What is in the place of a file or directory with this tag; null where it is one all the same. */
export function substituteOf(tag: number): string | null {
  const isSurrogate = Math.floor(tag / NAME_SURROGATE) % 2 === 1;
  return substitutes.get(tag) ?? (isSurrogate ? 'a link or mount point' : null);
}

/**
 * What a file that is no directory holds.
 * @param tag of its reparse point; not one of a substitute
 * @throws DriftmapError `malformed`, also for a file without an unnamed $DATA attribute
 */
export async function contentsOf(file: NtfsFile, tag: number | null): Promise<Contents> {
  const piece = await file.first(AttributeType.data, '');
  if (piece === null) {
    const reason = `MFT record ${file.base.number}: expected a file with data, it has no unnamed data attribute`;
    throw damage(file.base.where, 0, reason);
  }
  const { resident, extent, flags } = piece.attribute;
  const size = resident?.length ?? extent!.size;
  if (tag !== null) return { size, ...filterOf(tag) };
  if ((flags & ENCRYPTED) !== 0) {
    return { size, kind: 'encrypted', refusal: 'it is encrypted (EFS): decrypt it where its keys are' };
  }
  // A resident value is plain also where the attribute is marked for compression.
  if (extent !== null && (flags & COMPRESSION_BITS) !== 0) {
    return { size, kind: 'compressed', refusal: 'it is compressed (LZNT1): compact /u unpacks it' };
  }
  return { size, kind: (flags & SPARSE) !== 0 ? 'sparse' : '', refusal: null };
}

function filterOf(tag: number): { kind: string; refusal: string } {
  const known = filtered.get(tag);
  if (known !== undefined) return { kind: known[0], refusal: known[1] };
  // Tags of cloud files are 9000x01A, with any x.
  if (Math.floor(tag / 0x10000) === 0x9000 && tag % 0x1000 === 0x1a) {
    return { kind: 'cloud', refusal: 'it is a file of a cloud service, which may keep its data elsewhere' };
  }
  const text = tag.toString(16).toUpperCase().padStart(8, '0');
  return { kind: 'filtered', refusal: `a driver of Windows makes its contents (reparse tag ${text})` };
}

/** A file of a listing or a lookup. It remembers where to look, not what was there. */
export class NtfsEntry implements FileEntry {
  readonly path: string;
  readonly size: ByteCount;
  readonly kind?: string;
  private readonly mft: Mft;
  private readonly reference: FileReference;

  constructor(path: string, mft: Mft, reference: FileReference, { size, kind }: Contents) {
    this.path = path;
    this.size = size;
    if (kind !== '') this.kind = kind;
    this.mft = mft;
    this.reference = reference;
  }

  /** @throws DriftmapError `unsupported` for compressed, encrypted, deduplicated … files; `malformed`, `limit` */
  async map(): Promise<ExtentMap> {
    const file = await this.mft.file(this.reference);
    const path = this.mft.source.name;
    if (file === null)
      throw new DriftmapError('io', `${this.path}: the file is gone since it was listed`, { path });
    const { size, refusal } = await contentsOf(file, await reparseTagOf(file));
    if (refusal !== null) throw new DriftmapError('unsupported', `${this.path}: ${refusal}`, { path });
    if (size !== this.size) {
      const reason = `${this.path}: expected a file of ${this.size} bytes as it was listed, it has ${size} now`;
      throw new DriftmapError('io', reason, { path });
    }
    return mapOf(file);
  }
}

/** The map of a plain file's contents, over unit 0. */
async function mapOf(file: NtfsFile): Promise<ExtentMap> {
  const pieces = await file.pieces(AttributeType.data, '');
  const [first] = pieces as [AttributePiece];
  const { resident } = first.attribute;
  if (resident === null) return mapOfRuns(file, pieces);
  return mapOfResident(file.mft, first.record, resident.at, resident.length);
}

/**
 * Runs as extents. What lies in holes or was never written is zero; the latter has a place, where it would be
 * written. The last run may reach past the file's end.
 */
function mapOfRuns(file: NtfsFile, pieces: readonly AttributePiece[]): ExtentMap {
  const { source, geometry } = file.mft;
  const { clusterSize } = geometry;
  const { runs, size, initialized } = runsOf(geometry, pieces);
  const builder = new ExtentMapBuilder(runs.starts.length + 2);
  for (let index = 0; index < runs.starts.length && builder.size < size; index++) {
    const offset = builder.size;
    const end = Math.min(runs.endOf(index) * clusterSize, size);
    const cluster = runs.clusters[index]!;
    if (cluster === HOLE) {
      builder.append({ offset, length: end - offset, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
      continue;
    }
    const place = cluster * clusterSize;
    const written = Math.max(0, Math.min(end, initialized) - offset);
    if (place + written > source.size) {
      const reason = `MFT record ${file.base.number}: expected data within the unit's ${source.size} bytes, got some up to ${place + written}: the unit is cut short`;
      throw new DriftmapError('malformed', reason, { path: source.name, offset: place, length: written });
    }
    builder.append({ offset, length: written, kind: Kind.data, unit: 0, place, depth: 0 });
    builder.append({
      offset: offset + written,
      length: end - offset - written,
      kind: Kind.zero,
      unit: 0,
      place: place + written,
      depth: 0,
    });
  }
  return builder.finish();
}

/** A value within its record: sector by sector, and the two bytes at each one's end where the fixups keep them. */
function mapOfResident(mft: Mft, record: NtfsRecord, at: number, length: ByteCount): ExtentMap {
  const builder = new ExtentMapBuilder(4);
  for (let offset = 0; offset < length; ) {
    const here = at + offset;
    const sector = Math.floor(here / FIXUP_STRIDE);
    const plainEnd = (sector + 1) * FIXUP_STRIDE - 2;
    const inFixup = here - plainEnd;
    const run = inFixup < 0 ? plainEnd - here : 2 - inFixup;
    const stands = inFixup < 0 ? here : record.fixupsAt + 2 * (sector + 1) + inFixup;
    const place: ByteOffset = mft.placeOf(record.number, stands);
    const piece = Math.min(run, length - offset);
    builder.append({ offset, length: piece, kind: Kind.data, unit: 0, place, depth: 0 });
    offset += piece;
  }
  return builder.finish();
}
