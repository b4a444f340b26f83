// asc: -O3
/**
 * BLAKE3 of many blocks, eight lanes at a time: two groups of four lanes whose instructions alternate, which
 * hides latency that one group cannot. Source: "BLAKE3, one function, fast everywhere" (O'Connor, Aumasson,
 * Neves, Wilcox-O'Hearn, 2020). docs/PERFORMANCE.md says what was measured and tried.
 *
 * Eight lanes walk eight equal runs of chunks, and so equal trees (`hashRuns`). All blocks of a call have
 * one length; that gives two ways to find eight equal runs:
 *
 *   - eight blocks, a lane each (`hashLanes`);
 *   - one large block, cut into eight subtrees of 2^k chunks; what is left behind them, being shorter, is
 *     cut into eight smaller ones, and so on (`hashOne`).
 *
 * Within a walk chaining values stay "by lanes": word i of all eight lanes in 32 bytes at 32 · i. A
 * parent's message is then just its two children, one after the other; nothing is transposed but the data
 * itself. Only at a walk's end do they become rows, the 32 bytes of one lane after another.
 *
 * Nothing is kept between calls, there is no static data, and nothing outside the blocks is read: lanes that
 * have no run of their own repeat the first lane's, and short last message blocks are copied and padded.
 *
 * The sixteen state words of eight lanes are 32 vectors, twice what a processor of this width has registers
 * for. So the state lives in scratch and a step takes its words from there and puts them back. A compiler
 * left to spill does it as often, but onto a stack that V8 before 13 does not align for vectors: the same
 * code then ran at full speed or at two thirds of it, as the depth of its caller's stack would have it.
 *
 * `//@ name` lines are filled in by the build from blake3.macros.mjs.
 */

const IV0: u32 = 0x6a09e667;
const IV1: u32 = 0xbb67ae85;
const IV2: u32 = 0x3c6ef372;
const IV3: u32 = 0xa54ff53a;
const IV4: u32 = 0x510e527f;
const IV5: u32 = 0x9b05688c;
const IV6: u32 = 0x1f83d9ab;
const IV7: u32 = 0x5be0cd19;

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;
const KEYED_HASH: u32 = 16;

const CHUNK: u32 = 1024;
const LANES: u32 = 8;

// Scratch, by address from its start; 8 KiB in all.
/** 16 message words of all lanes, 32 bytes each. */
const MESSAGE: usize = 0;
/** 16 state words of all lanes, 32 bytes each; between blocks the first eight are the chaining value. */
const STATE: usize = 512;
/** 7 rows of 16 addresses. */
const SCHEDULE: usize = 1024;
const SCHEDULE_ROW: usize = 64;
const SCHEDULE_END: usize = SCHEDULE + 7 * SCHEDULE_ROW;
/** Addresses of the lanes' data, and of their padded copies. */
const LANE: usize = 1472;
const PADDED_LANE: usize = 1504;
/** The key's (or the IV's) eight words. */
const KEY: usize = 1536;
/** Eight rows of which not all are wanted. */
const ROWS: usize = 1600;
/** Chaining values of eight parents, by lanes. */
const RESULT: usize = 1856;
/** The last message block of every lane, padded with zeros. */
const PADDED: usize = 2112;
/** Chaining values of all lanes that wait for their sibling: at most 15, for 16 MiB have 2^14 chunks. */
const STACK: usize = 2624;
/** `hashOne`: rows of finished subtrees, at most 12, and the eight of the one being finished. */
const NODES: usize = 6464;

//@ rotations

// @ts-ignore: decorator
@inline
function rotate12(x: v128): v128 {
  return v128.or(i32x4.shr_u(x, 12), i32x4.shl(x, 20));
}
// @ts-ignore: decorator
@inline
function rotate7(x: v128): v128 {
  return v128.or(i32x4.shr_u(x, 7), i32x4.shl(x, 25));
}

/** Four words of four lanes, at addresses w … z, become four rows of one word each, `stride` bytes apart. */
// @ts-ignore: decorator
@inline
function transpose(w: usize, x: usize, y: usize, z: usize, out: usize, stride: usize): void {
  const w0 = v128.load(w);
  const x0 = v128.load(x);
  const y0 = v128.load(y);
  const z0 = v128.load(z);
  const wxLow = v128.shuffle<u32>(w0, x0, 0, 4, 1, 5);
  const yzLow = v128.shuffle<u32>(y0, z0, 0, 4, 1, 5);
  const wxHigh = v128.shuffle<u32>(w0, x0, 2, 6, 3, 7);
  const yzHigh = v128.shuffle<u32>(y0, z0, 2, 6, 3, 7);
  v128.store(out, v128.shuffle<u64>(wxLow, yzLow, 0, 2));
  v128.store(out + stride, v128.shuffle<u64>(wxLow, yzLow, 1, 3));
  v128.store(out + 2 * stride, v128.shuffle<u64>(wxHigh, yzHigh, 0, 2));
  v128.store(out + 3 * stride, v128.shuffle<u64>(wxHigh, yzHigh, 1, 3));
}

/** One message block of four lanes, by lanes, to `out`. */
// @ts-ignore: decorator
@inline
function loadMessage(w: usize, x: usize, y: usize, z: usize, out: usize): void {
  transpose(w, x, y, z, out, 32);
  transpose(w + 16, x + 16, y + 16, z + 16, out + 128, 32);
  transpose(w + 32, x + 32, y + 32, z + 32, out + 256, 32);
  transpose(w + 48, x + 48, y + 48, z + 48, out + 384, 32);
}

/** A state word that is the same in all lanes. */
// @ts-ignore: decorator
@inline
function putWord(row: usize, word: v128): void {
  v128.store(row, word);
  v128.store(row, word, 16);
}

/** Every lane's chaining value: the key's words (or the IV). */
function putKey(state: usize, key: usize): void {
  for (let i: usize = 0; i < 8; i++) putWord(state + 32 * i, v128.load32_splat(key + 4 * i));
}

/** The upper half of the state: constants, counter, block length and flags (section 2.2). */
// @ts-ignore: decorator
@inline
function putUpperHalf(state: usize, counter0: v128, counter1: v128, length: u32, flags: u32): void {
  putWord(state + 256, i32x4.splat(IV0));
  putWord(state + 288, i32x4.splat(IV1));
  putWord(state + 320, i32x4.splat(IV2));
  putWord(state + 352, i32x4.splat(IV3));
  v128.store(state, counter0, 384);
  v128.store(state, counter1, 400);
  putWord(state + 416, i32x4.splat(0));
  putWord(state + 448, i32x4.splat(length));
  putWord(state + 480, i32x4.splat(flags));
}

/** The new chaining value: lower half xor upper half. */
function feedForward(state: usize): void {
  for (let row = state; row < state + 256; row += 16) {
    v128.store(row, v128.xor(v128.load(row), v128.load(row, 256)));
  }
}

/**
 * Compresses `blocks` message blocks in every lane and stores the chaining values by lanes at `out`. With
 * `blocks` 0 there is one, which lies in MESSAGE already. `lanes`: eight addresses, to which `offset` is
 * added. A last block shorter than 64 bytes is taken from the padded copies.
 */
function compress(
  lanes: usize,
  offset: u32,
  blocks: u32,
  lastLength: u32,
  counter0: v128,
  counter1: v128,
  startFlags: u32,
  flags: u32,
  endFlags: u32,
  out: usize,
  scratch: usize,
): void {
  const message = scratch + MESSAGE;
  const state = scratch + STATE;
  const ready = blocks == 0;
  let left = ready ? 1 : blocks;
  let blockFlags = flags | startFlags;
  putKey(state, scratch + KEY);
  do {
    left--;
    if (left == 0 && lastLength < 64) {
      lanes = scratch + PADDED_LANE;
      offset = 0;
    }
    if (!ready) {
      loadMessage(
        load<u32>(lanes) + offset,
        load<u32>(lanes, 4) + offset,
        load<u32>(lanes, 8) + offset,
        load<u32>(lanes, 12) + offset,
        message,
      );
      loadMessage(
        load<u32>(lanes, 16) + offset,
        load<u32>(lanes, 20) + offset,
        load<u32>(lanes, 24) + offset,
        load<u32>(lanes, 28) + offset,
        message + 16,
      );
    }
    const length = left ? 64 : lastLength;
    putUpperHalf(state, counter0, counter1, length, left ? blockFlags : blockFlags | endFlags);
    let round = scratch + SCHEDULE;
    do {
      //@ round
      round += SCHEDULE_ROW;
    } while (round < scratch + SCHEDULE_END);
    feedForward(state);
    offset += 64;
    blockFlags = flags;
  } while (left);
  copyVectors(state, out, 256);
}

/** Copies a whole number of vectors. */
function copyVectors(from: usize, to: usize, length: u32): void {
  const end = from + length;
  while (from < end) {
    v128.store(to, v128.load(from));
    from += 16;
    to += 16;
  }
}

/**
 * Fewer than 64 bytes become a message block filled up with zeros. By hand: calls of `memory.copy` cost more
 * than the bytes.
 */
function copyPadded(from: usize, to: usize, length: u32): void {
  const zero = i32x4.splat(0);
  v128.store(to, zero);
  v128.store(to, zero, 16);
  v128.store(to, zero, 32);
  v128.store(to, zero, 48);
  const vectors = length & ~15;
  copyVectors(from, to, vectors);
  from += vectors;
  to += vectors;
  if (length & 8) {
    store<u64>(to, load<u64>(from));
    from += 8;
    to += 8;
  }
  if (length & 4) {
    store<u32>(to, load<u32>(from));
    from += 4;
    to += 4;
  }
  if (length & 2) {
    store<u16>(to, load<u16>(from));
    from += 2;
    to += 2;
  }
  if (length & 1) store<u8>(to, load<u8>(from));
}

/**
 * Chaining values of one chunk of every lane, by lanes, to `out`. `offset` is the chunk's from the lanes'
 * addresses, `length` 0 … 1024.
 */
function chunk(
  offset: u32,
  length: u32,
  counter0: v128,
  counter1: v128,
  flags: u32,
  endFlags: u32,
  out: usize,
  scratch: usize,
): void {
  const lanes = scratch + LANE;
  const blocks = max<u32>((length + 63) >> 6, 1);
  const before = (blocks - 1) << 6;
  const last = length - before;
  if (last < 64) {
    for (let lane: u32 = 0; lane < LANES; lane++) {
      const copy = scratch + PADDED + (lane << 6);
      copyPadded(<usize>load<u32>(lanes + (lane << 2)) + offset + before, copy, last);
      store<u32>(scratch + PADDED_LANE + (lane << 2), <u32>copy);
    }
  }
  compress(lanes, offset, blocks, last, counter0, counter1, CHUNK_START, flags, endFlags | CHUNK_END, out, scratch);
}

/** The parents of the chaining values by lanes at `left` and `left + 256`, by lanes, to `out`. */
function parent(left: usize, flags: u32, out: usize, scratch: usize): void {
  copyVectors(left, scratch + MESSAGE, 512);
  const zero = i32x4.splat(0);
  compress(0, 0, 0, 64, zero, zero, PARENT, flags, 0, out, scratch);
}

/** Eight chaining values by lanes become eight rows of 32 bytes at `out`, of which the first `count` are kept. */
function storeRows(from: usize, out: usize, count: u32, scratch: usize): void {
  const rows = count == LANES ? out : scratch + ROWS;
  for (let group: usize = 0; group < 2; group++) {
    const words = from + 16 * group;
    const target = rows + 128 * group;
    transpose(words, words + 32, words + 64, words + 96, target, 32);
    transpose(words + 128, words + 160, words + 192, words + 224, target + 16, 32);
  }
  if (rows != out) copyVectors(rows, out, count << 5);
}

/** The lanes' addresses: `count` runs of `stride` bytes from `pointer`; lanes without one repeat the first. */
function setLanes(pointer: usize, stride: u32, count: u32, scratch: usize): void {
  for (let lane: u32 = 0; lane < LANES; lane++) {
    store<u32>(scratch + LANE + (lane << 2), <u32>pointer + (lane < count ? lane * stride : 0));
  }
}

/**
 * The trees over the `length` bytes at each lane's address: their chaining values, by lanes, at STACK.
 * `first0`, `first1`: the index of each lane's first chunk in its block. `root`: ROOT where a run is a whole
 * block, else 0.
 */
function hashRuns(length: u32, first0: v128, first1: v128, flags: u32, root: u32, scratch: usize): void {
  const stack = scratch + STACK;
  const chunks = max<u32>((length + CHUNK - 1) / CHUNK, 1);
  let top = stack;
  for (let index: u32 = 0; index < chunks; index++) {
    const offset = index * CHUNK;
    const last = index + 1 == chunks;
    const counter0 = i32x4.add(first0, i32x4.splat(index));
    const counter1 = i32x4.add(first1, i32x4.splat(index));
    chunk(offset, last ? length - offset : CHUNK, counter0, counter1, flags, chunks == 1 ? root : 0, top, scratch);
    // Each trailing one of the index is a finished left sibling (section 5.1.2); after the last chunk all are.
    let merges = last ? <u32>((top - stack) >> 8) : <u32>ctz<u32>(~index);
    while (merges--) {
      top -= 256;
      parent(top, last && merges == 0 ? flags | root : flags, top, scratch);
    }
    top += 256;
  }
}

/** Up to eight blocks, a lane each. */
function hashLanes(pointer: usize, length: u32, count: u32, out: usize, flags: u32, scratch: usize): void {
  const zero = i32x4.splat(0);
  setLanes(pointer, length, count, scratch);
  hashRuns(length, zero, zero, flags, ROOT, scratch);
  storeRows(scratch + STACK, out, count, scratch);
}

/**
 * The tree over `count` rows, 1 … 8, at `rows`, to its first row; an odd row goes up as it is. `root`: as in
 * `hashRuns`.
 */
function mergeRows(rows: usize, count: u32, flags: u32, root: u32, scratch: usize): void {
  const zero = i32x4.splat(0);
  const result = scratch + RESULT;
  while (count > 1) {
    const pairs = count >> 1;
    const rootFlags = count == 2 ? flags | root : flags;
    setLanes(rows, 64, pairs, scratch);
    compress(scratch + LANE, 0, 1, 64, zero, zero, PARENT, rootFlags, 0, result, scratch);
    storeRows(result, rows, pairs, scratch);
    if (count & 1) copyVectors(rows + ((count - 1) << 5), rows + (pairs << 5), 32);
    count = pairs + (count & 1);
  }
}

/** `count` runs of `run` chunks each (a power of two) from a block's chunk `first` on: as many rows at `rows`. */
function hashSubtrees(pointer: usize, first: u32, run: u32, count: u32, rows: usize, flags: u32, scratch: usize): void {
  const start = i32x4.splat(first);
  const first0 = i32x4.add(start, i32x4.mul(i32x4(0, 1, 2, 3), i32x4.splat(run)));
  const first1 = i32x4.add(start, i32x4.mul(i32x4(4, 5, 6, 7), i32x4.splat(run)));
  setLanes(pointer + <usize>first * CHUNK, run * CHUNK, count, scratch);
  hashRuns(run * CHUNK, first0, first1, flags, 0, scratch);
  storeRows(scratch + STACK, rows, count, scratch);
}

/**
 * One block of more than one chunk. Eight subtrees of 2^k chunks, as large as they can be, are merged into one
 * of 2^(k+3); the same with what is left, which is less than that, until fewer than eight whole chunks remain.
 * A tree's left side is the largest power of two (section 2.1), so the subtrees then merge from the right.
 */
function hashOne(pointer: usize, length: u32, out: usize, flags: u32, scratch: usize): void {
  const whole = length / CHUNK;
  const tail = length - whole * CHUNK;
  const nodes = scratch + NODES;
  let top = nodes;
  let first: u32 = 0;
  while (whole - first >= LANES) {
    const run: u32 = 1 << (31 - clz<u32>((whole - first) / LANES));
    const all = first == 0 && run * LANES * CHUNK == length;
    hashSubtrees(pointer, first, run, LANES, top, flags, scratch);
    mergeRows(top, LANES, flags, all ? ROOT : 0, scratch);
    first += run * LANES;
    top += 32;
  }
  let rest = whole - first;
  if (rest) hashSubtrees(pointer, first, 1, rest, top, flags, scratch);
  if (tail) {
    const counter = i32x4.splat(whole);
    setLanes(pointer + <usize>whole * CHUNK, 0, 1, scratch);
    chunk(0, tail, counter, counter, flags, 0, scratch + RESULT, scratch);
    storeRows(scratch + RESULT, top + (rest << 5), 1, scratch);
    rest++;
  }
  if (rest) {
    mergeRows(top, rest, flags, top == nodes ? ROOT : 0, scratch);
    top += 32;
  }
  while (top - nodes > 32) {
    top -= 32;
    mergeRows(top - 32, 2, flags, top - nodes == 32 ? ROOT : 0, scratch);
  }
  copyVectors(nodes, out, 32);
}

function hashAll(pointer: usize, length: u32, count: u32, out: usize, flags: u32, scratch: usize): void {
  //@ schedule
  const chunks = (length + CHUNK - 1) / CHUNK;
  while (count) {
    // A lane each takes as long as one block has chunks; one by one, with full lanes, an eighth for each block.
    if (count < LANES && chunks > count * ((chunks + LANES - 1) / LANES)) {
      hashOne(pointer, length, out, flags, scratch);
      pointer += length;
      out += 32;
      count--;
      continue;
    }
    const used = min(LANES, count);
    hashLanes(pointer, length, used, out, flags, scratch);
    pointer += <usize>used * length;
    out += <usize>used << 5;
    count -= used;
  }
}

/**
 * BLAKE3 of `count` adjoining blocks of `length` bytes, 0 … 16 MiB, each on its own.
 * `out`: `count` digests of 32 bytes. `scratch`: 8 KiB.
 */
export function hash(pointer: usize, length: u32, count: u32, out: usize, scratch: usize): void {
  const key = scratch + KEY;
  v128.store(key, i32x4(<i32>IV0, <i32>IV1, <i32>IV2, <i32>IV3));
  v128.store(key, i32x4(<i32>IV4, <i32>IV5, <i32>IV6, <i32>IV7), 16);
  hashAll(pointer, length, count, out, 0, scratch);
}

/** The same in keyed mode; `key`: 32 bytes. */
export function hash_keyed(
  pointer: usize,
  length: u32,
  count: u32,
  out: usize,
  key: usize,
  scratch: usize,
): void {
  copyVectors(key, scratch + KEY, 32);
  hashAll(pointer, length, count, out, KEYED_HASH, scratch);
}
