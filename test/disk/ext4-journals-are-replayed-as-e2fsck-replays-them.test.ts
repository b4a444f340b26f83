import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openExt4 } from '../../src/disk/containers/ext4.ts';
import { describeWith, temporary } from '../tools.ts';
import { collect, contents, debugfs, e2fsck, makeFileSystem, noise, tools } from './ext4-images.ts';
import {
  editSuperblock,
  type Journal,
  journalRuns,
  MAGIC,
  type Transaction,
  type Write,
  writeJournal,
} from './ext4-journal-builder.ts';
import { BytesUnit, sha256 } from './images.ts';
import { randomFrom } from './lvm-builder.ts';

/** Checksums of the journal, the options of mkfs, and whether block numbers have 64 bits. */
const ways: readonly (readonly [0 | 1 | 2 | 3, boolean, readonly string[]])[] = [
  [0, true, []],
  [0, false, ['-O', '^64bit,^metadata_csum']],
  [1, false, ['-O', '^64bit,^metadata_csum,^extents']],
  [1, true, ['-O', '^metadata_csum']],
  [2, true, []],
  [2, false, ['-O', '^64bit']],
  [3, true, []],
  [3, false, ['-O', '^64bit,^extents']],
];

/** Every file's path, size and contents; what could not be mapped by its reason. */
async function everything(bytes: Uint8Array): Promise<Map<string, string>> {
  const unit = new BytesUnit(bytes);
  const fs = await openExt4(unit);
  const found = new Map<string, string>();
  for (const [path, entry] of await collect(fs)) {
    const sum = await entry.map().then(
      async (map) => sha256(await contents(map, unit)),
      (error: Error) => error.message,
    );
    found.set(path, `${entry.size} ${sum}`);
  }
  return found;
}

const folder = temporary();

/** What e2fsck makes of an image. */
function replayed(image: Uint8Array, allowed = [0, 1]): Buffer {
  const path = join(folder, 'replayed');
  writeFileSync(path, image);
  e2fsck(path, ['-y', '-E', 'journal_only'], allowed);
  return readFileSync(path);
}

describeWith(tools, 'a journal that debugfs wrote', () => {
  it.each([
    ['1024', 'jo', []],
    ['1024', 'jo -c -v 2', []],
    ['4096', 'jo -c -v 3', []],
    ['1024', 'jo -c -v 3', ['-O', '^64bit']],
    ['2048', 'jo', ['-O', '^64bit,^extents,^metadata_csum']],
    ['4096', 'jo', ['-O', 'inline_data']],
  ])('blocks of %s bytes, %s, %s', async (blockSize, open, options) => {
    const tree = temporaryTree();
    const before = join(folder, 'before');
    const after = join(folder, 'after');
    makeFileSystem(before, tree, ['-b', blockSize, ...options], '40M');
    copyFileSync(before, after);
    // Changes to metadata and data, made to a copy, and journaled block by block.
    debugfs(after, [
      'mkdir /new',
      `write ${join(tree, 'far')} /new/far`,
      `write ${join(tree, 'escaped')} /new/escaped`,
      `write ${join(tree, 'short')} /new/short`,
      'rm /gone',
      'symlink /new/link /far',
    ]);
    const size = Number(blockSize);
    const [old, made] = [readFileSync(before), readFileSync(after)];
    const blocks: number[] = [];
    for (let i = 0; i * size < old.length; i++) {
      if (!old.subarray(i * size, (i + 1) * size).equals(made.subarray(i * size, (i + 1) * size)))
        blocks.push(i);
    }
    const data = join(folder, 'blocks');
    writeFileSync(data, Buffer.concat(blocks.map((i) => made.subarray(i * size, (i + 1) * size))));
    debugfs(before, [open, `jw -b ${blocks.join(',')} ${data}`, 'jc']);

    const bytes = readFileSync(before);
    const sum = sha256(bytes);
    const fs = await openExt4(new BytesUnit(bytes));
    expect(fs.warnings).toEqual([
      `<bytes>: was not unmounted: the journal was replayed in memory (1 transaction, ${blocks.length} blocks)`,
    ]);
    expect((await fs.lookup('/new/link')).path).toBe('/far');
    const found = await everything(bytes);
    const expected = await everything(replayed(bytes));
    expect([...expected.keys()]).toContain('/new/far');
    expect([...expected.keys()]).not.toContain('/gone');
    expect(found.get('/new/escaped')).toMatch(
      /inode \d+: the newest contents of its block \d+ lie in the journal/,
    );
    found.delete('/new/escaped');
    expected.delete('/new/escaped');
    expect(found).toEqual(expected);
    // Nothing was written.
    expect(sha256(bytes)).toBe(sum);
  });
});

/** A folder of a few files, made once. */
function temporaryTree(): string {
  const tree = join(folder, 'source');
  if (existsSync(tree)) return tree;
  mkdirSync(tree);
  const escaped = noise(9000, 1);
  new DataView(escaped.buffer).setUint32(0, MAGIC);
  writeFileSync(join(tree, 'escaped'), escaped);
  writeFileSync(join(tree, 'far'), noise(70_000, 2));
  writeFileSync(join(tree, 'gone'), noise(20_000, 3));
  writeFileSync(join(tree, 'short'), noise(100, 4));
  writeFileSync(join(tree, 'data'), noise(96 * 1024, 5));
  return tree;
}

describeWith(tools, 'a log of many transactions', () => {
  const images = new Map<string, { bytes: Buffer; runs: [number, number, number][]; data: number }>();
  const blockSize = 1024;

  function imageWith(options: readonly string[]) {
    const key = options.join(' ');
    const known = images.get(key);
    if (known) return known;
    const path = join(folder, 'log');
    makeFileSystem(path, temporaryTree(), ['-b', String(blockSize), '-J', 'size=1', ...options], '16M');
    const stat = debugfs(path, ['stat /data'], []);
    const data = Number(/\(0-\d+\):(\d+)/.exec(stat)![1]);
    const made = { bytes: readFileSync(path), runs: journalRuns(path), data };
    images.set(key, made);
    return made;
  }
  // The file's first blocks lie together: what is written there is data, journaled.
  const span = 12;

  beforeAll(() => {
    for (const [, , options] of ways) imageWith(options);
  });

  function randomTransactions(below: (most: number) => number, data: number): Transaction[] {
    return Array.from({ length: 1 + below(8) }, (_, i) => {
      const last = below(6) === 0;
      const writes = Array.from({ length: below(3) }, () =>
        Array.from(
          { length: 1 + below(20) },
          (): Write => ({ block: data + below(span), data: noise(blockSize, below(1e6)) }),
        ),
      );
      const revokes = Array.from({ length: below(3) * below(3) }, () => data + below(span));
      return { writes, revokes, time: 1e9 + i, committed: !last };
    });
  }

  describe.each(ways)('checksums %i, 64 bits: %s, %s', (checksums, is64Bit, options) => {
    it('is replayed in order, round the ring, with revokes, up to what was not committed', async () => {
      const { bytes, runs, data } = imageWith(options);
      let changed = 0;
      for (let seed = 0; seed < 6; seed++) {
        const below = randomFrom(seed * 77 + checksums);
        const image = Uint8Array.from(bytes);
        const transactions = randomTransactions(below, data);
        // Near the end of the ring, and near the end of the numbers.
        const start = seed % 2 === 0 ? 1 : 1024 - 1 - below(30);
        const sequence = seed % 3 === 0 ? 2 ** 32 - 2 : 1 + below(1000);
        writeJournal(image, runs, { checksums, is64Bit, start, sequence, transactions });
        const unit = new BytesUnit(image);
        const map = await (await (await openExt4(unit)).lookup('/data')).map();
        const after = replayed(image);
        const expected = after.subarray(data * blockSize, (data + span) * blockSize);
        const got = (await contents(map, unit)).subarray(0, span * blockSize);
        expect(Buffer.compare(got, expected), `seed ${seed}`).toBe(0);
        if (!expected.equals(bytes.subarray(data * blockSize, (data + span) * blockSize))) changed++;
      }
      expect(changed).toBeGreaterThan(2);
    });
  });

  /** A log of three transactions that change block 0, 1 and 2 of the file. */
  function three(options: Partial<Journal> = {}, way = 6) {
    const [checksums, is64Bit, mkfs] = ways[way]!;
    const { bytes, runs, data } = imageWith(mkfs);
    const image = Uint8Array.from(bytes);
    const write = (i: number) => ({ block: data + i, data: noise(blockSize, 1000 + i) });
    const transactions = [0, 1, 2].map((i) => ({
      writes: [[write(i)]],
      revokes: [data + 50 + i],
      time: 1e9 + i,
    }));
    const written = writeJournal(image, runs, { checksums, is64Bit, transactions, ...options });
    /** Which of the three have happened. */
    const happened = async () => {
      const unit = new BytesUnit(image);
      const map = await (await (await openExt4(unit)).lookup('/data')).map();
      const got = await contents(map, unit);
      return [0, 1, 2].filter((i) => {
        const part = got.subarray(i * blockSize, (i + 1) * blockSize);
        return Buffer.compare(part, noise(blockSize, 1000 + i)) === 0;
      });
    };
    return { image, data, written, happened, transactions, runs, bytes };
  }

  it('brings all of a good log', async () => {
    for (const way of ways.keys()) expect(await three({}, way).happened()).toEqual([0, 1, 2]);
  });

  it.each([
    ['descriptors', /a descriptor block of transaction 2 has a wrong checksum/],
    ['revokes', /a revoke block of transaction 2 has a wrong checksum/],
    ['commits', /a commit block of transaction 2 has a wrong checksum/],
    ['data', /the copy of block \d+ has a wrong checksum/],
  ] as const)('a wrong checksum of %s is damage', async (what, reason) => {
    for (const way of [4, 5, 6, 7]) {
      const { image, written, happened } = three({}, way);
      image[written[what][1]! + 600]! ^= 1;
      await expect(happened()).rejects.toThrow(reason);
    }
  });

  it('a wrong checksum of version 1 is damage, and none at all is not', async () => {
    const wrong = three({}, 2);
    wrong.image[wrong.written.data[1]! + 600]! ^= 1;
    await expect(wrong.happened()).rejects.toThrow(/a commit block of transaction 2 has a wrong checksum/);
    const none = three({}, 3);
    none.image.fill(0, none.written.commits[1]! + 0xc, none.written.commits[1]! + 0x14);
    expect(await none.happened()).toEqual([0, 1, 2]);
  });

  it('a wrong checksum ends the log where the transaction is older than the one before', async () => {
    const { runs, bytes, data, transactions } = three();
    const image = Uint8Array.from(bytes);
    const old = [transactions[0]!, { ...transactions[1]!, time: 5 }, transactions[2]!];
    const written = writeJournal(image, runs, { checksums: 3, is64Bit: true, transactions: old });
    image[written.commits[1]! + 600]! ^= 1;
    const unit = new BytesUnit(image);
    const fs = await openExt4(unit);
    expect(fs.warnings[0]).toMatch(/1 transaction, 1 blocks/);
    const got = await contents(await (await fs.lookup('/data')).map(), unit);
    const expected = replayed(image).subarray(data * blockSize, (data + span) * blockSize);
    expect(Buffer.compare(got.subarray(0, span * blockSize), expected)).toBe(0);
  });

  it('a wrong checksum of a commit that did not wait ends the log', async () => {
    const { image, written, happened } = three({ asyncCommit: true });
    image[written.commits[1]! + 600]! ^= 1;
    expect(await happened()).toEqual([0]);
  });

  it('a block of data like the journal’s own is refused unless it is in place already', async () => {
    const { bytes, runs, data } = three();
    const copy = noise(blockSize, 4);
    new DataView(copy.buffer).setUint32(0, MAGIC);
    const transactions = [{ writes: [[{ block: data, data: copy }]] }];
    const image = Uint8Array.from(bytes);
    writeJournal(image, runs, { checksums: 3, is64Bit: true, transactions });
    const entry = await (await openExt4(new BytesUnit(image))).lookup('/data');
    await expect(entry.map()).rejects.toMatchObject({ kind: 'unsupported', offset: data * blockSize });
    image.set(copy, data * blockSize);
    const unit = new BytesUnit(image);
    const map = await (await (await openExt4(unit)).lookup('/data')).map();
    expect(map.explain(0).place).toBe(data * blockSize);
  });

  it('fast commits are refused, but not those of a transaction that is done', async () => {
    const { image, written, happened } = three({ fastCommit: true });
    expect(await happened()).toEqual([0, 1, 2]);
    const view = new DataView(image.buffer);
    const at = written.placeOf(written.end);
    view.setUint16(at, 9, true);
    view.setUint16(at + 2, 8, true);
    view.setUint32(at + 8, 3, true);
    expect(await happened()).toEqual([0, 1, 2]);
    view.setUint32(at + 8, 4, true);
    await expect(happened()).rejects.toMatchObject({ kind: 'unsupported', message: /ends in fast commits/ });
  });

  it('a log that fills its ring ends', async () => {
    const { bytes, runs, data } = three();
    const image = Uint8Array.from(bytes);
    // 1023 blocks: 31 times a descriptor and 32 copies. No commit ends it, and after the last comes the first.
    const writes = Array.from({ length: 31 }, () =>
      Array.from({ length: 32 }, () => ({ block: data, data: noise(blockSize, 1) })),
    );
    writeJournal(image, runs, { checksums: 3, is64Bit: true, transactions: [{ writes, committed: false }] });
    expect((await openExt4(new BytesUnit(image))).warnings).toEqual([]);
  });

  it('what is not asked for is left out, and said', async () => {
    const { image } = three();
    editSuperblock(image, (view) => view.setUint32(0x60, view.getUint32(0x60, true) & ~0x4, true));
    const fs = await openExt4(new BytesUnit(image));
    expect(fs.warnings).toEqual([expect.stringMatching(/the journal holds transactions.* left out/)]);
  });

  it('a journal on another device is refused when it is needed', async () => {
    const { image } = three();
    editSuperblock(image, (view) => view.setUint32(0xe0, 0, true));
    await expect(openExt4(new BytesUnit(image))).rejects.toMatchObject({
      kind: 'unsupported',
      message: /its journal is on another device/,
    });
    editSuperblock(image, (view) => view.setUint32(0x60, view.getUint32(0x60, true) & ~0x4, true));
    expect((await openExt4(new BytesUnit(image))).warnings).toEqual([]);
  });

  it.each([
    [0x0, 1, /journal superblock: expected the magic number/],
    [0x4, 9, /journal superblock: expected a block of type 3 or 4, got 9/],
    [0xc, 4096, /journal superblock: expected blocks of 1024 bytes, got 4096/],
    [0x10, 9999, /journal superblock: expected at most 1024 blocks, got 9999/],
    [0x14, 0, /journal superblock: expected a log within 1 to 1024, got 0/],
    [0x1c, 1024, /journal superblock: expected a start within 1 to 1024, got 1024/],
    [0x28, 0x80, /features 0080: of these some are not known/],
    [0x28, 0x18, /journal superblock: expected checksums of one version/],
  ])('its superblock: %i is not %i', async (at, value, reason) => {
    const { image, written } = three({}, 0);
    new DataView(image.buffer).setUint32(written.superblock + at, value);
    await expect(openExt4(new BytesUnit(image))).rejects.toThrow(reason);
  });

  it('its superblock has a checksum', async () => {
    const { image, written } = three();
    image[written.superblock + 0x200]! ^= 1;
    await expect(openExt4(new BytesUnit(image))).rejects.toThrow(/journal superblock: expected checksum/);
  });
});
