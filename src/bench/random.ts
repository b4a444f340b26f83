/** Numbers that look random and are the same everywhere for a seed: contents of disks, and resampling. */

/** Marsaglia's xorshift32 ("Xorshift RNGs", 2003): 32-bit numbers from 1 on. */
export function xorshift32(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Whole numbers in `[0, below)`. */
export function indexes(seed: number): (below: number) => number {
  const next = xorshift32(seed);
  // The first numbers of a small seed are small.
  for (let i = 0; i < 8; i++) next();
  return (below) => Math.floor((next() / 2 ** 32) * below);
}

export function fillRandom(bytes: Uint8Array, seed: number): void {
  const next = xorshift32(seed);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 4));
  for (let i = 0; i < words.length; i++) words[i] = next();
}
