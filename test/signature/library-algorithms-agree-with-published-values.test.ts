import fc from 'fast-check';
import { md5, sha1, sha256 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import { algorithmByName } from '../../src/signature/algorithm.ts';
import { librarySigner } from '../../src/signature/library.ts';
import { KernelMemory, noise } from './xxh3-nh128-blocks-memory.ts';

const latin1 = (text: string) => Uint8Array.from(Buffer.from(text, 'latin1'));
const memory = new KernelMemory(4 * 2 ** 20);
const out = 1024;
const pointer = 8192;

/** Signs `count` blocks as a scan would; the guard bytes around the digests are checked. */
async function digests(name: string, blocks: Uint8Array, count: number, at = pointer): Promise<string> {
  const algorithm = algorithmByName(name);
  const signer = await librarySigner(algorithm, memory.memory);
  memory.put(at, blocks);
  const written = memory.output(out, count * algorithm.digestLength, () =>
    signer.sign(at, blocks.length / count, count, out),
  );
  return Buffer.from(written).toString('hex');
}

/** CRC-32C a bit at a time (RFC 3720, section 12.1: polynomial 0x11edc6f41, reflected). */
function crc32cByBits(bytes: Uint8Array): string {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return (~crc >>> 0).toString(16).padStart(8, '0');
}

const twoBlocks = 'abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq';
const digits = '12345678901234567890123456789012345678901234567890123456789012345678901234567890';
const alphanumeric = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const counting = Uint8Array.from({ length: 32 }, (_, i) => i);
/** The SCSI Read (10) command descriptor of RFC 3720, appendix B.4. */
const read10 = new Uint8Array(48);
read10.set([0x01, 0xc0], 0);
read10.set([0x14], 16);
read10.set([0x04], 22);
read10.set([0x14], 27);
read10.set([0x18, 0x28], 31);
read10.set([0x02], 40);

describe('published values', () => {
  it.each([
    // FIPS 180-4, the examples of NIST.
    ['sha256', latin1('abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
    ['sha256', latin1(twoBlocks), '248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1'],
    // RFC 3174, section 7.3.
    ['sha1', latin1('abc'), 'a9993e364706816aba3e25717850c26c9cd0d89d'],
    ['sha1', latin1(twoBlocks), '84983e441c3bd26ebaae4aa1f95129e5e54670f1'],
    ['sha1', latin1('a'.repeat(1_000_000)), '34aa973cd4c4daa4f61eeb2bdbad27316534016f'],
    // RFC 1321, appendix A.5.
    ['md5', latin1('a'), '0cc175b9c0f1b6a831c399e269772661'],
    ['md5', latin1('abc'), '900150983cd24fb0d6963f7d28e17f72'],
    ['md5', latin1('message digest'), 'f96b697d7cb7938d525a2f31aaf161d0'],
    ['md5', latin1(alphanumeric), 'd174ab98d277d9f5a5611c2c9f419d9f'],
    ['md5', latin1(digits), '57edf4a22be3c955ac49da2e2107b67a'],
    // RFC 3720, appendix B.4; it shows the bytes as sent, lowest first: these are the numbers, highest first.
    ['crc32c', new Uint8Array(32), '8a9136aa'],
    ['crc32c', new Uint8Array(32).fill(0xff), '62a8ab43'],
    ['crc32c', counting, '46dd794e'],
    ['crc32c', Uint8Array.from(counting).reverse(), '113fdb5c'],
    ['crc32c', read10, 'd9963a56'],
  ] as const)('%s', async (name, input, expected) => {
    expect(await digests(name, input, 1)).toBe(expected);
  });
});

describe('another implementation agrees', () => {
  it.each([
    ['sha256', sha256],
    ['sha1', sha1],
    ['md5', md5],
    ['crc32c', async (bytes: Uint8Array) => crc32cByBits(bytes)],
  ] as const)('on %s of blocks of any length, number and address', async (name, oracle) => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5000 }),
        fc.integer({ min: 1, max: 9 }),
        fc.nat(63),
        async (length, count, shift) => {
          const blocks = noise(length * count, length + count);
          let expected = '';
          for (let i = 0; i < count; i++)
            expected += await oracle(blocks.subarray(i * length, (i + 1) * length));
          expect(await digests(name, blocks, count, pointer + shift)).toBe(expected);
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('an algorithm that no library has', () => {
  it('is refused by name', async () => {
    await expect(librarySigner(algorithmByName('nh128'), memory.memory)).rejects.toMatchObject({
      name: 'DriftmapError',
      message: expect.stringContaining('nh128'),
    });
  });
});
