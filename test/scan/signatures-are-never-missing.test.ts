import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { blake3 } from 'hash-wasm';
import { afterAll, describe, expect, it } from 'vitest';
import { signatures } from '../../src/scan/signatures.ts';
import { contentsOf, diskOf, pairSpec } from './pairs.ts';

const folder = mkdtempSync(join(tmpdir(), 'driftmap-signatures-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('signatures of a disk', () => {
  it('are one for every block of the range, holes included, and those of the bytes', async () => {
    await fc.assert(
      fc.asyncProperty(
        pairSpec,
        fc.integer({ min: 9, max: 17 }),
        fc.nat(2000),
        fc.nat(400_000),
        async (spec, bits, from, length) => {
          const blockSize = 2 ** bits;
          const { production: bytes } = contentsOf(spec);
          const disk = await diskOf(bytes, spec.media[0], folder, 'disk');
          const offset = Math.min(from * 100, bytes.length);
          const range = { offset, length: Math.min(length, bytes.length - offset) };
          const first = Math.floor(offset / blockSize);
          const end = range.length === 0 ? first : Math.floor((offset + range.length - 1) / blockSize) + 1;
          let next = first;
          for await (const { block, offset: at, length: size, signature } of signatures(disk, {
            range,
            blockSize,
            signature: 'sha1',
          })) {
            expect([block, at]).toEqual([next, next * blockSize]);
            const expected = bytes.subarray(at, Math.min(at + blockSize, bytes.length));
            expect(size).toBe(expected.length);
            expect(Buffer.from(signature).toString('hex')).toBe(
              createHash('sha1').update(expected).digest('hex'),
            );
            next++;
          }
          expect(next).toBe(end);
          await disk.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  it('are BLAKE3 unless another is asked for, and of a hole those of zeros', async () => {
    const disk = await diskOf(new Uint8Array(100_000), 'sparse file', folder, 'holes');
    const found: string[] = [];
    for await (const { signature } of signatures(disk)) found.push(Buffer.from(signature).toString('hex'));
    expect(found).toEqual([
      await blake3(new Uint8Array(65536)),
      await blake3(new Uint8Array(100_000 - 65536)),
    ]);
    await disk.close();
  });

  it('under a key need the key, and refuse ranges outside the disk', async () => {
    const disk = await diskOf(new Uint8Array(1000), 'array', folder, 'a');
    await expect(signatures(disk, { signature: 'nh128' }).next()).rejects.toMatchObject({ kind: 'argument' });
    await expect(signatures(disk, { range: { offset: 999, length: 2 } }).next()).rejects.toMatchObject({
      kind: 'argument',
    });
    await expect(signatures(disk, { range: { offset: -1, length: 1 } }).next()).rejects.toMatchObject({
      kind: 'argument',
    });
    const keyed = await signatures(disk, {
      signature: 'nh128',
      key: new Uint8Array(32).fill(1),
      blockSize: 512,
    }).next();
    expect(keyed.value!.signature.length).toBe(16);
  });
});
