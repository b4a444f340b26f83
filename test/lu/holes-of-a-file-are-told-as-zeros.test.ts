import { spawnSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { hasNative } from '../../src/lu/posix.ts';
import { describeWith } from '../tools.ts';
import { isZero, lawful } from './conformance.ts';
import { workshop } from './files.ts';

const { path, sparse } = workshop();
const PAGE = 4096;

describe('a sparse file', () => {
  it('has the native door, which these tests are about', () => {
    expect(hasNative()).toBe(true);
  });

  it('tells its holes as zeros, and its data as data, beyond 4 GiB', () => {
    const size = 5 * 2 ** 30;
    const unit = openFileUnit(sparse(size, [0, 2 ** 20, size - PAGE]));
    expect(unit.extents({ offset: 0, length: size })).toEqual([
      { offset: 0, length: PAGE, kind: 'data' },
      { offset: PAGE, length: 2 ** 20 - PAGE, kind: 'zero' },
      { offset: 2 ** 20, length: PAGE, kind: 'data' },
      { offset: 2 ** 20 + PAGE, length: size - 2 ** 20 - 2 * PAGE, kind: 'zero' },
      { offset: size - PAGE, length: PAGE, kind: 'data' },
    ]);
    unit.close();
  });

  it('is read and written at offsets that do not fit into 32 bits, nor into 40', () => {
    const size = 3 * 2 ** 40 + 4097;
    const at = 2 ** 41 + 2 ** 32 + 5;
    const unit = openFileUnit(sparse(size), { write: true });
    unit.write(at, new Uint8Array(10_000).fill(3));
    unit.write(size - 1, new Uint8Array([4]));
    const bytes = new Uint8Array(10_002);
    unit.read(at - 1, bytes);
    expect([bytes[0], bytes[1], bytes[10_000], bytes[10_001]]).toEqual([0, 3, 3, 0]);
    for (const low of [at % 2 ** 32, at % 2 ** 40]) {
      unit.read(low, bytes);
      expect(isZero(bytes)).toBe(true);
    }
    const kinds = unit.extents({ offset: at - 5 - 2 ** 32, length: 2 ** 33 }).map(({ kind }) => kind);
    expect(kinds).toEqual(['zero', 'data', 'zero']);
    unit.zero({ offset: at, length: 10_000 });
    unit.read(at, bytes);
    expect(isZero(bytes)).toBe(true);
    unit.read(size - 1, bytes.subarray(0, 1));
    expect(bytes[0]).toBe(4);
    unit.close();
  });

  it('that ends in a hole, or is one, has nothing but zeros there', () => {
    const unit = openFileUnit(sparse(1_000_001, [0]));
    expect(unit.extents({ offset: 500_000, length: 500_001 })).toEqual([
      { offset: 500_000, length: 500_001, kind: 'zero' },
    ]);
    unit.close();
  });

  it('answers at most as many extents as were asked for, 64 when nothing was said', () => {
    const pages = Array.from({ length: 100 }, (_, i) => 2 * i * PAGE);
    const unit = openFileUnit(sparse(200 * PAGE, pages));
    const range = { offset: 0, length: 200 * PAGE };
    expect([1, 2, 7, 1000].map((limit) => unit.extents(range, limit).length)).toEqual([1, 2, 7, 200]);
    expect(unit.extents(range).length).toBe(64);
    unit.close();
  });

  it('of any shape: what is told as zero is zero, and pages of data are never missed', () => {
    const PAGES = 60;
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.nat(PAGES - 1), { maxLength: 25 }),
        fc.nat(PAGES * PAGE - 1),
        fc.nat(PAGES * PAGE),
        fc.integer({ min: 1, max: 9 }),
        (pages, offset, wanted, limit) => {
          const name = sparse(
            PAGES * PAGE,
            pages.map((page) => page * PAGE),
            'shape',
          );
          const contents = readFileSync(name);
          const end = Math.min(offset + 1 + wanted, PAGES * PAGE);
          const unit = openFileUnit(name);
          for (let at = offset; at < end; ) {
            const range = { offset: at, length: end - at };
            const extents = unit.extents(range, limit);
            lawful(extents, range, limit);
            for (const { kind, length } of extents) {
              const bytes = contents.subarray(at, at + length);
              // Pages of this file are all zeros or all nines, so a run of either kind is of one sort.
              expect(bytes.every((byte) => byte === (kind === 'zero' ? 0 : 9))).toBe(true);
              at += length;
            }
          }
          unit.close();
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('zeroing', () => {
  it('gives storage back, keeps the size, and leaves a hole that is told', () => {
    const name = path('punched');
    writeFileSync(name, new Uint8Array(2 ** 20).fill(1));
    const unit = openFileUnit(name, { write: true });
    unit.flush();
    const before = statSync(name).blocks;
    unit.zero({ offset: 100, length: 2 ** 19 });
    unit.flush();
    expect(statSync(name).blocks).toBeLessThanOrEqual(before - (2 ** 19 - 2 * PAGE) / 512);
    expect(statSync(name).size).toBe(2 ** 20);
    expect(unit.extents({ offset: 0, length: 2 ** 20 })).toEqual([
      { offset: 0, length: PAGE, kind: 'data' },
      { offset: PAGE, length: 2 ** 19 - PAGE, kind: 'zero' },
      { offset: 2 ** 19, length: 2 ** 19, kind: 'data' },
    ]);
    unit.close();
  });
});

describeWith(['fallocate'], 'storage that was set aside and never written', () => {
  it('reads as zeros, whatever is told of it', () => {
    const name = path('preallocated');
    const { status } = spawnSync('fallocate', ['-l', '1M', name]);
    expect(status).toBe(0);
    const unit = openFileUnit(name, { write: true });
    unit.write(8192, new Uint8Array(PAGE).fill(5));
    const data = unit.extents({ offset: 0, length: 2 ** 20 }).filter(({ kind }) => kind === 'data');
    expect(data.some(({ offset, length }) => offset <= 8192 && offset + length >= 8192 + PAGE)).toBe(true);
    unit.close();
  });
});
