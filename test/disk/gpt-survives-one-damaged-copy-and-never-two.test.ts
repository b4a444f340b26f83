import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { readPartitions } from '../../src/disk/containers/partitions.ts';
import { type GptDisk, gptDisk, sealGpt } from './gpt-builder.ts';
import { BytesUnit } from './images.ts';
import { fuzzSeconds, randomFrom } from './lvm-builder.ts';

const ENTRIES = [
  { first: 40, last: 99, name: 'boot' },
  { first: 100, last: 100, name: 'one sector' },
  { first: 200, last: 399, name: 'data' },
];

const disks = [
  { title: '512-byte sectors', make: () => gptDisk(512, 512, ENTRIES) },
  { title: '4096-byte sectors', make: () => gptDisk(512, 4096, ENTRIES) },
];

const open = (bytes: Uint8Array) => readPartitions(new BytesUnit(bytes));

/** As `open`; the message where that throws what it may throw. */
async function attempt(bytes: Uint8Array) {
  try {
    return await open(bytes);
  } catch (error) {
    expect(error).toBeInstanceOf(DriftmapError);
    return error as DriftmapError;
  }
}

describe.each(disks)('a GPT of $title', ({ make }) => {
  it('is read whole', async () => {
    const { bytes, sectorSize } = make();
    const { table, partitions, warnings } = await open(bytes);
    expect(table).toBe('gpt');
    expect(warnings).toEqual([]);
    expect(partitions).toEqual(
      ENTRIES.map(({ first, last, name }, i) => ({
        number: i + 1,
        offset: first * sectorSize,
        length: (last - first + 1) * sectorSize,
        type: '0FC63DAF-8483-4772-8E79-3D69D8477DE4',
        name,
      })),
    );
  });

  it('says the same with any one byte of either copy damaged, and warns where it matters', async () => {
    const { bytes, metadata, sectorSize } = make();
    const { partitions } = await open(bytes);
    const random = randomFrom(3);
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    for (let round = 0; performance.now() < end; round++) {
      const [offset, length] = metadata[round % 2]!;
      // The headers are small beside the entries: every other time, damage falls into one.
      const header = round % 2 === 0 ? offset : offset + length - sectorSize;
      const at = round % 4 < 2 ? header + random(92) : offset + random(length);
      const before = bytes[at]!;
      bytes[at] = before ^ (1 << random(8));
      const damaged = await open(bytes);
      bytes[at] = before;
      expect({ table: damaged.table, partitions: damaged.partitions }, `byte ${at}`).toEqual({
        table: 'gpt',
        partitions,
      });
      const unused = at >= header + 92 && at < header + sectorSize;
      expect(damaged.warnings.length, `byte ${at}`).toBe(unused ? 0 : 1);
    }
  });

  it('is an error that names both copies where both are damaged', async () => {
    const { bytes, metadata } = make();
    for (const [offset, length] of metadata) bytes.fill(0xff, offset, offset + length);
    await expect(open(bytes)).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/primary: .*backup: /),
    });
  });

  it('is cut at every sector: what is left of it lies within the unit, or an error says why', async () => {
    const { bytes, sectorSize } = make();
    const whole = (await open(bytes)).partitions;
    for (let sectors = 0; sectors < bytes.length / sectorSize; sectors++) {
      const cut = await attempt(bytes.slice(0, sectors * sectorSize));
      const size = sectors * sectorSize;
      if (cut instanceof DriftmapError) {
        expect(cut.kind).toBe('malformed');
        expect(sectors, 'a whole primary is enough').toBeLessThan(2 + (128 * 128) / sectorSize);
      } else if (size > 0) {
        expect(cut.partitions).toEqual(whole.filter(({ offset, length }) => offset + length <= size));
        expect(cut.warnings.length).toBeGreaterThan(0);
      }
    }
  });
});

describe('a GPT whose checksums are right and whose fields are not', () => {
  /** Sets a field in both copies alike and seals them. */
  function withField(at: number, value: bigint, bits: 32 | 64): GptDisk {
    const disk = gptDisk(512, 512, ENTRIES);
    const view = new DataView(disk.bytes.buffer);
    for (const header of [512, 511 * 512]) {
      if (bits === 64) view.setBigUint64(header + at, value, true);
      else view.setUint32(header + at, Number(value), true);
      sealGpt(disk.bytes, header, 512);
    }
    return disk;
  }

  it.each([
    ['revision', 8, 0x20000n, 32, /revision/],
    ['a header of 91 bytes', 12, 91n, 32, /size of 92/],
    ['a header of 513 bytes', 12, 513n, 32, /size of 92/],
    ['a place that is another', 24, 7n, 64, /sector/],
    ['usable sectors that end first', 40, 2n ** 63n, 64, /usable/],
    ['an entry array past the end', 72, 2n ** 60n, 64, /past the end/],
    ['entries of 64 bytes', 84, 64n, 32, /128 bytes times/],
    ['entries of 384 bytes', 84, 384n, 32, /128 bytes times/],
    ['too many entries', 80, 0xffffffffn, 32, /at most/],
  ] as const)('%s', async (_, at, value, bits, reason) => {
    const { bytes } = withField(at, value, bits);
    await expect(open(bytes)).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(reason),
    });
  });

  it('keeps partitions within the unit, whatever an entry says', async () => {
    const random = randomFrom(17);
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    const disk = gptDisk(512, 512, ENTRIES);
    const original = disk.bytes.slice();
    while (performance.now() < end) {
      disk.bytes.set(original);
      const view = new DataView(disk.bytes.buffer);
      for (let i = 0; i < 1 + random(3); i++) {
        const at = 1024 + random(4) * 128 + 32 + random(2) * 8;
        const values = [0n, 1n, 511n, 512n, BigInt(random(600)), 2n ** 53n, 2n ** 64n - 1n];
        view.setBigUint64(at, values[random(values.length)]!, true);
      }
      sealGpt(disk.bytes, 512, 512);
      const { partitions } = await open(disk.bytes);
      for (const { offset, length } of partitions) {
        expect(offset).toBeGreaterThan(0);
        expect(length).toBeGreaterThan(0);
        expect(offset + length).toBeLessThanOrEqual(disk.bytes.length);
      }
    }
  });

  it('warns of copies that differ, of overlaps and of partitions left out', async () => {
    const { bytes } = gptDisk(512, 512, [
      { first: 40, last: 99 },
      { first: 90, last: 120 },
      { first: 300, last: 600 },
      { first: 60, last: 50 },
    ]);
    const { partitions, warnings } = await open(bytes);
    expect(partitions.map(({ number }) => number)).toEqual([1, 2]);
    expect(warnings.join('\n')).toMatch(/partition 3 is left out: it ends in sector 600, past the end/);
    expect(warnings.join('\n')).toMatch(/partition 4 is left out: it begins in sector 60 and ends before/);
    expect(warnings.join('\n')).toMatch(/partitions 1 and 2 overlap/);
    bytes[511 * 512 - 32 * 512 + 16] = 77;
    sealGpt(bytes, 511 * 512, 512);
    expect((await open(bytes)).warnings.join('\n')).toMatch(/the two partition tables differ/);
  });

  it('does not let a name reach the terminal', async () => {
    const { bytes } = gptDisk(512, 512, [{ first: 40, last: 99, name: 'a\x1b[2Jb\x9b' }]);
    expect((await open(bytes)).partitions[0]!.name).toBe('a\ufffd[2Jb\ufffd');
  });
});

describe('a GPT and the MBR before it', () => {
  it('counts without an MBR where its primary is whole, and a lone backup does not', async () => {
    const { bytes, metadata } = gptDisk(512, 512, ENTRIES);
    bytes.fill(0, 0, 512);
    const bare = await open(bytes);
    expect(bare.table).toBe('gpt');
    expect(bare.partitions).toHaveLength(3);
    expect(bare.warnings).toEqual([expect.stringMatching(/no MBR/)]);
    bytes.fill(0, metadata[0]![0], metadata[0]![0] + metadata[0]![1]);
    const stale = await open(bytes);
    expect(stale).toMatchObject({ table: null, partitions: [] });
    expect(stale.warnings).toEqual([expect.stringMatching(/backup .* ignored/)]);
  });

  it('is ignored, with a warning, where the MBR has partitions of its own', async () => {
    const { bytes } = gptDisk(512, 512, ENTRIES);
    bytes[446 + 4] = 0x83;
    const { table, partitions, warnings } = await open(bytes);
    expect(table).toBe('mbr');
    expect(partitions).toEqual([{ number: 1, offset: 512, length: 511 * 512, type: '0x83', name: '' }]);
    expect(warnings).toEqual([expect.stringMatching(/ignored: the MBR has partitions/)]);
  });
});
