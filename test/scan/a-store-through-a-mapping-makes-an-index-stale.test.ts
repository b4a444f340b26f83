import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { buildIndex } from '../../src/scan/index-build.ts';
import { scan } from '../../src/scan/scan.ts';
import { openIndex } from '../../src/signature/index-file.ts';
import { describeWith, temporary } from '../tools.ts';
import { openRaw } from './indexes.ts';

const TMPFS = 0x01021994;
const isTmpfs = (folder: string) => existsSync(folder) && statfsSync(folder).type === TMPFS;
const folder = temporary();
const size = 8 * 4096;

/** Stores a byte of the first page for each line that it is told, and says when it has. */
const storer = `
import mmap, os, sys
pages = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
for at, line in enumerate(sys.stdin):
    pages[at:at + 1] = b'x'
    print('stored', flush=True)
`;

async function store(child: ChildProcess): Promise<void> {
  const said = new Promise((resolve, reject) => {
    child.stdout!.once('data', resolve);
    child.once('exit', () => reject(new Error('python3 ended')));
  });
  child.stdin!.write('\n');
  await said;
}

describeWith(['python3'], 'an index of a file that is mapped', () => {
  if (isTmpfs(folder)) process.stderr.write('\n*** SKIPPED: temporary files lie on tmpfs: stores are told\n');
  it.skipIf(isTmpfs(folder))('is stale after a store to a page that was dirty when it was made', async () => {
    const path = join(folder, 'mapped.raw');
    writeFileSync(path, new Uint8Array(size).fill(1));
    const child = spawn('python3', ['-c', storer, path], { stdio: ['pipe', 'pipe', 'inherit'] });
    await store(child);
    const disk = await openRaw(path);
    const made = await buildIndex({ of: disk, path: join(folder, 'a.sig'), blockSize: 4096, workers: 1 });
    expect(made.warnings).toEqual([]);
    const index = openIndex(made.path);
    const options = { production: disk, replica: disk, blockSize: 4096, signature: 'blake3' } as const;
    const scanned = () => scan({ ...options, productionIndex: index, workers: 1 });
    expect((await scanned()).markedBlocks).toBe(0);
    // Another tick of the kernel's clock than that of the first store.
    await new Promise((resolve) => setTimeout(resolve, 50));
    await store(child);
    await expect(scanned()).rejects.toMatchObject({ kind: 'mismatch', message: /the index is stale/ });
    index.close();
    await disk.close();
    child.stdin!.end();
  });
});

const memory = '/dev/shm';
if (!isTmpfs(memory)) process.stderr.write(`\n*** SKIPPED for want of tmpfs at ${memory}: its warning\n`);
it.skipIf(!isTmpfs(memory))('an index of a file on tmpfs says that it would not be', async () => {
  const shared = mkdtempSync(join(memory, 'driftmap-test-'));
  try {
    const path = join(shared, 'a.raw');
    writeFileSync(path, new Uint8Array(size).fill(1));
    const disk = await openRaw(path);
    for (const of of [disk, disk.units[0]!]) {
      const made = await buildIndex({ of, path: join(folder, 'b.sig'), blockSize: 4096, workers: 1 });
      expect(made.warnings).toEqual([expect.stringMatching(/a\.raw: lies on tmpfs/)]);
      const index = openIndex(made.path);
      const sides = { production: disk, replica: disk, productionIndex: index };
      const result = await scan({ ...sides, blockSize: 4096, signature: 'blake3', workers: 1 });
      expect(result.warnings).toEqual([expect.stringMatching(/a\.raw: lies on tmpfs/)]);
      index.close();
    }
    await disk.close();
  } finally {
    rmSync(shared, { recursive: true, force: true });
  }
});
