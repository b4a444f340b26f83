/** The sample logical units with an XFS file system. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { corpus, describeWith, gunzip } from '../tools.ts';
import { sha256 } from './images.ts';
import { bytesOf, listing, sparseFromBytes } from './xfs-images.ts';

interface SampleFile {
  readonly path: string;
  readonly size: number;
  readonly sha256: string;
  readonly extents: readonly (readonly [number, number, number, 0 | 1])[];
}

describeWith(['corpus'], 'the sample XFS file systems', () => {
  const folder = join(corpus ?? '', 'generated/lu');

  it.each(['xfs-1k', 'xfs-v5'])(
    '%s: every file lies where its listing says, and reads as it should',
    async (name) => {
      const unit = sparseFromBytes(gunzip(join(folder, `${name}.img.gz`)));
      const { files } = JSON.parse(readFileSync(join(folder, `${name}.extents.json`), 'utf8')) as {
        files: SampleFile[];
      };
      const fs = await openXfs(unit);
      expect(fs.warnings).toEqual([]);
      const known = files.map(({ path, size, extents }) => ({
        path,
        size,
        runs: extents.map(([offset, place, length, flag]) => [
          offset,
          place,
          Math.min(length, size - offset),
          flag,
        ]),
      }));
      expect(await listing(fs)).toEqual(known);
      for (const { path, sha256: digest } of files) {
        expect(sha256(await bytesOf(unit, await (await fs.lookup(path)).map()))).toBe(digest);
      }
    },
  );
});
