import { execFileSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { faultUnit, type LogEntry, logUnit } from '../../src/lu/filters.ts';
import { describeWith, temporary } from '../tools.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const thrown = (act: () => unknown): unknown => {
  try {
    act();
    return null;
  } catch (error) {
    return error;
  }
};

/** A file of `size` bytes with one page of data at each of `pages`. */
function sparse(name: string, size: number, pages: readonly number[]): string {
  const fd = openSync(path(name), 'w');
  ftruncateSync(fd, size);
  for (const at of pages) writeSync(fd, new Uint8Array(4096).fill(9), 0, 4096, at);
  closeSync(fd);
  return path(name);
}

describe('a file', () => {
  it('tells its holes as zeros, lazily, and beyond 4 GiB', () => {
    const size = 5 * 2 ** 30;
    const unit = openFileUnit(sparse('holes', size, [0, 2 ** 20, size - 4096]));
    expect(unit.extents({ offset: 0, length: size })).toEqual([
      { offset: 0, length: 4096, kind: 'data' },
      { offset: 4096, length: 2 ** 20 - 4096, kind: 'zero' },
      { offset: 2 ** 20, length: 4096, kind: 'data' },
      { offset: 2 ** 20 + 4096, length: size - 2 ** 20 - 8192, kind: 'zero' },
      { offset: size - 4096, length: 4096, kind: 'data' },
    ]);
    const last = new Uint8Array(10);
    unit.read(size - 10, last);
    expect(last.every((byte) => byte === 9)).toBe(true);
    unit.close();
  });

  it('that ends in a hole, or is one, has nothing but zeros there', () => {
    const unit = openFileUnit(sparse('tail', 1_000_001, [0]));
    expect(unit.extents({ offset: 500_000, length: 500_001 })).toEqual([
      { offset: 500_000, length: 500_001, kind: 'zero' },
    ]);
    unit.close();
  });

  it('gives storage back when a range is zeroed', () => {
    const name = path('punched');
    writeFileSync(name, new Uint8Array(2 ** 20).fill(1));
    const unit = openFileUnit(name, { write: true });
    const before = statSync(name).blocks;
    unit.zero({ offset: 0, length: 2 ** 19 });
    unit.flush();
    expect(statSync(name).blocks).toBeLessThan(before);
    expect(statSync(name).size).toBe(2 ** 20);
    unit.close();
  });

  it('that was cut since it was opened is an error there, never zeros', () => {
    const unit = openFileUnit(sparse('cut', 2 ** 20, [0, 2 ** 19]));
    truncateSync(path('cut'), 2 ** 18);
    expect(thrown(() => unit.read(2 ** 18 - 5, new Uint8Array(10)))).toMatchObject({
      kind: 'io',
      path: path('cut'),
      offset: 2 ** 18,
      operation: 'read',
    });
    const past = unit.extents({ offset: 2 ** 18, length: 2 ** 19 });
    expect(past).toEqual([{ offset: 2 ** 18, length: 2 ** 19, kind: 'data' }]);
    unit.close();
  });

  it('keeps its identity when it is written, renamed or linked, and no other file has it', () => {
    const name = sparse('one', 10_000, []);
    const identity = () => {
      const unit = openFileUnit(name);
      unit.close();
      return unit.identity;
    };
    const first = identity();
    writeFileSync(name, 'other contents', { flag: 'r+' });
    expect(identity()).toBe(first);
    linkSync(name, path('linked'));
    expect(openFileUnit(path('linked')).identity).toBe(first);
    renameSync(name, path('renamed'));
    expect(openFileUnit(path('renamed')).identity).toBe(first);
    copyFileSync(path('renamed'), path('copied'));
    expect(openFileUnit(path('copied')).identity).not.toBe(first);
    rmSync(path('renamed'));
    rmSync(path('linked'));
    sparse('one', 10_000, []);
    expect(identity()).not.toBe(first);
  });

  it('has another generation after it was written to', async () => {
    const unit = openFileUnit(sparse('written', 10_000, []), { write: true });
    const before = unit.generation();
    await new Promise((resolve) => setTimeout(resolve, 20));
    unit.write(5, new Uint8Array(3));
    expect(unit.generation()).not.toBe(before);
    unit.close();
  });

  it.each([
    ['a directory', () => mkdirSync(path('folder')), 'folder', 'argument'],
    ['a FIFO', () => execFileSync('mkfifo', [path('fifo')]), 'fifo', 'argument'],
    ['a character device', () => symlinkSync('/dev/zero', path('zero')), 'zero', 'argument'],
    ['nothing', () => {}, 'nothing', 'not-found'],
    ['a part of a file', () => writeFileSync(path('file'), ''), 'file/below', 'not-found'],
  ])('is not %s, which is refused at once', (_, make, name, kind) => {
    make();
    const error = thrown(() => openFileUnit(path(name)));
    expect(error).toMatchObject({ name: 'DriftmapError', kind, path: path(name) });
  });

  it('is not a socket', async () => {
    const server = createServer().listen(path('socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    expect(thrown(() => openFileUnit(path('socket')))).toMatchObject({
      name: 'DriftmapError',
      path: path('socket'),
    });
    server.close();
  });
});

describe('without the native door', () => {
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.resetModules();
  });

  it('everything is data, and zeros are written', async () => {
    vi.stubEnv('DRIFTMAP_NO_NATIVE', '1');
    vi.resetModules();
    const { openFileUnit: open } = await import('../../src/lu/file-unit.ts');
    const unit = open(sparse('plain', 3_000_000, [0, 2 ** 20]), { write: true });
    expect(unit.extents({ offset: 0, length: 3_000_000 })).toEqual([
      { offset: 0, length: 3_000_000, kind: 'data' },
    ]);
    unit.write(0, new Uint8Array(3_000_000).fill(8));
    unit.zero({ offset: 1000, length: 2_500_000 });
    const back = new Uint8Array(3_000_000);
    unit.read(0, back);
    expect(back.subarray(1000, 2_501_000).every((byte) => byte === 0)).toBe(true);
    expect([back[999], back[2_501_000]]).toEqual([8, 8]);
    unit.close();
  });
});

describeWith(['losetup', 'blockdev'], 'a block device', () => {
  it('has the size that the kernel says, and an identity of its own', () => {
    let device: string;
    try {
      device = execFileSync('losetup', ['--find', '--show', sparse('loop', 3 * 2 ** 20 + 512, [])], {
        encoding: 'utf8',
      }).trim();
    } catch {
      process.stderr.write('\n*** SKIPPED for want of a free loop device: the size of a block device\n');
      return;
    }
    try {
      const unit = openFileUnit(device);
      expect(unit.size).toBe(Number(execFileSync('blockdev', ['--getsize64', device], { encoding: 'utf8' })));
      expect(unit.size).toBe(3 * 2 ** 20 + 512);
      expect(unit.identity).toMatch(/^block:\d+:\d+:/);
      expect(unit.extents({ offset: 0, length: 4096 })).toEqual([{ offset: 0, length: 4096, kind: 'data' }]);
      unit.close();
    } finally {
      execFileSync('losetup', ['--detach', device]);
    }
  });
});

describe('an array image', () => {
  it('beyond one bank reads and writes across the edge, and shows its bytes without a copy within one', () => {
    const image = createArrayImage({ size: 200_000, bankBytes: 65536, bytes: new Uint8Array([1, 2, 3]) });
    expect(image.banks.length).toBe(4);
    image.write(
      65_530,
      Uint8Array.from({ length: 12 }, (_, i) => i + 1),
    );
    const back = new Uint8Array(14);
    image.read(65_529, back);
    expect([...back]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0]);
    image.view({ offset: 65_536, length: 1 })[0] = 99;
    image.read(65_536, back);
    expect(back[0]).toBe(99);
    expect(thrown(() => image.view({ offset: 65_530, length: 12 }))).toMatchObject({ kind: 'argument' });
  });

  it('of more than 4 GiB has several banks of address space', () => {
    const image = createArrayImage({ size: 6 * 2 ** 30 });
    expect(image.banks.length).toBe(2);
    const edge = image.bankBytes;
    image.write(edge - 3, new Uint8Array([1, 2, 3, 4, 5, 6]));
    const back = new Uint8Array(6);
    image.read(edge - 3, back);
    expect([...back]).toEqual([1, 2, 3, 4, 5, 6]);
    expect(edge % (16 * 2 ** 20)).toBe(0);
  });

  it('gives every worker scratch of its own in every bank, behind the data', () => {
    const image = createArrayImage({ size: 200_000, bankBytes: 65536 });
    for (let bank = 0; bank < image.banks.length; bank++) {
      let end = image.locate(Math.min(200_000, (bank + 1) * 65536) - 1).pointer + 1;
      for (let worker = 0; worker < 64; worker++) {
        const { kernels, digests } = image.scratchOf(bank, worker);
        expect(kernels % 64).toBe(0);
        expect(kernels).toBeGreaterThanOrEqual(end);
        expect(digests).toBeGreaterThan(kernels);
        end = digests + 65536;
      }
      expect(end).toBeLessThanOrEqual(image.banks[bank]!.buffer.byteLength);
    }
  });

  it.each([-1, 1.5, Number.NaN, 2 ** 53])('of %d bytes is refused', (size) => {
    expect(thrown(() => createArrayImage({ size }))).toMatchObject({ kind: 'argument' });
  });
});

describe('filters', () => {
  it('fault fails from the n-th call on, so many times, where it is told to', () => {
    const image = createArrayImage({ size: 10_000 });
    const unit = faultUnit(image, [
      { on: 'read', after: 2, times: 2 },
      { on: 'write', range: { offset: 5000, length: 10 } },
    ]);
    const read = () => thrown(() => unit.read(0, new Uint8Array(1)));
    expect([read(), read(), read(), read()].map((error) => error !== null)).toEqual([
      false,
      true,
      true,
      false,
    ]);
    expect(thrown(() => unit.write(4000, new Uint8Array(1000)))).toBeNull();
    expect(thrown(() => unit.write(4001, new Uint8Array(1000)))).toMatchObject({
      kind: 'io',
      offset: 4001,
      length: 1000,
      operation: 'write',
    });
  });

  it('fault can tear a write in half', () => {
    const image = createArrayImage({ size: 100 });
    const unit = faultUnit(image, [{ on: 'write', how: 'tear' }]);
    expect(thrown(() => unit.write(10, new Uint8Array(20).fill(7)))).toMatchObject({ kind: 'io' });
    const back = new Uint8Array(100);
    image.read(0, back);
    expect(back.indexOf(7)).toBe(10);
    expect(back.lastIndexOf(7)).toBe(19);
  });

  it('log tells of every call before it is made', () => {
    const entries: LogEntry[] = [];
    const unit = logUnit(createArrayImage({ size: 100 }), (entry) => entries.push(entry));
    unit.write(1, new Uint8Array(2));
    unit.read(3, new Uint8Array(4));
    unit.zero({ offset: 5, length: 6 });
    unit.flush();
    expect(entries).toEqual([
      { operation: 'write', offset: 1, length: 2 },
      { operation: 'read', offset: 3, length: 4 },
      { operation: 'zero', offset: 5, length: 6 },
      { operation: 'flush', offset: 0, length: 0 },
    ]);
  });
});
