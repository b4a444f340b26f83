import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { openVmfs } from '../../src/disk/containers/vmfs.ts';
import { viewOver } from '../../src/disk/view-unit.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { type FileSpec, VmfsBuilder, type VmfsOptions } from './vmfs-builder.ts';
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
    const step = `vmfs:${file.path}`;
    const view = viewOver({ name: step, layer: 'file', step, map: await file.map(), parents: [unit] });
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
  const shapes: [number, VmfsOptions][] = [
    [3, { version: 3, blockSize: 2 * MiB, downwards: true }],
    [5, { version: 5 }],
  ];

  it.each(shapes)('VMFS %i: debugvmfs finds the same files and blocks', async (version, options) => {
    const builder = new VmfsBuilder(options);
    const { blockSize, subBlockSize } = builder;
    const inside = builder.addDirectory(builder.root, 'vm');
    // Sub-blocks without a hole: after one, debugvmfs goes on at the next multiple of a file block.
    const files: Record<string, FileSpec> = {
      direct: { addressing: 'file', size: 5 * blockSize + 3, blocks: blocks(0, -1, 3, 5) },
      small: { addressing: 'sub', size: 3 * subBlockSize + 1, blocks: blocks(0, 1, 2, 3) },
      ...(version === 5 ? { resident: { addressing: 'resident', size: 900 } } : {}),
      indirect: {
        addressing: 'pointer',
        size: 1030 * blockSize - 4096,
        blocks: blocks(1, 2, -1023, 1024, 1029),
      },
    };
    for (const [name, spec] of Object.entries(files)) builder.addFile(inside, name, spec);
    const path = join(folder, `vmfs${version}.raw`);
    writeSparse(path, builder.finish());
    const debugvmfs = (...words: string[]) =>
      execFileSync('debugvmfs', [path, ...words], { maxBuffer: 2 ** 26 });
    const unit = openFileUnit(path);
    const fs = await openVmfs(unit);

    const listed = debugvmfs('ls', '/vm').toString().trim().split('\n').slice(2);
    expect([...(await filesOf(fs)).keys()]).toEqual(listed.map((name) => `/vm/${name}`));
    for (const name of Object.keys(files).filter((file) => file !== 'indirect')) {
      const same = Buffer.compare(await read(unit, `/vm/${name}`), debugvmfs('cat', `/vm/${name}`));
      expect([name, same]).toEqual([name, 0]);
    }
    const indirect = await (await fs.lookup('/vm/indirect')).map();
    for (const block of [0, 1, 2, 3, 514, 1022, 1023, 1024, 1025, 1029]) {
      const at = block * blockSize;
      // It reads the position as hexadecimal.
      const id = Number(debugvmfs('get_file_block', '/vm/indirect', at.toString(16)));
      const { kind, place } = indirect.explain(at);
      const where = id === 0 ? -1 : builder.unitOf(Math.floor(id / 64) * blockSize);
      expect([block, kind, place]).toEqual([block, id % 64 === 1 ? Kind.data : Kind.zero, where]);
    }
  });
});

const zeros = Buffer.alloc(65536);

function writeSparse(path: string, bytes: Uint8Array): void {
  const fd = openSync(path, 'w');
  for (let at = 0; at < bytes.length; at += zeros.length) {
    const part = bytes.subarray(at, at + zeros.length);
    const empty = Buffer.compare(part, zeros.subarray(0, part.length)) === 0;
    if (!empty) writeSync(fd, part, 0, part.length, at);
  }
  ftruncateSync(fd, bytes.length);
  closeSync(fd);
}
