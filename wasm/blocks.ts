// asc: -O3
/*
 * Tests of whole runs of blocks: which are all zero, which differ between two runs.
 *
 * Both walk a block 128 bytes at a time, gather what they saw by OR and look at the result once, so that the
 * loop runs at the speed of memory; they leave a block at the first 128 bytes that settle the answer. The
 * rest of a block is read by narrower loads, the last of which may overlap what was seen already. No load
 * reaches outside the block, at any alignment. Nothing is written but the flags.
 */

/** OR of 128 bytes: all zero exactly where they are. */
function gather(p: usize): v128 {
  return v128.or(
    v128.or(v128.or(v128.load(p), v128.load(p, 16)), v128.or(v128.load(p, 32), v128.load(p, 48))),
    v128.or(v128.or(v128.load(p, 64), v128.load(p, 80)), v128.or(v128.load(p, 96), v128.load(p, 112))),
  );
}

/** XOR of two vectors at one distance from two addresses: zero where they are equal. */
function unlike(a: usize, b: usize): v128 {
  return v128.xor(v128.load(a), v128.load(b));
}

/** OR of the differences of 64 bytes. */
function unlike64(a: usize, b: usize): v128 {
  return v128.or(
    v128.or(unlike(a, b), unlike(a + 16, b + 16)),
    v128.or(unlike(a + 32, b + 32), unlike(a + 48, b + 48)),
  );
}

/** Fewer than 16 bytes, by one or two loads that may overlap: their OR. */
function gatherShort(p: usize, length: u32): u64 {
  if (length >= 8) return load<u64>(p) | load<u64>(p + length - 8);
  if (length >= 4) return load<u32>(p) | load<u32>(p + length - 4);
  if (length == 0) return 0;
  return load<u8>(p) | load<u8>(p + (length >> 1)) | load<u8>(p + length - 1);
}

/** Fewer than 16 bytes of two items: zero where they are equal. */
function unlikeShort(a: usize, b: usize, length: u32): u64 {
  const last = length - 1;
  if (length >= 8) return (load<u64>(a) ^ load<u64>(b)) | (load<u64>(a + last - 7) ^ load<u64>(b + last - 7));
  if (length >= 4) return (load<u32>(a) ^ load<u32>(b)) | (load<u32>(a + last - 3) ^ load<u32>(b + last - 3));
  if (length == 0) return 0;
  const middle = length >> 1;
  return (
    (load<u8>(a) ^ load<u8>(b)) |
    (load<u8>(a + middle) ^ load<u8>(b + middle)) |
    (load<u8>(a + last) ^ load<u8>(b + last))
  );
}

function isZero(p: usize, length: u32): bool {
  const end = p + length;
  if (length < 16) return gatherShort(p, length) == 0;
  while (p + 128 <= end) {
    if (v128.any_true(gather(p))) return false;
    p += 128;
  }
  while (p + 16 <= end) {
    if (v128.any_true(v128.load(p))) return false;
    p += 16;
  }
  // At least 16 bytes precede the end, so the last vector lies within the block.
  return !v128.any_true(v128.load(end - 16));
}

function isUnlike(a: usize, b: usize, length: u32): bool {
  const end = a + length;
  if (length < 16) return unlikeShort(a, b, length) != 0;
  while (a + 128 <= end) {
    if (v128.any_true(v128.or(unlike64(a, b), unlike64(a + 64, b + 64)))) return true;
    a += 128;
    b += 128;
  }
  while (a + 16 <= end) {
    if (v128.any_true(unlike(a, b))) return true;
    a += 16;
    b += 16;
  }
  return v128.any_true(unlike(end - 16, b + (end - a) - 16));
}

/**
 * Sets `flags[i]` to 1 where block i is all zero, else to 0.
 *
 * `pointer`: `count` adjoining blocks of `blockLength` bytes. `flags`: `count` bytes.
 * Returns how many blocks are zero.
 */
export function zero(pointer: usize, blockLength: u32, count: u32, flags: usize): u32 {
  let zeros: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const flag: u32 = isZero(pointer, blockLength) ? 1 : 0;
    store<u8>(flags + i, flag);
    zeros += flag;
    pointer += blockLength;
  }
  return zeros;
}

/**
 * Sets `flags[i]` to 1 where item i of the run at `a` differs from item i of the run at `b`, else to 0.
 * Items are blocks or signatures of `length` bytes; those of 16 and 32 bytes have loops of their own,
 * without a branch inside.
 *
 * Returns how many differ.
 */
export function differ(a: usize, b: usize, length: u32, count: u32, flags: usize): u32 {
  let found: u32 = 0;
  if (length == 16) {
    for (let i: u32 = 0; i < count; i++) {
      const flag: u32 = v128.any_true(unlike(a, b)) ? 1 : 0;
      store<u8>(flags + i, flag);
      found += flag;
      a += 16;
      b += 16;
    }
    return found;
  }
  if (length == 32) {
    for (let i: u32 = 0; i < count; i++) {
      const flag: u32 = v128.any_true(v128.or(unlike(a, b), unlike(a + 16, b + 16))) ? 1 : 0;
      store<u8>(flags + i, flag);
      found += flag;
      a += 32;
      b += 32;
    }
    return found;
  }
  for (let i: u32 = 0; i < count; i++) {
    const flag: u32 = isUnlike(a, b, length) ? 1 : 0;
    store<u8>(flags + i, flag);
    found += flag;
    a += length;
    b += length;
  }
  return found;
}
