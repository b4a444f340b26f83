import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, truncateSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findDisks } from '../../src/disk/finder.ts';
import { openDisk } from '../../src/disk/open.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { isZero } from '../../src/mapping/extent-map.ts';
import { createScanner, type Scanner } from '../../src/scan/scan.ts';
import { unpack } from '../disk/images.ts';
import { corpus, describeWith, temporary } from '../tools.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);

/** Unpacks a sample of `generated/`. */
function sample(name: string): string {
  const to = path(basename(name));
  unpack(join(corpus!, 'generated', `${name}.gz`), to);
  return to;
}

describeWith(['corpus'], 'guest offsets lead to the unit, run by run', () => {
  interface Oracle {
    readonly virtual_size: number;
    /** Guest offset, offset on lu0 (null: reads as zeros), length. */
    readonly runs: readonly (readonly [number, number | null, number])[];
  }
  const oracle = JSON.parse(
    readFileSync(join(corpus!, 'generated', 'lu', 'composition.oracle.json'), 'utf8'),
  ) as Record<string, Oracle>;
  const [lu0, lu1] = [sample('lu/lu0.img'), sample('lu/lu1.img')];

  /** Neighbours that continue one another are one run. */
  function runsOf(disk: VirtualDisk): [number, number | null, number][] {
    const runs: [number, number | null, number][] = [];
    for (const { offset, length, kind, place, unit } of disk.map.extents()) {
      const at = isZero(kind) ? null : place;
      if (at !== null) expect(disk.units[unit]!.name).toBe(lu0);
      const last = runs.at(-1);
      const goesOn = last && (at === null ? last[1] === null : last[1] !== null && last[1] + last[2] === at);
      if (goesOn) last[2] += length;
      else runs.push([offset, at, length]);
    }
    return runs;
  }

  it.each(Object.entries(oracle).filter(([, { runs }]) => runs))('%s', async (address, expected) => {
    const disk = await openDisk(address.replace(/^lu0:/, `${lu0},${lu1}:`));
    expect(disk.size).toBe(expected.virtual_size);
    expect(runsOf(disk)).toEqual(expected.runs);
    await disk.close();
  });
});

describeWith(['corpus'], 'the same contents', () => {
  const base = sample('base.raw');
  const drift = sample('base-drift.raw');
  const BLOCK = 4096;

  /** Blocks that hold a byte that differs. */
  const differing = (() => {
    const [a, b] = [readFileSync(base), readFileSync(drift)];
    const blocks = new Set<number>();
    for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) blocks.add(Math.floor(i / BLOCK));
    return blocks;
  })();

  let scanner: Scanner;
  beforeAll(() => {
    scanner = createScanner({ workers: 1 });
  });
  afterAll(() => scanner.close());

  async function marked(production: string, replica: string, format?: string): Promise<number[]> {
    const disks = [await openDisk(production), await openDisk(replica, { format })] as const;
    try {
      const { bitmap } = await scanner.scan({
        production: disks[0],
        replica: disks[1],
        blockSize: BLOCK,
        signature: 'nh128',
      });
      return [...bitmap.runs()].flatMap(({ start, end }) =>
        Array.from({ length: end - start }, (_, index) => start + index),
      );
    } finally {
      for (const disk of disks) await disk.close();
    }
  }

  async function check(replica: string, format?: string): Promise<void> {
    expect(await marked(base, replica, format)).toEqual([]);
    expect(new Set(await marked(drift, replica, format))).toEqual(differing);
  }

  it('drift in forty blocks', () => {
    expect(differing.size).toBe(40);
  });

  describe('as an image file', () => {
    for (const companion of [
      'vmdk/monolithicFlat-flat.vmdk',
      'vmdk/twoGbMaxExtentFlat-f001.vmdk',
      'vmdk/twoGbMaxExtentSparse-s001.vmdk',
    ]) {
      sample(companion);
    }
    it.each([
      'qcow2/v2.qcow2',
      'qcow2/zlib.qcow2',
      'qcow2/extl2.qcow2',
      'vmdk/monolithicSparse.vmdk',
      'vmdk/monolithicFlat.vmdk',
      'vmdk/twoGbMaxExtentFlat.vmdk',
      'vmdk/twoGbMaxExtentSparse.vmdk',
      'vmdk/streamOptimized.vmdk',
      'vhd/dynamic.vhd',
      'vhd/fixed.vhd',
      'vhdx/dynamic.vhdx',
      'vhdx/fixed.vhdx',
      'vdi/dynamic.vdi',
      'vdi/static.vdi',
    ])('%s: no marks; forty against the drifted one', (name) => check(sample(name)));
  });

  /** Every disk that the finder finds there and that is as large as the base. */
  async function checkFound(units: readonly string[], least: number): Promise<void> {
    const found: [string, string][] = [];
    for await (const finding of findDisks(units)) {
      if (finding.what === 'disk' && finding.disk.class !== 'volume') {
        if (finding.disk.class !== 'partition') found.push([finding.disk.address, finding.disk.format]);
      } else if (finding.what === 'refused') throw new Error(finding.reason);
    }
    expect(found.length).toBeGreaterThanOrEqual(least);
    for (const [address, format] of found) await check(address, format);
  }

  it('in ext4 on LVM on GPT, raw and as qcow2 and VMDK', async () => {
    const units = [sample('lu/lu0.img'), sample('lu/lu1.img')];
    await checkFound(units, 3);
  });

  it.each(['ext4-4k', 'ext4-1k', 'ext4-bigalloc', 'xfs-v5', 'xfs-1k'])('in a file system: %s', async (name) =>
    checkFound([sample(`lu/${name}.img`)], 2),
  );

  it('in a thin volume, which is longer and ends in zeros', async () => {
    await check(`${sample('lu/lu2.img')}:lvm:vgthin/thin1`, 'raw');
  });

  describeWith(['mkntfs', 'ntfscp'], 'on NTFS', () => {
    it('as VHDX and VHD', async () => {
      const unit = path('ntfs.img');
      closeSync(openSync(unit, 'w'));
      truncateSync(unit, 128 << 20);
      execFileSync('mkntfs', ['-F', '-Q', '-q', unit], { stdio: 'pipe' });
      for (const name of ['vhdx/dynamic.vhdx', 'vhd/fixed.vhd']) {
        execFileSync('ntfscp', ['-q', unit, sample(name), `/${basename(name)}`], { stdio: 'pipe' });
      }
      await checkFound([unit], 2);
    });
  });
});
