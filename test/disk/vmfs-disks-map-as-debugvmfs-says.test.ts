import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { openVmfs } from '../../src/disk/containers/vmfs.ts';
import { viewOver } from '../../src/disk/view-unit.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { type FileSpec, VmfsBuilder } from './vmfs-builder.ts';
import { filesOf, read } from './vmfs-loading.ts';
import { unpackToFile } from './vmfs-sample.ts';

const MiB = 2 ** 20;
/** Where the volume of the sample begins on its unit. */
const DATA = 17 * MiB;

interface OracleRun {
  readonly block: number;
  readonly blocks: number;
  readonly state: 'data' | 'hole' | 'tbz';
  readonly fb_item: number | null;
}
type Oracle = Record<string, { readonly size: number; readonly runs: readonly OracleRun[] }>;

/** SHA-256 of the disks on the stamped unit, as debugvmfs printed them (the sample's README). */
const sums: Readonly<Record<string, string>> = {
  thin: '49f041baa2796e37994bad61b655ab44819705670a5389fcbe390c57ee8d3dd2',
  thick: '99609c3cc6d0c88ed973538ff9513af86b91125ce866a5faaed57ab55ffd46e3',
  zeroedthick: 'e17173196f72477717d61ad7271a55aef6526fd66761b9ae59af5df8d2d8fd1d',
  eagerzeroedthick: '0681d396f5aa5d1a84002c834c0b410f84fbd72568ae33ff57fc9e28e5f63612',
};
const names = Object.keys(sums);

describeWith(['corpus'], 'the four classes of disks of a real VMFS 3', () => {
  const folder = temporary();
  const path = join(folder, 'vmfs.raw');
  const oracle = JSON.parse(readFileSync(join(corpus!, 'vmfs', 'filemap.oracle.json'), 'utf8')) as Oracle;
  let unit: LogicalUnit;

  beforeAll(() => {
    unpackToFile(gunzip(join(corpus!, 'vmfs', 'test.img.gz')), path);
    stamp(path, oracle);
    unit = openFileUnit(path);
  });

  it.each(names)('%s: the same runs', async (name) => {
    const file = await (await openVmfs(unit)).lookup(`/${name}-flat.vmdk`);
    const { size, runs } = oracle[`${name}-flat.vmdk`]!;
    const found = [...(await file.map()).extents()];
    expect(file.size).toBe(size);
    expect(found.map(({ offset, length, kind, place }) => [offset, length, kind, place])).toEqual(
      runs.map(({ block, blocks, state, fb_item }) => [
        block * MiB,
        blocks * MiB,
        state === 'data' ? Kind.data : Kind.zero,
        fb_item === null ? -1 : DATA + fb_item * MiB,
      ]),
    );
  });

  it.each(names)('%s: the same contents, read as a disk inside the unit', async (name) => {
    const file = await (await openVmfs(unit)).lookup(`/${name}-flat.vmdk`);
    const view = viewOver([unit], await file.map(), file.path, file.path);
    const hash = createHash('sha256');
    const piece = new Uint8Array(4 * MiB);
    for (let at = 0; at < view.size; at += piece.length) {
      await view.read(at, piece);
      hash.update(piece);
    }
    expect(hash.digest('hex')).toBe(sums[name]);
  });

  it('are told apart as far as they can be', async () => {
    const fs = await openVmfs(unit);
    expect([fs.label, fs.warnings]).toEqual(['toto', []]);
    const kinds = [...(await filesOf(fs)).values()].filter((file) => file.path.endsWith('-flat.vmdk'));
    expect(kinds.map(({ path: where, kind }) => [where, kind])).toEqual([
      ['/thin-flat.vmdk', 'thin'],
      ['/thick-flat.vmdk', 'thick'],
      ['/zeroedthick-flat.vmdk', 'zeroedthick'],
      ['/eagerzeroedthick-flat.vmdk', 'thick'],
    ]);
  });

  it('have descriptions, in sub-blocks, that are read', async () => {
    const text = new TextDecoder().decode(await read(unit, '/zeroedthick.vmdk'));
    expect(text).toMatch(/^# Disk DescriptorFile\n.*RW 409600 VMFS "zeroedthick-flat\.vmdk"/s);
    expect(text).toHaveLength(374);
  });
});

/** As the sample's stamp.py: the name and number of the block at the start of every MiB that a file has. */
function stamp(path: string, oracle: Oracle): void {
  const fd = openSync(path, 'r+');
  for (const [name, { runs }] of Object.entries(oracle)) {
    for (const { block, blocks, state, fb_item } of runs) {
      for (let k = 0; fb_item !== null && k < blocks; k++) {
        const text = `${name.padEnd(24)} block ${String(block + k).padStart(5, '0')} ${state}\n`;
        writeSync(fd, Buffer.from(text), 0, text.length, DATA + (fb_item + k) * MiB);
      }
    }
  }
  closeSync(fd);
}

describeWith(['debugvmfs'], 'file systems made for tests', () => {
  const folder = temporary();
  const blocks = (...indices: number[]): ReadonlyMap<number, 'data' | 'zeroed'> =>
    new Map(indices.map((index) => [Math.abs(index), index < 0 ? 'zeroed' : 'data']));

  const files: Record<string, FileSpec> = {
    direct: { addressing: 'file', size: 5 * MiB + 3, blocks: blocks(0, -1, 3, 5) },
    indirect: { addressing: 'pointer', size: 1030 * MiB - 4096, blocks: blocks(1, 2, -1023, 1024, 1029) },
    resident: { addressing: 'resident', size: 900 },
  };

  it.each([3, 5] as const)(
    'VMFS %i: debugvmfs prints the same files',
    { timeout: 60_000 },
    async (version) => {
      const options = { version, blockSize: version === 3 ? 2 * MiB : MiB, downwards: version === 3 };
      const builder = new VmfsBuilder(options);
      const inside = builder.addDirectory(builder.root, 'vm');
      const used = Object.entries(files).filter(([name]) => version === 5 || name !== 'resident');
      for (const [name, spec] of used) {
        // Sub-blocks of VMFS 3 are of 64 KiB; a hole of VMFS 5's 8 KiB reads on in the next ones.
        builder.addFile(inside, name, spec);
      }
      const path = join(folder, `vmfs${version}.raw`);
      writeSparse(path, builder.finish());
      const unit = openFileUnit(path);
      const listed = execFileSync('debugvmfs', [path, 'ls', '/vm'], { encoding: 'utf8' }).trim().split('\n');
      const found = [...(await filesOf(await openVmfs(unit))).keys()];
      expect(found).toEqual(listed.slice(2).map((name) => `/vm/${name}`));
      for (const [name] of used) {
        const { stdout, status } = spawnSync('debugvmfs', [path, 'cat', `/vm/${name}`], {
          maxBuffer: 2 ** 31,
        });
        expect(status).toBe(0);
        expect([name, Buffer.compare(await read(unit, `/vm/${name}`), stdout)]).toEqual([name, 0]);
      }
    },
  );
});

function writeSparse(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, 'w');
  for (let at = 0; at < bytes.length; at += 65536) {
    const part = bytes.subarray(at, at + 65536);
    const last = at + 65536 >= bytes.length;
    if (last || part.some((byte) => byte !== 0)) writeSync(fd, part, 0, part.length, at);
  }
  closeSync(fd);
}
