import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import type { FileSystem } from '../../src/disk/containers/container.ts';
import { isExt4, openExt4 } from '../../src/disk/containers/ext4.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith, temporary } from '../tools.ts';
import { collect, contents, debugfs, makeFileSystem, makeTree, tools } from './ext4-images.ts';
import { editSuperblock } from './ext4-journal-builder.ts';
import { BytesUnit } from './images.ts';

const folder = temporary();

async function reasonOf(act: Promise<unknown>): Promise<string> {
  return act.then(
    () => 'nothing was thrown',
    (error: { kind: string; message: string }) => `${error.kind}: ${error.message}`,
  );
}

describeWith(tools, 'a path', () => {
  let fs: FileSystem;
  let tree = '';
  const image = join(folder, 'image');
  const inline = join(folder, 'inline');

  beforeAll(async () => {
    tree = makeTree(folder);
    execFileSync('mkfifo', [join(tree, 'pipe')]);
    makeFileSystem(image, tree, ['-b', '1024']);
    makeFileSystem(inline, tree, ['-b', '4096', '-O', 'inline_data']);
    fs = await openExt4(openFileUnit(image));
  });

  it.each([
    ['/tiny', '/tiny'],
    ['tiny', '/tiny'],
    ['//images/./whole.raw', '/images/whole.raw'],
    ['/images/../images/deep/../../tiny', '/tiny'],
    ['/../../tiny', '/tiny'],
    ['/short link', '/images/whole.raw'],
    ['/long link', '/images/whole.raw'],
    ['/images/deep/absolute/whole.raw', '/images/whole.raw'],
    ['/images/deep/absolute/deep/absolute/second name', '/images/second name'],
    ['/images/deep/up', '/tiny'],
    ['/images/deep/deeper/größe 日本.img', '/images/deep/deeper/größe 日本.img'],
    [`/many/299-${'name'.repeat(29)}`, `/many/299-${'name'.repeat(29)}`],
  ])('%s leads to %s', async (path, expected) => {
    for (const system of [fs, await openExt4(openFileUnit(inline))]) {
      const entry = await system.lookup(path);
      expect(entry.path).toBe(expected);
      expect(entry.size).toBe(readFileSync(join(tree, expected)).length);
    }
  });

  it.each([
    ['/nothing', /^not-found: .*: ext4: no \/nothing$/],
    ['/images/none/x', /^not-found: .*no \/images\/none\/x: there is no \/images\/none$/],
    ['/tiny/x', /^not-found: .*no \/tiny\/x: \/tiny is no directory$/],
    ['/TINY', /^not-found/],
    ['/', /^argument: .*expected a regular file, and \/ is a directory$/],
    ['', /^argument: .*expected a regular file, and \/ is a directory$/],
    ['/images/deep', /^argument: .*expected a regular file, and \/images\/deep is a directory$/],
    ['/pipe', /^argument: .*expected a regular file, and \/pipe is a FIFO$/],
    ['/loop a', /^limit: .*\/loop a leads through more than 40 symbolic links: they are a loop$/],
  ])('%s: %s', async (path, reason) => {
    expect(await reasonOf(fs.lookup(path))).toMatch(reason);
  });

  it('lists what is no file not at all, and a file with two names twice', async () => {
    const found = await collect(fs);
    expect([...found.keys()].filter((path) => /pipe|link|loop/.test(path))).toEqual([]);
    const unit = openFileUnit(image);
    const first = await contents(await found.get('/block')!.map(), unit);
    expect(await contents(await found.get('/images/second name')!.map(), unit)).toEqual(first);
  });

  it('into an encrypted directory is refused, as is an encrypted file', async () => {
    const path = join(folder, 'encrypted');
    makeFileSystem(path, tree, ['-b', '1024', '-O', 'encrypt']);
    debugfs(path, [
      'set_inode_field /images/whole.raw flags 0x80800',
      'set_inode_field /many flags 0x80800',
      'set_inode_field "/short link" flags 0x800',
    ]);
    const unit = openFileUnit(path);
    const system = await openExt4(unit);
    expect(await reasonOf(system.lookup('/many/1-name'))).toMatch(/^unsupported: .*\/many is encrypted/);
    expect(await reasonOf(system.lookup('/short link'))).toMatch(/^unsupported: .*\/short link is encrypted/);
    const found = await collect(system);
    expect(await reasonOf(found.get('/images/whole.raw')!.map())).toMatch(
      /^unsupported: .*\/images\/whole.raw is encrypted/,
    );
    expect([...found.keys()].some((name) => name.startsWith('/many'))).toBe(false);
    expect(system.warnings).toEqual([`${path}: /many is encrypted: what is in it is not listed`]);
    await collect(system);
    expect(system.warnings.length).toBe(1);
  });

  it('a directory with two names is damage', async () => {
    const path = join(folder, 'twice');
    makeFileSystem(path, tree, ['-b', '1024']);
    debugfs(path, ['link /images /images/deep/again']);
    const system = await openExt4(openFileUnit(path));
    expect(await reasonOf(collect(system))).toMatch(
      /^malformed: .*directory inode \d+ is named a second time, as \/images\/deep\/again/,
    );
    // A path ends, however often it goes round.
    const round = `${'/images/deep/again'.slice(0, 12)}${'/again/deep'.repeat(50)}/../whole.raw`;
    expect((await system.lookup(round)).size).toBe(700_000);
  });

  it('of many directories in one another is walked', async () => {
    const nest = join(folder, 'nest');
    const names = Array.from({ length: 300 }, (_, i) => `d${i}`);
    mkdirSync(join(nest, ...names), { recursive: true });
    writeFileSync(join(nest, ...names, 'file'), 'x');
    symlinkSync('../'.repeat(300), join(nest, ...names, 'top'));
    const path = join(folder, 'nested');
    makeFileSystem(path, nest, ['-b', '1024']);
    const system = await openExt4(openFileUnit(path));
    expect([...(await collect(system)).keys()]).toEqual([`/${names.join('/')}/file`]);
    expect((await system.lookup(`${names.join('/')}/top/${names.join('/')}/file`)).size).toBe(1);
  });

  it('leads also where the unit answers later', async () => {
    const unit = new BytesUnit(readFileSync(image), { wait: true });
    const system = await openExt4(unit);
    expect((await system.lookup('/long link')).path).toBe('/images/whole.raw');
    expect([...(await collect(system)).keys()]).toEqual([...(await collect(fs)).keys()]);
  });
});

describeWith(tools, 'what is no such file system', () => {
  const image = join(folder, 'plain');
  const fresh = () => Uint8Array.from(readFileSync(image));

  beforeAll(() => {
    const tree = join(folder, 'one');
    mkdirSync(tree);
    writeFileSync(join(tree, 'file'), 'x');
    makeFileSystem(image, tree, ['-b', '1024'], '8M');
  });

  it('is told by its magic number', async () => {
    expect(await isExt4(new BytesUnit(fresh()))).toBe(true);
    expect(await isExt4(new BytesUnit(new Uint8Array(4096)))).toBe(false);
    expect(await isExt4(new BytesUnit(new Uint8Array(100)))).toBe(false);
    expect(await reasonOf(openExt4(new BytesUnit(new Uint8Array(4096))))).toMatch(
      /^malformed: .*expected the magic number ef53, got 0000 \(at offset 1080\)$/,
    );
    expect(await reasonOf(openExt4(new BytesUnit(new Uint8Array(100))))).toMatch(/^malformed/);
  });

  it.each([
    [0x4c, 2, /^unsupported: .*revision 2 is not known/],
    [0x60, 0x12c2, /^unsupported: .*the feature dirdata is not read/],
    [0x60, 0x2c2, /^nothing/],
    [0x60, 0x2ca, /^unsupported: .*the feature journal_dev/],
    [0x60, 0x2c3, /^unsupported: .*the feature compression/],
    [0x60, 0x400002c2, /^unsupported: .*incompatible features 40000000 are not known/],
    [0x18, 7, /^malformed: .*expected blocks of 1 to 64 KiB, got 2\^7 KiB/],
    [
      0x4,
      9000,
      /^malformed: .*9000 blocks of 1024 bytes, and its unit only 8388608 bytes: the unit is cut short/,
    ],
    [0x150, 0x40000000, /^malformed: .*expected at most 2\^53 bytes/],
    [0x14, 0, /^malformed: .*expected the first of 8192 blocks to be 1, got 0/],
    [0x14, 9000, /^malformed: .*expected the first of 8192 blocks/],
    [0x20, 0, /^malformed: .*expected 1 to 8192 blocks a group, got 0/],
    [0x20, 8193, /^malformed: .*expected 1 to 8192 blocks a group, got 8193/],
    [0x58, 200, /^malformed: .*expected inodes of 128, 256 … 1024 bytes, got 200/],
    [0x58, 2048, /^malformed: .*expected inodes of 128, 256/],
    [0x28, 1, /^malformed: .*expected 4 to 8192 inodes a group, got 1/],
    [0x0, 77, /^malformed: .*expected 1 groups of \d+ inodes, got 77 inodes/],
    [0xfc, 0x00070000, /^malformed: .*expected group descriptors of 64, 128 … 1024 bytes, got 7/],
    [0x174, 0x0204, /^unsupported: .*expected checksums of type 1 \(crc32c\), got 2/],
  ])('its superblock at %i says %i', async (at, value, reason) => {
    const image = fresh();
    // The inode's size has two bytes, the others four.
    editSuperblock(image, (view) =>
      at === 0x58 ? view.setUint16(at, value, true) : view.setUint32(at, value, true),
    );
    expect(await reasonOf(openExt4(new BytesUnit(image)))).toMatch(reason);
  });

  it.each([
    [3, /inode 3 is named and is not in use/],
    [2, /expected the journal, inode 2, to be a regular file/],
    [99999, /expected an inode from 1 to \d+, got 99999/],
  ])('a journal in inode %i is refused where it is needed, and else only said', async (inode, reason) => {
    const image = fresh();
    editSuperblock(image, (view) => view.setUint32(0xe0, inode, true));
    const { warnings } = await openExt4(new BytesUnit(image));
    expect(warnings).toEqual([expect.stringMatching(/the journal cannot be read, and is not needed/)]);
    expect(warnings[0]).toMatch(reason);
    editSuperblock(image, (view) => view.setUint32(0x60, view.getUint32(0x60, true) | 4, true));
    expect(await reasonOf(openExt4(new BytesUnit(image)))).toMatch(reason);
  });

  it('bad clusters are refused', async () => {
    const path = join(folder, 'clusters');
    makeFileSystem(path, join(folder, 'one'), ['-b', '1024', '-O', 'bigalloc', '-C', '16384'], '32M');
    const image = Uint8Array.from(readFileSync(path));
    for (const [at, value, reason] of [
      [0x1c, 31, /expected clusters of 2\^0 to 2\^30 KiB, got 2\^31/],
      [0x24, 5, /expected 1 to 8192 clusters a group and 80 blocks, got 5 and/],
    ] as const) {
      const wrong = image.slice();
      editSuperblock(wrong, (view) => view.setUint32(at, value, true));
      expect(await reasonOf(openExt4(new BytesUnit(wrong)))).toMatch(reason);
    }
  });

  it('wrong checksums are damage: of the superblock, a descriptor, an inode', async () => {
    const superblock = fresh();
    superblock[1024 + 0x88]! ^= 1;
    expect(await reasonOf(openExt4(new BytesUnit(superblock)))).toMatch(/superblock: expected checksum/);
    const descriptor = fresh();
    descriptor[2048]! ^= 1;
    expect(await reasonOf(openExt4(new BytesUnit(descriptor)))).toMatch(
      /group 0: expected a descriptor with/,
    );
    const inode = fresh();
    const table = new DataView(inode.buffer).getUint32(2048 + 8, true) * 1024;
    inode[table + 256 + 0x50]! ^= 1;
    expect(await reasonOf(openExt4(new BytesUnit(inode)))).toMatch(/inode 2: expected checksum/);
  });

  it('its state is said', async () => {
    const image = fresh();
    editSuperblock(image, (view) => view.setUint16(0x3a, 3, true));
    expect((await openExt4(new BytesUnit(image))).warnings).toEqual([
      '<bytes>: the file system is marked as damaged; e2fsck repairs',
    ]);
    const path = join(folder, 'ext2');
    makeFileSystem(path, join(folder, 'one'), ['-b', '1024', '-O', '^has_journal'], '8M');
    const old = Uint8Array.from(readFileSync(path));
    editSuperblock(old, (view) => view.setUint16(0x3a, 0, true));
    expect((await openExt4(new BytesUnit(old))).warnings).toEqual([
      '<bytes>: was not unmounted and has no journal: its newest files may be incomplete',
    ]);
    editSuperblock(old, (view) => view.setUint32(0x60, view.getUint32(0x60, true) | 4, true));
    expect(await reasonOf(openExt4(new BytesUnit(old)))).toMatch(
      /its journal is to be replayed, and it has none/,
    );
  });
});
