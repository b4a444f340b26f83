import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { readPartitions } from '../../src/disk/containers/partitions.ts';
import { BytesUnit } from './images.ts';
import { fuzzSeconds, randomFrom } from './lvm-builder.ts';

const open = (bytes: Uint8Array) => readPartitions(new BytesUnit(bytes));

function mark(bytes: Uint8Array, sector: number): void {
  bytes.set([0x55, 0xaa], sector * 512 + 510);
}

function entry(bytes: Uint8Array, sector: number, slot: number, type: number, start: number, count: number) {
  const at = sector * 512 + 446 + slot * 16;
  const view = new DataView(bytes.buffer);
  bytes[at + 4] = type;
  view.setUint32(at + 8, start, true);
  view.setUint32(at + 12, count, true);
  mark(bytes, sector);
}

/** 1000 sectors; an extended partition from 100 to the end, its records at the given sectors. */
function chain(records: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(1000 * 512);
  entry(bytes, 0, 0, 0x83, 10, 50);
  entry(bytes, 0, 1, 0x0f, 100, 900);
  for (const [i, sector] of records.entries()) {
    entry(bytes, sector, 0, 0x83, 1, 9);
    const next = records[i + 1];
    if (next !== undefined) entry(bytes, sector, 1, 0x05, next - 100, 10);
  }
  return bytes;
}

describe('a chain of extended boot records', () => {
  it('numbers logical partitions from 5, in the order of the chain and not of the disk', async () => {
    const { table, partitions, warnings } = await open(chain([100, 300, 200]));
    expect(table).toBe('mbr');
    expect(partitions.map(({ number, offset }) => [number, offset / 512])).toEqual([
      [1, 10],
      [5, 101],
      [6, 301],
      [7, 201],
    ]);
    expect(warnings).toEqual([]);
  });

  it.each([
    ['itself', [100, 100]],
    ['the one before', [100, 200, 300, 200]],
    ['the first', [100, 200, 300, 100]],
  ])('is an error where it leads back to %s', async (_, records) => {
    const bytes = chain([...new Set(records)]);
    const from = records.at(-2)!;
    entry(bytes, from, 1, 0x05, records.at(-1)! - 100, 10);
    await expect(open(bytes)).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/loop/),
      offset: records.at(-1)! * 512,
    });
  });

  it('may have 256 records and no more', async () => {
    const records = (count: number) => Array.from({ length: count }, (_, i) => 100 + 3 * i);
    expect((await open(chain(records(256)))).partitions).toHaveLength(257);
    await expect(open(chain(records(257)))).rejects.toMatchObject({ kind: 'limit' });
  });

  it('ends with a warning where a record has no mark, or lies outside', async () => {
    const unmarked = chain([100, 200, 300]);
    unmarked.fill(0, 200 * 512 + 510, 201 * 512);
    const cut = await open(unmarked);
    expect(cut.partitions.map(({ number }) => number)).toEqual([1, 5]);
    expect(cut.warnings).toEqual([
      expect.stringMatching(/no extended boot record at offset 102400.*from 6 on/),
    ]);

    const outside = chain([100]);
    entry(outside, 100, 1, 0x05, 900, 10);
    expect((await open(outside)).warnings).toEqual([expect.stringMatching(/links to sector 1000, out of/)]);

    const short = chain([100, 950]).slice(0, 950 * 512);
    expect((await open(short)).warnings).toEqual([
      expect.stringMatching(/past the end of the unit: its chain/),
    ]);
  });

  it('leaves out logical partitions that reach out of their extended partition, and spare entries', async () => {
    const bytes = chain([100, 200]);
    entry(bytes, 0, 1, 0x0f, 100, 800);
    entry(bytes, 100, 0, 0x83, 1, 800);
    entry(bytes, 200, 2, 0x83, 1, 5);
    const { partitions, warnings } = await open(bytes);
    expect(partitions.map(({ number }) => number)).toEqual([1, 6]);
    expect(warnings).toEqual([
      expect.stringMatching(/partition 5 is left out/),
      expect.stringMatching(/further entries of the extended boot record at offset 102400/),
    ]);
  });

  it('counts in sectors of 4096 bytes where it is told to', async () => {
    const small = chain([100, 200]);
    const bytes = new Uint8Array(8 * small.length);
    for (const sector of [0, 100, 200])
      bytes.set(small.subarray(sector * 512, sector * 512 + 512), sector * 4096);
    const { partitions } = await readPartitions(new BytesUnit(bytes), { sectorSize: 4096 });
    expect(partitions.map(({ number, offset, length }) => [number, offset / 4096, length / 4096])).toEqual([
      [1, 10, 50],
      [5, 101, 9],
      [6, 201, 9],
    ]);
  });

  it('never leads out of the unit nor to anything but our errors, however it is damaged', async () => {
    const original = chain([100, 200, 300, 400]);
    const bytes = original.slice();
    const random = randomFrom(23);
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    let read = 0;
    while (performance.now() < end) {
      bytes.set(original);
      for (let i = 0; i < 1 + random(3); i++) {
        const sector = [0, 100, 200, 300, 400][random(5)]!;
        bytes[sector * 512 + 446 + random(66)] = random(2) ? random(256) : [0, 5, 15, 0xff][random(4)]!;
      }
      try {
        for (const { offset, length } of (await open(bytes)).partitions) {
          expect(offset + length).toBeLessThanOrEqual(bytes.length);
          read++;
        }
      } catch (error) {
        expect(error).toBeInstanceOf(DriftmapError);
      }
    }
    expect(read).toBeGreaterThan(0);
  });
});

describe('a first sector that ends in 55 aa', () => {
  const sector = (...parts: readonly (readonly [number, string | number[]])[]) => {
    const bytes = new Uint8Array(64 * 512);
    for (const [at, part] of parts)
      bytes.set(typeof part === 'string' ? Buffer.from(part, 'latin1') : part, at);
    mark(bytes, 0);
    return bytes;
  };

  it.each([
    ['NTFS', sector([0, '\xebR\x90NTFS    '])],
    ['exFAT', sector([0, '\xebv\x90EXFAT   '])],
    ['FAT', sector([0, '\xeb<\x90mkfs.fat'], [11, [0, 2]], [21, [0xf8]])],
    [
      'text where entries would be',
      sector([440, 'BOOTMGR is missing, press a key to go on at your own risk']),
    ],
  ])('is no partition table but the boot sector of %s', async (_, bytes) => {
    expect(await open(bytes)).toEqual({ table: null, partitions: [], warnings: [] });
  });

  it('is an empty table without one of those, and a table with entries beside boot code', async () => {
    expect(await open(sector())).toEqual({ table: 'mbr', partitions: [], warnings: [] });
    const bytes = sector([0, '\xebc\x90GRUB    '], [11, [0, 2]], [21, [0xf8]]);
    entry(bytes, 0, 2, 0x83, 8, 8);
    expect((await open(bytes)).partitions).toEqual([
      { number: 3, offset: 4096, length: 4096, type: '0x83', name: '' },
    ]);
  });

  it('leaves out, with a warning, a partition that ends past the unit', async () => {
    const bytes = sector();
    entry(bytes, 0, 0, 0x83, 8, 57);
    entry(bytes, 0, 1, 0x83, 8, 56);
    const { partitions, warnings } = await open(bytes);
    expect(partitions.map(({ number }) => number)).toEqual([2]);
    expect(warnings).toEqual([expect.stringMatching(/partition 1 is left out: it ends at byte 33280, past/)]);
  });
});
