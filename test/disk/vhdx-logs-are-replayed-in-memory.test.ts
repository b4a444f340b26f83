import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadVhdx } from '../../src/disk/formats/vhdx.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { BytesUnit, describeWith, qemuImg, qemuIo, temporaryFolder } from './images.ts';
import { contentsOf, contentsOrRefusal, fuzzSeconds, load, refusalOf, same } from './vhd-loading.ts';
import {
  buildVhdx,
  type Descriptor,
  FIRST_BLOCK,
  LOG_AT,
  logEntry,
  METADATA_AT,
  MiB,
  naiveVhdx,
  TABLE_AT,
  withLog,
} from './vhdx-builder.ts';

const sector = 4096;
const filled = (seed: number, length = MiB) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 13 + seed * 7) % 255));
/** Block 0 is here, block 1 is not, block 2 is here. */
const clean = buildVhdx({
  size: 3 * MiB,
  blocks: [{ state: 6, data: filled(1) }, { state: 0 }, { state: 6, data: filled(2) }],
});
const fileSize = clean.length;

/** What a data descriptor of the block table's first sector brings: as it is, with some entries changed. */
function tableSector(changes: Readonly<Record<number, bigint>>): Uint8Array {
  const data = clean.slice(TABLE_AT, TABLE_AT + sector);
  const view = new DataView(data.buffer);
  for (const [index, entry] of Object.entries(changes)) view.setBigUint64(8 * Number(index), entry, true);
  return data;
}

interface EntryAt {
  readonly at: number;
  readonly descriptors: readonly Descriptor[];
  readonly sequence?: number;
  readonly tail?: number;
  readonly last?: number;
  readonly flushed?: number;
  readonly guid?: string;
}

function dirty(entries: readonly EntryAt[], harm: (log: Uint8Array) => void = () => undefined): BytesUnit {
  const image = withLog(
    clean,
    entries.map((entry, i) => ({
      at: entry.at,
      bytes: logEntry({ sequence: 5 + i, tail: entries[0]!.at, flushed: fileSize, last: fileSize, ...entry }),
    })),
  );
  harm(image.subarray(LOG_AT, LOG_AT + MiB));
  return new BytesUnit(image);
}

/** The file with writes made, as a writer would have left it. */
function fileWith(descriptors: readonly Descriptor[], size = fileSize): Uint8Array {
  const end = Math.max(
    size,
    ...descriptors.map((one) => one.offset + ('zeros' in one ? one.zeros : one.data.length)),
  );
  const image = new Uint8Array(end);
  image.set(clean);
  for (const one of descriptors) {
    if ('zeros' in one) image.fill(0, one.offset, one.offset + one.zeros);
    else image.set(one.data, one.offset);
  }
  return image;
}

async function replayed(unit: BytesUnit): Promise<Uint8Array> {
  const before = unit.bytes.slice();
  const image = await load(loadVhdx, unit);
  expect(image.warnings.join()).toMatch(/log was replayed in memory/);
  const contents = await contentsOf(image);
  expect(same(unit.bytes, before)).toBe(true);
  return contents;
}

const moveBlock2: Descriptor = { offset: TABLE_AT, data: tableSector({ 2: 0n, 1: 6n | (5n << 20n) }) };

describe('a VHDX that was not closed', () => {
  it('is read by the tables that its log brings, over the file alone', async () => {
    const unit = dirty([{ at: 0, descriptors: [moveBlock2] }]);
    const { units, map } = await load(loadVhdx, unit);
    expect(units).toEqual([unit]);
    expect(map.explain(MiB).place).toBe(FIRST_BLOCK + MiB);
    expect(same(await replayed(unit), naiveVhdx(fileWith([moveBlock2]))!)).toBe(true);
    expect(same(naiveVhdx(clean)!, naiveVhdx(fileWith([moveBlock2]))!)).toBe(false);
  });

  it('shows data of the log in its blocks, from a second unit that is the same at every opening', async () => {
    const descriptors: Descriptor[] = [
      { offset: FIRST_BLOCK + 8192, data: filled(40, sector) },
      { offset: FIRST_BLOCK + 65536, zeros: 16 * sector },
      { offset: FIRST_BLOCK + MiB + sector, data: filled(41, sector) },
    ];
    const unit = dirty([{ at: 0, descriptors }]);
    const { units } = await load(loadVhdx, unit);
    expect(units.map(({ identity }) => identity)).toEqual(['bytes:<bytes>', 'bytes:<bytes>/log']);
    expect(units[1]!.handle().kind).toBe('array');
    expect(same(await replayed(unit), naiveVhdx(fileWith(descriptors))!)).toBe(true);
  });

  it('gets a new block at the end of a file that the log makes longer', async () => {
    const at = fileSize / MiB;
    const entry: Descriptor = { offset: TABLE_AT, data: tableSector({ 1: 6n | (BigInt(at) << 20n) }) };
    const data: Descriptor = { offset: fileSize + 4 * sector, data: filled(50, sector) };
    const unit = dirty([{ at: 0, descriptors: [entry, data], last: fileSize + MiB }]);
    expect(same(await replayed(unit), naiveVhdx(fileWith([entry, data], fileSize + MiB))!)).toBe(true);
  });

  it('has entries replayed in order: the later one goes over the earlier', async () => {
    const first: Descriptor[] = [
      { offset: FIRST_BLOCK, data: filled(60, sector) },
      { offset: FIRST_BLOCK + sector, data: filled(61, sector) },
      { offset: FIRST_BLOCK + 3 * sector, zeros: 4 * sector },
    ];
    const second: Descriptor[] = [
      { offset: FIRST_BLOCK + sector, zeros: sector },
      { offset: FIRST_BLOCK + 4 * sector, data: filled(62, sector) },
    ];
    const unit = dirty([
      { at: 0, descriptors: first },
      { at: 3 * sector, descriptors: second },
    ]);
    expect(same(await replayed(unit), naiveVhdx(fileWith([...first, ...second]))!)).toBe(true);
  });

  it('is replayed from the entry that the last one names as the tail', async () => {
    const done: Descriptor = { offset: FIRST_BLOCK, data: filled(70, sector) };
    const open: Descriptor = { offset: FIRST_BLOCK + sector, data: filled(71, sector) };
    const unit = dirty([
      { at: 0, descriptors: [done] },
      { at: 2 * sector, descriptors: [open], tail: 2 * sector },
    ]);
    expect(same(await replayed(unit), naiveVhdx(fileWith([open]))!)).toBe(true);
  });

  it('has a log that goes around the end of its ring', async () => {
    const writes = [0, 1, 2, 3].map(
      (i): Descriptor => ({
        offset: FIRST_BLOCK + i * sector,
        data: filled(80 + i, sector),
      }),
    );
    const at = [MiB - 3 * sector, MiB - sector, sector, 3 * sector];
    const unit = dirty(at.map((place, i) => ({ at: place, descriptors: [writes[i]!] })));
    expect(same(await replayed(unit), naiveVhdx(fileWith(writes))!)).toBe(true);
  });

  it('of two sequences the one with the larger number is active', async () => {
    const old: Descriptor = { offset: FIRST_BLOCK, data: filled(90, sector) };
    const current: Descriptor = { offset: FIRST_BLOCK + sector, data: filled(91, sector) };
    for (const [first, second] of [
      [30, 20],
      [20, 30],
    ] as const) {
      const unit = dirty([
        { at: 0, descriptors: [first > second ? current : old], sequence: first, tail: 0 },
        {
          at: 16 * sector,
          descriptors: [first > second ? old : current],
          sequence: second,
          tail: 16 * sector,
        },
      ]);
      expect(same(await replayed(unit), naiveVhdx(fileWith([current]))!)).toBe(true);
    }
  });

  it('has sequence numbers beyond 32 bits', async () => {
    const big = 2 ** 40 + 3;
    const first: Descriptor = { offset: FIRST_BLOCK, data: filled(95, sector) };
    const unit = dirty([{ at: 0, descriptors: [first], sequence: big }]);
    expect(same(await replayed(unit), naiveVhdx(fileWith([first]))!)).toBe(true);
  });

  it('many descriptors fill more than one sector', async () => {
    const descriptors = Array.from(
      { length: 200 },
      (_, i): Descriptor =>
        i % 3 === 0
          ? { offset: FIRST_BLOCK + i * sector, zeros: sector }
          : { offset: FIRST_BLOCK + i * sector, data: filled(i, sector) },
    );
    expect(
      same(await replayed(dirty([{ at: sector, descriptors }])), naiveVhdx(fileWith(descriptors))!),
    ).toBe(true);
  });

  it('metadata and region tables are read as the log brings them too', async () => {
    const item = METADATA_AT + 65536;
    const data = clean.slice(item, item + sector);
    // The virtual size, 8 bytes after the file parameters.
    new DataView(data.buffer).setBigUint64(8, BigInt(2 * MiB), true);
    const { map } = await load(loadVhdx, dirty([{ at: 0, descriptors: [{ offset: item, data }] }]));
    expect(map.size).toBe(2 * MiB);
  });

  it('any writes, in any order: as a plain file would have them', async () => {
    const blocks = fc.nat({ max: (2 * MiB) / sector - 9 });
    const write = fc.record({
      at: blocks,
      length: fc.integer({ min: 1, max: 8 }),
      seed: fc.nat(250),
      zeros: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(write, { minLength: 1, maxLength: 40 }), async (writes) => {
        const descriptors = writes.flatMap(({ at, length, seed, zeros }): Descriptor[] =>
          zeros
            ? [{ offset: FIRST_BLOCK + at * sector, zeros: length * sector }]
            : Array.from({ length }, (_, i) => ({
                offset: FIRST_BLOCK + (at + i) * sector,
                data: filled(seed + i, sector),
              })),
        );
        const image = await load(
          loadVhdx,
          dirty([{ at: 8 * sector, descriptors: descriptors.slice(0, 200) }]),
        );
        expect(same(await contentsOf(image), naiveVhdx(fileWith(descriptors.slice(0, 200)))!)).toBe(true);
      }),
      { numRuns: 25 },
    );
  });
});

describe('a log that is not whole', () => {
  const one: Descriptor = { offset: FIRST_BLOCK, data: filled(1, sector) };
  const two: Descriptor = { offset: FIRST_BLOCK + sector, data: filled(2, sector) };

  it('an entry that was being written ends the sequence', async () => {
    const unit = dirty(
      [
        { at: 0, descriptors: [one] },
        { at: 2 * sector, descriptors: [two] },
      ],
      (log) => log.fill(0, 3 * sector + 100, 3 * sector + 200),
    );
    expect(same(await replayed(unit), naiveVhdx(fileWith([one]))!)).toBe(true);
  });

  it.each<[string, (log: Uint8Array) => void]>([
    ['nothing written', (log) => log.fill(0)],
    ['one torn entry', (log) => log.fill(0, sector, 2 * sector)],
  ])('%s: its writer changed nothing yet', async (_, harm) => {
    const image = await load(loadVhdx, dirty([{ at: 0, descriptors: [moveBlock2] }], harm));
    expect(image.warnings.join()).toMatch(/no whole entry was in its log/);
    expect(same(await contentsOf(image), naiveVhdx(clean)!)).toBe(true);
  });

  it('entries of another log do not count', async () => {
    const guid = '99999999-2222-3333-4444-555555555555';
    const image = await load(loadVhdx, dirty([{ at: 0, descriptors: [moveBlock2], guid }]));
    expect(image.warnings.join()).toMatch(/no whole entry/);
    expect(same(await contentsOf(image), naiveVhdx(clean)!)).toBe(true);
  });

  it('several entries, and no sequence whole: refused', async () => {
    const entries = [
      { at: 0, descriptors: [one] },
      { at: 2 * sector, descriptors: [two] },
    ];
    const error = await refusalOf(
      loadVhdx,
      dirty(entries, (log) => log.fill(1, sector + 8, sector + 10)),
    );
    expect([error.kind, error.offset]).toEqual(['malformed', LOG_AT]);
    expect(error.message).toMatch(/no sequence of log entries is whole/);
  });

  it('of a file that was cut since: refused', async () => {
    const unit = dirty([{ at: 0, descriptors: [one], flushed: fileSize + MiB }]);
    expect((await refusalOf(loadVhdx, unit)).message).toMatch(/it is cut short/);
  });

  it.each<[string, EntryAt]>([
    ['descriptor beyond 2^53', { at: 0, descriptors: [{ offset: 2 ** 53 - 4096, data: filled(1, sector) }] }],
    ['zeros without end', { at: 0, descriptors: [{ offset: 4096, zeros: 2 ** 53 - 4096 }] }],
    ['a file without end', { at: 0, descriptors: [one], last: 2 ** 53 }],
  ])('%s: refused', async (_, entry) => {
    const error = await refusalOf(loadVhdx, dirty([entry]));
    expect(error.message).toMatch(/below 2\^53/);
  });

  it('larger than any writer makes, or at no place for a log: refused', async () => {
    const spec = { size: MiB, blocks: [{ state: 0 }] };
    const large = withLog(buildVhdx({ ...spec, logBytes: 33 * MiB }), []);
    expect((await refusalOf(loadVhdx, new BytesUnit(large))).kind).toBe('limit');
    const patchHeader = (header: DataView) => header.setBigUint64(72, 4096n, true);
    const misplaced = withLog(buildVhdx({ ...spec, patchHeader }), []);
    expect((await refusalOf(loadVhdx, new BytesUnit(misplaced))).message).toMatch(/whole mebibytes/);
    const past = withLog(buildVhdx({ ...spec, logBytes: 8 * MiB }), []);
    expect((await refusalOf(loadVhdx, new BytesUnit(past))).message).toMatch(/log lies past the end/);
  });

  it('made to be slow: each sector an entry over all the rest: refused soon', async () => {
    const harm = (log: Uint8Array) => {
      const header = logEntry({ sequence: 1, tail: 0, descriptors: [], flushed: 0, last: 0 });
      new DataView(header.buffer).setUint32(8, MiB, true);
      for (let at = 0; at < MiB; at += sector) log.set(header, at);
    };
    const begun = performance.now();
    const error = await refusalOf(loadVhdx, dirty([{ at: 0, descriptors: [one] }], harm));
    expect(error.message).toMatch(/over one another many times/);
    expect(performance.now() - begun).toBeLessThan(2000);
  });
});

describe('one damaged byte of a log', () => {
  it('all of it, its first entry, or nothing is replayed, or the image is refused', {
    timeout: fuzzSeconds * 1000 + 30_000,
  }, async () => {
    const first: Descriptor[] = [{ offset: FIRST_BLOCK, data: filled(11, sector) }, moveBlock2];
    const second: Descriptor[] = [
      { offset: FIRST_BLOCK + sector, data: filled(12, sector) },
      { offset: FIRST_BLOCK, zeros: sector },
    ];
    const states = [[], first, [...first, ...second]].map((writes) => naiveVhdx(fileWith(writes))!);
    const { bytes } = dirty([
      { at: 0, descriptors: first },
      { at: 3 * sector, descriptors: second },
    ]);
    const seen = new Set<number>();
    await fc.assert(
      fc.asyncProperty(fc.nat(5 * sector - 1), fc.integer({ min: 1, max: 255 }), async (place, change) => {
        bytes[LOG_AT + place]! ^= change;
        const contents = await contentsOrRefusal(loadVhdx, new BytesUnit(bytes));
        bytes[LOG_AT + place]! ^= change;
        const state = contents === null ? -1 : states.findIndex((known) => same(known, contents));
        expect(contents === null || state >= 0).toBe(true);
        seen.add(state);
      }),
      {
        numRuns: 2000,
        interruptAfterTimeLimit: fuzzSeconds * 1000,
        endOnFailure: true,
        // The second entry's data, and the first's.
        examples: [
          [4 * sector + 100, 1],
          [sector + 100, 1],
        ],
      },
    );
    // Damage in the second entry leaves the first; damage in the first leaves no sequence.
    expect([...seen].sort()).toEqual([-1, 1]);
  });
});

describeWith('qemu', 'logs that QEMU replays too', () => {
  const folder = temporaryFolder();

  it('come to the same contents', async () => {
    const made = join(folder, 'made.vhdx');
    const raw = join(folder, 'contents.raw');
    qemuImg('create', '-f', 'vhdx', '-o', 'subformat=dynamic,block_size=1M', made, '6M');
    qemuIo(made, ['write -P 1 0 1M', 'write -P 2 2M 1M', 'write -P 3 4M 1M'], ['-f', 'vhdx']);
    const image = readFileSync(made);
    const places = [0, 2, 4].map((block) => placeOf(image, block));
    const data = (i: number): Descriptor => ({
      offset: places[i % 3]! + sector * (i % 7),
      data: filled(i, sector),
    });
    const sequences: readonly (readonly EntryAt[])[] = [
      [{ at: 0, descriptors: [data(0), data(1), data(2)] }],
      [{ at: 5 * sector, descriptors: [data(3), { offset: places[1]!, zeros: 32 * sector }, data(4)] }],
      [
        { at: 0, descriptors: [data(5), { offset: places[2]!, zeros: 8 * sector }] },
        { at: 2 * sector, descriptors: [data(6), data(7), data(8)] },
        { at: 6 * sector, descriptors: [{ offset: places[0]! + sector, zeros: sector }] },
      ],
    ];
    for (const [i, entries] of sequences.entries()) {
      const ours = join(folder, `dirty-${i}.vhdx`);
      const theirs = join(folder, `repaired-${i}.vhdx`);
      const built = entries.map((entry, k) => {
        const sizes = { flushed: image.length, last: image.length };
        return {
          at: entry.at,
          bytes: logEntry({ sequence: 1 + k, tail: entries[0]!.at, ...sizes, ...entry }),
        };
      });
      writeFileSync(ours, withLog(new Uint8Array(image), built));
      copyFileSync(ours, theirs);
      qemuImg('check', '-r', 'all', '-f', 'vhdx', theirs);
      qemuImg('convert', '-f', 'vhdx', '-O', 'raw', theirs, raw);
      const unit = openFileUnit(ours);
      const loaded = await load(loadVhdx, unit);
      expect(loaded.warnings.join()).toMatch(/log was replayed in memory/);
      expect(same(await contentsOf(loaded), readFileSync(raw))).toBe(true);
      unit.close();
    }
  });
});

/** Where a block of an image lies, by its block table. */
function placeOf(image: Buffer, block: number): number {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  for (let at = 192 * 1024 + 16; at < 192 * 1024 + 80; at += 32) {
    if (view.getUint32(at, true) !== 0x2dc27766) continue;
    return Number(view.getBigUint64(Number(view.getBigUint64(at + 16, true)) + 8 * block, true) >> 20n) * MiB;
  }
  throw new Error('no block table');
}
