import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { isNtfs, openNtfs } from '../../src/disk/containers/ntfs.ts';
import { isZero, Kind } from '../../src/mapping/extent-map.ts';
import { describeWith, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import { attributeList, nonResident, type Run, resident, writeRecord } from './ntfs-builder.ts';
import { NaiveNtfs } from './ntfs-naive.ts';
import { contentsOf, listed, openBytes, patterned } from './ntfs-reading.ts';
import { mkntfs, NtfsWriter, ntfscat, ntfsTools } from './ntfs-writer.ts';

const MiB = 1 << 20;

/** Sizes around the places of fixups in a record of 1 KiB, and around what is resident at all. */
const SMALL = [
  0, 1, 8, 100, 157, 158, 159, 160, 161, 200, 400, 500, 600, 650, 660, 670, 680, 690, 700, 720, 800,
];

function fill(path: string, cluster: number): void {
  const writer = new NtfsWriter(path);
  const folder = writer.folder(writer.root, 'small files');
  for (const size of SMALL) writer.file(folder, `${size} bytes`, patterned(size, size + 1));
  const images = writer.folder(writer.folder(writer.root, 'Images'), 'Nested ünïcödé');
  const disk = writer.file(images, 'disk.vhdx', patterned(300_001, 2));
  writer.link(disk, writer.root, 'a hard link.vhdx');
  writer.dosName(
    writer.file(images, 'a long name of a disk.vhd', patterned(5000, 3)),
    images,
    'ALONGN~1.VHD',
  );
  writer.stream(writer.file(images, 'with a stream', patterned(100, 4)), 'other', 3 * cluster);
  // Two files that grow in turns: neither lies in one piece.
  const [one, two] = [writer.file(writer.root, 'one'), writer.file(writer.root, 'two')];
  const piece = Math.max(cluster, 4096);
  for (let at = 0; at < 20; at++) {
    writer.write(one, patterned(piece, 100 + at), at * piece);
    writer.write(two, patterned(piece, 200 + at), at * piece);
  }
  // Holes before, between and behind.
  const holes = writer.file(writer.root, 'holes', patterned(piece, 5), 3 * piece);
  writer.write(holes, patterned(100, 6), 7 * piece + 50);
  writer.truncate(holes, 20 * piece + 1);
  writer.close();
}

describeWith(ntfsTools, 'a volume of NTFS', () => {
  const folder = temporary();

  it.each([
    [512, 512, 8],
    [1024, 512, 8],
    [2048, 1024, 8],
    [4096, 512, 8],
    [4096, 4096, 8],
    [16384, 512, 16],
    [65536, 512, 16],
    [262144, 512, 48],
  ])(
    'with clusters of %i and sectors of %i bytes lists and reads as it does',
    async (cluster, sector, size) => {
      const path = join(folder, `c${cluster}-s${sector}.img`);
      mkntfs(path, { size: size * MiB, cluster, sector, label: `Daten ${cluster}` });
      fill(path, cluster);
      const bytes = readFileSync(path);
      const unit = new BytesUnit(bytes);
      expect(await isNtfs(unit)).toBe(true);
      const system = await openNtfs(unit);
      expect([system.kind, system.label, system.warnings]).toEqual(['ntfs', `Daten ${cluster}`, []]);
      const entries = await listed(system.files());
      expect(entries.map((entry) => entry.path).sort()).toEqual(
        [
          ...SMALL.map((each) => `/small files/${each} bytes`),
          ...['disk.vhdx', 'a long name of a disk.vhd', 'with a stream'].map(
            (name) => `/Images/Nested ünïcödé/${name}`,
          ),
          ...['/a hard link.vhdx', '/one', '/two', '/holes'],
        ].sort(),
      );
      const naive = new Map(
        new NaiveNtfs(bytes).files().flatMap((each) => each.paths.map((name) => [name, each])),
      );
      for (const entry of entries) {
        const said = ntfscat(path, entry.path);
        const read = await contentsOf(unit, entry);
        expect(read.equals(said), entry.path).toBe(true);
        expect(naive.get(entry.path)?.contents?.equals(said), entry.path).toBe(true);
        expect(entry.size).toBe(said.length);
        const again = await system.lookup(entry.path);
        expect([again.path, again.size, again.kind]).toEqual([entry.path, entry.size, entry.kind]);
      }
    },
    30_000,
  );

  it('has holes where nothing was written, and extents where ntfs-3g put the clusters', async () => {
    const path = join(folder, 'holes.img');
    mkntfs(path, { size: 8 * MiB });
    fill(path, 4096);
    const bytes = readFileSync(path);
    const system = await openBytes(bytes);
    const naive = new NaiveNtfs(bytes);
    for (const name of ['/holes', '/one', '/Images/Nested ünïcödé/disk.vhdx']) {
      const entry = await system.lookup(name);
      const map = await entry.map();
      const { record } = naive.files().find(({ paths }) => paths.includes(name))!;
      const data = [...map.extents()].filter(({ kind }) => kind === Kind.data);
      const ranges = naive.rangesOf(record, 0x80);
      expect(data.map(({ place }) => place)).toEqual(ranges.map(([offset]) => offset));
      // The last run goes on to the end of its cluster.
      for (const [i, { length }] of data.entries()) {
        const short = ranges[i]![1] - length;
        expect(i < data.length - 1 ? short === 0 : short >= 0 && short < 4096).toBe(true);
      }
    }
    const holes = await system.lookup('/holes');
    expect(holes.kind).toBe('sparse');
    expect(
      [...(await holes.map()).extents()].map(({ offset, length, kind }) => [offset, length, isZero(kind)]),
    ).toEqual([
      [0, 3 * 4096, true],
      [3 * 4096, 4096, false],
      [4 * 4096, 3 * 4096, true],
      [7 * 4096, 150, false],
      [7 * 4096 + 150, 4096 - 150, true],
      [8 * 4096, 12 * 4096 + 1, true],
    ]);
  });

  it('reads as zeros behind what was initialized, and the zeros keep their place', async () => {
    const path = join(folder, 'initialized.img');
    mkntfs(path, { size: 8 * MiB });
    fill(path, 4096);
    const bytes = readFileSync(path);
    const naive = new NaiveNtfs(bytes);
    const name = '/Images/Nested ünïcödé/disk.vhdx';
    const { record } = naive.files().find(({ paths }) => paths.includes(name))!;
    for (const initialized of [0, 1, 4095, 4096, 5000, 300_000, 300_001]) {
      naive.change(record, (raw, attributeAt) => raw.writeUIntLE(initialized, attributeAt(0x80) + 56, 6));
      writeFileSync(path, bytes);
      const unit = new BytesUnit(bytes);
      const entry = await (await openNtfs(unit)).lookup(name);
      const read = await contentsOf(unit, entry);
      expect(read.equals(ntfscat(path, name)), `${initialized}`).toBe(true);
      expect(read.equals(patterned(300_001, 2).fill(0, initialized))).toBe(true);
      const extents = [...(await entry.map()).extents()];
      const runs = naive.rangesOf(record, 0x80);
      expect(extents[0]!.place).toBe(runs[0]![0]);
      if (initialized > 300_000) continue;
      const zero = extents.findIndex(({ kind }) => kind === Kind.zero);
      expect(extents[zero]!.offset).toBe(initialized);
      if (zero > 0) {
        expect(extents[zero]!.place).toBe(extents[zero - 1]!.place + extents[zero - 1]!.length);
      }
    }
  });

  it('maps what lies in an MFT record byte by byte, also where fixups replaced it', async () => {
    const path = join(folder, 'resident.img');
    mkntfs(path, { size: 8 * MiB });
    fill(path, 4096);
    const bytes = readFileSync(path);
    const system = await openBytes(bytes);
    const naive = new NaiveNtfs(bytes);
    let split = 0;
    for (const size of SMALL.filter((each) => each <= 600)) {
      const name = `/small files/${size} bytes`;
      const { record } = naive.files().find(({ paths }) => paths.includes(name))!;
      const extents = [...(await (await system.lookup(name)).map()).extents()];
      const from = naive.placeOf(record);
      for (const { place, length } of extents) {
        expect(place >= from && place + length <= from + 1024).toBe(true);
      }
      if (extents.some(({ length, place }) => length <= 2 && place < from + 56)) split++;
    }
    // The first sector's last two bytes are among the values of 159 bytes and more.
    expect(split).toBeGreaterThan(8);
  });

  it('whose MFT and files are in hundreds of pieces reads as it does', async () => {
    const path = join(folder, 'pieces.img');
    const { writer, stays } = fragmented(path, 20 * MiB);
    const many = writer.folder(writer.root, 'many');
    const names = Array.from({ length: 20_000 }, (_, i) => `many-${i}`);
    const made = writer.emptyFiles(many, names);
    // The volume is full now: make room.
    writer.truncate(stays, MiB);
    const pieces = writer.file(writer.root, 'pieces', patterned(1024, 1), 3000 * 1024);
    const places = Array.from({ length: 1000 }, (_, i) => 3 * i * 1024);
    writer.writeEach(pieces, patterned(1024, 2), places);
    writer.close();

    const bytes = readFileSync(path);
    await agree(path, bytes, made.length + 2);
    const system = await openBytes(bytes);
    const mft = await (await system.lookup('/$MFT')).map();
    expect(mft.count).toBeGreaterThan(100);
    expect((await (await system.lookup('/pieces')).map()).count).toBe(2001);

    // The same volume with the MFT's own runs in three records, of which the last is found through the second.
    const runs = new NaiveNtfs(bytes).runsOf(0);
    const parts = [runs.slice(0, 5), runs.slice(5, 60), runs.slice(60)] as const;
    const ends = parts.map((part) => part.reduce((sum, [count]) => sum + count, 0));
    // Clusters and records are of one size here: record n lies in cluster n of the MFT.
    const second = made.findIndex(({ number }) => number < ends[0]!);
    const third = made.findIndex(({ number }) => number >= ends[0]! && number < ends[0]! + ends[1]!);
    const again = new NtfsWriter(path);
    for (const index of [second, third]) again.remove(made[index]!, many, names[index]!);
    again.close();
    const split = readFileSync(path);
    splitMft(split, parts, [made[second]!.number, made[third]!.number]);
    writeFileSync(path, split);
    await agree(path, split, made.length);
  }, 30_000);
});

/** A volume whose free space is in pieces of one cluster, half of it, and the file between them. */
function fragmented(path: string, size: number) {
  mkntfs(path, { size, cluster: 1024 });
  const writer = new NtfsWriter(path);
  const [stays, goes] = [writer.file(writer.root, 'stays'), writer.file(writer.root, 'goes')];
  for (let at = 0, full = false; !full; at += 1024) {
    try {
      writer.write(stays, patterned(1024, at), at);
      writer.write(goes, patterned(1024, at), at);
    } catch {
      full = true;
    }
  }
  writer.remove(goes, writer.root, 'goes');
  return { writer, stays };
}

/** Lists and reads all files, and has ntfsls, ntfscat and the second reading say the same. */
async function agree(path: string, bytes: Buffer, files: number): Promise<void> {
  const unit = new BytesUnit(bytes);
  const entries = await listed((await openNtfs(unit)).files());
  const said = execFileSync('ntfsls', ['-f', '-R', path], { encoding: 'utf8', maxBuffer: 2 ** 26 });
  const theirs = said.split('\n').filter((line) => /^(stays|many-\d+|pieces)$/.test(line));
  expect(entries.map((entry) => entry.path.split('/').at(-1)!).sort()).toEqual(theirs.sort());
  expect(entries.length).toBe(files);
  const naive = new Map(new NaiveNtfs(bytes).files().map((each) => [each.paths[0]!, each.contents]));
  for (const entry of entries) {
    const read = await contentsOf(unit, entry);
    if (!naive.get(entry.path)?.equals(read)) expect.fail(entry.path);
    if (entry.size > 0) expect(read.equals(ntfscat(path, entry.path)), entry.path).toBe(true);
  }
}

/** Moves the MFT's runs but the first few into two extension records. */
function splitMft(
  bytes: Buffer,
  parts: readonly [Run[], Run[], Run[]],
  extensions: readonly [number, number],
): void {
  const naive = new NaiveNtfs(bytes);
  const old = naive.record(0).attributes;
  const clusters = parts.map((part) => part.reduce((sum, [count]) => sum + count, 0));
  const lowest = [0, clusters[0]!, clusters[0]! + clusters[1]!];
  const data = old.find(({ type }) => type === 0x80)!.bytes;
  const sizes = [40, 48, 56].map((at) => Number(data.readBigUInt64LE(at)));
  const base = { number: 0, sequence: 1 };
  const [first, second] = extensions.map((number) => ({ number, sequence: 77 }));
  const piece = (index: 0 | 1 | 2, id: number) =>
    nonResident({
      type: 0x80,
      id,
      lowest: lowest[index]!,
      runs: parts[index],
      ...(index === 0 ? { sizes: sizes as [number, number, number] } : {}),
    });
  const list = attributeList([
    ...old
      .filter(({ type }) => type < 0x80)
      .map(({ type, bytes: own }) => ({ type, id: own.readUInt16LE(14), record: base })),
    { type: 0x80, id: 70, record: base },
    { type: 0x80, id: 0, lowest: lowest[1]!, record: first! },
    { type: 0x80, id: 0, lowest: lowest[2]!, record: second! },
    { type: 0xb0, id: old.find(({ type }) => type === 0xb0)!.bytes.readUInt16LE(14), record: base },
  ]);
  naive.change(extensions[0], (raw) => writeRecord(raw, { ...first!, base, attributes: [piece(1, 0)] }));
  naive.change(extensions[1], (raw) => writeRecord(raw, { ...second!, base, attributes: [piece(2, 0)] }));
  const copies = old.map((each) => ({ type: each.type, bytes: Buffer.from(each.bytes) }));
  const attributes = [
    ...copies.filter(({ type }) => type === 0x10).map((each) => each.bytes),
    resident(0x20, 71, list),
    ...copies.filter(({ type }) => type > 0x10 && type < 0x80).map((each) => each.bytes),
    piece(0, 70),
    ...copies.filter(({ type }) => type > 0x80).map((each) => each.bytes),
  ];
  naive.change(0, (raw) => writeRecord(raw, { ...base, attributes }));
  // ntfs-3g compares the first records with their mirror.
  const mirror = Number(bytes.readBigUInt64LE(0x38)) * naive.clusterSize;
  bytes.copyWithin(mirror, naive.placeOf(0), naive.placeOf(0) + naive.recordSize);
}
