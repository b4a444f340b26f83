import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { attachDisk } from '../../src/disk/attach.ts';
import { openDisk } from '../../src/disk/open.ts';
import { scan } from '../../src/scan/scan.ts';
import { readAll, temporaryFolder } from './images.ts';
import { buildVhd, utf16, type VhdSpec } from './vhd-builder.ts';
import { same } from './vhd-loading.ts';
import { buildVhdx, FIRST_BLOCK, logEntry, MiB, naiveVhdx, type VhdxBlock, withLog } from './vhdx-builder.ts';

const folder = temporaryFolder();
const at = (name: string) => join(folder, name);
const filled = (seed: number, length: number) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 11 + seed * 5) % 255));

describe('a chain of three VHD images', () => {
  const blockSize = 16384;
  const size = 4 * blockSize;
  const mask = (of: (sector: number) => boolean) => Array.from({ length: 32 }, (_, i) => of(i));
  const parent = (uuid: number, name: string) => ({
    uuid,
    locators: [{ platform: 'W2ru', bytes: utf16(`.\\${name}`) }],
  });
  const base: VhdSpec = { type: 2, size, contents: filled(1, size), uuid: 11 };
  const middle: VhdSpec = {
    type: 4,
    size,
    blockSize,
    uuid: 12,
    parent: parent(11, 'base.vhd'),
    blocks: [{ present: mask((i) => i < 16), data: filled(2, blockSize) }, null, null, null],
  };
  const top: VhdSpec = {
    type: 4,
    size,
    blockSize,
    uuid: 13,
    parent: parent(12, 'middle.avhd'),
    blocks: [{ present: mask((i) => i % 4 === 0), data: filled(3, blockSize) }, null, null, null],
  };

  beforeEach(() => {
    writeFileSync(at('base.vhd'), buildVhd(base));
    writeFileSync(at('middle.avhd'), buildVhd(middle));
    writeFileSync(at('top.avhd'), buildVhd(top));
  });

  it('shows each sector from the topmost image that has it', async () => {
    const expected = base.contents!.slice();
    for (const { blocks } of [middle, top]) {
      const { present, data } = blocks![0]!;
      present.forEach((here, i) => {
        if (here) expected.set(data.subarray(i * 512, (i + 1) * 512), i * 512);
      });
    }
    const disk = await openDisk(at('top.avhd'));
    expect([disk.format, disk.size, disk.units.length]).toEqual(['vhd', size, 3]);
    expect(same(await readAll(disk), expected)).toBe(true);
    await disk.close();
  });

  it('whose parent is not there, or is another, does not open', async () => {
    rmSync(at('base.vhd'));
    await expect(openDisk(at('top.avhd'))).rejects.toMatchObject({
      kind: 'not-found',
      path: at('middle.avhd'),
    });
    writeFileSync(at('base.vhd'), buildVhd({ ...base, uuid: 99 }));
    await expect(openDisk(at('top.avhd'))).rejects.toMatchObject({
      kind: 'mismatch',
      path: at('middle.avhd'),
    });
  });

  it('that leads back to itself does not open', async () => {
    writeFileSync(at('middle.avhd'), buildVhd({ ...middle, parent: parent(13, 'top.avhd') }));
    await expect(openDisk(at('top.avhd'))).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/the chain is a loop/),
    });
  });

  it('whose parent lies outside its folder does not open', async () => {
    writeFileSync(at('top.avhd'), buildVhd({ ...top, parent: parent(12, '..\\..\\middle.avhd') }));
    await expect(openDisk(at('top.avhd'))).rejects.toMatchObject({ kind: 'policy' });
  });
});

describe('a VHDX over another', () => {
  const below: VhdxBlock[] = [
    { state: 6, data: filled(1, MiB) },
    { state: 0 },
    { state: 6, data: filled(2, MiB) },
  ];
  const parent = {
    parent_linkage: '{31313131-3131-3131-3131-313131313131}',
    relative_path: '.\\base.vhdx',
  };
  const present = Array.from({ length: 2048 }, (_, i) => i % 3 === 0);
  const above: VhdxBlock[] = [{ state: 7, data: filled(3, MiB), present }, { state: 0 }, { state: 2 }];

  it('shows its own sectors, those of its parent, and its own zeros', async () => {
    const image = buildVhdx({ size: 3 * MiB, blocks: below });
    writeFileSync(at('base.vhdx'), image);
    writeFileSync(at('child.avhdx'), buildVhdx({ size: 3 * MiB, blocks: above, parent }));
    const expected = naiveVhdx(image)!;
    present.forEach((here, i) => {
      if (here) expected.set(above[0]!.data!.subarray(i * 512, (i + 1) * 512), i * 512);
    });
    expected.fill(0, 2 * MiB);
    const disk = await openDisk(at('child.avhdx'));
    expect(same(await readAll(disk), expected)).toBe(true);
    await disk.close();
    writeFileSync(at('base.vhdx'), buildVhdx({ size: 3 * MiB, blocks: below, dataWriteGuid: 0x44 }));
    await expect(openDisk(at('child.avhdx'))).rejects.toMatchObject({ kind: 'mismatch' });
  });
});

describe('a VHDX whose log brings data', () => {
  const clean = buildVhdx({
    size: 3 * MiB,
    blocks: [1, 2, 3].map((seed) => ({ state: 6, data: filled(seed, MiB) })),
  });
  const written = filled(77, 4096);
  const repaired = clean.slice();
  repaired.set(written, FIRST_BLOCK + MiB + 8192);
  const entry = logEntry({
    sequence: 1,
    tail: 0,
    descriptors: [{ offset: FIRST_BLOCK + MiB + 8192, data: written }],
    flushed: clean.length,
    last: clean.length,
  });

  beforeEach(() => {
    writeFileSync(at('dirty.vhdx'), withLog(clean, [{ at: 0, bytes: entry }]));
    writeFileSync(at('contents.raw'), naiveVhdx(repaired)!);
    writeFileSync(at('before.raw'), naiveVhdx(clean)!);
  });

  it('reads the same attached, and has the same identity at every opening', async () => {
    const disk = await openDisk(at('dirty.vhdx'));
    const again = await openDisk(at('dirty.vhdx'));
    expect(again.identity).toBe(disk.identity);
    expect(again.generation()).toBe(disk.generation());
    const attached = attachDisk(structuredClone(disk.handle()));
    expect(same(await readAll(attached), naiveVhdx(repaired)!)).toBe(true);
    expect(disk.warnings.join()).toMatch(/its log was replayed in memory/);
    await disk.close();
    await again.close();
  });

  it('compares as what it will be, on worker threads, block by block and through its second unit', async () => {
    const production = await openDisk(at('dirty.vhdx'));
    const same = await openDisk(at('contents.raw'));
    const before = await openDisk(at('before.raw'));
    for (const signature of ['nh128', 'blake3'] as const) {
      const common = { production, workers: 2, blockSize: 4096, signature };
      expect((await scan({ ...common, replica: same })).ranges).toEqual([]);
      expect((await scan({ ...common, replica: before })).ranges).toEqual([
        { offset: MiB + 8192, length: 4096 },
      ]);
    }
    const large = await scan({ production, replica: before, workers: 1, blockSize: 65536 });
    expect(large.ranges).toEqual([{ offset: MiB, length: 65536 }]);
    for (const disk of [production, same, before]) await disk.close();
  });
});
