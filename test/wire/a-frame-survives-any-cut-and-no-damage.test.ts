import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { MAX_FRAME_BYTES } from '../../src/base/limits.ts';
import { encodeFrameHead, type Frame, FrameReader } from '../../src/wire/frame.ts';
import { noise } from '../sync/disks.ts';

const frames = fc.array(
  fc.record({ type: fc.integer({ min: 0, max: 0xffff }), payload: fc.uint8Array({ maxLength: 300 }) }),
  { maxLength: 8 },
);

function streamOf(list: readonly Frame[]): Uint8Array {
  return Buffer.concat(
    list.flatMap(({ type, payload }, i) => [encodeFrameHead(type, i, [payload]), payload]),
  );
}

function read(chunks: readonly Uint8Array[], maxPayload = 1000): Frame[] {
  const reader = new FrameReader('peer', maxPayload);
  const found: Frame[] = [];
  for (const chunk of chunks) reader.push(chunk, (frame) => found.push(frame));
  return found;
}

describe('frames', () => {
  it('come out as they went in, wherever the stream is cut', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.integer({ min: 0, max: 3000 }), { maxLength: 10 }), (list, cuts) => {
        const stream = streamOf(list);
        const places = [0, ...cuts.map((cut) => cut % (stream.length + 1)), stream.length].sort(
          (a, b) => a - b,
        );
        const chunks = places.slice(1).map((end, i) => stream.subarray(places[i], end));
        expect(read(chunks).map(({ type, payload }) => [type, [...payload]])).toEqual(
          list.map(({ type, payload }) => [type, [...payload]]),
        );
      }),
    );
  });

  it('come out whole from memory that is used again, long after short', () => {
    const lengths = [700_000, 40_000, 1_000_000, 0, 5, MAX_FRAME_BYTES, 33_000, 800_000];
    const list = [...lengths, ...lengths].map((length, i) => ({ type: i, payload: noise(length, i + 1) }));
    const stream = streamOf(list);
    const reader = new FrameReader('peer', MAX_FRAME_BYTES);
    const memories = new Set<ArrayBufferLike>();
    let at = 0;
    for (let from = 0; from < stream.length; from += 16_384)
      reader.push(stream.subarray(from, from + 16_384), ({ payload }) => {
        expect(Buffer.compare(payload, list[at++]!.payload)).toBe(0);
        if (payload.length > 500_000) memories.add(payload.buffer);
        reader.recycle(payload);
      });
    expect(at).toBe(list.length);
    expect(memories.size).toBe(1);
  });

  it('come out byte by byte', () => {
    const list = [
      { type: 1, payload: new Uint8Array([1, 2, 3]) },
      { type: 2, payload: new Uint8Array(0) },
    ];
    expect(read([...streamOf(list)].map((byte) => Uint8Array.of(byte)))).toHaveLength(2);
  });

  it('with one damaged bit are never taken for what they were not', () => {
    fc.assert(
      fc.property(frames, fc.nat(), fc.integer({ min: 0, max: 7 }), (list, at, bit) => {
        const stream = streamOf(list);
        if (stream.length === 0) return;
        stream[at % stream.length]! ^= 1 << bit;
        let found: Frame[] = [];
        try {
          found = read([stream]);
        } catch (error) {
          expect(error).toBeInstanceOf(DriftmapError);
          expect(['malformed', 'limit']).toContain((error as DriftmapError).kind);
        }
        // Whole frames before the damage may have been delivered; a damaged one never is.
        expect(found.length).toBeLessThan(list.length);
      }),
    );
  });

  it('that go missing or come twice are noticed', () => {
    const [a, b] = [1, 2].map((type, i) => encodeFrameHead(type, i, []));
    expect(() => read([b!])).toThrow('expected frame number 0, got 1');
    expect(() => read([a!, a!])).toThrow('expected frame number 1, got 0');
  });

  it('that are too long are refused before memory is taken', () => {
    const head = encodeFrameHead(1, 0, []);
    new DataView(head.buffer).setUint32(0, 0xffffffff, true);
    expect(() => read([head])).toThrow('expected a frame of at most 1000 bytes, got one of 4294967295');
  });
});
