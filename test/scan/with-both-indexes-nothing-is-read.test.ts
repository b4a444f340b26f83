import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { faultUnit } from '../../src/lu/filters.ts';
import { buildIndex } from '../../src/scan/index-build.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { openIndex } from '../../src/signature/index-file.ts';
import { describeWith, root, temporary } from '../tools.ts';
import { blocksOf } from './pairs.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const scanner = createScanner({ workers: 2 });
afterAll(() => scanner.close());

const blockSize = 65536;
const differing = [3, 40, 63];

async function makePair(): Promise<void> {
  const bytes = new Uint8Array(64 * blockSize);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (Math.imul(i, 2654435761) >>> 24) | 1;
  bytes.fill(0, 10 * blockSize, 20 * blockSize);
  writeFileSync(path('a.raw'), bytes);
  for (const block of differing) bytes[block * blockSize + 9]! ^= 255;
  writeFileSync(path('b.raw'), bytes);
  for (const name of ['a', 'b']) {
    const unit = openFileUnit(path(`${name}.raw`));
    await buildIndex({ of: unit, path: path(`${name}.sig`), blockSize, workers: 1 });
    unit.close();
  }
}

describe('a scan with both indexes', () => {
  it('works over units whose every read fails, and says that it read nothing', async () => {
    await makePair();
    const unreadable = async (name: string) =>
      openDisk(faultUnit(openFileUnit(path(name)), [{ on: 'read' }]), { format: 'raw' });
    const [production, replica] = [await unreadable('a.raw'), await unreadable('b.raw')];
    const [productionIndex, replicaIndex] = [openIndex(path('a.sig')), openIndex(path('b.sig'))];
    const common = { production, replica, blockSize, signature: 'blake3' } as const;
    const result = await scanner.scan({ ...common, productionIndex, replicaIndex });
    expect(blocksOf(result.bitmap.runs())).toEqual(differing);
    expect(result.readBytes).toBe(0);
    expect(result.indexedBytes).toBeGreaterThan(0);
    // The filter does cross to the workers: with one index the other side is read.
    await expect(scanner.scan({ ...common, productionIndex })).rejects.toThrow(/planted/);
    await expect(scanner.scan({ ...common, productionIndex, replicaIndex, sample: 1 })).rejects.toThrow(
      /planted/,
    );
    productionIndex.close();
    replicaIndex.close();
  });
});

describeWith(['strace'], 'the command with both indexes', () => {
  it('makes no system call that reads from the disks', async () => {
    await makePair();
    const bin = join(root, 'dist', 'lib', 'main.js');
    const run = (more: readonly string[]) => {
      const trace = path('trace');
      const calls = 'trace=openat,read,pread64,readv,preadv,preadv2,mmap';
      const { status, stdout } = spawnSync(
        'strace',
        [
          '-f',
          '-y',
          '-o',
          trace,
          '-e',
          calls,
          process.execPath,
          bin,
          'scan',
          path('a.raw'),
          path('b.raw'),
        ].concat(['--production-format', 'raw', '--replica-format', 'raw', '--json', ...more]),
        { encoding: 'utf8', maxBuffer: 2 ** 28 },
      );
      const lines = readFileSync(trace, 'utf8').split('\n');
      const touches = (line: string) => line.includes(path('a.raw')) || line.includes(path('b.raw'));
      return {
        status,
        result: JSON.parse(stdout),
        opened: lines.filter((line) => line.includes('openat') && touches(line)).length,
        reads: lines.filter((line) => !line.includes('openat') && touches(line)),
      };
    };
    const indexed = run(['--production-index', path('a.sig'), '--replica-index', path('b.sig')]);
    expect(indexed).toMatchObject({
      status: 1,
      result: { readBytes: 0, markedBlocks: 3, signature: 'blake3' },
    });
    expect(indexed.opened).toBeGreaterThanOrEqual(2);
    expect(indexed.reads).toEqual([]);
    // The trace does show reads where there are some.
    expect(run(['--production-index', path('a.sig')]).reads.length).toBeGreaterThan(0);
  }, 60_000);
});
