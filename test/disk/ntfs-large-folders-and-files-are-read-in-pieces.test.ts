import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openNtfs } from '../../src/disk/containers/ntfs.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { describeWith, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import { attributeList, nonResident, type Run, writeRecord } from './ntfs-builder.ts';
import { NaiveNtfs } from './ntfs-naive.ts';
import { listed } from './ntfs-reading.ts';
import { mkntfs, NtfsWriter, ntfsTools } from './ntfs-writer.ts';

const MiB = 1 << 20;

describeWith(ntfsTools, 'a volume of NTFS', () => {
  const folder = temporary();

  it('with 50,000 files, most of them in one folder, is listed in few reads', async () => {
    const path = join(folder, 'many.img');
    mkntfs(path, { size: 96 * MiB });
    const writer = new NtfsWriter(path);
    const expected: string[] = [];
    for (const [name, count] of [
      ['one', 30_000],
      ['other', 20_000],
    ] as const) {
      // Names in another order than records.
      const names = Array.from({ length: count }, (_, i) => `disk ${(i * 7919) % count}.vhdx`);
      expect(writer.emptyFiles(writer.folder(writer.root, name), names).length).toBe(count);
      expected.push(...names.map((each) => `/${name}/${each}`));
    }
    writer.close();
    const unit = new BytesUnit(readFileSync(path));
    const system = await openNtfs(unit);
    const entries = await listed(system.files());
    expect(new Set(entries.map((entry) => entry.path))).toEqual(new Set(expected));
    // 50 MiB of MFT and 6 MiB of folders, in pieces of 64 KiB; a batch begins the MFT anew.
    expect(unit.reads).toBeLessThan(4 * ((56 * MiB) / 65536));
    unit.reads = 0;
    expect((await system.lookup('/ONE/disk 29999.VHDX')).path).toBe('/one/disk 29999.vhdx');
    expect(unit.reads).toBeLessThan(150);
  }, 60_000);

  it('with a file in a million pieces, its runs in thousands of records, maps each of them', async () => {
    const path = join(folder, 'million.img');
    const EXTENSIONS = 3200;
    mkntfs(path, { size: 24 * MiB, cluster: 512 });
    const writer = new NtfsWriter(path);
    const records = writer.emptyFiles(
      writer.root,
      Array.from({ length: EXTENSIONS }, (_, i) => `extension ${i}`),
    );
    expect(records.length).toBe(EXTENSIONS);
    const list = writer.file(writer.root, 'list', new Uint8Array(32 * (EXTENSIONS + 3)).fill(1));
    const file = writer.file(writer.root, 'disk.vhdx');
    writer.close();

    const bytes = readFileSync(path);
    const naive = new NaiveNtfs(bytes);
    const clusters = bytes.length / 512 - 1;
    const base = { number: file.number, sequence: naive.record(file.number).bytes.readUInt16LE(16) };
    const expected: [start: number, cluster: number][] = [];
    let at = 0;
    const some = (pairs: number): Run[] =>
      Array.from({ length: pairs }, () => {
        const cluster = (expected.length * 97) % clusters;
        expected.push([at, cluster]);
        at += 2;
        return [
          [1, cluster],
          [1, null],
        ] as Run[];
      }).flat();

    const first = some(20);
    const pieces: [lowest: number, runs: Run[]][] = records.map(() => [at, some(160)]);
    const size = at * 512 - 7;
    for (const [i, { number }] of records.entries()) {
      const [lowest, runs] = pieces[i]!;
      const data = nonResident({ type: 0x80, id: 0, flags: 0x8000, lowest, runs });
      naive.change(number, (raw) => writeRecord(raw, { number, sequence: 5, base, attributes: [data] }));
    }
    const old = naive.record(file.number).attributes;
    const kept = old.filter(({ type }) => type < 0x80).map((each) => Buffer.from(each.bytes));
    const entries = attributeList([
      ...kept.map((each) => ({ type: each.readUInt32LE(0), id: each.readUInt16LE(14), record: base })),
      { type: 0x80, id: 90, record: base },
      ...records.map(({ number }, i) => ({
        type: 0x80,
        id: 0,
        lowest: pieces[i]![0],
        record: { number, sequence: 5 },
      })),
    ]);
    const [[place]] = naive.rangesOf(list.number, 0x80) as [[number, number]];
    bytes.set(entries, place);
    const listSize = Math.ceil(entries.length / 512) * 512;
    const listAttribute = nonResident({
      type: 0x20,
      id: 91,
      runs: [[listSize / 512, place / 512]],
      sizes: [listSize, entries.length, entries.length],
    });
    const data = nonResident({
      type: 0x80,
      id: 90,
      flags: 0x8000,
      runs: first,
      sizes: [at * 512, size, size],
    });
    const attributes = [kept[0]!, listAttribute, ...kept.slice(1), data];
    naive.change(file.number, (raw) => writeRecord(raw, { ...base, attributes }));

    const system = await openNtfs(new BytesUnit(bytes));
    const entry = await system.lookup('/disk.vhdx');
    expect(entry.size).toBe(size);
    const map = await entry.map();
    expect(map.count).toBe(2 * expected.length);
    expect(map.count).toBeGreaterThan(1_000_000);
    for (const [i, [start, cluster]] of expected.entries()) {
      const index = 2 * i;
      const right =
        map.startOf(index) === start * 512 &&
        map.placeOf(index) === cluster * 512 &&
        map.kindOf(index) === Kind.data &&
        map.kindOf(index + 1) === Kind.zero;
      if (!right) expect.fail(`extent ${index}`);
    }
  }, 60_000);
});
