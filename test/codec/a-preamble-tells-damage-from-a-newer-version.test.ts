import { describe, expect, it } from 'vitest';
import { checksum } from '../../src/codec/checksum.ts';
import { decodeFrame, encodeFrame, type FramedFormat, PREAMBLE_BYTES } from '../../src/codec/preamble.ts';

const format: FramedFormat = {
  what: 'a test file',
  magic: new TextEncoder().encode('TESTFILE'),
  version: 3,
  maxHeaderBytes: 10,
};
const header = Uint8Array.of(1, 2, 3, 4);
const body = Uint8Array.of(9, 8, 7);

function file(change: Partial<FramedFormat> = {}): Uint8Array {
  return new Uint8Array([...encodeFrame({ ...format, ...change }, header, body.length), ...body]);
}

describe('a preamble', () => {
  it('stands on a checksum with the published check value', () => {
    // CRC-32/ISO-HDLC: "123456789" gives cbf43926.
    const digits = new TextEncoder().encode('123456789');
    expect(checksum(digits)).toBe(0xcbf43926);
    expect(checksum(digits.subarray(4), checksum(digits.subarray(0, 4)))).toBe(0xcbf43926);
    expect(checksum(new Uint8Array(0))).toBe(0);
  });

  it('gives back header and body, of every version up to its own', () => {
    for (const version of [1, 2, 3]) {
      const framed = decodeFrame(format, file({ version }));
      expect(framed.version).toBe(version);
      expect(framed.header).toEqual(header);
      expect(framed.body).toEqual(body);
      expect(framed.bodyOffset).toBe(PREAMBLE_BYTES + header.length);
    }
  });

  it('finds every changed byte of preamble and header', () => {
    const whole = file();
    for (let at = 0; at < PREAMBLE_BYTES + header.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const bytes = whole.slice();
        bytes[at]! ^= 1 << bit;
        expect(() => decodeFrame(format, bytes, 'p')).toThrow(
          expect.objectContaining({ kind: 'malformed', path: 'p' }),
        );
      }
    }
  });

  it('finds what was cut off or added', () => {
    const whole = file();
    for (let length = 0; length < whole.length; length++) {
      expect(() => decodeFrame(format, whole.subarray(0, length))).toThrow(
        expect.objectContaining({ kind: 'malformed' }),
      );
    }
    expect(() => decodeFrame(format, new Uint8Array([...whole, 0]))).toThrow(
      /expected a file of 39 bytes, got 40/,
    );
  });

  it('says so when the version is newer, or the file is another kind', () => {
    expect(() => decodeFrame(format, file({ version: 4 }), 'p')).toThrow(
      expect.objectContaining({
        kind: 'unsupported',
        offset: 8,
        message: expect.stringMatching(/newer driftmap/),
      }),
    );
    expect(() => decodeFrame(format, file({ version: 0 }))).toThrow(
      expect.objectContaining({ kind: 'malformed' }),
    );
    expect(() => decodeFrame(format, file({ magic: new TextEncoder().encode('OTHERONE') }))).toThrow(
      /not a test file/,
    );
  });

  it('bounds the header', () => {
    const long = new Uint8Array(11);
    const bytes = encodeFrame(format, long, 0);
    expect(() => decodeFrame(format, bytes)).toThrow(/header of at most 10 bytes/);
    expect(decodeFrame({ ...format, maxHeaderBytes: 11 }, bytes).header).toEqual(long);
  });
});
