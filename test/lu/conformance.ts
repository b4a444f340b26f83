/**
 * What every logical unit must do, whatever it is: one suite, run over each implementation. A subject makes
 * a writable unit of a given size whose bytes are all zero.
 */

import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ByteRange } from '../../src/base/units.ts';
import type { LogicalUnit, UnitExtent } from '../../src/lu/logical-unit.ts';

export interface Subject {
  readonly title: string;
  make(size: number): LogicalUnit | Promise<LogicalUnit>;
  /** The same unit for reading only, where there is such a thing. */
  makeReadOnly?(size: number): LogicalUnit | Promise<LogicalUnit>;
  /** Random histories: fewer where making a unit is slow. */
  readonly runs?: number;
}

/** A multiple of 512, as a block device's must be. */
const SIZE = 200_704;

/** No byte of it is zero. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (Math.imul(i + seed, 2654435761) >>> 24) | 1;
  return bytes;
}

export const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;
export const isZero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0);

/** The laws of one answer of `extents` about a range of at least one byte. */
export function lawful(extents: readonly UnitExtent[], range: ByteRange, limit: number): void {
  expect(extents.length).toBeGreaterThan(0);
  expect(extents.length).toBeLessThanOrEqual(Math.max(limit, 1));
  let at = range.offset;
  for (const [i, { offset, length, kind }] of extents.entries()) {
    expect(offset).toBe(at);
    expect(length).toBeGreaterThan(0);
    at += length;
    if (i > 0) expect(kind).not.toBe(extents[i - 1]!.kind);
  }
  expect(at).toBeLessThanOrEqual(range.offset + range.length);
}

export function conformance({ title, make, makeReadOnly, runs = 25 }: Subject): void {
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
      expect(isZero(all)).toBe(true);
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
        expect(same(back, bytes)).toBe(true);
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
      expect(same(bytes.subarray(77, 77 + 90_000), pattern(SIZE, 3).subarray(1001, 91_001))).toBe(true);
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
        [0, SIZE, 0],
        [9000, 50_000, 3],
        [SIZE - 1, 1, 10],
      ] as const) {
        let at: number = offset;
        while (at < offset + length) {
          const range = { offset: at, length: offset + length - at };
          const extents = await unit.extents(range, limit);
          lawful(extents, range, limit ?? Number.POSITIVE_INFINITY);
          for (const extent of extents) {
            at += extent.length;
            if (extent.kind === 'data') continue;
            const bytes = new Uint8Array(extent.length);
            await unit.read(extent.offset, bytes);
            expect(isZero(bytes)).toBe(true);
          }
        }
      }
      await unit.close();
    });

    it('agrees with a plain array over random writes, zeros, reads and questions', async () => {
      const steps = fc.array(
        fc.record({
          act: fc.constantFrom('write', 'zero', 'read', 'extents'),
          offset: fc.nat(SIZE - 1),
          length: fc.oneof(fc.nat(60_000), fc.nat(SIZE)),
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
            } else if (act === 'read') {
              const back = new Uint8Array(length);
              await unit.read(offset, back);
              expect(same(back, model.subarray(offset, offset + length))).toBe(true);
            } else if (length > 0) {
              const extents = await unit.extents({ offset, length }, 1 + seed);
              lawful(extents, { offset, length }, 1 + seed);
              for (const run of extents) {
                if (run.kind === 'data') continue;
                expect(isZero(model.subarray(run.offset, run.offset + run.length))).toBe(true);
              }
            }
          }
          const back = new Uint8Array(SIZE);
          await unit.read(0, back);
          expect(same(back, model)).toBe(true);
          await unit.close();
        }),
        { numRuns: runs },
      );
    });

    it('closes more than once, and after that says so', async () => {
      const unit = await make(SIZE);
      await unit.close();
      await unit.close();
      for (const act of [
        () => unit.read(0, new Uint8Array(1)),
        () => unit.read(0, new Uint8Array(0)),
        () => unit.write(0, new Uint8Array(1)),
        () => unit.zero({ offset: 0, length: 1 }),
        () => unit.flush(),
        () => unit.extents({ offset: 0, length: 1 }),
        () => unit.generation(),
        () => unit.handle(),
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
      expect(
        await inWorker(unit, `await unit.read(0, bytes); await unit.write(77, bytes.subarray(0, 5000));`),
      ).toEqual({
        size: SIZE,
        identity: unit.identity,
        canWrite: true,
        bytes,
      });
      bytes.copyWithin(77, 0, 5000);
      const back = new Uint8Array(SIZE);
      await unit.read(0, back);
      expect(same(back, bytes)).toBe(true);
      await unit.close();
    });

    if (makeReadOnly) {
      it('for reading only says so beforehand, and refuses to be changed', async () => {
        const unit = await makeReadOnly(SIZE);
        expect(unit.canWrite).toBe(false);
        for (const length of [0, 1]) {
          expect(await refused(() => unit.write(0, new Uint8Array(length)))).toMatchObject({
            kind: 'permission',
            operation: 'write',
          });
        }
        expect(await refused(() => unit.zero({ offset: 0, length: 1 }))).toMatchObject({
          kind: 'permission',
        });
        await unit.close();
      });
    }
  });
}

/**
 * Attaches the unit in a thread of the built code, does `act` (a statement about `unit` and `bytes`, which are as
 * many as the unit has), closes it there, and tells what it found.
 */
export function inWorker(unit: LogicalUnit, act: string): Promise<unknown> {
  const attach = new URL('../../dist/lu/attach.js', import.meta.url).href;
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(${JSON.stringify(attach)}).then(async ({ attachUnit }) => {
      const unit = attachUnit(workerData);
      const bytes = new Uint8Array(unit.size);
      ${act}
      await unit.close();
      parentPort.postMessage({ size: unit.size, identity: unit.identity, canWrite: unit.canWrite, bytes });
    });`;
  return new Promise((resolve, reject) => {
    const worker = new Worker(code, { eval: true, workerData: unit.handle() });
    worker.once('message', (message) => resolve(worker.terminate().then(() => message)));
    worker.once('error', reject);
    worker.once('exit', (status) => reject(new Error(`the thread ended by itself, status ${status}`)));
  });
}
