import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import {
  DIGEST_BYTES,
  decodeBitmapPart,
  decodeData,
  decodeDiffer,
  decodeEqual,
  decodeNodes,
  decodeNumber,
  decodePlaced,
  decodeRefine,
  decodeSignatures,
  decodeTops,
  Encoding,
  encodeBitmapPart,
  encodeData,
  encodeDiffer,
  encodeEqual,
  encodeNodes,
  encodePlaced,
  encodeRefine,
  encodeSignatures,
  encodeTops,
  FANOUT,
  nodesAt,
} from '../../src/wire/messages.ts';

const WINDOWS = 1000;
const BLOCKS = 5000;
const MANY = WINDOWS * 65_536;

/** Ascending, disjoint runs below a bound. */
const runsBelow = (bound: number) =>
  fc.uniqueArray(fc.integer({ min: 0, max: bound }), { minLength: 2, maxLength: 12 }).map((places) => {
    const sorted = [...places].sort((a, b) => a - b);
    const runs: { first: number; end: number }[] = [];
    for (let i = 0; i + 1 < sorted.length; i += 2) runs.push({ first: sorted[i]!, end: sorted[i + 1]! });
    return runs;
  });

const digest = fc.uint8Array({ minLength: DIGEST_BYTES, maxLength: DIGEST_BYTES });

describe('messages', () => {
  it('tops and equal', () => {
    fc.assert(
      fc.property(runsBelow(WINDOWS), digest, (runs, top) => {
        const tops = runs.map((run) => ({ ...run, digest: top }));
        expect(decodeTops(encodeTops(tops), WINDOWS)).toEqual(tops);
        expect(decodeEqual(encodeEqual(runs), WINDOWS)).toEqual(runs);
        expect(() => decodeEqual(encodeEqual(runs), runs.at(-1)!.end - 1)).toThrow(
          'expected ascending windows',
        );
        if (runs.length > 1)
          expect(() => decodeEqual(encodeEqual([...runs].reverse()), WINDOWS)).toThrow('expected ascending');
      }),
    );
  });

  it('nodes', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 2 }),
        fc.uniqueArray(fc.nat(), { minLength: 1, maxLength: 5 }),
        (parentLevel, skip, picks) => {
          const level = Math.max(0, parentLevel - skip);
          const parents = [...new Set(picks.map((pick) => pick % nodesAt(parentLevel)))].sort(
            (a, b) => a - b,
          );
          const each = FANOUT ** (parentLevel - level) * DIGEST_BYTES;
          const digests = new Uint8Array(parents.length * each).map((_, i) => i);
          const nodes = { window: 7, level, parentLevel, parents, digests };
          const payload = Buffer.concat(encodeNodes(nodes));
          expect(decodeNodes(payload, WINDOWS, MANY)).toEqual({ ...nodes, digests: expect.anything() });
          expect([...decodeNodes(payload, WINDOWS, MANY).digests]).toEqual([...digests]);
          expect(() => decodeNodes(payload.subarray(1), WINDOWS, MANY)).toThrow(DriftmapError);
          expect(() => decodeNodes(payload, 7, MANY)).toThrow('expected a window below 7');
        },
      ),
    );
  });

  it('nodes at the end of a disk, without what lies past it', () => {
    // A window of 300 blocks: 19 nodes at level 1, the last one with 12 leaves; 2 at level 2.
    const nodes = { window: 0, level: 0, parentLevel: 1, parents: [0, 18], digests: new Uint8Array(28 * 16) };
    const payload = Buffer.concat(encodeNodes(nodes));
    expect(decodeNodes(payload, 1, 300).parents).toEqual([0, 18]);
    expect(() => decodeNodes(payload, 1, 301)).toThrow('expected 464 bytes of digests, got 448');
    expect(() => decodeNodes(payload, 1, 288)).toThrow(DriftmapError);
  });

  it('differ, as a list and as bits', () => {
    const few = [0, 5, 65_535];
    const many = Array.from({ length: 9000 }, (_, i) => i * 7);
    for (const leaves of [few, many, []])
      expect(decodeDiffer(encodeDiffer(3, leaves), WINDOWS)).toEqual({ window: 3, leaves });
    expect(encodeDiffer(3, many).length).toBe(8 + 8192);
    expect(() => decodeDiffer(encodeDiffer(3, [5, 5]), WINDOWS)).toThrow('expected ascending blocks');
  });

  it('bitmap parts', () => {
    const part = { total: 100, offset: 20, bytes: new Uint8Array(30).fill(9) };
    expect(decodeBitmapPart(Buffer.concat(encodeBitmapPart(part)))).toEqual({
      ...part,
      bytes: expect.anything(),
    });
    const past = Buffer.concat(encodeBitmapPart({ ...part, offset: 80 }));
    expect(() => decodeBitmapPart(past)).toThrow('expected 100 bytes in all, got 110');
  });

  it('signatures', () => {
    fc.assert(
      fc.property(runsBelow(BLOCKS), (places) => {
        const runs = places.map(({ first, end }) => ({ start: first, end }));
        const count = runs.reduce((sum, { start, end }) => sum + end - start, 0);
        const digests = new Uint8Array(count * 32).map((_, i) => i);
        const payload = Buffer.concat(encodeSignatures({ runs, digests }));
        const back = decodeSignatures(payload, BLOCKS, 0);
        expect(back.runs).toEqual(runs);
        expect(Buffer.compare(back.digests, digests)).toBe(0);
        expect(() => decodeSignatures(payload, BLOCKS, runs[0]!.start + 1)).toThrow(
          'expected ascending blocks',
        );
        expect(() => decodeSignatures(payload.subarray(0, -1), BLOCKS, 0)).toThrow(DriftmapError);
      }),
    );
  });

  it('refine', () => {
    // A disk of 2.5 blocks of 64 KiB: the last one has eight pieces.
    const size = 160 * 1024;
    const runs = [
      { start: 0, end: 1 },
      { start: 2, end: 3 },
    ];
    const digests = new Uint8Array(24 * 16).map((_, i) => i);
    const good = { runs, piece: 4096, key: new Uint8Array(32).fill(3), digests };
    const encode = (change: object) => new Uint8Array(Buffer.concat(encodeRefine({ ...good, ...change })));
    expect(decodeRefine(encode({}), size, 65_536)).toEqual({ ...good, digests: expect.anything() });
    for (const bad of [
      { piece: 65_536 },
      { piece: 3000 },
      { piece: 256 },
      { runs: [] },
      { runs: [...runs].reverse() },
      { runs: [{ start: 0, end: 4 }] },
      { digests: digests.subarray(16) },
    ])
      expect(() => decodeRefine(encode(bad), size, 65_536), JSON.stringify(bad)).toThrow(DriftmapError);
  });

  it('placed', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 70 }), (bits) => {
        const placed = Uint8Array.from(bits);
        expect([...decodePlaced(encodePlaced(placed), bits.length)]).toEqual(bits);
        expect(() => decodePlaced(encodePlaced(placed), bits.length + 8)).toThrow(DriftmapError);
      }),
    );
  });

  it('data that does not lie on the disk, or does not fit its encoding, is refused', () => {
    const SIZE = 10_000_000_000;
    const good = {
      offset: 8_000_000_000,
      length: 100,
      encoding: Encoding.plain,
      stored: new Uint8Array(100),
    };
    const encode = (data: object) => Buffer.concat(encodeData({ ...good, ...data }));
    expect(decodeData(encode({}), SIZE)).toEqual({ ...good, stored: expect.anything() });
    const zeros = { encoding: Encoding.zero, stored: new Uint8Array(0), length: 2 ** 30 };
    expect(decodeData(encode(zeros), SIZE).length).toBe(2 ** 30);
    for (const bad of [
      { offset: SIZE - 99 },
      { offset: 2 ** 53 },
      { length: 0, stored: new Uint8Array(0) },
      { length: 101 },
      { length: 2_000_000, stored: new Uint8Array(2_000_000) },
      { ...zeros, length: 2 ** 30 + 1 },
      { ...zeros, stored: new Uint8Array(1) },
      { encoding: Encoding.deflate },
      { encoding: Encoding.zstd, stored: new Uint8Array(0) },
      { encoding: 4 },
    ])
      expect(() => decodeData(encode(bad), SIZE), JSON.stringify(Object.keys(bad))).toThrow(DriftmapError);
  });

  it('random bytes are read within their bounds, or refused with our error', () => {
    const decoders: ((payload: Uint8Array) => unknown)[] = [
      (payload) => decodeTops(payload, WINDOWS),
      (payload) => decodeEqual(payload, WINDOWS),
      (payload) => decodeNodes(payload, WINDOWS, MANY),
      (payload) => decodeDiffer(payload, WINDOWS),
      (payload) => decodeBitmapPart(payload),
      (payload) => decodeSignatures(payload, BLOCKS, 0),
      (payload) => decodePlaced(payload, 12),
      (payload) => decodeRefine(payload, 1_000_000, 65_536),
      (payload) => decodeData(payload, 1_000_000),
      (payload) => decodeNumber(payload, 'checkpoint'),
    ];
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      // Small numbers, which come closer to what is right.
      fc
        .array(fc.constantFrom(0, 0, 0, 1, 2, 4, 16, 255), { maxLength: 200 })
        .map((list) => Uint8Array.from(list)),
    );
    let refused = 0;
    fc.assert(
      fc.property(bytes, fc.constantFrom(...decoders), (payload, decode) => {
        const before = payload.slice();
        try {
          decode(payload);
        } catch (error) {
          refused++;
          expect(error).toBeInstanceOf(DriftmapError);
          expect((error as DriftmapError).kind).toBe('malformed');
        }
        expect(payload).toEqual(before);
      }),
      { numRuns: 3000 },
    );
    expect(refused).toBeGreaterThan(1000);
  });
});
