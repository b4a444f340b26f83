import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeControl, encodeControl } from '../../src/codec/control.ts';

const what = 'the header';
const malformed = (message: RegExp, offset?: number) =>
  expect.objectContaining({
    kind: 'malformed',
    message: expect.stringMatching(message),
    ...(offset === undefined ? {} : { offset }),
  });

/** What may stand in a control structure. */
const plain = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.oneof(
      fc.constantFrom(null, true, false, 0, -1, 2 ** 32, -(2 ** 31) - 1, Number.MAX_SAFE_INTEGER),
      fc.maxSafeInteger(),
      fc.double({ noNaN: true }).filter((value) => !Object.is(value, -0)),
      fc.string({ unit: 'binary', maxLength: 40 }),
      fc.uint8Array({ maxLength: 40 }),
    ),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(
      fc.string({ maxLength: 8 }).filter((key) => key !== '__proto__'),
      tie('value'),
      { maxKeys: 5, noNullPrototype: true },
    ),
  ),
})).value;

describe('a control structure', () => {
  it('comes back as it was', () => {
    fc.assert(
      fc.property(plain, (value) => {
        expect(decodeControl(encodeControl(value), what)).toEqual(value);
      }),
      { numRuns: 300 },
    );
  });

  it('has the same bytes whatever the order of its keys', () => {
    const one = encodeControl({ b: 1, a: { d: [1], c: 'x' }, gone: undefined });
    expect(Buffer.compare(one, encodeControl({ a: { c: 'x', d: [1] }, b: 1 }))).toBe(0);
  });

  it('cut off anywhere, or with something after it, is an error', () => {
    const bytes = encodeControl({
      name: 'x'.repeat(300),
      list: [1, 2.5, -7, 2 ** 40, null],
      raw: new Uint8Array(5),
      n: { m: {} },
    });
    decodeControl(bytes, what);
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decodeControl(bytes.subarray(0, length), what, {}, { path: 'p', offset: 100 })).toThrow(
        expect.objectContaining({ kind: 'malformed', path: 'p' }),
      );
    }
    const longer = new Uint8Array([...bytes, 0xc0]);
    expect(() => decodeControl(longer, what)).toThrow(
      malformed(/expected the end, got 1 more bytes/, bytes.length),
    );
  });

  it('of any bytes at all is a value or a malformed error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
        try {
          decodeControl(bytes, what);
        } catch (error) {
          expect(error).toMatchObject({ kind: 'malformed' });
        }
      }),
      { numRuns: 3000 },
    );
  });

  it('that claims more than is there costs nothing', () => {
    const claims = [
      [0xdd, 0xff, 0xff, 0xff, 0xff],
      [0xdf, 0xff, 0xff, 0xff, 0xff],
      [0xdc, 0x0f, 0xff],
      [0xc6, 0xff, 0xff, 0xff, 0xff],
      [0xdb, 0xff, 0xff, 0xff, 0xff],
      // Arrays in arrays, each of 4095: the library would allocate every one of them.
      Array.from({ length: 8 }, () => [0xdc, 0x0f, 0xff]).flat(),
    ];
    const before = process.memoryUsage.rss();
    for (let round = 0; round < 1000; round++) {
      for (const bytes of claims)
        expect(() => decodeControl(Uint8Array.from(bytes), what)).toThrow(malformed(/the header/));
    }
    expect(process.memoryUsage.rss() - before).toBeLessThan(100e6);
  });

  it('is held to its limits, with the place', () => {
    const limits = { bytes: 40, text: 4, entries: 3, depth: 2 };
    const decode = (value: unknown) => () =>
      decodeControl(encodeControl(value), what, limits, { offset: 32 });
    expect(decode([[1, 2], 'abcd', new Uint8Array(4)])()).toEqual([[1, 2], 'abcd', new Uint8Array(4)]);
    expect(decode([1, 2, 3, 4])).toThrow(malformed(/at most 3 entries, got 4/, 32));
    expect(decode({ a: 1, b: 2, c: 3, d: 4 })).toThrow(malformed(/at most 3 entries, got 4/, 32));
    expect(decode(['abcde'])).toThrow(malformed(/at most 4 bytes of text, got 5/, 33));
    expect(decode([new Uint8Array(5)])).toThrow(malformed(/at most 4 bytes of text, got 5/, 33));
    expect(decode([[[1]]])).toThrow(malformed(/at most 2 levels/, 34));
    expect(() => decodeControl(new Uint8Array(41).fill(0xc0), what, limits)).toThrow(
      malformed(/at most 40 bytes, got 41/, 0),
    );
  });

  it('holds plain data only', () => {
    for (const bytes of [
      [0xc1],
      [0xd6, 0xff, 0, 0, 0, 0],
      [0xc7, 0x01, 0x05, 0x00],
      [0x92, 0xc0, 0xd4, 0x01, 0x00],
    ]) {
      expect(() => decodeControl(Uint8Array.from(bytes), what)).toThrow(malformed(/plain data/));
    }
    expect(() => decodeControl(Uint8Array.of(0xa1, 0xff), what)).toThrow(malformed(/UTF-8/, 0));
    expect(() => decodeControl(Uint8Array.of(0x81, 0xc0, 0x01), what)).toThrow(
      malformed(/cannot be decoded/),
    );
    const pollution = Uint8Array.from([0x81, 0xa9, ...Buffer.from('__proto__'), 0x80]);
    expect(() => decodeControl(pollution, what)).toThrow(malformed(/cannot be decoded/));
    const circle: unknown[] = [];
    circle.push(circle);
    for (const value of [() => 1, 1n, circle]) {
      expect(() => encodeControl(value)).toThrow(expect.objectContaining({ kind: 'internal' }));
    }
  });

  it('does not share memory with the bytes that it came from', () => {
    const bytes = encodeControl([Uint8Array.of(1, 2, 3)]);
    const value = decodeControl(bytes, what);
    bytes.fill(0);
    expect(value).toEqual([Uint8Array.of(1, 2, 3)]);
  });
});
