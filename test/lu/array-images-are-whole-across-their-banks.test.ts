import { describe, expect, it } from 'vitest';
import { MAX_BANKS, MAX_WORKERS } from '../../src/base/limits.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { thrown } from '../tools.ts';
import { inWorker, pattern, same } from './conformance.ts';

describe('an array image', () => {
  it('reads and writes across the edges, and shows its bytes without a copy within a bank', () => {
    const image = createArrayImage({ size: 200_000, bankBytes: 65536, bytes: new Uint8Array([1, 2, 3]) });
    expect(image.banks.length).toBe(4);
    const bytes = pattern(150_000, 1);
    image.write(40_000, bytes);
    const back = new Uint8Array(150_000);
    image.read(40_000, back);
    expect(same(back, bytes)).toBe(true);
    image.view({ offset: 65_536, length: 1 })[0] = 99;
    image.read(65_536, back.subarray(0, 1));
    expect(back[0]).toBe(99);
    expect(thrown(() => image.view({ offset: 65_530, length: 12 }))).toMatchObject({ kind: 'argument' });
    image.read(0, back.subarray(0, 4));
    expect([...back.subarray(0, 4)]).toEqual([1, 2, 3, 0]);
  });

  it('places every byte once, behind the null pointer, and tells how many follow', () => {
    const image = createArrayImage({ size: 3 * 8192 + 5, bankBytes: 8192 });
    for (const [offset, bank, within, room] of [
      [0, 0, 0, 8192],
      [8191, 0, 8191, 1],
      [8192, 1, 0, 8192],
      [3 * 8192, 3, 0, 5],
      [3 * 8192 + 4, 3, 4, 1],
      [3 * 8192 + 5, 3, 5, 0],
    ] as const) {
      expect(image.locate(offset)).toEqual({ bank, pointer: 64 + within, room });
    }
  });

  it('of more than 4 GiB has several banks, and a block never crosses from one into the next', () => {
    const image = createArrayImage({ size: 6 * 2 ** 30 });
    expect(image.banks.length).toBe(2);
    const edge = image.bankBytes;
    expect(edge % (16 * 2 ** 20)).toBe(0);
    image.write(edge - 3, new Uint8Array([1, 2, 3, 4, 5, 6]));
    image.write(6 * 2 ** 30 - 1, new Uint8Array([7]));
    const back = new Uint8Array(6);
    image.read(edge - 3, back);
    expect([...back]).toEqual([1, 2, 3, 4, 5, 6]);
    image.read(6 * 2 ** 30 - 1, back.subarray(0, 1));
    expect(back[0]).toBe(7);
    image.read(6 * 2 ** 30 - 1 - 2 ** 32, back.subarray(0, 1));
    expect(back[0]).toBe(0);
  });

  it('is one memory for all threads: what one writes, the other sees', async () => {
    const image = createArrayImage({ size: 20_000, bankBytes: 8192 });
    await inWorker(image, 'unit.write(8190, new Uint8Array([1, 2, 3, 4]));');
    const back = new Uint8Array(6);
    image.read(8189, back);
    expect([...back]).toEqual([0, 1, 2, 3, 4, 0]);
  });

  it('gives every worker scratch of its own in every bank, behind the data', () => {
    const image = createArrayImage({ size: 200_000, bankBytes: 65536 });
    for (let bank = 0; bank < image.banks.length; bank++) {
      let end = image.locate(Math.min(200_000, (bank + 1) * 65536) - 1).pointer + 1;
      for (let worker = 0; worker < MAX_WORKERS; worker++) {
        const { kernels, digests } = image.scratchOf(bank, worker);
        expect(kernels % 64).toBe(0);
        expect(kernels).toBeGreaterThanOrEqual(end);
        expect(digests).toBeGreaterThan(kernels);
        end = digests + 65536;
      }
      expect(end).toBeLessThanOrEqual(image.banks[bank]!.buffer.byteLength);
    }
    for (const [bank, worker] of [
      [0, MAX_WORKERS],
      [0, -1],
      [image.banks.length, 0],
      [-1, 0],
    ] as const) {
      expect(thrown(() => image.scratchOf(bank, worker))).toMatchObject({ kind: 'internal' });
    }
  });

  it('of no bytes is possible', () => {
    const image = createArrayImage({ size: 0 });
    image.read(0, new Uint8Array(0));
    expect(image.extents({ offset: 0, length: 0 })).toEqual([]);
    expect(thrown(() => image.read(0, new Uint8Array(1)))).toMatchObject({ kind: 'argument' });
  });

  it.each([-1, 1.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY])('of %d bytes is refused', (size) => {
    expect(thrown(() => createArrayImage({ size }))).toMatchObject({ kind: 'argument' });
  });

  it.each([0, -4096, 4095, 2 ** 32, Number.NaN])('with banks of %d bytes is refused', (bankBytes) => {
    expect(thrown(() => createArrayImage({ size: 10, bankBytes }))).toMatchObject({ kind: 'argument' });
  });

  it('of more banks than there can be is refused by a cap, before one of them is made', () => {
    for (const size of [(MAX_BANKS + 1) * 4096, Number.MAX_SAFE_INTEGER]) {
      expect(thrown(() => createArrayImage({ size, bankBytes: 4096 }))).toMatchObject({
        kind: 'limit',
        length: size,
      });
    }
    expect(thrown(() => createArrayImage({ size: Number.MAX_SAFE_INTEGER }))).toMatchObject({
      kind: 'limit',
    });
  });

  it('with more first contents than it has bytes is refused', () => {
    expect(thrown(() => createArrayImage({ size: 2, bytes: new Uint8Array(3) }))).toMatchObject({
      kind: 'argument',
    });
  });
});
