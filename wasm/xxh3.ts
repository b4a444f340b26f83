// asc: -O3
/*
 * XXH3, 128 bits, seed 0, default secret, for inputs of any length (xxHash specification, doc/xxhash_spec.md
 * of github.com/Cyan4973/xxHash, "XXH3 Algorithm Overview").
 *
 * XXH3 is one algorithm for long inputs and several for short ones: none, 1-3, 4-8, 9-16, 17-128 and 129-240
 * bytes. Only the long one is made for speed. Eight 64-bit accumulators, here four vectors, take in stripes
 * of 64 bytes; after each 16 stripes (1 KiB, a "block" of the specification) they are scrambled. Two
 * departures from its letter give the speed and change no result. A stripe adds its words to the
 * accumulators crosswise, word 0 to lane 1 and the reverse; we sum the plain words apart and cross them once
 * per KiB. And full and partial KiB share one loop, since a second loop costs a mispredicted branch a block.
 *
 * The secret is put into scratch at each call: a module on a shared memory may have no static data.
 * Digests are in canonical form: the high 64 bits first, big-endian, as `xxhsum -H2` prints them.
 */

const PRIME32_1: u64 = 0x9e3779b1;
const PRIME32_2: u64 = 0x85ebca77;
const PRIME32_3: u64 = 0xc2b2ae3d;
const PRIME64_1: u64 = 0x9e3779b185ebca87;
const PRIME64_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME64_3: u64 = 0x165667b19e3779f9;
const PRIME64_4: u64 = 0x85ebca77c2b2ae63;
const PRIME64_5: u64 = 0x27d4eb2f165667c5;
const PRIME_MX1: u64 = 0x165667919e3779f9;
const PRIME_MX2: u64 = 0x9fb21c651e98df25;

const STRIPE: usize = 64;
/** Stripes between two scrambles: each takes 8 bytes further on of the 192, the last of them 64 long. */
const STRIPES_PER_BLOCK: u32 = 16;

/** The default secret of the specification, 192 bytes, as little-endian words. */
function putSecret(secret: usize): void {
  store<u64>(secret, 0xbe4ba423396cfeb8);
  store<u64>(secret, 0x1cad21f72c81017c, 8);
  store<u64>(secret, 0xdb979083e96dd4de, 16);
  store<u64>(secret, 0x1f67b3b7a4a44072, 24);
  store<u64>(secret, 0x78e5c0cc4ee679cb, 32);
  store<u64>(secret, 0x2172ffcc7dd05a82, 40);
  store<u64>(secret, 0x8e2443f7744608b8, 48);
  store<u64>(secret, 0x4c263a81e69035e0, 56);
  store<u64>(secret, 0xcb00c391bb52283c, 64);
  store<u64>(secret, 0xa32e531b8b65d088, 72);
  store<u64>(secret, 0x4ef90da297486471, 80);
  store<u64>(secret, 0xd8acdea946ef1938, 88);
  store<u64>(secret, 0x3f349ce33f76faa8, 96);
  store<u64>(secret, 0x1d4f0bc7c7bbdcf9, 104);
  store<u64>(secret, 0x3159b4cd4be0518a, 112);
  store<u64>(secret, 0x647378d9c97e9fc8, 120);
  store<u64>(secret, 0xc3ebd33483acc5ea, 128);
  store<u64>(secret, 0xeb6313faffa081c5, 136);
  store<u64>(secret, 0x49daf0b751dd0d17, 144);
  store<u64>(secret, 0x9e68d429265516d3, 152);
  store<u64>(secret, 0xfca1477d58be162b, 160);
  store<u64>(secret, 0xce31d07ad1b8f88f, 168);
  store<u64>(secret, 0x280416958f3acb45, 176);
  store<u64>(secret, 0x7e404bbbcafbd7af, 184);
}

/** The high 64 bits of a product of 64-bit words. */
function high(a: u64, b: u64): u64 {
  const al = a & 0xffffffff;
  const ah = a >> 32;
  const bl = b & 0xffffffff;
  const bh = b >> 32;
  const cross = ((al * bl) >> 32) + ((ah * bl) & 0xffffffff) + al * bh;
  return ((ah * bl) >> 32) + (cross >> 32) + ah * bh;
}

/** Both halves of the product, XORed. */
function fold(a: u64, b: u64): u64 {
  return high(a, b) ^ (a * b);
}

/** XXH3's finishing mix. */
function avalanche(h: u64): u64 {
  h = (h ^ (h >> 37)) * PRIME_MX1;
  return h ^ (h >> 32);
}

/** XXH64's finishing mix. */
function avalanche64(h: u64): u64 {
  h = (h ^ (h >> 33)) * PRIME64_2;
  h = (h ^ (h >> 29)) * PRIME64_3;
  return h ^ (h >> 32);
}

function put(out: usize, lowHalf: u64, highHalf: u64): void {
  store<u64>(out, bswap<u64>(highHalf));
  store<u64>(out, bswap<u64>(lowHalf), 8);
}

function hashEmpty(out: usize, secret: usize): void {
  put(
    out,
    avalanche64(load<u64>(secret, 64) ^ load<u64>(secret, 72)),
    avalanche64(load<u64>(secret, 80) ^ load<u64>(secret, 88)),
  );
}

function hash1to3(p: usize, length: u32, out: usize, secret: usize): void {
  const first = <u32>load<u8>(p);
  const middle = <u32>load<u8>(p + (length >> 1));
  const last = <u32>load<u8>(p + length - 1);
  const low = (first << 16) | (middle << 24) | last | (length << 8);
  const turned = rotl<u32>(bswap<u32>(low), 13);
  put(
    out,
    avalanche64(<u64>low ^ <u64>(load<u32>(secret) ^ load<u32>(secret, 4))),
    avalanche64(<u64>turned ^ <u64>(load<u32>(secret, 8) ^ load<u32>(secret, 12))),
  );
}

function hash4to8(p: usize, length: u32, out: usize, secret: usize): void {
  const words = <u64>load<u32>(p) | ((<u64>load<u32>(p + length - 4)) << 32);
  const keyed = words ^ load<u64>(secret, 16) ^ load<u64>(secret, 24);
  const factor = PRIME64_1 + ((<u64>length) << 2);
  let low = keyed * factor;
  const upper = high(keyed, factor) + (low << 1);
  low ^= upper >> 3;
  low = (low ^ (low >> 35)) * PRIME_MX2;
  put(out, low ^ (low >> 28), avalanche(upper));
}

function hash9to16(p: usize, length: u32, out: usize, secret: usize): void {
  const first = load<u64>(p);
  const last = load<u64>(p + length - 8);
  const mixed = first ^ last ^ load<u64>(secret, 32) ^ load<u64>(secret, 40);
  const lastKeyed = last ^ load<u64>(secret, 48) ^ load<u64>(secret, 56);
  let low = mixed * PRIME64_1 + ((<u64>(length - 1)) << 54);
  let upper = high(mixed, PRIME64_1);
  upper += lastKeyed + (lastKeyed & 0xffffffff) * (PRIME32_2 - 1);
  low ^= bswap<u64>(upper);
  put(out, avalanche(low * PRIME64_2), avalanche(high(low, PRIME64_2) + upper * PRIME64_2));
}

/** 16 bytes of input under 16 of secret. */
function mix(p: usize, secret: usize): u64 {
  return fold(load<u64>(p) ^ load<u64>(secret), load<u64>(p, 8) ^ load<u64>(secret, 8));
}

function sum(p: usize): u64 {
  return load<u64>(p) + load<u64>(p, 8);
}

/** What 17-128 and 129-240 bytes end with. */
function finishMiddle(low: u64, upper: u64, length: u32, out: usize): void {
  const mixed = low * PRIME64_1 + upper * PRIME64_4 + <u64>length * PRIME64_2;
  put(out, avalanche(low + upper), 0 - avalanche(mixed));
}

function hash17to128(p: usize, length: u32, out: usize, secret: usize): void {
  let low = <u64>length * PRIME64_1;
  let upper: u64 = 0;
  const end = p + length;
  // Pairs of 16 bytes from both ends, the innermost first.
  for (let i = <i32>((length - 1) >> 5); i >= 0; i--) {
    const front = p + 16 * i;
    const back = end - 16 * (i + 1);
    low = (low + mix(front, secret + 32 * i)) ^ sum(back);
    upper = (upper + mix(back, secret + 32 * i + 16)) ^ sum(front);
  }
  finishMiddle(low, upper, length, out);
}

function hash129to240(p: usize, length: u32, out: usize, secret: usize): void {
  let low = <u64>length * PRIME64_1;
  let upper: u64 = 0;
  const rounds = length >> 5;
  for (let i: u32 = 0; i < rounds; i++) {
    const front = p + 32 * i;
    // From the fifth round on the secret begins anew, three bytes in.
    const key = secret + (i < 4 ? 32 * i : 3 + 32 * (i - 4));
    low = (low + mix(front, key)) ^ sum(front + 16);
    upper = (upper + mix(front + 16, key + 16)) ^ sum(front);
    if (i == 3) {
      low = avalanche(low);
      upper = avalanche(upper);
    }
  }
  // The last 32 bytes, in reverse order.
  const front = p + length - 16;
  const back = p + length - 32;
  low = (low + mix(front, secret + 103)) ^ sum(back);
  upper = (upper + mix(back, secret + 119)) ^ sum(front);
  finishMiddle(low, upper, length, out);
}

/** The even words of two vectors, and the odd ones: the factors of a stripe's products. */
function evens(a: v128, b: v128): v128 {
  return v128.shuffle<u32>(a, b, 0, 2, 4, 6);
}

function odds(a: v128, b: v128): v128 {
  return v128.shuffle<u32>(a, b, 1, 3, 5, 7);
}

function crossed(a: v128): v128 {
  return v128.shuffle<u64>(a, a, 1, 0);
}

function keyed(data: v128, secret: usize): v128 {
  return v128.xor(data, v128.load(secret));
}

/** Specification, "Stripe accumulation", scramble: (a ^ (a >> 47) ^ secret) · PRIME32_1, modulo 2^64. */
function scramble(a: v128, secret: usize): v128 {
  const x = v128.xor(v128.xor(a, i64x2.shr_u(a, 47)), v128.load(secret));
  const prime = i32x4.splat(<i32>PRIME32_1);
  return i64x2.add(
    i64x2.extmul_low_i32x4_u(v128.shuffle<u32>(x, x, 0, 2, 0, 2), prime),
    i64x2.shl(i64x2.extmul_low_i32x4_u(v128.shuffle<u32>(x, x, 1, 3, 1, 3), prime), 32),
  );
}

function foldLanes(a: v128, secret: usize): u64 {
  return fold(i64x2.extract_lane(a, 0) ^ load<u64>(secret), i64x2.extract_lane(a, 1) ^ load<u64>(secret, 8));
}

/** More than 240 bytes. */
function hashLong(p: usize, length: u32, out: usize, secret: usize): void {
  let a0 = i64x2(<i64>PRIME32_3, <i64>PRIME64_1);
  let a1 = i64x2(<i64>PRIME64_2, <i64>PRIME64_3);
  let a2 = i64x2(<i64>PRIME64_4, <i64>PRIME32_2);
  let a3 = i64x2(<i64>PRIME64_5, <i64>PRIME32_1);
  const last = p + length - STRIPE;
  let left = (length - 1) >> 6; // stripes before the last one, which may overlap them
  for (;;) {
    let stripes = min<u32>(left, STRIPES_PER_BLOCK);
    const full = stripes == STRIPES_PER_BLOCK;
    left -= stripes;
    let key = secret;
    let b0 = i64x2.splat(0);
    let b1 = b0;
    let b2 = b0;
    let b3 = b0;
    while (stripes) {
      const d0 = v128.load(p);
      const d1 = v128.load(p, 16);
      const k0 = keyed(d0, key);
      const k1 = keyed(d1, key + 16);
      const e0 = evens(k0, k1);
      const o0 = odds(k0, k1);
      b0 = i64x2.add(b0, d0);
      b1 = i64x2.add(b1, d1);
      a0 = i64x2.add(a0, i64x2.extmul_low_i32x4_u(e0, o0));
      a1 = i64x2.add(a1, i64x2.extmul_high_i32x4_u(e0, o0));
      const d2 = v128.load(p, 32);
      const d3 = v128.load(p, 48);
      const k2 = keyed(d2, key + 32);
      const k3 = keyed(d3, key + 48);
      const e1 = evens(k2, k3);
      const o1 = odds(k2, k3);
      b2 = i64x2.add(b2, d2);
      b3 = i64x2.add(b3, d3);
      a2 = i64x2.add(a2, i64x2.extmul_low_i32x4_u(e1, o1));
      a3 = i64x2.add(a3, i64x2.extmul_high_i32x4_u(e1, o1));
      p += STRIPE;
      key += 8;
      stripes--;
    }
    a0 = i64x2.add(a0, crossed(b0));
    a1 = i64x2.add(a1, crossed(b1));
    a2 = i64x2.add(a2, crossed(b2));
    a3 = i64x2.add(a3, crossed(b3));
    if (!full) break;
    a0 = scramble(a0, secret + 128);
    a1 = scramble(a1, secret + 144);
    a2 = scramble(a2, secret + 160);
    a3 = scramble(a3, secret + 176);
  }
  const d0 = v128.load(last);
  const d1 = v128.load(last, 16);
  const d2 = v128.load(last, 32);
  const d3 = v128.load(last, 48);
  const k0 = keyed(d0, secret + 121);
  const k1 = keyed(d1, secret + 137);
  const k2 = keyed(d2, secret + 153);
  const k3 = keyed(d3, secret + 169);
  const e0 = evens(k0, k1);
  const o0 = odds(k0, k1);
  const e1 = evens(k2, k3);
  const o1 = odds(k2, k3);
  a0 = i64x2.add(a0, i64x2.add(crossed(d0), i64x2.extmul_low_i32x4_u(e0, o0)));
  a1 = i64x2.add(a1, i64x2.add(crossed(d1), i64x2.extmul_high_i32x4_u(e0, o0)));
  a2 = i64x2.add(a2, i64x2.add(crossed(d2), i64x2.extmul_low_i32x4_u(e1, o1)));
  a3 = i64x2.add(a3, i64x2.add(crossed(d3), i64x2.extmul_high_i32x4_u(e1, o1)));
  const low =
    <u64>length * PRIME64_1 +
    foldLanes(a0, secret + 11) +
    foldLanes(a1, secret + 27) +
    foldLanes(a2, secret + 43) +
    foldLanes(a3, secret + 59);
  const upper =
    ~(<u64>length * PRIME64_2) +
    foldLanes(a0, secret + 117) +
    foldLanes(a1, secret + 133) +
    foldLanes(a2, secret + 149) +
    foldLanes(a3, secret + 165);
  put(out, avalanche(low), avalanche(upper));
}

function hashShort(p: usize, length: u32, out: usize, secret: usize): void {
  if (length > 128) hash129to240(p, length, out, secret);
  else if (length > 16) hash17to128(p, length, out, secret);
  else if (length > 8) hash9to16(p, length, out, secret);
  else if (length > 3) hash4to8(p, length, out, secret);
  else if (length > 0) hash1to3(p, length, out, secret);
  else hashEmpty(out, secret);
}

/**
 * XXH3-128 of `count` adjoining blocks of `blockLength` bytes, 0 … 2^32 − 1.
 *
 * `out`: `count` digests of 16 bytes. `scratch`: 192 bytes. Reads nothing outside the blocks and `scratch`.
 */
export function hash(pointer: usize, blockLength: u32, count: u32, out: usize, scratch: usize): void {
  putSecret(scratch);
  for (let i: u32 = 0; i < count; i++) {
    if (blockLength > 240) hashLong(pointer, blockLength, out, scratch);
    else hashShort(pointer, blockLength, out, scratch);
    pointer += blockLength;
    out += 16;
  }
}
