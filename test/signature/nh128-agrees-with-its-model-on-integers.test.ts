import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NH128_SCRATCH_BYTES, nh128Signer, nhLevels } from '../../src/signature/nh128.ts';
import { nh128Model } from '../model/nh128.ts';
import { hex, KernelMemory, noise } from './xxh3-nh128-blocks-memory.ts';

type Records = (
  pointer: number,
  length: number,
  count: number,
  out: number,
  keys: number,
  work: number,
) => void;

const KiB = 1024;
const MiB = 1024 * KiB;
const SCRATCH = 4096;
const OUT = MiB;
const DATA = 2 * MiB;

const kernel = new KernelMemory(20 * MiB);
const nh = kernel.instance('nh');
const blake3 = kernel.instance('blake3');
const bytes = noise(3 * MiB, 11);

const keys = fc.uint8Array({ minLength: 32, maxLength: 32 });
const places = fc.tuple(fc.nat(200), fc.nat(15));

function blockAt(shift: number, length: number, index: number): Uint8Array {
  return bytes.subarray(shift + index * length, shift + (index + 1) * length);
}

function signatures(key: Uint8Array, shift: number, length: number, count: number, outShift = 0): string[] {
  const room = { pointer: SCRATCH, bytes: NH128_SCRATCH_BYTES };
  const signer = nh128Signer(nh, blake3, kernel.memory, room, key);
  const out = OUT + 64 + outShift;
  const found = kernel.output(out, 16 * count, () => signer.sign(DATA + shift, length, count, out));
  return Array.from({ length: count }, (_, i) => hex(found.subarray(16 * i, 16 * i + 16)));
}

describe('the NH levels', () => {
  const records = nh.exports.records as Records;

  it('leave the 32 bytes that the model leaves, and the length', async () => {
    kernel.put(DATA, bytes);
    const model = await nh128Model(noise(32, 3));
    kernel.put(SCRATCH, model.keys);
    const work = SCRATCH + 8 * KiB;
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 1, max: 8 }),
        places,
        (length, count, place) => {
          const [shift, outShift] = place;
          const out = OUT + 64 + outShift;
          const found = kernel.output(out, 40 * count, () =>
            records(DATA + shift, length, count, out, SCRATCH, work),
          );
          for (let i = 0; i < count; i++) {
            const record = Buffer.from(found.subarray(40 * i, 40 * i + 40));
            expect(hex(record.subarray(0, 32))).toBe(hex(model.levels(blockAt(shift, length, i))));
            expect(record.readBigUInt64LE(32)).toBe(BigInt(length));
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it('are as many as the text says', () => {
    expect([1, KiB, KiB + 1, 32 * KiB, 32 * KiB + 1, MiB, MiB + 1, 16 * MiB].map(nhLevels)).toEqual([
      1, 1, 2, 2, 3, 3, 4, 4,
    ]);
  });
});

describe('nh128', () => {
  it('at random lengths, keys, alignments and counts', async () => {
    kernel.put(DATA, bytes);
    const lengths = fc.integer({ min: 1, max: 5000 });
    await fc.assert(
      fc.asyncProperty(
        keys,
        lengths,
        fc.integer({ min: 1, max: 9 }),
        places,
        async (key, length, count, place) => {
          const model = await nh128Model(key);
          const expected = Array.from({ length: count }, (_, i) =>
            hex(model.signature(blockAt(place[0], length, i))),
          );
          expect(signatures(key, place[0], length, count, place[1])).toEqual(expected);
        },
      ),
      { numRuns: 80 },
    );
  });

  it('at every length from 1 to 1100, where chunks and groups end', async () => {
    kernel.put(DATA, bytes);
    const key = noise(32, 5);
    const model = await nh128Model(key);
    for (let length = 1; length <= 1100; length++) {
      expect(signatures(key, 1, length, 1), `length ${length}`).toEqual([
        hex(model.signature(blockAt(1, length, 0))),
      ]);
    }
  });

  it('where levels begin, and up to 2 MiB', async () => {
    kernel.put(DATA, bytes);
    const key = noise(32, 6);
    const model = await nh128Model(key);
    for (const length of [32 * KiB - 1, 32 * KiB, 32 * KiB + 1, 65_536, 777_777, MiB, MiB + 1, 2 * MiB]) {
      expect(signatures(key, 9, length, 1), `length ${length}`).toEqual([
        hex(model.signature(blockAt(9, length, 0))),
      ]);
    }
  });

  it('of more blocks than fit one batch', async () => {
    kernel.put(DATA, bytes);
    const key = noise(32, 8);
    const model = await nh128Model(key);
    for (const [length, count] of [
      [512, 1300],
      [1500, 600],
      [100 * KiB, 20],
    ] as const) {
      const found = signatures(key, 0, length, count);
      for (const i of [0, 1, 255, 256, 511, 512, 513, 1023, 1024, count - 1].filter(
        (index) => index < count,
      )) {
        expect(found[i], `block ${i} of ${length} bytes`).toBe(hex(model.signature(blockAt(0, length, i))));
      }
    }
  });
});
