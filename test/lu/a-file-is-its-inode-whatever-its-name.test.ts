import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  linkSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { tool } from '../tools.ts';
import { workshop } from './files.ts';

const { path, sparse } = workshop();

function told<T>(name: string, ask: (unit: ReturnType<typeof openFileUnit>) => T): T {
  const unit = openFileUnit(name);
  try {
    return ask(unit);
  } finally {
    unit.close();
  }
}
const identity = (name: string) => told(name, (unit) => unit.identity);
const generation = (name: string) => told(name, (unit) => unit.generation());

/** Longer than a tick of the kernel's clock, which is what file times are taken from. */
const tick = () => new Promise((resolve) => setTimeout(resolve, 25));

describe('identity', () => {
  it('stays when the file is written, cut, extended or opened for writing', () => {
    const name = sparse(10_000);
    const first = identity(name);
    writeFileSync(name, 'other contents', { flag: 'r+' });
    expect(identity(name)).toBe(first);
    truncateSync(name, 100);
    appendFileSync(name, 'more');
    expect(identity(name)).toBe(first);
    const unit = openFileUnit(name, { write: true });
    expect(unit.identity).toBe(first);
    unit.close();
  });

  it('stays under another name, and is the same under a second name', () => {
    const first = identity(sparse(10_000, [], 'one'));
    linkSync(path('one'), path('linked'));
    expect(identity(path('linked'))).toBe(first);
    renameSync(path('one'), path('renamed'));
    expect(identity(path('renamed'))).toBe(first);
  });

  it('of a copy is another', () => {
    copyFileSync(sparse(10_000, [0], 'original'), path('copy'));
    expect(identity(path('copy'))).not.toBe(identity(path('original')));
  });

  it('of a new file under the old name is another, however often, though inodes are used again', () => {
    const seen = new Set<string>();
    const inodes = new Set<number>();
    for (let i = 0; i < 20; i++) {
      sparse(100, [], 'again');
      seen.add(identity(path('again')));
      inodes.add(statSync(path('again')).ino);
      rmSync(path('again'));
    }
    expect(seen.size).toBe(20);
    expect(inodes.size).toBeLessThanOrEqual(20);
  });

  it('belongs to the file that is open, not to the one that has taken its name', () => {
    const unit = openFileUnit(sparse(8192, [0], 'taken'));
    const { identity: before } = unit;
    sparse(8192, [], 'other');
    renameSync(path('other'), path('taken'));
    const bytes = new Uint8Array(1);
    unit.read(0, bytes);
    expect([bytes[0], unit.identity]).toEqual([9, before]);
    expect(identity(path('taken'))).not.toBe(before);
    unit.close();
  });
});

describe('generation', () => {
  it('is the same for every opening, and reading leaves it alone', async () => {
    const name = sparse(10_000, [0]);
    const first = generation(name);
    await tick();
    told(name, (unit) => {
      unit.read(0, new Uint8Array(10_000));
      unit.extents({ offset: 0, length: 10_000 });
      expect(unit.generation()).toBe(first);
    });
    expect(generation(name)).toBe(first);
  });

  it.each([
    ['write', (name: string) => writeFileSync(name, 'x', { flag: 'r+' })],
    ['append', (name: string) => appendFileSync(name, 'x')],
    ['cut', (name: string) => truncateSync(name, 10)],
  ])('is another after a %s by anybody', async (_, change) => {
    const name = sparse(10_000, [0]);
    const unit = openFileUnit(name);
    const first = unit.generation();
    await tick();
    change(name);
    expect(unit.generation()).not.toBe(first);
    unit.close();
  });

  it('is another after a write or a punched hole of our own', async () => {
    const unit = openFileUnit(sparse(100_000, [0, 8192]), { write: true });
    const seen = new Set([unit.generation()]);
    await tick();
    unit.write(5, new Uint8Array(3));
    seen.add(unit.generation());
    await tick();
    unit.zero({ offset: 8192, length: 4096 });
    seen.add(unit.generation());
    expect(seen.size).toBe(3);
    unit.close();
  });

  it('is another after a write whose modification time was set back', async () => {
    const name = sparse(10_000, [0]);
    const time = new Date('2020-01-01T00:00:00Z');
    utimesSync(name, time, time);
    const first = generation(name);
    await tick();
    writeFileSync(name, 'changed in secret', { flag: 'r+' });
    utimesSync(name, time, time);
    expect(statSync(name).mtimeMs).toBe(time.getTime());
    expect(generation(name)).not.toBe(first);
  });

  it('is size and nanoseconds', () => {
    const name = sparse(10_000, [0]);
    const { mtimeNs } = statSync(name, { bigint: true });
    expect(generation(name)).toMatch(new RegExp(`^10000@${mtimeNs}(\\+\\d+)?$`));
    const future = 4_000_000_000;
    utimesSync(name, future, future);
    expect(generation(name)).toMatch(new RegExp(`^10000@${future}000000000-\\d+$`));
    if (tool('touch')) {
      // The very numbers that `stat` shows, to the last nanosecond.
      spawnSync('touch', ['-d', '2020-01-01T00:00:00.123456789Z', name]);
      expect(generation(name)).toMatch(/^10000@1577836800123456789\+\d+$/);
    }
  });
});
