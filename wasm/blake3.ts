// asc: -O0
/**
 * BLAKE3 of many blocks, eight lanes at a time: two groups of four lanes whose instructions alternate, which
 * hides latency that one group cannot (KERNELS §8). Source: "BLAKE3, one function, fast everywhere" (O'Connor,
 * Aumasson, Neves, Wilcox-O'Hearn, 2020).
 *
 * All blocks of a call have one length, so their trees have one shape. Two ways fill the lanes:
 *
 *   - eight blocks at a time, a lane each, all walking the same tree (`hashLanes`). Chaining values stay
 *     "by lanes": word i of all eight lanes in 32 bytes at 32 · i. A parent's message is then just its two
 *     children, one after the other; nothing is transposed but the data itself.
 *   - fewer than eight blocks, but large ones: where a block is eight equal trees, as every power of two from
 *     8 KiB on, an eighth of it in each lane, in the same way (`hashEighths`); else eight chunks of it at a
 *     time, then its tree level by level, eight parents at a time (`hashOne`).
 *
 * Nothing is kept between calls, there is no static data, and nothing outside the blocks is read: lanes that
 * have no block of their own repeat the first lane's.
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

// Scratch, by address from its start.
/** 16 message words of all lanes, 32 bytes each. */
const MESSAGE: usize = 0;
/** 7 rows of 16 addresses. */
const SCHEDULE: usize = 512;
/** Addresses of the lanes' data, and of their padded copies. */
const LANE: usize = 1024;
const PADDED_LANE: usize = 1056;
/** The key's (or the IV's) eight words. */
const KEY: usize = 1088;
/** Eight rows of which not all are wanted. */
const ROWS: usize = 1152;
/** One chaining value of all lanes. */
const RESULT: usize = 1536;
/** Chaining values of all lanes that wait for their sibling: one for each level of a 16 MiB block's tree. */
const STACK: usize = 2048;
/** One padded chunk of every lane. */
const PADDED: usize = 8192;
/** `hashOne`: chaining values of all chunks of a block, 32 bytes each: 512 KiB at most. */
const NODES: usize = 16384;

// @ts-ignore: decorator
@inline
function rotate16(x: v128): v128 {
  return v128.swizzle(x, i8x16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
}
// @ts-ignore: decorator
@inline
function rotate12(x: v128): v128 {
  return v128.or(i32x4.shr_u(x, 12), i32x4.shl(x, 20));
}
// @ts-ignore: decorator
@inline
function rotate8(x: v128): v128 {
  return v128.swizzle(x, i8x16(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12));
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

/**
 * Compresses `blocks` message blocks in every lane and stores the chaining values by lanes at `out`. With
 * `blocks` 0 there is one, which lies in MESSAGE already. `lanes`: eight addresses, to which `offset` is added.
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
  const key = scratch + KEY;
  const message = scratch + MESSAGE;
  const ready = blocks == 0;
  let left = ready ? 1 : blocks;
  let blockFlags = flags | startFlags;
  //@ loadKey
  do {
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
    left--;
    const flagsWord = i32x4.splat(left ? blockFlags : blockFlags | endFlags);
    const lengthWord = i32x4.splat(left ? 64 : lastLength);
    //@ upperHalf
    let round = scratch + SCHEDULE;
    do {
      //@ round
      round += 64;
    } while (round < scratch + SCHEDULE + 448);
    //@ feedForward
    offset += 64;
    blockFlags = flags;
  } while (left);
  //@ storeLanes
}

/**
 * Chaining values of one chunk of every lane, to RESULT. `offset` is the chunk's from the lanes' addresses,
 * `length` 0 … 1024. A chunk with a short last message block goes through
 * a padded copy.
 */
function chunk(offset: u32, length: u32, counter0: v128, counter1: v128, flags: u32, endFlags: u32, scratch: usize): void {
  const lanes = scratch + LANE;
  const out = scratch + RESULT;
  const tail = length & 63;
  if (length > 0 && tail == 0) {
    compress(lanes, offset, length >> 6, 64, counter0, counter1, CHUNK_START, flags, endFlags | CHUNK_END, out, scratch);
    return;
  }
  const padded = scratch + PADDED;
  const blocks = max<u32>((length + 63) >> 6, 1);
  for (let lane: u32 = 0; lane < LANES; lane++) {
    const copy = padded + (lane << 10);
    memory.fill(copy + ((blocks - 1) << 6), 0, 64);
    memory.copy(copy, load<u32>(lanes + (lane << 2)) + offset, length);
    store<u32>(scratch + PADDED_LANE + (lane << 2), <u32>copy);
  }
  const last = length - ((blocks - 1) << 6);
  compress(scratch + PADDED_LANE, 0, blocks, last, counter0, counter1, CHUNK_START, flags, endFlags | CHUNK_END, out, scratch);
}

/** The parents of the chaining values by lanes at `left` and `left + 256`, to `out`. */
function parent(left: usize, flags: u32, out: usize, scratch: usize): void {
  memory.copy(scratch + MESSAGE, left, 512);
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
  if (rows != out) memory.copy(out, rows, count << 5);
}

/** The lanes' addresses: `count` runs of `stride` bytes from `pointer`; lanes without one repeat the first. */
function setLanes(pointer: usize, stride: u32, count: u32, scratch: usize): void {
  for (let lane: u32 = 0; lane < LANES; lane++) {
    store<u32>(scratch + LANE + (lane << 2), <u32>pointer + (lane < count ? lane * stride : 0));
  }
}

/**
 * The tree over `chunks` chunks of every lane, of which the last has `lastLength` bytes, by lanes at STACK. Counters
 * begin at `counter0` and `counter1`. With `root` the trees are whole blocks; else they are parts of one, and
 * `chunks` is a power of two.
 */
function walk(chunks: u32, lastLength: u32, counter0: v128, counter1: v128, flags: u32, root: bool, scratch: usize): void {
  let top = scratch + STACK;
  for (let index: u32 = 0; index < chunks; index++) {
    const last = index + 1 == chunks;
    const step = i32x4.splat(index);
    const length = last ? lastLength : CHUNK;
    const endFlags = root && chunks == 1 ? ROOT : 0;
    chunk(index * CHUNK, length, i32x4.add(counter0, step), i32x4.add(counter1, step), flags, endFlags, scratch);
    // Each trailing one of the index is a finished left sibling (section 5.1.2); after the last chunk all are.
    let merges = last ? <u32>((top - scratch - STACK) >> 8) : <u32>ctz<u32>(~index);
    memory.copy(top, scratch + RESULT, 256);
    while (merges--) {
      top -= 256;
      parent(top, flags | (root && last && merges == 0 ? ROOT : 0), top, scratch);
    }
    top += 256;
  }
}

/** Up to eight blocks, a lane each. */
function hashLanes(pointer: usize, length: u32, count: u32, out: usize, flags: u32, scratch: usize): void {
  setLanes(pointer, length, count, scratch);
  const chunks = max<u32>((length + CHUNK - 1) / CHUNK, 1);
  const zero = i32x4.splat(0);
  walk(chunks, length - (chunks - 1) * CHUNK, zero, zero, flags, true, scratch);
  storeRows(scratch + STACK, out, count, scratch);
}

/** One block of eight times a power of two chunks: an eighth of it in each lane. */
function hashEighths(pointer: usize, length: u32, out: usize, flags: u32, scratch: usize): void {
  const chunks = length / CHUNK / LANES;
  setLanes(pointer, chunks * CHUNK, LANES, scratch);
  const counter0 = i32x4.mul(i32x4(0, 1, 2, 3), i32x4.splat(chunks));
  const counter1 = i32x4.mul(i32x4(4, 5, 6, 7), i32x4.splat(chunks));
  walk(chunks, CHUNK, counter0, counter1, flags, false, scratch);
  storeRows(scratch + STACK, scratch + NODES, LANES, scratch);
  mergeLevels(scratch + NODES, LANES, out, flags, scratch);
}

/** One block of any length: eight chunks at a time, then its tree, level by level; an odd node goes up as it is. */
function hashOne(pointer: usize, length: u32, out: usize, flags: u32, scratch: usize): void {
  const chunks = (length + CHUNK - 1) / CHUNK;
  const whole = length / CHUNK;
  const nodes = scratch + NODES;
  for (let index: u32 = 0; index < whole; index += LANES) {
    const used = min(LANES, whole - index);
    setLanes(pointer + <usize>index * CHUNK, CHUNK, used, scratch);
    const counter0 = i32x4.add(i32x4.splat(index), i32x4(0, 1, 2, 3));
    const counter1 = i32x4.add(i32x4.splat(index), i32x4(4, 5, 6, 7));
    chunk(0, CHUNK, counter0, counter1, flags, 0, scratch);
    storeRows(scratch + RESULT, nodes + (<usize>index << 5), used, scratch);
  }
  if (whole < chunks) {
    setLanes(pointer + <usize>whole * CHUNK, 0, 1, scratch);
    const counter = i32x4.splat(whole);
    chunk(0, length - whole * CHUNK, counter, counter, flags, 0, scratch);
    storeRows(scratch + RESULT, nodes + (<usize>whole << 5), 1, scratch);
  }
  mergeLevels(nodes, chunks, out, flags, scratch);
}

/** `count` >= 2 rows of 32 bytes at `nodes` become one at `out`. */
function mergeLevels(nodes: usize, count: u32, out: usize, flags: u32, scratch: usize): void {
  const zero = i32x4.splat(0);
  const lanes = scratch + LANE;
  while (count > 1) {
    const pairs = count >> 1;
    const root = count == 2;
    for (let pair: u32 = 0; pair < pairs; pair += LANES) {
      const used = min(LANES, pairs - pair);
      setLanes(nodes + (<usize>pair << 6), 64, used, scratch);
      compress(lanes, 0, 1, 64, zero, zero, PARENT, flags | (root ? ROOT : 0), 0, scratch + RESULT, scratch);
      storeRows(scratch + RESULT, root ? out : nodes + (<usize>pair << 5), used, scratch);
    }
    if (count & 1) memory.copy(nodes + (<usize>pairs << 5), nodes + (<usize>(count - 1) << 5), 32);
    count = pairs + (count & 1);
  }
}

function hashAll(pointer: usize, length: u32, count: u32, out: usize, flags: u32, scratch: usize): void {
  //@ schedule
  while (count) {
    // A lone block fills the lanes with its own chunks, if it has more of them than there are blocks.
    if (count < LANES && length > count * CHUNK) {
      const eighth = length / LANES;
      const even = eighth >= CHUNK && popcnt(eighth) == 1 && eighth * LANES == length;
      if (even) hashEighths(pointer, length, out, flags, scratch);
      else hashOne(pointer, length, out, flags, scratch);
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
 * `out`: `count` digests of 32 bytes. `scratch`: 16 KiB, and 32 bytes for each KiB of a block.
 */
export function hash(pointer: usize, length: u32, count: u32, out: usize, scratch: usize): void {
  const key = scratch + KEY;
  v128.store(key, i32x4(<i32>IV0, <i32>IV1, <i32>IV2, <i32>IV3));
  v128.store(key, i32x4(<i32>IV4, <i32>IV5, <i32>IV6, <i32>IV7), 16);
  hashAll(pointer, length, count, out, 0, scratch);
}

/** The same in keyed mode; `key`: 32 bytes. */
export function hash_keyed(pointer: usize, length: u32, count: u32, out: usize, key: usize, scratch: usize): void {
  memory.copy(scratch + KEY, key, 32);
  hashAll(pointer, length, count, out, KEYED_HASH, scratch);
}
