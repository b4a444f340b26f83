import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { FileEntry } from '../../src/disk/containers/container.ts';
import { openNtfs } from '../../src/disk/containers/ntfs.ts';
import { describeWith, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import { randomFrom } from './lvm-builder.ts';
import {
  attributeList,
  type encodeRuns,
  nonResident,
  referenceTo,
  resident,
  writeRecord,
} from './ntfs-builder.ts';
import { NaiveNtfs } from './ntfs-naive.ts';
import { contentsOf, fuzzSeconds, openBytes, patterned } from './ntfs-reading.ts';
import { mkntfs, NtfsWriter, ntfscat, ntfsTools } from './ntfs-writer.ts';

const MiB = 1 << 20;
/** Of one folder: enough for a tree of three levels. */
const FILES = 100;
/** Files larger than this come about by damage: their maps are looked at, and they are not read. */
const MOST_READ = 4 * MiB;

interface Seen {
  readonly contents: ReadonlyMap<string, Buffer>;
  readonly errors: readonly DriftmapError[];
}

/** All that can be read of a volume; anything thrown that is no DriftmapError fails. */
async function readAll(bytes: Uint8Array): Promise<Seen> {
  const contents = new Map<string, Buffer>();
  const errors: DriftmapError[] = [];
  const attempt = async (act: () => Promise<void>) => {
    try {
      await act();
    } catch (error) {
      if (!(error instanceof DriftmapError) || error.kind === 'internal') throw error;
      if (error.message.length > 600) expect.fail(error.message);
      errors.push(error);
    }
  };
  const unit = new BytesUnit(bytes);
  await attempt(async () => {
    const system = await openNtfs(unit);
    const entries: FileEntry[] = [];
    await attempt(async () => {
      for await (const entry of system.files()) entries.push(entry);
    });
    for (const entry of entries) {
      await attempt(async () => {
        const map = await entry.map();
        if (map.size !== entry.size) expect.fail(`${entry.path}: ${map.size} bytes, listed as ${entry.size}`);
        if (map.size <= MOST_READ) contents.set(entry.path, await contentsOf(unit, entry));
      });
    }
  });
  return { contents, errors };
}

function secondReading(bytes: Uint8Array): { path: ReadonlyMap<string, Buffer>; all: readonly Buffer[] } {
  try {
    const files = new NaiveNtfs(bytes)
      .files()
      .flatMap(({ paths, contents }) => (contents ? [{ paths, contents }] : []));
    return {
      path: new Map(files.flatMap(({ paths, contents }) => paths.map((path) => [path, contents] as const))),
      all: files.map(({ contents }) => contents),
    };
  } catch {
    return { path: new Map(), all: [] };
  }
}

describeWith(ntfsTools, 'a volume of NTFS that is damaged', () => {
  const folder = temporary();
  const path = join(folder, 'good.img');
  let good: Buffer;
  let whole: Seen;
  let numbers: Record<'outer' | 'inner' | 'leaf' | 'many' | 'pieces' | 'disk', number>;
  /** What a reader goes by: the boot sector, records, index blocks, a list, the log's first pages. */
  const metadata: [offset: number, length: number][] = [];

  beforeAll(() => {
    mkntfs(path, { size: 4 * MiB, cluster: 1024 });
    const writer = new NtfsWriter(path);
    const outer = writer.folder(writer.root, 'outer');
    const inner = writer.folder(outer, 'inner');
    const leaf = writer.file(inner, 'leaf', patterned(400, 1));
    const disk = writer.file(outer, 'disk.vhdx', patterned(40_000, 2));
    writer.link(disk, inner, 'link.vhdx');
    const many = writer.folder(writer.root, 'many');
    for (let i = 0; i < FILES; i++) writer.file(many, `a file with number ${i}`, patterned(i % 20, i));
    const pieces = writer.file(writer.root, 'pieces', patterned(1024, 3), 500 * 1024);
    const places = Array.from({ length: 240 }, (_, i) => 2 * i * 1024);
    writer.writeEach(pieces, patterned(1024, 4), places);
    writer.close();
    good = readFileSync(path);
    numbers = {
      outer: outer.number,
      inner: inner.number,
      leaf: leaf.number,
      many: many.number,
      pieces: pieces.number,
      disk: disk.number,
    };
    const naive = new NaiveNtfs(good);
    metadata.push([0, 512], [naive.rangesOf(2, 0x80)[0]![0], 8192]);
    for (const { number } of naive.records()) metadata.push([naive.placeOf(number), 1024]);
    metadata.push(
      ...naive.rangesOf(many.number, 0xa0),
      ...naive.rangesOf(5, 0xa0),
      ...naive.rangesOf(pieces.number, 0x20),
    );
  });

  beforeAll(async () => {
    whole = await readAll(good);
  });

  it('is whole before', async () => {
    expect(whole.errors).toEqual([]);
    expect(whole.contents.size).toBe(FILES + 4);
    expect(new NaiveNtfs(good).record(numbers.pieces).attributes.some(({ type }) => type === 0x20)).toBe(
      true,
    );
    const naive = secondReading(good);
    for (const [name, bytes] of whole.contents) expect(naive.path.get(name)?.equals(bytes), name).toBe(true);
  });

  it('in any one byte of its metadata is read by its tables or not at all', async () => {
    const bytes = Buffer.from(good);
    const random = randomFrom(29);
    const end = performance.now() + fuzzSeconds * 750;
    let [rounds, refused] = [0, 0];
    for (; rounds < 60 || performance.now() < end; rounds++) {
      const [from, length] = metadata[random(metadata.length)]!;
      // Most of a record is at its beginning.
      const at = from + (random(2) ? random(Math.min(length, 450)) : random(length));
      bytes[at] = random(2) ? good[at]! ^ (1 << random(8)) : random(256);
      const seen = await readAll(bytes);
      if (seen.errors.length > 0) refused++;
      // A reading that the damage changed is compared with the second one; of the others, some are.
      const changed = [...seen.contents].filter(([name, each]) => !whole.contents.get(name)?.equals(each));
      const naive = changed.length > 0 || rounds % 8 === 0 ? secondReading(bytes) : null;
      for (const [name, contents] of seen.contents) {
        if (naive === null) break;
        // What is as it was before the damage is not invented, whatever the stricter of the two makes of it.
        if (whole.contents.get(name)?.equals(contents)) continue;
        const same = naive.path.has(name)
          ? naive.path.get(name)!.equals(contents)
          : naive.all.some((each) => each.equals(contents));
        if (!same) expect.fail(`byte ${at}, ${good[at]} → ${bytes[at]}: ${name} has other contents`);
      }
      bytes[at] = good[at]!;
    }
    process.stderr.write(`NTFS: ${rounds} damaged bytes, ${refused} met with an error\n`);
    expect(refused).toBeGreaterThan(rounds / 20);
  }, 600_000);

  it('and read by ntfscat as well has the same contents there', async () => {
    const bytes = Buffer.from(good);
    const mutant = join(folder, 'mutant.img');
    const random = randomFrom(31);
    const naive = new NaiveNtfs(good);
    const end = performance.now() + fuzzSeconds * 250;
    let compared = 0;
    for (let round = 0; (compared < 4 && round < 100) || performance.now() < end; round++) {
      const [number, name] = (
        [
          [numbers.pieces, '/pieces'],
          [numbers.disk, '/outer/disk.vhdx'],
          [numbers.leaf, '/outer/inner/leaf'],
        ] as const
      )[round % 3]!;
      const data = naive
        .record(number)
        .attributes.find(({ type }) => type === (number === numbers.pieces ? 0x20 : 0x80))!;
      const at = naive.placeOf(number) + data.at + random(data.bytes.length);
      bytes[at] = good[at]! ^ (1 << random(8));
      const contents = (await readAll(bytes)).contents.get(name);
      if (contents !== undefined) {
        writeFileSync(mutant, bytes);
        let said: Buffer | null = null;
        try {
          said = ntfscat(mutant, name);
        } catch {
          // What it refuses says nothing.
        }
        if (said !== null) {
          compared++;
          if (!said.equals(contents)) expect.fail(`byte ${at}, ${good[at]} → ${bytes[at]}: ${name}`);
        }
      }
      bytes[at] = good[at]!;
    }
    expect(compared).toBeGreaterThan(3);
    process.stderr.write(`NTFS: ${compared} damaged files compared with ntfscat\n`);
  }, 600_000);

  it('by being cut at any cluster has whole files or errors', async () => {
    const random = randomFrom(37);
    const cuts = Array.from({ length: 40 }, () => random(4096) * 1024);
    for (const [from, length] of metadata) cuts.push(from, from + length, from + 512);
    const unique = [...new Set(cuts)];
    const end = performance.now() + fuzzSeconds * 500;
    for (let i = 0; i < unique.length && (i < 20 || performance.now() < end); i++) {
      // A step that meets all of them in the end, and the first few of every kind in little time.
      const cut = unique[(i * 37) % unique.length]!;
      const { contents, errors } = await readAll(good.subarray(0, cut));
      for (const [name, bytes] of contents) {
        if (!whole.contents.get(name)?.equals(bytes)) expect.fail(`cut at ${cut}: ${name}`);
      }
      expect(contents.size === whole.contents.size || errors.length > 0, `cut at ${cut}`).toBe(true);
    }
  }, 600_000);

  describe('in its folders', () => {
    /** Offsets of the entries of a folder's index root, within its record. */
    function rootEntries(raw: Buffer, root: number): number[] {
      return nodeEntries(raw, root + raw.readUInt16LE(root + 20) + 16);
    }

    it('by a loop of folders is listed once, and then said', async () => {
      const bytes = Buffer.from(good);
      const naive = new NaiveNtfs(bytes);
      const sequence = naive.record(numbers.outer).bytes.readUInt16LE(16);
      naive.change(numbers.inner, (raw, at) => {
        // `leaf` in `inner` becomes `outer`, in which `inner` is.
        const [first] = rootEntries(raw, at(0x90));
        raw.set(referenceTo({ number: numbers.outer, sequence }), first!);
      });
      const { contents, errors } = await readAll(bytes);
      expect(contents.size).toBe(FILES + 3);
      expect(errors.map((error) => error.message)).toEqual([
        expect.stringMatching(/\/outer\/inner\/leaf: the tree of directories leads to this one twice/),
      ]);
      const system = await openBytes(bytes);
      const path_ = `/outer${'/inner/leaf'.repeat(50)}/disk.vhdx`;
      expect((await system.lookup(path_)).size).toBe(40_000);
    });

    /** Offsets of the entries of a node, whose header is at `header`. */
    function nodeEntries(raw: Buffer, header: number): number[] {
      const found: number[] = [];
      for (let at = header + raw.readUInt32LE(header); ; at += raw.readUInt16LE(at + 8)) {
        found.push(at);
        if (raw.readUInt16LE(at + 12) >= 2) return found;
      }
    }

    it.each([
      [
        'to one block twice',
        (inner: Buffer, child: (i: number) => number) => inner.copy(inner, child(1), child(0), child(0) + 8),
      ],
      [
        'to its own block',
        (inner: Buffer, child: (i: number) => number) => inner.copy(inner, child(0), 16, 24),
      ],
    ])('by a tree that leads %s is an error', async (_, edit) => {
      const bytes = Buffer.from(good);
      const blocks = new NaiveNtfs(bytes)
        .rangesOf(numbers.many, 0xa0)
        .flatMap(([from, length]) =>
          Array.from({ length: length / 4096 }, (__, i) => bytes.subarray(from + 4096 * i)),
        );
      // ntfs-3g moves a root that is full into a block: that one has the others as its children.
      const inner = blocks.find((block) => block[24 + 12]! % 2 === 1)!;
      const entries = nodeEntries(inner, 24);
      expect(entries.length).toBeGreaterThan(1);
      edit(inner, (i) => entries[i]! + inner.readUInt16LE(entries[i]! + 8) - 8);
      const { contents, errors } = await readAll(bytes);
      expect(contents.size).toBeLessThan(FILES + 4);
      expect(contents.size).toBeGreaterThanOrEqual(4);
      expect(errors.map((error) => error.message)).toEqual([
        expect.stringMatching(/index block \d+ of directory \d+: the directory's tree leads to it twice/),
      ]);
    });

    it('by the blocks of another folder, or its own in another place, is an error', async () => {
      for (const [edit, reason] of [
        [(block: Buffer) => block.writeUIntLE(4, 16, 6), /it says it is block 4/],
        [(block: Buffer) => block.write('FILE', 'latin1'), /expected it to begin with INDX, got FILE/],
        [(block: Buffer) => block.write('BAAD', 'latin1'), /marked BAAD/],
        [(block: Buffer) => block.writeUInt8(block[511]! ^ 1, 511), /is torn/],
        [(block: Buffer) => block.writeUIntLE(3, 24 + block.readUInt32LE(24) + 16, 6), /got one of another/],
      ] as const) {
        const bytes = Buffer.from(good);
        const [[at]] = new NaiveNtfs(bytes).rangesOf(numbers.many, 0xa0) as [[number, number]];
        edit(bytes.subarray(at, at + 4096));
        const { errors } = await readAll(bytes);
        expect(errors.map((error) => error.message)).toEqual([expect.stringMatching(reason)]);
        expect(errors[0]!.offset).toBeGreaterThanOrEqual(at);
        expect(errors[0]!.offset).toBeLessThan(at + 4096);
      }
    });
  });

  describe('in a record', () => {
    const data = (runs: Parameters<typeof encodeRuns>[0], more: object = {}) =>
      nonResident({ type: 0x80, id: 9, runs, sizes: [2048, 2048, 2048], ...more });

    /** The error of mapping a file whose record has other attributes in place of its data. */
    async function mapped(
      attributes: (base: { number: number; sequence: number }) => readonly Buffer[],
    ): Promise<unknown> {
      const bytes = Buffer.from(good);
      const naive = new NaiveNtfs(bytes);
      const number = numbers.disk;
      const { bytes: old, attributes: before } = naive.record(number);
      const base = { number, sequence: old.readUInt16LE(16) };
      const kept = before.filter(({ type }) => type === 0x10).map((each) => Buffer.from(each.bytes));
      naive.change(number, (raw) =>
        writeRecord(raw, { ...base, attributes: [...kept, ...attributes(base)] }),
      );
      const entry = await (await openBytes(bytes)).lookup('/outer/disk.vhdx');
      return [...(await entry.map()).extents()].map(({ length, place }) => [length, place / 1024]);
    }

    it('nothing is wrong at first: runs may go back, and repeat', async () => {
      expect(
        await mapped(() => [
          data([
            [1, 3000],
            [1, 20],
          ]),
        ]),
      ).toEqual([
        [1024, 3000],
        [1024, 20],
      ]);
      expect(
        await mapped(() => [
          data([
            [1, 300],
            [1, 300],
          ]),
        ]),
      ).toEqual([
        [1024, 300],
        [1024, 300],
      ]);
    });

    it.each([
      ['runs past the volume', [data([[2, 4095]])], /clusters of the volume \(0 to 4094\), got 2 from 4095/],
      [
        'runs before the volume',
        [
          data([
            [1, 5],
            [1, -1],
          ]),
        ],
        /got 1 from -1/,
      ],
      ['runs of another length than it says', [data([[2, 9]], {}).fill(2, 24, 25)], /they end before 2/],
      ['too short runs for its size', [data([[1, 9]])], /expected clusters for 2048 bytes, its runs have 1/],
      [
        'a size beyond what is allocated',
        [data([[2, 9]], { sizes: [1024, 2048, 0] })],
        /within the 1024 bytes allocated/,
      ],
      [
        'more initialized than allocated',
        [data([[2, 9]], { sizes: [2048, 2048, 4096] })],
        /at most 2048 bytes initialized/,
      ],
      ['a run of no clusters', [data([[2, 9]]).fill(0, 65, 66)], /got one of 0 at 0/],
      ['a run of a negative length', [data([[2, 9]]).fill(0xff, 65, 66)], /got one of -1 at 0/],
      ['a run with a header of nonsense', [data([[2, 9]]).fill(0x19, 64, 65)], /expected a run, got 25/],
      ['a run list without an end', [data([[2, 9]]).fill(0x11, 64)], /run list in MFT record/],
      ['no data', [], /no unnamed data attribute/],
      [
        'two values',
        [resident(0x80, 1, patterned(5, 1)), resident(0x80, 2, patterned(5, 2))],
        /extents of attribute 80 in order/,
      ],
      ['a first extent that is missing', [data([[2, 9]], { lowest: 7 })], /extents of attribute 80 in order/],
    ])('%s is an error', async (_, attributes, reason) => {
      await expect(mapped(() => attributes)).rejects.toMatchObject({
        kind: 'malformed',
        message: expect.stringMatching(reason),
      });
    });

    it('a list that leads nowhere, elsewhere, or is too long is an error', async () => {
      const list = (parts: Parameters<typeof attributeList>[0]) => [resident(0x20, 8, attributeList(parts))];
      const leaf = { number: numbers.leaf, sequence: 1 };
      await expect(
        mapped((base) => [...list([{ type: 0x80, id: 9, record: base }]), data([[2, 9]])]),
      ).resolves.toEqual([[2048, 9]]);
      for (const [attributes, reason] of [
        [list([{ type: 0x80, id: 9, record: leaf }]), /expected a record that extends record/],
        [
          list([{ type: 0x80, id: 9, record: { number: 2 ** 40, sequence: 1 } }]),
          /got a reference to record 1099511627776/,
        ],
        [list([]), /no unnamed data attribute/],
        [
          [resident(0x20, 8, attributeList([{ type: 0x80, id: 9, record: leaf }]).subarray(0, 30))],
          /an entry within the list/,
        ],
      ] as const) {
        await expect(mapped(() => attributes)).rejects.toMatchObject({
          kind: 'malformed',
          message: expect.stringMatching(reason),
        });
      }
      const long = nonResident({
        type: 0x20,
        id: 8,
        runs: [[300, 9]],
        sizes: [300 * 1024, 270_000, 270_000],
      });
      await expect(mapped(() => [long])).rejects.toMatchObject({ kind: 'limit' });
    });

    it('an extent that is listed twice is an error', async () => {
      await expect(
        mapped((base) => [
          resident(
            0x20,
            8,
            attributeList([0, 1, 1].map((lowest) => ({ type: 0x80, id: 9 + lowest, lowest, record: base }))),
          ),
          data([[1, 9]]),
          nonResident({ type: 0x80, id: 10, lowest: 1, runs: [[1, 5]] }),
        ]),
      ).rejects.toMatchObject({
        message: expect.stringMatching(/expected it to go on at cluster 2, it begins at 1/),
      });
    });
  });
});
