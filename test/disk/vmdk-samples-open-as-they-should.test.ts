import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { gunzip } from '../tools.ts';
import { corpus, describeWith, type Run, sha256, temporaryFolder, unpack } from './images.ts';
import { contentsOf } from './vhd-loading.ts';
import {
  closeUnits,
  contentsOrNull,
  type Files,
  loadChain,
  loadFrom,
  mapRuns,
  merged,
  refusal,
} from './vmdk-loading.ts';

interface Entry {
  readonly virtual_size: number;
  readonly sha256_guest?: string;
  readonly map: readonly Run[];
}

describeWith('corpus', 'VMDK samples', () => {
  const manifest: Record<string, Entry> =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'MANIFEST.json'), 'utf8'));
  const all = Object.keys(manifest).filter((name) => name.startsWith('generated/vmdk/'));
  const disks = all.filter((name) => manifest[name]!.sha256_guest !== undefined);
  const folder = temporaryFolder();
  const plain = (name: string) => join(folder, name.replace(/^.*\//, '').replace(/\.gz$/, ''));
  for (const name of all) unpack(join(corpus!, name), plain(name));

  it('there are samples', () => {
    expect(disks.length).toBeGreaterThan(5);
  });

  it.each(disks)('%s', async (name) => {
    const { virtual_size, sha256_guest, map } = manifest[name]!;
    const image = await loadChain(plain(name));
    expect(image.map.size).toBe(virtual_size);
    expect(sha256(await contentsOf(image))).toBe(sha256_guest);
    expect(mapRuns(image.map)).toEqual(merged(map));
    await closeUnits(image.units);
  });
});

describeWith('corpus', 'malformed VMDK samples', () => {
  type Expectation = Record<string, { readonly expect: 'ok' | 'safe' | 'reject' | 'policy' }>;
  const expected: Expectation =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'malformed', 'EXPECT.json'), 'utf8'));
  const names = Object.keys(expected).filter((name) => name.endsWith('.vmdk'));
  const files: Files = Object.fromEntries(
    [...names, 'b.raw'].map((name) => [name, gunzip(join(corpus!, 'malformed', `${name}.gz`))]),
  );
  const refusedSafely: Readonly<Record<string, RegExp>> = {
    'v-gt-eof.vmdk': /grain table of directory entry 0 lies past the end/,
    'v-gte-1.vmdk': /an entry of 1, which means zeros/,
    'v-trunc.vmdk': /65536 bytes of metadata, the file has 13832/,
    'vd-self.vmdk': /the descriptor itself/,
    'vs-marker-huge.vmdk': /stored bytes within/,
  };

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(15);
  });

  it.each(names)('%s', async (name) => {
    const memory = process.memoryUsage.rss();
    const begun = performance.now();
    const wants = expected[name]!.expect;
    if (wants === 'ok') {
      expect(sha256((await contentsOrNull(files, name))!)).toBe(sha256(files['b.raw']!));
    } else if (name === 'vd-cidmismatch.vmdk') {
      const { backing } = await loadFrom(files, name);
      const parent = (await loadFrom(files, backing!.name)).units[0]!;
      await expect(backing!.check!(parent)).rejects.toMatchObject({
        kind: 'mismatch',
        message: expect.stringMatching(/CID 12345678, got b\.vmdk with/),
      });
    } else {
      const error = await refusal(files, name);
      const kinds = wants === 'policy' ? ['policy'] : ['malformed', 'unsupported', 'limit'];
      expect(kinds).toContain(error.kind);
      expect(error.message).toMatch(
        refusedSafely[name] ?? /expected|unknown|past the end|open the device itself/,
      );
      expect(wants === 'safe').toBe(name in refusedSafely);
    }
    expect(performance.now() - begun).toBeLessThan(2000);
    expect(process.memoryUsage.rss() - memory).toBeLessThan(256 * 2 ** 20);
  });
});
