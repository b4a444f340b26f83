import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { beforeAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openExt4 } from '../../src/disk/containers/ext4.ts';
import type { ExtentMap } from '../../src/mapping/extent-map.ts';
import { describeWith, temporary } from '../tools.ts';
import { collect, contents, debugfs, e2fsck, makeFileSystem, noise, tools } from './ext4-images.ts';
import { journalRuns, writeJournal } from './ext4-journal-builder.ts';
import { NaiveExt4 } from './ext4-naive.ts';
import { BytesUnit } from './images.ts';
import { fuzzSeconds, randomFrom } from './lvm-builder.ts';

const folder = temporary();

/** A small folder: one of everything, in few blocks. */
function smallTree(): string {
  const tree = join(folder, 'tree');
  mkdirSync(join(tree, 'a/b'), { recursive: true });
  writeFileSync(join(tree, 'whole'), noise(30_000, 1));
  const holes = new Uint8Array(40 * 8192);
  for (let i = 0; i < 40; i++) holes.set(noise(1500, i), i * 8192);
  holes.set(noise(100, 50), holes.length - 100);
  writeFileSync(join(tree, 'a/holes'), holes);
  writeFileSync(join(tree, 'a/b/tiny'), noise(100, 2));
  writeFileSync(join(tree, 'a/b/empty'), '');
  for (let i = 0; i < 12; i++) writeFileSync(join(tree, 'a/b', `${i}${'n'.repeat(4 * i)}`), noise(i * 30, i));
  symlinkSync('a/holes', join(tree, 'link'));
  symlinkSync(`${'./'.repeat(40)}a/b/tiny`, join(tree, 'long'));
  return tree;
}

/** Few inodes and blocks, so that the damage hits something. */
const ways: readonly (readonly [string, readonly string[]])[] = [
  ['ext2', ['-O', '^has_journal,^extents,^64bit,^metadata_csum', '-I', '128']],
  ['ext4 without checksums', ['-O', '^metadata_csum,^has_journal']],
  ['inline data without checksums', ['-O', '^metadata_csum,^has_journal,inline_data', '-I', '512']],
  ['with checksums of descriptors', ['-O', '^metadata_csum,uninit_bg,^has_journal']],
  ['ext4 with all checksums', ['-O', '^has_journal,inline_data']],
];

interface Sample {
  readonly bytes: Buffer;
  /** Offsets of bytes that say something of files. */
  readonly metadata: readonly number[];
  readonly sums: ReadonlyMap<string, string>;
}

/** Everything that can be read: paths with sums, and the errors of maps; throws what opening and listing throws. */
async function readAll(bytes: Uint8Array): Promise<Map<string, string | DriftmapError>> {
  const unit = new BytesUnit(bytes);
  const fs = await openExt4(unit);
  const found = new Map<string, string | DriftmapError>();
  for await (const entry of fs.files()) {
    const map = await entry.map().catch(passOurs);
    if (map instanceof DriftmapError) found.set(entry.path, map);
    else {
      expect(map.size).toBe(entry.size);
      found.set(entry.path, map.size > 2 ** 27 ? 'large' : sumOf(await contents(map, unit)));
    }
  }
  for (const path of ['/link', '/long', '/a/b/tiny']) await fs.lookup(path).catch(passOurs);
  return found;
}

/** Enough to tell two readings apart, and faster than any digest. */
function sumOf(bytes: Uint8Array): string {
  return `${bytes.length} ${crc32(bytes)}`;
}

/** An error that a user may see, and no other. */
function passOurs(error: unknown): DriftmapError {
  if (!(error instanceof DriftmapError)) throw error;
  if (!['malformed', 'unsupported', 'limit', 'not-found', 'argument'].includes(error.kind)) throw error;
  if (error.message.length > 600 || error.message.includes('\n')) throw error;
  return error;
}

const samples = new Map<string, Sample>();

describeWith(tools, 'a damaged file system', () => {
  beforeAll(async () => {
    const tree = smallTree();
    for (const [name, options] of ways) {
      const image = join(folder, 'image');
      makeFileSystem(image, tree, ['-b', '1024', '-N', '96', ...options], '1M');
      e2fsck(image, ['-fyD'], [0, 1]);
      const bytes = readFileSync(image);
      const sums = (await readAll(bytes)) as Map<string, string>;
      expect(sums.size).toBeGreaterThan(12);
      samples.set(name, { bytes, metadata: await metadataOf(bytes), sums });
    }
  });

  /** Bytes, and their neighbours, that are not zero and neither a file's data nor a bitmap's. */
  async function metadataOf(bytes: Buffer): Promise<number[]> {
    const others = new Set([bytes.readUInt32LE(2048), bytes.readUInt32LE(2048 + 4)]);
    for (const entry of (await collect(await openExt4(new BytesUnit(bytes)))).values()) {
      for (const { place, length } of (await entry.map()).extents()) {
        // Inline data lie among the inodes.
        if (place % 1024 !== 0) continue;
        for (let at = place; place >= 0 && at < place + length; at += 1024) others.add(at / 1024);
      }
    }
    const found: number[] = [];
    for (let at = 1024; at + 1 < bytes.length; at++) {
      if (others.has(Math.floor(at / 1024))) continue;
      if (bytes[at - 1] !== 0 || bytes[at] !== 0 || bytes[at + 1] !== 0) found.push(at);
    }
    return found;
  }

  describe.each(ways.map(([name]) => name))('%s', (name) => {
    it('is read by its tables, or not at all, whatever byte is wrong', async () => {
      const { bytes, metadata, sums } = samples.get(name)!;
      const below = randomFrom(sums.size * 31 + name.length);
      const end = Date.now() + (1000 * fuzzSeconds) / ways.length;
      const counts = { mutants: 0, refused: 0, same: 0, other: 0 };
      while (Date.now() < end) {
        counts.mutants++;
        const image = Uint8Array.from(bytes);
        const changed: string[] = [];
        for (let times = below(4) === 0 ? 2 : 1; times > 0; times--) {
          const at = metadata[below(metadata.length)]!;
          const value = below(3) === 0 ? [0, 1, 0x7f, 0x80, 0xff][below(5)]! : below(256);
          image[at] = value;
          changed.push(`${at}=${value}`);
        }
        const found = await readAll(image).catch(passOurs);
        if (found instanceof DriftmapError) {
          counts.refused++;
          continue;
        }
        if (isSame(found, sums)) counts.same++;
        else counts.other++;
        compareWithNaive(image, found, changed.join(' '));
      }
      process.stderr.write(`ext4 damage: ${name}: ${JSON.stringify(counts)}\n`);
      expect(counts.refused).toBeGreaterThan(0);
      expect(counts.same).toBeGreaterThan(0);
    });

    it('is refused or read in part when it is cut, wherever', async () => {
      const { bytes } = samples.get(name)!;
      for (let size = 0; size < bytes.length; size += size < 4096 ? 128 : 11 * 1024) {
        const error = await readAll(bytes.subarray(0, size)).catch(passOurs);
        expect(error, String(size)).toBeInstanceOf(DriftmapError);
      }
    });

    it('is refused or read without inventing where its end was lost', async () => {
      const { bytes, sums } = samples.get(name)!;
      for (let size = 4096; size < bytes.length; size += size < 65536 ? 1024 : 17 * 1024) {
        const image = Uint8Array.from(bytes).fill(0, size);
        const found = await readAll(image).catch(passOurs);
        if (found instanceof DriftmapError) continue;
        compareWithNaive(image, found, `cut at ${size}`);
        for (const path of found.keys()) expect(sums.has(path)).toBe(true);
      }
    });
  });

  function isSame(found: ReadonlyMap<string, unknown>, sums: ReadonlyMap<string, unknown>): boolean {
    return found.size === sums.size && [...found].every(([path, sum]) => sums.get(path) === sum);
  }

  /** Where both readings succeed they say the same; where ours does, the other one's failure is its own limit. */
  function compareWithNaive(
    image: Uint8Array,
    found: ReadonlyMap<string, string | DriftmapError>,
    changed: string,
  ): void {
    let files: ReturnType<NaiveExt4['files']>;
    const naive = new NaiveExt4(image);
    try {
      files = naive.files();
    } catch (error) {
      throw new Error(`${changed}: the naive reading fails, ours does not`, { cause: error });
    }
    const names = [...found.keys()].sort();
    const decoded = [...files.keys()].map((path) => Buffer.from(path, 'latin1').toString('utf8')).sort();
    expect(names, changed).toEqual(decoded);
    for (const [path, { inode, size }] of files) {
      const ours = found.get(Buffer.from(path, 'latin1').toString('utf8'));
      if (typeof ours !== 'string' || size > 2 ** 27) continue;
      expect(ours, `${changed}: ${path}`).toBe(sumOf(naive.read(inode)));
    }
  }
});

describeWith(tools, 'a damaged journal', () => {
  it('is replayed, or refused, whatever byte is wrong; with checksums it brings what was written or nothing', async () => {
    const tree = join(folder, 'few');
    mkdirSync(tree);
    writeFileSync(join(tree, 'data'), noise(20_000, 1));
    for (const checksums of [0, 2, 3] as const) {
      const path = join(folder, 'journal');
      makeFileSystem(path, tree, ['-b', '1024', '-J', 'size=1'], '8M');
      const stat = debugfs(path, ['stat /data'], []);
      const data = Number(/\(0-\d+\):(\d+)/.exec(stat)![1]);
      const runs = journalRuns(path);
      const good = Uint8Array.from(readFileSync(path));
      const transactions = Array.from({ length: 6 }, (_, i) => ({
        writes: [[0, 1, 2].map((k) => ({ block: data + 2 * i + k, data: noise(1024, 100 * i + k) }))],
        revokes: [data + i],
        time: 1e9 + i,
      }));
      const { placeOf } = writeJournal(good, runs, { checksums, is64Bit: true, transactions });
      const whole = await readAll(good);
      /** What there is after each number of transactions. */
      const states = new Set([whole.get('/data')]);
      for (let count = 0; count <= 6; count++) {
        const part = Uint8Array.from(good);
        const view = new DataView(part.buffer);
        // The log ends at a transaction without its number.
        let seen = 0;
        for (let at = 1; at < 60; at++) {
          if (view.getUint32(placeOf(at)) !== 0xc03b3998 || view.getUint32(placeOf(at) + 4) !== 1) continue;
          if (seen++ === count) view.setUint32(placeOf(at) + 8, 999);
        }
        states.add((await readAll(part)).get('/data'));
      }
      expect(states.size).toBeGreaterThan(5);
      const below = randomFrom(checksums + 5);
      const end = Date.now() + (1000 * fuzzSeconds) / 6;
      let refused = 0;
      while (Date.now() < end) {
        const image = Uint8Array.from(good);
        const at = placeOf(below(46)) + below(1024);
        image[at] = below(256);
        const found = await readAll(image).catch(passOurs);
        if (found instanceof DriftmapError) refused++;
        else if (checksums !== 0) expect(states.has(found.get('/data')), `${at}=${image[at]}`).toBe(true);
      }
      if (checksums !== 0) expect(refused).toBeGreaterThan(0);
    }
  });
});

describeWith(tools, 'damage made on purpose', () => {
  const image = join(folder, 'purpose');
  const old = join(folder, 'purpose-old');

  beforeAll(() => {
    const tree = join(folder, 'tree');
    makeFileSystem(image, tree, ['-b', '1024', '-O', '^metadata_csum'], '8M');
    makeFileSystem(old, tree, ['-b', '1024', '-O', '^metadata_csum,^extents,^64bit'], '8M');
  });

  const inodeOf = (path: string, file: string) => {
    const [, number, table, offset] = /inode (\d+).*block (\d+), offset (0x[0-9a-f]+)/i.exec(
      `inode ${/Inode: (\d+)/.exec(debugfs(path, [`stat ${file}`], []))![1]} ${debugfs(path, [`imap ${file}`], []).replace(/\n/g, ' ')}`,
    )!;
    return { number: Number(number), at: Number(table) * 1024 + Number(offset) };
  };

  async function mapOf(bytes: Uint8Array, file: string): Promise<ExtentMap> {
    return (await (await openExt4(new BytesUnit(bytes))).lookup(file)).map();
  }

  /** Places within the inode are from its beginning, within the leaf from that; `null` leaves it. */
  it.each([
    ['inode', 0x28, 2, 0x1234, /expected an extent header \(f30a\), got 1234/],
    ['inode', 0x2a, 2, 5, /expected at most 4 extents in a node, got 5 of 4/],
    ['inode', 0x2c, 2, 5, /expected at most 4 extents in a node, got 1 of 5/],
    ['inode', 0x2a, 2, 0, /expected entries in an index node, got none/],
    ['inode', 0x2e, 2, 6, /expected an extent node of depth at most 5, got 6/],
    ['inode', 0x2e, 2, 2, /expected an extent node of depth 1, got 0/],
    ['inode', 0x38, 4, 0, /expected a node, got block 0/],
    [
      'inode',
      0x38,
      4,
      9000,
      /an extent node of inode \d+ in block 9000 lies past the file system's 8192 blocks/,
    ],
    ['leaf', 0, 2, 1, /expected an extent header/],
    ['leaf', 12 + 12, 4, 0, /expected a run within blocks 2 to 4294967296 of the file, got 2 at 0/],
    ['leaf', 12 + 4, 2, 0, /expected a run of blocks, got an empty one/],
    ['leaf', 12 + 8, 4, 8192, /expected blocks within 2 to 8192, got 2 at 8192/],
    ['leaf', 12 + 8, 4, 0, /expected blocks within 2 to 8192, got 2 at 0/],
    ['leaf', 12 + 4, 2, 30, /expected a run within blocks 30 to/],
  ])('extents: %s at %i', async (where, at, width, value, reason) => {
    const bytes = Uint8Array.from(readFileSync(image));
    const view = new DataView(bytes.buffer);
    const inode = inodeOf(image, '/a/holes');
    const base = where === 'inode' ? inode.at : view.getUint32(inode.at + 0x38, true) * 1024;
    if (width === 2) view.setUint16(base + at, value, true);
    else view.setUint32(base + at, value, true);
    await expect(mapOf(bytes, '/a/holes')).rejects.toThrow(reason);
  });

  it('a tree that leads into itself ends', async () => {
    const bytes = Uint8Array.from(readFileSync(image));
    const view = new DataView(bytes.buffer);
    const inode = inodeOf(image, '/a/holes');
    const leaf = view.getUint32(inode.at + 0x38, true);
    // The leaf becomes an index node of itself.
    view.setUint16(inode.at + 0x2e, 5, true);
    view.setUint16(leaf * 1024 + 6, 4, true);
    for (let i = 0; i < 40; i++) view.setUint32(leaf * 1024 + 12 + 12 * i + 4, leaf, true);
    for (let i = 0; i < 40; i++) view.setUint16(leaf * 1024 + 12 + 12 * i + 8, 0, true);
    await expect(mapOf(bytes, '/a/holes')).rejects.toThrow(/expected an extent node of depth 3, got 4/);
  });

  it('block numbers that lead into themselves or out of the file system are refused', async () => {
    const bytes = Uint8Array.from(readFileSync(old));
    const view = new DataView(bytes.buffer);
    const inode = inodeOf(old, '/a/holes');
    const doubly = view.getUint32(inode.at + 0x28 + 4 * 13, true);
    expect(doubly).toBeGreaterThan(0);
    const wrong = (at: number, value: number) => {
      const copy = bytes.slice();
      new DataView(copy.buffer).setUint32(at, value, true);
      return mapOf(copy, '/a/holes');
    };
    await expect(wrong(doubly * 1024, doubly)).rejects.toThrow(/block \d+ of numbers is used twice/);
    await expect(wrong(inode.at + 0x28, 9000)).rejects.toThrow(/expected a block within 2 to 8192, got 9000/);
    await expect(wrong(inode.at + 0x28 + 48, 1)).rejects.toThrow(/expected a block within 2 to 8192, got 1/);
    // Larger than three levels reach.
    await expect(wrong(inode.at + 0x6c, 100)).rejects.toThrow(
      /expected a size of at most \d+ bytes, got \d+/,
    );
  });

  it('sizes and types that cannot be are refused', async () => {
    const bytes = Uint8Array.from(readFileSync(image));
    const inode = inodeOf(image, '/whole');
    const wrong = (at: number, value: number) => {
      const copy = bytes.slice();
      new DataView(copy.buffer).setUint32(inode.at + at, value, true);
      return mapOf(copy, '/whole');
    };
    await expect(wrong(0x6c, 0x400)).rejects.toThrow(/expected a size of at most 4398046511104 bytes/);
    await expect(wrong(0x80, 500)).rejects.toThrow(/expected 0, 4 … 128 extra bytes, got 500/);
    await expect(wrong(0x20, 0x10000000)).rejects.toThrow(
      /is marked as having inline data, and the file system does not/,
    );
    await expect(wrong(0x20, 0x80800)).rejects.toThrow(/is marked as having encrypted contents/);
    await expect(wrong(0x18, 0)).rejects.toThrow(/is named and is not in use/);
    await expect(wrong(0, 0x81240000)).rejects.toThrow(/is named and is not in use/);
  });

  it('directories that cannot be are refused', async () => {
    const bytes = Uint8Array.from(readFileSync(image));
    const inode = inodeOf(image, '/a/b');
    const view = new DataView(bytes.buffer);
    const block = view.getUint32(inode.at + 0x28 + 12 + 8, true) * 1024;
    const wrong = async (edit: (view: DataView) => void) => {
      const copy = bytes.slice();
      edit(new DataView(copy.buffer));
      return collect(await openExt4(new BytesUnit(copy)));
    };
    for (const [edit, reason] of [
      [(v) => v.setUint16(block + 4, 8, true), /expected an entry with room for its name of 1 bytes, got 8/],
      [(v) => v.setUint16(block + 4, 14, true), /expected an entry with room for its name/],
      [(v) => v.setUint16(block + 4, 2048, true), /an entry of 2048 bytes reaches out of its block/],
      [(v) => v.setUint32(block + 24, 9999, true), /expected an inode from 1 to \d+, got 9999/],
      [
        (v) => v.setUint8(block + 24 + 8, 0x2f),
        /expected a name of 1 to 255 bytes without '\/' and zero bytes/,
      ],
      [
        (v) => v.setUint32(inode.at + 4, 1000, true),
        /expected whole blocks of 1024 bytes, got a size of 1000/,
      ],
      [(v) => v.setUint32(inode.at + 4, 0, true), /expected whole blocks of 1024 bytes, got a size of 0/],
      [(v) => v.setUint32(inode.at + 4, 1 << 20, true), /a hole at/],
      [(v) => v.setUint32(block + 24, inode.number, true), /is named/],
    ] as [(view: DataView) => void, RegExp][]) {
      await expect(wrong(edit)).rejects.toThrow(reason);
    }
  });

  it('an inode that its group never used is refused', async () => {
    const path = join(folder, 'unused');
    makeFileSystem(path, join(folder, 'tree'), ['-b', '1024', '-O', '^metadata_csum,uninit_bg'], '8M');
    const bytes = Uint8Array.from(readFileSync(path));
    const inode = inodeOf(path, '/a/b');
    const view = new DataView(bytes.buffer);
    const block = view.getUint32(inode.at + 0x28 + 12 + 8, true) * 1024;
    view.setUint32(block + 24, view.getUint32(1024, true) - 1, true);
    await expect(openExt4(new BytesUnit(bytes)).then(collect)).rejects.toThrow(
      /its group says that it was never used/,
    );
  });

  it('wrong checksums of extent nodes and directories are damage', async () => {
    const path = join(folder, 'summed');
    makeFileSystem(path, join(folder, 'tree'), ['-b', '1024'], '8M');
    e2fsck(path, ['-fyD'], [0, 1]);
    const bytes = Uint8Array.from(readFileSync(path));
    const view = new DataView(bytes.buffer);
    const leaf = view.getUint32(inodeOf(path, '/a/holes').at + 0x38, true) * 1024;
    const node = bytes.slice();
    node[leaf + 1000]! ^= 1;
    await expect(mapOf(node, '/a/holes')).rejects.toThrow(/expected an extent node with checksum/);
    const stat = debugfs(path, ['stat /a/b'], []);
    const runs = [...stat.matchAll(/\((\d+)(?:-(\d+))?\):(\d+)/g)];
    const last =
      (Number(runs.at(-1)![3]) + Number(runs.at(-1)![2] ?? runs.at(-1)![1]) - Number(runs.at(-1)![1])) * 1024;
    const names = bytes.slice();
    names[last + 9]! ^= 1;
    await expect(openExt4(new BytesUnit(names)).then(collect)).rejects.toThrow(
      /expected a block of entries with checksum/,
    );
    const tail = bytes.slice();
    tail[last + 1024 - 5]! ^= 1;
    await expect(openExt4(new BytesUnit(tail)).then(collect)).rejects.toThrow(
      /expected a checksum after the entries, got none/,
    );
  });
});
