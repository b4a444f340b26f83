import { statSync, truncateSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { thrown } from '../tools.ts';
import { isZero } from './conformance.ts';
import { workshop } from './files.ts';

const { sparse } = workshop();
const SIZE = 2 ** 20;

function cut(to: number, pages: readonly number[], write = false) {
  const name = sparse(SIZE, pages);
  const unit = openFileUnit(name, { write });
  truncateSync(name, to);
  return { name, unit };
}

describe('a file that was cut since it was opened', () => {
  it('keeps its size, and a read that reaches the missing part is an error that says where it begins', () => {
    const { name, unit } = cut(2 ** 18, [0]);
    expect(unit.size).toBe(SIZE);
    for (const [offset, length] of [
      [2 ** 18 - 5, 10],
      [2 ** 18, 10],
      [SIZE - 1, 1],
    ] as const) {
      const error = thrown(() => unit.read(offset, new Uint8Array(length)));
      const missing = Math.max(offset, 2 ** 18);
      expect(error).toMatchObject({
        name: 'DriftmapError',
        kind: 'io',
        path: name,
        offset: missing,
        length: offset + length - missing,
        operation: 'read',
      });
    }
    unit.read(2 ** 18 - 5, new Uint8Array(5));
    unit.close();
  });

  it('is told as data there, so that somebody reads it and finds out', () => {
    const { unit } = cut(2 ** 18, [0, 2 ** 19]);
    expect(unit.extents({ offset: 2 ** 18, length: 2 ** 19 })).toEqual([
      { offset: 2 ** 18, length: 2 ** 19, kind: 'data' },
    ]);
    unit.close();
  });

  it('has one run of data where its last data adjoins the missing part', () => {
    const { unit } = cut(4096, [0, 2 ** 19]);
    expect(unit.extents({ offset: 0, length: SIZE })).toEqual([{ offset: 0, length: SIZE, kind: 'data' }]);
    unit.close();
  });

  it('still tells the hole before its last data as zero', () => {
    const { unit } = cut(2 ** 19 + 4096, [2 ** 19]);
    expect(unit.extents({ offset: 0, length: SIZE })).toEqual([
      { offset: 0, length: 2 ** 19, kind: 'zero' },
      { offset: 2 ** 19, length: 2 ** 19, kind: 'data' },
    ]);
    unit.close();
  });

  it('has zeros again once it is as long as it was', () => {
    const { name, unit } = cut(4096, [0, 2 ** 19]);
    truncateSync(name, SIZE);
    expect(unit.extents({ offset: 4096, length: SIZE - 4096 })).toEqual([
      { offset: 4096, length: SIZE - 4096, kind: 'zero' },
    ]);
    unit.close();
  });

  it.each(['zero', 'write'] as const)(
    'is read as zeros after a %s of them, and not longer than it was',
    (how) => {
      const { name, unit } = cut(4096, [0, 2 ** 19], true);
      const range = { offset: 2 ** 19 - 100, length: 5000 };
      if (how === 'zero') unit.zero(range);
      else unit.write(range.offset, new Uint8Array(range.length));
      const back = new Uint8Array(range.length).fill(1);
      unit.read(range.offset, back);
      expect(isZero(back)).toBe(true);
      expect(statSync(name).size).toBe(range.offset + range.length);
      unit.close();
    },
  );
});

it('a file that has grown since it was opened has the size it had', () => {
  const name = sparse(10_000);
  const unit = openFileUnit(name, { write: true });
  truncateSync(name, 20_000);
  expect(unit.size).toBe(10_000);
  expect(thrown(() => unit.read(9_999, new Uint8Array(2)))).toMatchObject({ kind: 'argument' });
  expect(thrown(() => unit.write(9_999, new Uint8Array(2)))).toMatchObject({ kind: 'argument' });
  expect(unit.extents({ offset: 0, length: 10_000 })).toEqual([{ offset: 0, length: 10_000, kind: 'zero' }]);
  unit.close();
});
