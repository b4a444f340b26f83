// asc: -O3
/*
 * The NH levels of nh128. docs/SECURITY.md holds the construction and its bound; NH is RFC 4418, section 5.2.
 *
 * A level cuts its input into chunks of 1 KiB and makes 32 bytes out of each by four passes of NH under one
 * key; the outputs, side by side, are the input of the next level, under its own key, until 32 bytes remain.
 * A group of 32 bytes is two vectors of four words. Word j is paired with word j + 4, so that one vector
 * multiplication makes two products and no lane moves. Pass t reads the key 32·t bytes further on.
 * Sums and products are modulo 2^64, words and keys are added modulo 2^32.
 *
 * From the second level on, outputs are written over the start of the input, always behind what is still to
 * be read. Only the last chunk of a block can end within a group; it is copied out and filled up with zeros.
 */

const CHUNK: u32 = 1024;
const GROUP: u32 = 32;
const DIGEST: u32 = 32;
/** A chunk's key and three shifts of a group. */
const LEVEL_KEY: usize = 1024 + 3 * 32;
/** What the finishing BLAKE3 reads of a block: 32 bytes of NH, then the block's length as a u64. */
const RECORD: usize = 40;

/** The two products of one vector pair in each 64-bit lane, summed: x and y are four words each. */
function products(x: v128, y: v128): v128 {
  return i64x2.add(i64x2.extmul_low_i32x4_u(x, y), i64x2.extmul_high_i32x4_u(x, y));
}

/** Sums the two lanes of each of two accumulators, side by side. */
function sums(a: v128, b: v128): v128 {
  return i64x2.add(v128.shuffle<u64>(a, b, 0, 2), v128.shuffle<u64>(a, b, 1, 3));
}

/** One chunk: `length` is a positive multiple of 32, at most 1024. Writes 32 bytes at `out`. */
function chunk(p: usize, length: u32, key: usize, out: usize): void {
  let s0 = i64x2.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  const end = p + length;
  do {
    const d0 = v128.load(p);
    const d1 = v128.load(p, 16);
    s0 = i64x2.add(s0, products(i32x4.add(d0, v128.load(key)), i32x4.add(d1, v128.load(key, 16))));
    s1 = i64x2.add(s1, products(i32x4.add(d0, v128.load(key, 32)), i32x4.add(d1, v128.load(key, 48))));
    s2 = i64x2.add(s2, products(i32x4.add(d0, v128.load(key, 64)), i32x4.add(d1, v128.load(key, 80))));
    s3 = i64x2.add(s3, products(i32x4.add(d0, v128.load(key, 96)), i32x4.add(d1, v128.load(key, 112))));
    p += GROUP;
    key += GROUP;
  } while (p < end);
  v128.store(out, sums(s0, s1));
  v128.store(out, sums(s2, s3), 16);
}

/**
 * One level over `count` adjoining inputs of `length` bytes each, at least one; their outputs adjoin at `out`.
 * Returns the length of one output.
 */
function level(p: usize, length: u32, count: u32, key: usize, out: usize, pad: usize): u32 {
  const last = length & (CHUNK - 1);
  const lastPadded = (last + GROUP - 1) & ~(GROUP - 1);
  for (let i: u32 = 0; i < count; i++) {
    const end = p + length - last;
    while (p < end) {
      chunk(p, CHUNK, key, out);
      p += CHUNK;
      out += DIGEST;
    }
    if (last) {
      let from = p;
      if (last != lastPadded) {
        v128.store(pad + lastPadded - 32, i64x2.splat(0));
        v128.store(pad + lastPadded - 16, i64x2.splat(0));
        memory.copy(pad, p, last);
        from = pad;
      }
      chunk(from, lastPadded, key, out);
      p += last;
      out += DIGEST;
    }
  }
  return ((length + CHUNK - 1) / CHUNK) * DIGEST;
}

/**
 * The NH levels of `count` adjoining blocks of `blockLength` bytes, 1 … 16 MiB.
 *
 * `out`: `count` records of 40 bytes. `keys`: the level keys, 1120 bytes each, as many as the block length
 * needs. `work`: 1 KiB, and for each block 32 bytes for each KiB of it or part of one.
 */
export function records(
  pointer: usize,
  blockLength: u32,
  count: u32,
  out: usize,
  keys: usize,
  work: usize,
): void {
  // All blocks go up a level together: loops of one length follow one another, which branch predictors like.
  let outputs = work + CHUNK;
  let length = level(pointer, blockLength, count, keys, outputs, work);
  while (length > DIGEST) {
    keys += LEVEL_KEY;
    length = level(outputs, length, count, keys, outputs, work);
  }
  for (let i: u32 = 0; i < count; i++) {
    v128.store(out, v128.load(outputs));
    v128.store(out, v128.load(outputs, 16), 16);
    store<u64>(out, blockLength, 32);
    outputs += DIGEST;
    out += RECORD;
  }
}

/** Copies the first 16 of each 32 bytes at `from`, `count` times, to adjoining places at `out`. */
export function truncate(from: usize, count: u32, out: usize): void {
  for (let i: u32 = 0; i < count; i++) {
    v128.store(out, v128.load(from));
    from += 32;
    out += 16;
  }
}
