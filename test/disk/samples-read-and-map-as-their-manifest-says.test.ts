import { copyFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { canUnpackZstd } from '../../src/disk/unpack.ts';
import {
  corpus,
  describeWith,
  type Run,
  readAll,
  runsOf,
  sha256,
  temporaryFolder,
  unpack,
} from './images.ts';

interface Entry {
  format: string;
  virtual_size: number;
  sha256_guest?: string;
  map?: (number | null)[][];
}

const manifest: Record<string, Entry> =
  corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'MANIFEST.json'), 'utf8'));
const names = Object.keys(manifest).filter((name) => /^generated\/(base|qcow2\/)/.test(name));

describeWith('corpus', 'sample disks', () => {
  const folder = temporaryFolder();
  const pathOf = (name: string) => join(folder, name.replace(/^generated\//, '').replace(/\.gz$/, ''));

  beforeAll(() => {
    mkdirSync(join(folder, 'qcow2'));
    for (const name of names) unpack(join(corpus!, name), pathOf(name));
    expect(readdirSync(join(folder, 'qcow2')).length).toBeGreaterThan(15);
  });

  it.each(names.filter((name) => manifest[name]!.sha256_guest !== undefined))('%s', async (name) => {
    const { virtual_size, sha256_guest, map } = manifest[name]!;
    // One sample is backed by a file of the folder above.
    const disk = await openDisk(pathOf(name), { allowOutside: name.includes('over-raw') });
    try {
      expect(disk.size).toBe(virtual_size);
      if (map !== undefined)
        expect(await runsOf(disk)).toEqual(map.map((run) => run.slice(0, 6) as unknown as Run));
      if (name.includes('zstd') && !canUnpackZstd()) {
        await expect(readAll(disk)).rejects.toMatchObject({
          kind: 'unsupported',
          message: expect.stringMatching(/Node 22\.15/),
        });
        expect(disk.warnings.join()).toMatch(/zstd/);
      } else {
        expect(sha256(await readAll(disk))).toBe(sha256_guest);
        expect(disk.warnings).toEqual([]);
      }
    } finally {
      await disk.close();
    }
  });

  it('encrypted: refused by name', async () => {
    await expect(openDisk(pathOf('generated/qcow2/aes.qcow2.gz'))).rejects.toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/encrypted \(AES\)/),
    });
  });

  it('zlib clusters read in 4 KiB steps, from the end to the start and in a copy of the file', async () => {
    const copy = join(folder, 'copy.qcow2');
    copyFileSync(pathOf('generated/qcow2/zlib.qcow2.gz'), copy);
    const disk = await openDisk(copy);
    const bytes = new Uint8Array(disk.size);
    const steps = Math.ceil(disk.size / 4096);
    for (let i = steps - 1; i >= 0; i--) {
      await disk.read(i * 4096, bytes.subarray(i * 4096, Math.min((i + 1) * 4096, disk.size)));
    }
    expect(sha256(bytes)).toBe(manifest['generated/base.raw.gz']!.sha256_guest);
    await disk.close();
  });
});
