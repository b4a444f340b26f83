/**
 * Directories: B+ trees of file names ("$INDEX_ROOT", "$INDEX_ALLOCATION", "Index entry").
 *
 * The root node is resident in the directory's record; the others are index blocks of the directory's $I30
 * index allocation. An entry may have a child that holds the names before it; a node's last entry has no name
 * and, where the node is not a leaf, the child with the names behind all others. Every block states its own
 * place, and none is taken twice, so that a damaged tree ends.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NTFS_MAX_INDEX_DEPTH, NTFS_MAX_RECORD_BYTES } from '../../base/limits.ts';
import { type ByteCount, isPowerOfTwo } from '../../base/units.ts';
import { littleUint64, viewOf } from '../formats/byte-source.ts';
import type { NtfsFile } from './ntfs-mft.ts';
import {
  AttributeType,
  damage,
  type FileReference,
  readReference,
  readUtf16,
  sameReference,
  undoFixups,
  type Whereabouts,
} from './ntfs-record.ts';
import type { RunReader } from './ntfs-runs.ts';

/** A name in a directory. */
export interface DirectoryEntry {
  readonly name: string;
  /** The file's second name, 8.3 characters of DOS: not a file of its own. */
  readonly isDosName: boolean;
  readonly reference: FileReference;
}

const INDEX_NAME = '$I30';
const ROOT_HEADER = 16;
const BLOCK_HEADER = 24;
const NODE_HEADER = 16;
const ENTRY_HEADER = 16;
const FILE_NAME_HEADER = 66;
const HAS_CHILD = 1;
const IS_LAST = 2;
const DOS_NAMESPACE = 2;
/** Blocks smaller than a cluster are numbered in units of 512 bytes. */
const SMALL_BLOCK_UNIT = 512;

interface Node {
  readonly entries: readonly Entry[];
  readonly isLeaf: boolean;
}

interface Entry {
  /** Null in the last entry of a node. */
  readonly name: DirectoryEntry | null;
  /** Null in a leaf. */
  readonly child: number | null;
}

/**
 * The names of a directory in the order of its tree, in lists of one node or less.
 * @throws DriftmapError `malformed`, with the place; names before the damage were given by then
 */
export async function* directoryEntries(directory: NtfsFile): AsyncGenerator<DirectoryEntry[], undefined> {
  const index = await DirectoryIndex.open(directory);
  const stack: { node: Node; next: number; descended: boolean }[] = [];
  stack.push({ node: index.root, next: 0, descended: false });
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    const { node } = top;
    if (node.isLeaf) {
      stack.pop();
      yield node.entries.flatMap(({ name }) => name ?? []);
      continue;
    }
    const entry = node.entries[top.next];
    if (entry === undefined) {
      stack.pop();
    } else if (!top.descended) {
      top.descended = true;
      stack.push({ node: await index.block(entry.child!, stack.length), next: 0, descended: false });
    } else {
      top.descended = false;
      top.next++;
      if (entry.name !== null) yield [entry.name];
    }
  }
}

class DirectoryIndex {
  readonly root: Node;
  private readonly directory: NtfsFile;
  private readonly blockSize: ByteCount;
  /** Bytes of the unit in which blocks are numbered. */
  private readonly unit: ByteCount;
  private readonly blocks: RunReader | null;
  private readonly taken = new Set<number>();

  private constructor(directory: NtfsFile, root: Node, blockSize: ByteCount, blocks: RunReader | null) {
    this.directory = directory;
    this.root = root;
    this.blockSize = blockSize;
    const { clusterSize } = directory.mft.geometry;
    this.unit = blockSize < clusterSize ? SMALL_BLOCK_UNIT : clusterSize;
    this.blocks = blocks;
  }

  static async open(directory: NtfsFile): Promise<DirectoryIndex> {
    const { base } = directory;
    const what = `index root of directory ${base.number}`;
    const piece = await directory.first(AttributeType.indexRoot, INDEX_NAME);
    if (piece === null) throw damage(base.where, 0, `${what}: there is none`);
    const { record, attribute } = piece;
    const { path, offset } = record.where;
    const wrong = (at: number, reason: string) =>
      damage({ path, offset: offset + attribute.at }, at, `${what}: ${reason}`);
    const { resident } = attribute;
    if (resident === null || resident.length < ROOT_HEADER + NODE_HEADER) {
      throw wrong(16, `expected a resident value of at least ${ROOT_HEADER + NODE_HEADER} bytes`);
    }
    const bytes = record.bytes.subarray(resident.at, resident.at + resident.length);
    const view = viewOf(bytes);
    const type = view.getUint32(0, true);
    const order = view.getUint32(4, true);
    if (type !== 0x30 || order !== 1) {
      throw wrong(
        0,
        `expected an index of file names (30) in their order (1), got ${type} in order ${order}`,
      );
    }
    const blockSize = view.getUint32(8, true);
    if (!isPowerOfTwo(blockSize) || blockSize < 512 || blockSize > NTFS_MAX_RECORD_BYTES) {
      throw wrong(8, `expected index blocks of 512 to ${NTFS_MAX_RECORD_BYTES} bytes, got ${blockSize}`);
    }
    const where = { path, offset: offset + resident.at };
    const root = readNode({ bytes, header: ROOT_HEADER, what, where, directory: directory.reference });
    if (root.isLeaf) return new DirectoryIndex(directory, root, blockSize, null);
    const blocks = await directory.reader(AttributeType.indexAllocation, INDEX_NAME, 'index blocks', true);
    return new DirectoryIndex(directory, root, blockSize, blocks);
  }

  async block(number: number, depth: number): Promise<Node> {
    const { directory, blockSize, unit } = this;
    const what = `index block ${number} of directory ${directory.base.number}`;
    const { where } = directory.base;
    if (depth > NTFS_MAX_INDEX_DEPTH) {
      throw damage(where, 0, `${what}: expected a tree of at most ${NTFS_MAX_INDEX_DEPTH} levels`);
    }
    if (this.taken.has(number)) {
      throw damage(where, 0, `${what}: the directory's tree leads to it twice`);
    }
    this.taken.add(number);
    const offset = number * unit;
    // The reader checks the end; an offset past counting would not be exact.
    if (!Number.isSafeInteger(offset + blockSize)) throw damage(where, 0, `${what}: lies past counting`);
    const bytes = await this.blocks!.bytes(offset, blockSize);
    const place = { path: where.path, offset: this.blocks!.placeOf(offset) };
    undoFixups(bytes, 'INDX', what, place);
    const stated = littleUint64(viewOf(bytes), 16);
    if (stated !== number) throw damage(place, 16, `${what}: it says it is block ${stated}`);
    return readNode({ bytes, header: BLOCK_HEADER, what, where: place, directory: directory.reference });
  }
}

interface NodeBytes {
  readonly bytes: Uint8Array;
  /** Where the node's header begins; its offsets count from there. */
  readonly header: number;
  readonly what: string;
  readonly where: Whereabouts;
  /** What the node's names must have as their parent. */
  readonly directory: FileReference;
}

function readNode(node: NodeBytes): Node {
  const { bytes, header, what, where } = node;
  const view = viewOf(bytes);
  const first = header + view.getUint32(header, true);
  const end = header + view.getUint32(header + 4, true);
  if (first % 8 !== 0 || first < header + NODE_HEADER || end > bytes.length || first + ENTRY_HEADER > end) {
    const got = `${first - header} to ${end - header}`;
    throw damage(where, header, `${what}: expected entries within the node, got offsets ${got}`);
  }
  const entries: Entry[] = [];
  const isLeaf = view.getUint8(header + 12) % 2 === 0;
  for (let at = first; ; at += view.getUint16(at + 8, true)) {
    if (at + ENTRY_HEADER > end) throw damage(where, at, `${what}: expected a last entry`);
    const entry = readEntry(node, view, at, end);
    if ((entry.child === null) !== isLeaf) {
      const reason = `${what}: expected ${isLeaf ? 'no entry' : 'every entry'} to have a child`;
      throw damage(where, at + 12, reason);
    }
    entries.push(entry);
    if (entry.name === null) return { entries, isLeaf };
  }
}

function readEntry(
  { bytes, what, where, directory }: NodeBytes,
  view: DataView,
  at: number,
  end: number,
): Entry {
  const length = view.getUint16(at + 8, true);
  const keyLength = view.getUint16(at + 10, true);
  const flags = view.getUint16(at + 12, true);
  const hasChild = flags % 2 === HAS_CHILD;
  const isLast = Math.floor(flags / IS_LAST) % 2 === 1;
  const least = ENTRY_HEADER + (isLast ? 0 : keyLength) + (hasChild ? 8 : 0);
  if (length < least || length % 8 !== 0 || at + length > end) {
    const reason = `${what}: expected an entry of at least ${least} bytes within the node, got ${length}`;
    throw damage(where, at + 8, reason);
  }
  const child = hasChild ? littleUint64(view, at + length - 8) : null;
  if (isLast) return { name: null, child };
  const key = at + ENTRY_HEADER;
  const characters = keyLength >= FILE_NAME_HEADER ? view.getUint8(key + 64) : 0;
  if (characters === 0 || FILE_NAME_HEADER + 2 * characters > keyLength) {
    throw damage(
      where,
      at + 10,
      `${what}: expected a name within ${keyLength} bytes, got ${characters} characters`,
    );
  }
  if (!sameReference(readReference(view, key), directory)) {
    throw damage(where, key, `${what}: expected names of directory ${directory.number}, got one of another`);
  }
  const name = readUtf16(bytes, key + FILE_NAME_HEADER, characters);
  if (name.includes('/') || name.includes('\0')) {
    throw damage(where, key + FILE_NAME_HEADER, `${what}: expected a name without / and zero characters`);
  }
  const isDosName = view.getUint8(key + 65) === DOS_NAMESPACE;
  return { name: { name, isDosName, reference: readReference(view, at) }, child };
}

/** A name in the volume's own capital letters: names that are the same in them differ in case alone. */
export type UpCase = (name: string) => string;

/**
 * Finds a name in a directory: the very name if it is there, else the only one that differs in case alone.
 * @throws DriftmapError `argument` where several differ in case alone; `malformed`
 */
export async function findName(
  directory: NtfsFile,
  name: string,
  upCase: () => Promise<UpCase>,
): Promise<DirectoryEntry | null> {
  let fold: UpCase | null = null;
  let wanted = '';
  const alike: DirectoryEntry[] = [];
  for await (const entries of directoryEntries(directory)) {
    for (const entry of entries) {
      if (entry.name === name) return entry;
      if (entry.name.length !== name.length) continue;
      fold ??= await upCase();
      wanted ||= fold(name);
      if (fold(entry.name) === wanted) alike.push(entry);
    }
  }
  const [only] = alike;
  if (alike.length <= 1 || only === undefined) return only ?? null;
  const names = alike.map((entry) => `'${entry.name}'`).join(' and ');
  const reason = `'${name}' may mean ${names}: write it as the directory does`;
  throw new DriftmapError('argument', reason, { path: directory.mft.source.name });
}
