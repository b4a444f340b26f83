import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { hex, KernelMemory } from './xxh3-nh128-blocks-memory.ts';

type Hash = (pointer: number, length: number, count: number, out: number, scratch: number) => void;

const { digests } = JSON.parse(readFileSync(new URL('../vectors/xxh3.json', import.meta.url), 'utf8')) as {
  digests: { length: number; digest: string }[];
};

/** The input of xxHash's own sanity check, as the vectors' file describes it. */
function sanityBytes(length: number): Uint8Array {
  let state = 2654435761n;
  return Uint8Array.from({ length }, () => {
    const byte = Number(state >> 56n);
    state = (state * 11400714785074694797n) & 0xffff_ffff_ffff_ffffn;
    return byte;
  });
}

describe('XXH3-128, seed 0', () => {
  const kernel = new KernelMemory(65_536);
  const hash = kernel.instance('xxh3').exports.hash as Hash;
  it.each(digests)('of $length bytes', ({ length, digest }) => {
    kernel.put(4096, sanityBytes(length));
    expect(hex(kernel.output(2048, 16, () => hash(4096, length, 1, 2048, 0)))).toBe(digest);
  });
});
