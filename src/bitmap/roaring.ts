/**
 * Sets of bits in the portable layout of Roaring bitmaps, in its 64-bit extension, so that other programs
 * read them. Source: https://github.com/RoaringBitmap/RoaringFormatSpec
 *
 * All integers are little end first. The extension is a count (8 bytes) of *buckets* of 2^32 bits, then for
 * each its number (4 bytes, ascending) and a 32-bit bitmap:
 *
 *   cookie         12346 and the number of containers, 4 bytes each; or, when there are run containers,
 *                  12347 and the number less one, 2 bytes each, and a bit per container: it is of runs
 *   description    per container: its chapter's number, the bits set less one, 2 bytes each
 *   offsets        4 bytes per container, from the cookie; absent where there are run containers and fewer
 *                  than 4 containers
 *   containers     array    up to 4096 numbers of set bits, 2 bytes each, ascending
 *                  bitmap   more than 4096: 2^16 bits
 *                  runs     their number; of each the first bit and the length less one; 2 bytes each
 *
 * A container holds one chapter of `PagedBits`. We write the smallest kind, and on a tie the one of
 * runs, as CRoaring's `runOptimize` does; so one set has one encoding. We read every kind, and refuse what
 * contradicts itself.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { bitsIn, CHAPTER_BITS, CHAPTER_WORDS, lowestBit } from './bit-tree.ts';
import type { PagedBits } from './paged-bits.ts';

export const NO_RUNS_COOKIE = 12346;
export const RUNS_COOKIE = 12347;
/** The specification's NO_OFFSET_THRESHOLD. */
export const OFFSETS_FROM = 4;
/** The most bits of an array container. */
export const MAX_ARRAY = 4096;
export const BITMAP_BYTES = CHAPTER_BITS / 8;
export const BUCKET_CHAPTERS = 2 ** 16;

type ContainerKind = 'array' | 'bitmap' | 'runs';

/** One container to write. */
interface Container {
  readonly chapter: number;
  readonly kind: ContainerKind;
  readonly bits: number;
  readonly runs: number;
}

/** Bytes that `encodeRoaring` gives; found without making them. */
export function roaringSize(bits: PagedBits): ByteCount {
  let size = 8;
  for (const bucket of buckets(bits))
    size += 4 + headBytes(bucket.containers, bucket.hasRuns) + bucket.bodyBytes;
  return size;
}

/** The set in the 64-bit portable layout. */
export function encodeRoaring(bits: PagedBits): Uint8Array {
  const bytes = new Uint8Array(roaringSize(bits));
  const writer: Writer = {
    bytes,
    view: new DataView(bytes.buffer),
    at: 8,
    words: new Uint32Array(CHAPTER_WORDS),
  };
  let count = 0;
  let bucket: Container[] = [];
  const flush = () => {
    if (bucket.length === 0) return;
    writeBucket(writer, bits, bucket);
    count++;
    bucket = [];
  };
  for (const container of containers(bits, writer.words)) {
    const first = bucket[0];
    if (first && bucketOf(first.chapter) !== bucketOf(container.chapter)) flush();
    bucket.push(container);
  }
  flush();
  writer.view.setBigUint64(0, BigInt(count), true);
  return bytes;
}

interface Bucket {
  number: number;
  containers: number;
  hasRuns: boolean;
  bodyBytes: ByteCount;
}

/** Sums over the buckets; runs of full chapters are counted, not walked. */
function* buckets(bits: PagedBits): Generator<Bucket, undefined> {
  const words = new Uint32Array(CHAPTER_WORDS);
  let bucket: Bucket = { number: -1, containers: 0, hasRuns: false, bodyBytes: 0 };
  for (const run of bits.chapters()) {
    for (let chapter = run.start; chapter < run.end; ) {
      const number = bucketOf(chapter);
      const end = Math.min(run.end, (number + 1) * BUCKET_CHAPTERS);
      if (number !== bucket.number) {
        if (bucket.containers > 0) yield bucket;
        bucket = { number, containers: 0, hasRuns: false, bodyBytes: 0 };
      }
      // All of them are alike, except that the last chapter of the set may be short.
      const alike = end - chapter > 1 ? end - chapter - 1 : 1;
      const { kind, bits: count, runs } = containerOf(bits, chapter, run.full, words);
      bucket.containers += alike;
      bucket.bodyBytes += alike * bodyBytes(kind, count, runs);
      bucket.hasRuns ||= kind === 'runs';
      chapter += alike;
    }
  }
  if (bucket.containers > 0) yield bucket;
}

/** Every container to write, ascending; `words` holds the chapter's bits where it is not all set. */
function* containers(bits: PagedBits, words: Uint32Array): Generator<Container, undefined> {
  for (const { start, end, full } of bits.chapters()) {
    for (let chapter = start; chapter < end; chapter++) yield containerOf(bits, chapter, full, words);
  }
}

function containerOf(bits: PagedBits, chapter: number, full: boolean, words: Uint32Array): Container {
  if (full) {
    const count = Math.min(CHAPTER_BITS, bits.length - chapter * CHAPTER_BITS);
    return { chapter, kind: kindOf(count, 1), bits: count, runs: 1 };
  }
  bits.copyChapter(chapter, words);
  let count = 0;
  let runs = 0;
  let before = 0;
  for (let w = 0; w < CHAPTER_WORDS; w++) {
    const word = words[w]!;
    if (word === 0) {
      before = 0;
      continue;
    }
    count += bitsIn(word);
    // A run begins where a bit is set and the one before it is not.
    runs += bitsIn(word & ~((word << 1) | before));
    before = word >>> 31;
  }
  return { chapter, kind: kindOf(count, runs), bits: count, runs };
}

function kindOf(bits: number, runs: number): ContainerKind {
  const plain = bits <= MAX_ARRAY ? 'array' : 'bitmap';
  return bodyBytes('runs', bits, runs) <= bodyBytes(plain, bits, runs) ? 'runs' : plain;
}

export function bodyBytes(kind: ContainerKind, bits: number, runs: number): ByteCount {
  if (kind === 'array') return 2 * bits;
  return kind === 'bitmap' ? BITMAP_BYTES : 2 + 4 * runs;
}

/** Bytes of a 32-bit bitmap before its containers. */
export function headBytes(count: number, hasRuns: boolean): ByteCount {
  if (!hasRuns) return 8 + 8 * count;
  return 4 + Math.ceil(count / 8) + 4 * count + (count >= OFFSETS_FROM ? 4 * count : 0);
}

function bucketOf(chapter: number): number {
  return Math.floor(chapter / BUCKET_CHAPTERS);
}

interface Writer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Uint32Array;
  at: ByteOffset;
}

function writeBucket(writer: Writer, bits: PagedBits, list: readonly Container[]): void {
  const { view } = writer;
  const bucket = bucketOf(list[0]!.chapter);
  const hasRuns = list.some(({ kind }) => kind === 'runs');
  view.setUint32(writer.at, bucket, true);
  const start = writer.at + 4;
  let at = start;
  if (hasRuns) {
    view.setUint16(at, RUNS_COOKIE, true);
    view.setUint16(at + 2, list.length - 1, true);
    at += 4;
    list.forEach(({ kind }, i) => {
      if (kind === 'runs') writer.bytes[at + (i >>> 3)]! |= 1 << (i & 7);
    });
    at += Math.ceil(list.length / 8);
  } else {
    view.setUint32(at, NO_RUNS_COOKIE, true);
    view.setUint32(at + 4, list.length, true);
    at += 8;
  }
  for (const { chapter, bits: count } of list) {
    view.setUint16(at, chapter - bucket * BUCKET_CHAPTERS, true);
    view.setUint16(at + 2, count - 1, true);
    at += 4;
  }
  let body = start + headBytes(list.length, hasRuns);
  const withOffsets = !hasRuns || list.length >= OFFSETS_FROM;
  writer.at = body;
  for (const container of list) {
    if (withOffsets) {
      view.setUint32(at, body - start, true);
      at += 4;
    }
    writeBody(writer, bits, container);
    body = writer.at;
  }
}

function writeBody(writer: Writer, bits: PagedBits, { chapter, kind, bits: count, runs }: Container): void {
  const { view, words } = writer;
  const base = chapter * CHAPTER_BITS;
  let { at } = writer;
  if (kind === 'runs') {
    view.setUint16(at, runs, true);
    at += 2;
    const limit = Math.min(base + CHAPTER_BITS, bits.length);
    for (let run = 0, end = base; run < runs; run++) {
      const first = bits.nextSet(end);
      end = Math.min(bits.nextClear(first), limit);
      view.setUint16(at, first - base, true);
      view.setUint16(at + 2, end - first - 1, true);
      at += 4;
    }
    writer.at = at;
    return;
  }
  writer.at += bodyBytes(kind, count, runs);
  bits.copyChapter(chapter, words);
  for (let w = 0; w < CHAPTER_WORDS; w++) {
    if (kind === 'bitmap') view.setUint32(at + 4 * w, words[w]!, true);
    else {
      for (let word = words[w]!; word !== 0; word &= word - 1, at += 2) {
        view.setUint16(at, 32 * w + lowestBit(word), true);
      }
    }
  }
}

/** A place in a file, for reading and for messages. */
export interface RoaringSource {
  readonly path?: string | undefined;
  /** Where `bytes` begin in the file. */
  readonly offset: ByteOffset;
}

/**
 * Sets in `target` the bits that `bytes`, a whole set in the 64-bit portable layout, has. Nothing is
 * allocated by a count that the bytes do not bear out. Whatever breaks the layout is `malformed`, with the
 * offset: a set that ends early or goes on, keys that do not ascend, containers that are not where the
 * offsets say or do not hold as many bits as they say, bits past the target's length.
 */
export function decodeRoaring(bytes: Uint8Array, target: PagedBits, source: RoaringSource): void {
  const reader = new Reader(bytes, source);
  const count = reader.u64('the number of buckets');
  let before = -1;
  for (let i = 0; i < count; i++) {
    const at = reader.at;
    const bucket = reader.u32('the number of a bucket');
    if (bucket <= before)
      reader.fail(`expected buckets in ascending order, got ${bucket} after ${before}`, at);
    before = bucket;
    readBucket(reader, bucket, target);
  }
  if (reader.at !== bytes.length)
    reader.fail(`expected the end of the set, got ${bytes.length - reader.at} more bytes`);
}

class Reader {
  at: ByteOffset = 0;
  readonly bytes: Uint8Array;
  readonly words = new Uint32Array(CHAPTER_WORDS);
  private readonly view: DataView;
  private readonly source: RoaringSource;

  constructor(bytes: Uint8Array, source: RoaringSource) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.source = source;
  }

  fail(reason: string, at = this.at): never {
    throw new DriftmapError('malformed', reason, { path: this.source.path, offset: this.source.offset + at });
  }

  /** Steps over `length` bytes and returns where they begin. */
  take(length: ByteCount, what: string): ByteOffset {
    const { at } = this;
    if (length > this.bytes.length - at) {
      this.fail(`expected ${length} bytes of ${what}, got ${this.bytes.length - at}`);
    }
    this.at = at + length;
    return at;
  }

  u16(what: string): number {
    return this.view.getUint16(this.take(2, what), true);
  }
  u32(what: string): number {
    return this.view.getUint32(this.take(4, what), true);
  }
  u64(what: string): number {
    return Number(this.view.getBigUint64(this.take(8, what), true));
  }
  peek16(at: ByteOffset): number {
    return this.view.getUint16(at, true);
  }
  peek32(at: ByteOffset): number {
    return this.view.getUint32(at, true);
  }
}

function readBucket(reader: Reader, bucket: number, target: PagedBits): void {
  const start = reader.at;
  const cookie = reader.u32('a cookie');
  const hasRuns = cookie % 65536 === RUNS_COOKIE;
  if (!hasRuns && cookie !== NO_RUNS_COOKIE) {
    reader.fail(`expected a Roaring cookie, ${NO_RUNS_COOKIE} or ${RUNS_COOKIE}, got ${cookie}`, start);
  }
  const count = hasRuns ? Math.floor(cookie / 65536) + 1 : reader.u32('the number of containers');
  if (count === 0 || count > BUCKET_CHAPTERS) {
    reader.fail(`expected 1 to ${BUCKET_CHAPTERS} containers, got ${count}`, start);
  }
  const flags = hasRuns ? reader.take(Math.ceil(count / 8), 'run flags') : 0;
  const description = reader.take(4 * count, 'container descriptions');
  const withOffsets = !hasRuns || count >= OFFSETS_FROM;
  const offsets = withOffsets ? reader.take(4 * count, 'container offsets') : 0;
  let before = -1;
  for (let i = 0; i < count; i++) {
    const at = description + 4 * i;
    const key = reader.peek16(at);
    if (key <= before) reader.fail(`expected containers in ascending order, got ${key} after ${before}`, at);
    before = key;
    if (withOffsets && reader.peek32(offsets + 4 * i) !== reader.at - start) {
      reader.fail(
        `expected a container at ${reader.at - start}, got offset ${reader.peek32(offsets + 4 * i)}`,
        offsets + 4 * i,
      );
    }
    const base = (bucket * BUCKET_CHAPTERS + key) * CHAPTER_BITS;
    const room = target.length - base;
    if (room <= 0)
      reader.fail(`expected bits below ${target.length}, got a container that begins at ${base}`, at);
    const bits = reader.peek16(at + 2) + 1;
    const ofRuns = hasRuns && ((reader.bytes[flags + (i >>> 3)]! >>> (i & 7)) & 1) === 1;
    if (ofRuns) readRuns(reader, base, bits, target);
    else if (bits <= MAX_ARRAY) readArray(reader, base, bits, target);
    else readBitmap(reader, base, bits, target);
  }
}

function readArray(reader: Reader, base: number, bits: number, target: PagedBits): void {
  const { words } = reader;
  const from = reader.take(2 * bits, 'an array container');
  const first = reader.peek16(from) >>> 5;
  const end = (reader.peek16(reader.at - 2) >>> 5) + 1;
  words.fill(0, first, end);
  let before = -1;
  for (let at = from; at < reader.at; at += 2) {
    const bit = reader.peek16(at);
    if (bit <= before) reader.fail(`expected ascending bits, got ${bit} after ${before}`, at);
    words[bit >>> 5]! |= 1 << (bit & 31);
    before = bit;
  }
  expectBelow(reader, base + before, target, reader.at - 2);
  target.orWords(base + 32 * first, words.subarray(first, end));
}

function readBitmap(reader: Reader, base: number, bits: number, target: PagedBits): void {
  const { words } = reader;
  const from = reader.take(BITMAP_BYTES, 'a bitmap container');
  let count = 0;
  let last = -1;
  for (let w = 0; w < CHAPTER_WORDS; w++) {
    const word = reader.peek32(from + 4 * w);
    words[w] = word;
    count += bitsIn(word);
    if (word !== 0) last = 32 * w + 31 - Math.clz32(word);
  }
  if (count !== bits) reader.fail(`expected a container of ${bits} bits, got ${count}`, from);
  expectBelow(reader, base + last, target, from + Math.floor(last / 8));
  target.orWords(base, words);
}

function readRuns(reader: Reader, base: number, bits: number, target: PagedBits): void {
  const from = reader.at;
  const runs = reader.u16('the number of runs');
  const first = reader.take(4 * runs, 'a run container');
  let count = 0;
  let before = -1;
  for (let at = first; at < reader.at; at += 4) {
    const start = reader.peek16(at);
    const end = start + reader.peek16(at + 2) + 1;
    if (start <= before)
      reader.fail(`expected ascending runs that do not touch, got ${start} after ${before}`, at);
    if (end > CHAPTER_BITS) reader.fail(`expected a run within 65536 bits, got one that ends at ${end}`, at);
    expectBelow(reader, base + end - 1, target, at);
    target.setRun({ start: base + start, end: base + end });
    count += end - start;
    before = end;
  }
  if (count !== bits) reader.fail(`expected a container of ${bits} bits, got ${count}`, from);
}

function expectBelow(reader: Reader, bit: number, target: PagedBits, at: ByteOffset): void {
  if (bit >= target.length) reader.fail(`expected bits below ${target.length}, got ${bit}`, at);
}
