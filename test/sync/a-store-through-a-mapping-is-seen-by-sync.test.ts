import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { failover } from '../../src/sync/failover.ts';
import { sync } from '../../src/sync/sync.ts';
import { describeWith, temporary } from '../tools.ts';
import { fileOf, noise } from './disks.ts';

const TMPFS = 0x01021994;
const folder = temporary();
const isTmpfs = existsSync(folder) && statfsSync(folder).type === TMPFS;
const SIZE = 1024 * 1024;

/** Stores a byte of the first page for each line that it is told, and says when it has. */
const storer = `
import mmap, os, sys
pages = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
for at, line in enumerate(sys.stdin):
    pages[at:at + 1] = b'x'
    print('stored', flush=True)
`;

function begin(path: string): ChildProcess {
  return spawn('python3', ['-c', storer, path], { stdio: ['pipe', 'pipe', 'inherit'] });
}

async function store(child: ChildProcess): Promise<void> {
  // Another tick of the kernel's clock than whatever was before.
  await new Promise((resolve) => setTimeout(resolve, 50));
  const said = new Promise((resolve, reject) => {
    child.stdout!.once('data', resolve);
    child.once('exit', () => reject(new Error('python3 ended')));
  });
  child.stdin!.write('\n');
  await said;
}

describeWith(['python3'], 'a disk that is mapped', () => {
  if (isTmpfs)
    process.stderr.write('\n*** SKIPPED: temporary files lie on tmpfs, which tells of no stores\n');

  it.skipIf(isTmpfs)('flushing a file that nobody stores to leaves its generation as it was', async () => {
    const path = join(folder, 'quiet.raw');
    writeFileSync(path, noise(SIZE, 1));
    const unit = openFileUnit(path, { write: true });
    unit.write(5, new Uint8Array(100));
    const before = unit.generation();
    await unit.flush();
    expect(unit.generation()).toBe(before);
    unit.close();
  });

  it.skipIf(isTmpfs)(
    'was consistent, and a store to a page that was dirty then is a split brain',
    async () => {
      const production = fileOf(folder, noise(SIZE, 2));
      const replica = fileOf(folder, noise(SIZE, 3));
      const child = begin(production);
      await store(child);
      expect((await sync({ production, replica, workers: 1 })).consistent).toBe(true);
      await failover({ replica });
      await store(child);
      const back = sync({ production: replica, replica: production, workers: 1 });
      await expect(back).rejects.toThrow(/split brain/);
      child.stdin!.end();
    },
  );
});
