import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { NH128_SCRATCH_BYTES, nh128Signer } from '../../src/signature/nh128.ts';
import { hex, KernelMemory, noise } from './xxh3-nh128-blocks-memory.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const SCRATCH = 65_536;
const OUT = MiB;
const DATA = 2 * MiB;

const kernel = new KernelMemory(DATA + 16 * MiB + 65_536);
const nh = kernel.instance('nh');
const blake3 = kernel.instance('blake3');

function signerOf(key: Uint8Array) {
  return nh128Signer(nh, blake3, kernel.memory, { pointer: SCRATCH, bytes: NH128_SCRATCH_BYTES }, key);
}

const key = noise(32, 1);
const signer = signerOf(key);

function sign(length: number, using = signer): string {
  using.sign(DATA, length, 1, OUT);
  return hex(kernel.take(OUT, 16));
}

function flip(bit: number): void {
  kernel.bytes[DATA + (bit >> 3)]! ^= 1 << (bit & 7);
}

describe('nh128', () => {
  it('changes with every bit of a short block', () => {
    for (const length of [1, 5, 31, 32, 33, 64, 100, 1024, 1055]) {
      kernel.put(DATA, noise(length, length));
      const seen = new Set([sign(length)]);
      for (let bit = 0; bit < 8 * length; bit++) {
        flip(bit);
        seen.add(sign(length));
        flip(bit);
      }
      expect(seen.size, `${length} bytes`).toBe(8 * length + 1);
    }
  });

  it('changes with any bit of a block of any size', () => {
    kernel.put(DATA, noise(2 * MiB, 2));
    const lengths = fc.oneof(
      fc.integer({ min: 1, max: 40_000 }),
      fc.constantFrom(4 * KiB, 64 * KiB, MiB, 2 * MiB),
    );
    fc.assert(
      fc.property(lengths, fc.double({ min: 0, max: 0.999999999, noNaN: true }), (length, where) => {
        const before = sign(length);
        const bit = Math.floor(where * 8 * length);
        flip(bit);
        const after = sign(length);
        flip(bit);
        expect(after).not.toBe(before);
        expect(sign(length)).toBe(before);
      }),
      { numRuns: 300 },
    );
  });

  it('changes with the last bit of the largest block', () => {
    const before = sign(16 * MiB);
    flip(8 * 16 * MiB - 1);
    expect(sign(16 * MiB)).not.toBe(before);
    flip(8 * 16 * MiB - 1);
    expect(sign(16 * MiB)).toBe(before);
  });

  it('tells blocks of zeros of different lengths apart', () => {
    kernel.bytes.fill(0, DATA, DATA + 70_000);
    const lengths = [1, 2, 31, 32, 33, 1023, 1024, 1025, 2048, 4096, 32_768, 65_536];
    expect(new Set(lengths.map((length) => sign(length))).size).toBe(lengths.length);
  });

  it('changes with every bit of the key', () => {
    kernel.put(DATA, noise(4096, 3));
    const seen = new Set([sign(4096)]);
    for (let bit = 0; bit < 256; bit++) {
      const other = Uint8Array.from(key);
      other[bit >> 3]! ^= 1 << (bit & 7);
      seen.add(sign(4096, signerOf(other)));
    }
    expect(seen.size).toBe(257);
  });

  it('is the same after the key was overwritten by its owner, and after scratch was', () => {
    kernel.put(DATA, noise(4096, 3));
    const mine = Uint8Array.from(key);
    const careful = signerOf(mine);
    const before = sign(4096, careful);
    mine.fill(0);
    kernel.bytes.fill(0xee, SCRATCH, SCRATCH + NH128_SCRATCH_BYTES);
    expect(sign(4096, careful)).toBe(before);
  });

  it('writes nothing outside its output and its scratch', () => {
    const before = SCRATCH - 256;
    const after = SCRATCH + NH128_SCRATCH_BYTES;
    const data = noise(2 * MiB, 4);
    kernel.put(DATA, data);
    kernel.bytes.fill(0x77, before, SCRATCH);
    kernel.bytes.fill(0x77, after, after + 256);
    for (const [length, count] of [
      [1, 2000],
      [512, 2000],
      [4096, 256],
      [5000, 300],
      [2 * MiB, 1],
    ] as const) {
      kernel.output(OUT, 16 * count, () => signer.sign(DATA, length, count, OUT));
    }
    signer.sign(DATA, 16 * MiB, 1, OUT);
    const guards = [...kernel.take(before, 256), ...kernel.take(after, 256)];
    expect(guards.every((byte) => byte === 0x77)).toBe(true);
    expect(Buffer.compare(kernel.take(DATA, data.length), data)).toBe(0);
  });

  it('refuses keys and blocks of other sizes, and does not say the key', () => {
    const secret = noise(31, 9);
    for (const call of [
      () => signerOf(secret),
      () => signerOf(new Uint8Array(33)),
      () => signer.sign(DATA, 0, 1, OUT),
      () => signer.sign(DATA, 16 * MiB + 1, 1, OUT),
      () => signer.sign(DATA, 1.5, 1, OUT),
    ]) {
      expect(call).toThrow(DriftmapError);
      expect(call).toThrow(/expected a (key of 32|block of 1 to 16777216) bytes, got/);
    }
    const shown = [hex(secret), secret.join(','), hex(key), key.join(',')];
    let text = '';
    try {
      signerOf(secret);
    } catch (error) {
      text = JSON.stringify((error as DriftmapError).toPlain()) + (error as Error).stack;
    }
    text += JSON.stringify(signer);
    for (const secretText of shown) expect(text).not.toContain(secretText.slice(0, 12));
  });

  it('does not leave the secret itself in the kernels\u2019 memory', () => {
    kernel.put(DATA, noise(4096, 3));
    signerOf(key).sign(DATA, 4096, 1, OUT);
    expect(Buffer.from(kernel.take(0, DATA)).includes(Buffer.from(key))).toBe(false);
  });
});
