import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openExt4 } from '../../src/disk/containers/ext4.ts';
import { readVolumeGroups } from '../../src/disk/containers/lvm-groups.ts';
import { readPartitions } from '../../src/disk/containers/partitions.ts';
import { viewOver } from '../../src/disk/view-unit.ts';
import { type ExtentMap, isZero, Kind } from '../../src/mapping/extent-map.ts';
import { corpus, describeWith, gunzip } from '../tools.ts';
import { collect, contents } from './ext4-images.ts';
import { BytesUnit, sha256 } from './images.ts';

interface Sample {
  readonly path: string;
  readonly size: number;
  readonly sha256: string;
  /** File offset, image offset, length, unwritten. */
  readonly extents: readonly [number, number, number, number][];
}

/** As the oracle writes runs, which end with their blocks; those of a map end with the file. */
function runsOf(map: ExtentMap): number[][] {
  return [...map.extents()]
    .filter(({ place }) => place >= 0)
    .map(({ offset, place, length, kind }) => [offset, place, length, Number(kind === Kind.zero)]);
}

describeWith(['corpus'], 'the sample file systems', () => {
  const folder = join(corpus!, 'generated/lu');

  it.each(['ext4-1k', 'ext4-4k', 'ext4-bigalloc'])('%s: every file, run by run', async (name) => {
    const unit = new BytesUnit(gunzip(join(folder, `${name}.img.gz`)));
    const { files } = JSON.parse(readFileSync(join(folder, `${name}.extents.json`), 'utf8')) as {
      files: Sample[];
    };
    const fs = await openExt4(unit);
    expect(fs.warnings).toEqual([]);
    const found = await collect(fs);
    expect([...found.keys()].sort()).toEqual(files.map(({ path }) => path).sort());
    for (const { path, size, sha256: sum, extents } of files) {
      const entry = found.get(path)!;
      expect(entry.size).toBe(size);
      const map = await entry.map();
      const cut = extents.map(([from, at, length, kind]) => [from, at, Math.min(length, size - from), kind]);
      expect(runsOf(map)).toEqual(cut);
      expect(sha256(await contents(map, unit))).toBe(sum);
    }
  });

  it('a file on a logical volume of a partition leads to the logical unit', async () => {
    const unit = new BytesUnit(gunzip(join(folder, 'lu0.img.gz')), { name: 'lu0' });
    const other = new BytesUnit(gunzip(join(folder, 'lu1.img.gz')), { name: 'lu1' });
    const { partitions } = await readPartitions(unit);
    const { offset, length } = partitions.find(({ number }) => number === 2)!;
    const part = new BytesUnit(unit.bytes.subarray(offset, offset + length), { name: 'lu0p2' });
    const { volumes } = await readVolumeGroups([part, other]);
    const volume = volumes.find(({ name }) => name === 'lin')!;
    const parents = [part, other];
    const view = viewOver({
      name: 'lin',
      layer: 'volume',
      step: 'lvm:vglu/lin',
      map: await volume.map(),
      parents,
    });
    const fs = await openExt4(view);
    const map = await (await fs.lookup('/disk-flat.raw')).map();
    const file = viewOver({ name: 'file', layer: 'file', step: 'ext4:/disk-flat.raw', map, parents: [view] });

    const oracle = JSON.parse(readFileSync(join(folder, 'composition.oracle.json'), 'utf8'));
    const expected = oracle['lu0:gpt2/lvm:vglu/lin/ext4:/disk-flat.raw'] as {
      sha256: string;
      runs: [number, number | null, number][];
    };
    const runs = [...file.map.extents()].map((run) => [
      run.offset,
      isZero(run.kind) ? null : run.place + offset,
      run.length,
    ]);
    expect(runs).toEqual(expected.runs);
    expect(sha256(await contents(file.map, part))).toBe(expected.sha256);
  });
});
