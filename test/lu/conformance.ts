/**
 * What every logical unit must do, whatever it is: one suite, run over each implementation. A subject makes
 * a writable unit of a given size whose bytes are all zero.
 */

import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';

export interface Subject {
  readonly title: string;
  make(size: number): LogicalUnit | Promise<LogicalUnit>;
  /** The same unit for reading only, where there is such a thing. */
  makeReadOnly?(size: number): LogicalUnit | Promise<LogicalUnit>;
  /** Sizes are multiples of this (block devices). */
  readonly granule?: number;
}

const SIZE = 200_704;

export function conformance({ title, make, makeReadOnly, granule = 1 }: Subject): void {
  const pattern = (length: number, seed: number) =>
    Uint8Array.from({ length }, (_, i) => (Math.imul(i + seed, 2654435761) >>> 24) | 1);

  async function refused(act: () => unknown): Promise<unknown> {
    try {
      await act();
      return null;
    } catch (error) {
      return error;
    }
  }

  describe(title, () => {
    it('tells its size, name and identity, and is different from another', async () => {
      const [one, two] = [await make(SIZE), await make(SIZE)];
      expect([one.size, one.canWrite, two.size]).toEqual([SIZE, true, SIZE]);
      expect(one.name.length).toBeGreaterThan(0);
      expect(one.identity).not.toBe(two.identity);
      expect(typeof one.generation()).toBe('string');
      await one.close();
      await two.close();
    });

    it('reads zeros first, then what was written, wherever it begins and ends', async () => {
      const unit = await make(SIZE);
      const all = new Uint8Array(SIZE).fill(7);
      await unit.read(0, all);
      expect(all.every((byte) => byte === 0)).toBe(true);
      for (const [offset, length] of [
        [0, 1],
        [511, 2],
        [4096, 4096],
        [65_535, 70_001],
        [SIZE - 1, 1],
        [0, 0],
        [SIZE, 0],
      ] as const) {
        const bytes = pattern(length, offset);
        await unit.write(offset, bytes);
        const back = new Uint8Array(length);
        await unit.read(offset, back);
        expect(back).toEqual(bytes);
      }
      expect(unit.size).toBe(SIZE);
      await unit.close();
    });

    it('fills views over shared memory and touches nothing beside them', async () => {
      const unit = await make(SIZE);
      await unit.write(0, pattern(SIZE, 3));
      const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
      const bytes = new Uint8Array(memory.buffer).fill(0xa5);
      await unit.read(1001, bytes.subarray(77, 77 + 90_000));
      expect(bytes.slice(77, 77 + 90_000)).toEqual(pattern(SIZE, 3).subarray(1001, 91_001));
      expect(bytes.subarray(0, 77).every((byte) => byte === 0xa5)).toBe(true);
      expect(bytes.subarray(77 + 90_000).every((byte) => byte === 0xa5)).toBe(true);
      await unit.close();
    });

    it('refuses ranges that do not lie within it, with the range', async () => {
      const unit = await make(SIZE);
      for (const [offset, length] of [
        [-1, 1],
        [SIZE, 1],
        [SIZE - 1, 2],
        [0.5, 1],
        [Number.NaN, 1],
        [2 ** 53, 1],
        [0, SIZE + 1],
      ] as const) {
        const bytes = new Uint8Array(length);
        for (const [operation, act] of [
          ['read', () => unit.read(offset, bytes)],
          ['write', () => unit.write(offset, bytes)],
          ['zero', () => unit.zero({ offset, length })],
          ['extents', () => unit.extents({ offset, length })],
        ] as const) {
          expect(await refused(act)).toMatchObject({
            name: 'DriftmapError',
            kind: 'argument',
            operation,
            length,
          });
        }
      }
      await unit.close();
    });

    it('zeros a range and nothing beside it', async () => {
      const unit = await make(SIZE);
      const bytes = pattern(SIZE, 5);
      await unit.write(0, bytes);
      for (const range of [
        { offset: 3, length: 5 },
        { offset: 8192, length: 16_384 },
        { offset: 100_001, length: 50_000 },
        { offset: 9, length: 0 },
      ]) {
        await unit.zero(range);
        bytes.fill(0, range.offset, range.offset + range.length);
      }
      const back = new Uint8Array(SIZE);
      await unit.read(0, back);
      expect(Buffer.compare(back, bytes)).toBe(0);
      expect(unit.size).toBe(SIZE);
      await unit.flush();
      await unit.close();
    });

    it('tells extents that adjoin, ascend, alternate, stay inside, obey the limit, and are zero where they say so', async () => {
      const unit = await make(SIZE);
      for (let at = 8192; at + 4096 <= SIZE; at += 24_576) await unit.write(at, pattern(4096, at));
      expect(await unit.extents({ offset: 5, length: 0 })).toEqual([]);
      for (const [offset, length, limit] of [
        [0, SIZE, undefined],
        [0, SIZE, 1],
        [9000, 50_000, 3],
        [SIZE - 1, 1, 10],
      ] as const) {
        let at: number = offset;
        while (at < offset + length) {
          const extents = await unit.extents({ offset: at, length: offset + length - at }, limit);
          expect(extents.length).toBeGreaterThan(0);
          if (limit !== undefined) expect(extents.length).toBeLessThanOrEqual(limit);
          for (const [i, extent] of extents.entries()) {
            expect(extent.offset).toBe(at);
            expect(extent.length).toBeGreaterThan(0);
            at += extent.length;
            expect(at).toBeLessThanOrEqual(offset + length);
            if (i > 0) expect(extent.kind).not.toBe(extents[i - 1]!.kind);
            if (extent.kind === 'data') continue;
            const bytes = new Uint8Array(extent.length);
            await unit.read(extent.offset, bytes);
            expect(bytes.every((byte) => byte === 0)).toBe(true);
          }
        }
      }
      await unit.close();
    });

    it('agrees with a plain array over random writes, zeros and reads', async () => {
      const steps = fc.array(
        fc.record({
          act: fc.constantFrom('write', 'zero', 'read'),
          offset: fc.nat(SIZE - 1),
          length: fc.nat(60_000),
          seed: fc.nat(255),
        }),
        { minLength: 1, maxLength: 15 },
      );
      await fc.assert(
        fc.asyncProperty(steps, async (list) => {
          const unit = await make(SIZE);
          const model = new Uint8Array(SIZE);
          for (const { act, offset, length: wanted, seed } of list) {
            const length = Math.min(wanted, SIZE - offset);
            if (act === 'write') {
              await unit.write(offset, pattern(length, seed));
              model.set(pattern(length, seed), offset);
            } else if (act === 'zero') {
              await unit.zero({ offset, length });
              model.fill(0, offset, offset + length);
            } else {
              const back = new Uint8Array(length);
              await unit.read(offset, back);
              expect(Buffer.compare(back, model.subarray(offset, offset + length))).toBe(0);
            }
          }
          const back = new Uint8Array(SIZE);
          await unit.read(0, back);
          expect(Buffer.compare(back, model)).toBe(0);
          await unit.close();
        }),
        { numRuns: granule > 1 ? 5 : 25 },
      );
    });

    it('closes more than once, and after that says so', async () => {
      const unit = await make(SIZE);
      await unit.close();
      await unit.close();
      for (const act of [
        () => unit.read(0, new Uint8Array(1)),
        () => unit.write(0, new Uint8Array(1)),
        () => unit.flush(),
        () => unit.extents({ offset: 0, length: 1 }),
      ]) {
        const error = await refused(act);
        expect(error).toMatchObject({ name: 'DriftmapError', kind: 'argument' });
        expect((error as Error).message).toMatch(/after close/);
      }
    });

    it('is the same in a worker thread, where closing it closes nothing', async () => {
      const unit = await make(SIZE);
      const bytes = pattern(SIZE, 11);
      await unit.write(0, bytes);
      const sum = bytes.reduce((total, byte) => total + byte, 0);
      expect(await inWorker(unit)).toEqual({ size: SIZE, identity: unit.identity, sum });
      const back = new Uint8Array(SIZE);
      await unit.read(0, back);
      expect(Buffer.compare(back, bytes)).toBe(0);
      await unit.close();
    });

    if (makeReadOnly) {
      it('for reading only says so beforehand, and refuses to be changed', async () => {
        const unit = await makeReadOnly(SIZE);
        expect(unit.canWrite).toBe(false);
        expect(await refused(() => unit.write(0, new Uint8Array(1)))).toMatchObject({ kind: 'permission' });
        expect(await refused(() => unit.zero({ offset: 0, length: 1 }))).toMatchObject({
          kind: 'permission',
        });
        await unit.close();
      });
    }
  });
}

/** Attaches the unit in a thread of the built code, reads it whole, closes it there. */
function inWorker(unit: LogicalUnit): Promise<unknown> {
  const attach = new URL('../../dist/lu/attach.js', import.meta.url).href;
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(${JSON.stringify(attach)}).then(async ({ attachUnit }) => {
      const unit = attachUnit(workerData);
      const bytes = new Uint8Array(unit.size);
      await unit.read(0, bytes);
      await unit.close();
      parentPort.postMessage({ size: unit.size, identity: unit.identity, sum: bytes.reduce((total, byte) => total + byte, 0) });
    });`;
  return new Promise((resolve, reject) => {
    const worker = new Worker(code, { eval: true, workerData: unit.handle() });
    worker.once('message', (message) => resolve(worker.terminate().then(() => message)));
    worker.once('error', reject);
  });
}
