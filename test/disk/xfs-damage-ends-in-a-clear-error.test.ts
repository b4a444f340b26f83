/**
 * Damaged XFS file systems. Version 5 is under checksums: what opens says what the intact one says, or an older
 * state of it where its log was damaged. Version 4 is not: what opens says what a naive reading of the same bytes says.
 */

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { checksums } from '../../src/disk/containers/xfs-superblock.ts';
import { root, thrown } from '../tools.ts';
import { fuzzSeconds, randomFrom } from './vhd-loading.ts';
import { type KnownFile, listing, outcome, PAGE, readFrozen, SparseUnit } from './xfs-images.ts';
import { NaiveXfs } from './xfs-naive.ts';

const frozen = (name: string) => readFrozen(join(root, 'test/disk/xfs-frozen', `${name}.gz`));
const intact = { v4: frozen('xfs-v4'), clean: frozen('xfs-clean'), used: frozen('xfs-in-use') };

/** A unit in which some bytes differ; the pages of the first are not copied but where they change. */
function damaged(unit: SparseUnit, offset: number, bytes: readonly number[]): SparseUnit {
  const pages = new Map(unit.pages);
  for (let i = 0; i < bytes.length; i++) {
    const number = Math.floor((offset + i) / PAGE);
    if (pages.get(number) === unit.pages.get(number)) {
      pages.set(number, unit.pages.get(number)?.slice() ?? new Uint8Array(PAGE));
    }
    pages.get(number)![(offset + i) % PAGE] = bytes[i]!;
  }
  return new SparseUnit(unit.size, pages);
}

/** The same, with checksum and all of a structure of version 5. */
function resealed(
  unit: SparseUnit,
  at: number,
  length: number,
  sumAt: number,
  change: (view: DataView) => void,
): SparseUnit {
  const bytes = unit.bytes(at, length);
  change(new DataView(bytes.buffer));
  new DataView(bytes.buffer).setUint32(sumAt, checksums(bytes, sumAt).computed, true);
  return damaged(unit, at, [...bytes]);
}

const big64 = (value: bigint) =>
  Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(56 - 8 * i)) & 255n));
const big32 = (value: number) => big64(BigInt(value)).slice(4);
const big16 = (value: number) => big64(BigInt(value)).slice(6);

async function refusal(unit: SparseUnit): Promise<DriftmapError> {
  const result = await outcome(unit);
  if (!(result instanceof DriftmapError)) throw new Error('was not refused');
  expect(result.path).toBe(unit.name);
  return result;
}

/** Hundreds of links to two files: their maps are all the same. */
const links = /^\/(leaf|node|many)\/(file|name)-\d*[1-9]-/;
const withoutLinks = (files: readonly KnownFile[]) =>
  files.map((file) => (links.test(file.path) ? { ...file, runs: [] } : file));

/** Up to so many seconds of damage, a byte at a time, at places where the reading looks. */
async function fuzz(
  unit: SparseUnit,
  seconds: number,
  check: (result: KnownFile[] | DriftmapError, changed: SparseUnit, where: string) => void,
): Promise<{ tried: number; refused: number }> {
  const known = unit.copy();
  await listing(await openXfs(known));
  const pages = [...known.touched].filter((page) => unit.pages.has(page));
  const below = randomFrom(7);
  const until = performance.now() + 1000 * seconds;
  const used = new Uint8Array(PAGE);
  let tried = 0;
  let refused = 0;
  // A busy machine still tries some.
  while (tried < 40 || performance.now() < until) {
    const page = pages[below(pages.length)]!;
    used.set(unit.pages.get(page)!);
    // Most bytes are zeros that nobody reads: three times out of four one is taken that is none.
    let within = below(PAGE);
    if (below(4) > 0) for (let i = 0; i < PAGE && used[within] === 0; i++) within = (within + 1) % PAGE;
    const byte = below(3) === 0 ? below(256) : used[within]! ^ (1 << below(8));
    const offset = page * PAGE + within;
    const changed = damaged(unit, offset, [byte]);
    const begun = performance.now();
    const result = await outcome(changed, links);
    expect(performance.now() - begun, `time at ${offset}`).toBeLessThan(5000);
    check(result, changed, `byte ${offset} = ${byte}`);
    tried++;
    if (result instanceof DriftmapError) refused++;
  }
  return { tried, refused };
}

describe('a damaged XFS file system', () => {
  it('of version 5 is refused or says what the intact one says', async () => {
    const { unit, files } = intact.clean;
    const sound = JSON.stringify(withoutLinks(files));
    const { tried, refused } = await fuzz(unit, fuzzSeconds / 3, (result, _, where) => {
      if (!(result instanceof DriftmapError)) expect(JSON.stringify(result), where).toBe(sound);
    });
    console.info(`version 5: ${tried} damaged, ${refused} refused`);
    expect(refused).toBeGreaterThan(0);
  });

  it('of version 4 is refused or says what a naive reading says', async () => {
    const { unit } = intact.v4;
    const { tried, refused } = await fuzz(unit, fuzzSeconds / 3, (result, changed, where) => {
      if (!(result instanceof DriftmapError)) {
        // As text: an equality of hundreds of objects takes longer than the reading. A damaged entry may name any
        // inode: what it leads to is mapped by neither.
        const naive = withoutLinks(new NaiveXfs(changed).files(links));
        expect(JSON.stringify(result), where).toBe(JSON.stringify(naive));
      }
    });
    console.info(`version 4: ${tried} damaged, ${refused} refused`);
    expect(refused).toBeGreaterThan(0);
    expect(refused).toBeLessThan(tried);
  });

  it('that was in use is refused or reads as a state of it', async () => {
    const { unit, files } = intact.used;
    const sound = JSON.stringify(withoutLinks(files));
    let older = 0;
    const { tried, refused } = await fuzz(unit, fuzzSeconds / 3, (result) => {
      if (!(result instanceof DriftmapError) && JSON.stringify(result) !== sound) older++;
    });
    console.info(`in use: ${tried} damaged, ${refused} refused, ${older} read as an older state`);
    expect(refused).toBeGreaterThan(0);
  });

  it.each(['v4', 'clean', 'used'] as const)('is refused wherever it is cut short (%s)', async (name) => {
    const { unit } = intact[name];
    const ends = [
      0,
      1,
      511,
      512,
      513,
      PAGE,
      ...[...unit.pages.keys()].flatMap((page) => [page * PAGE, page * PAGE + 512]),
    ];
    for (const end of [...ends, unit.size - 1]) {
      const error = await refusal(new SparseUnit(Math.min(end, unit.size - 1), unit.pages));
      expect(error.kind).toBe('malformed');
      expect(error.message).toMatch(/cut short|past the end/);
    }
  });
});

describe('the superblock of XFS', () => {
  const { unit } = intact.v4;

  it.each<[string, number, number[], RegExp, string]>([
    ['magic', 0, [0], /expected the magic XFSB/, 'malformed'],
    ['block size', 4, big32(3000), /block size that is a power of two/, 'malformed'],
    ['block size 0', 4, big32(0), /block size that is a power of two/, 'malformed'],
    ['block size logarithm', 120, [11], /block size/, 'malformed'],
    ['blocks', 8, big64(2n ** 60n), /below 2\^53/, 'malformed'],
    ['blocks past the end', 8, big64(2n ** 40n), /groups/, 'malformed'],
    ['group length', 84, big32(1), /at least four blocks/, 'malformed'],
    ['groups', 88, big32(0), /got 0 groups/, 'malformed'],
    ['group bits', 124, [60], /60 bits/, 'malformed'],
    ['version', 100, big16(0xb4a3), /expected version 4 or 5, got 3/, 'unsupported'],
    ['directories of version 1', 100, big16(0x94a4), /directories of version 1/, 'unsupported'],
    ['no unwritten extents', 100, big16(0xa4a4), /without a flag/, 'unsupported'],
    ['features2', 200, big32(0x40000000), /features2 bit 30/, 'unsupported'],
    ['sector size', 102, big16(100), /sector size/, 'malformed'],
    ['inode size', 104, big16(128), /inode size/, 'malformed'],
    ['inodes per block', 106, big16(3), /inodes in a block/, 'malformed'],
    ['directory blocks', 192, [9], /directory blocks of at most 65536/, 'malformed'],
    ['unfinished', 126, [1], /did not finish/, 'malformed'],
    ['log past its group', 96, big32(0x7fffffff), /log within one group/, 'malformed'],
    ['no log', 48, big64(0n), /on another device/, 'unsupported'],
    ['root', 56, big64(2n ** 50n), /has no place/, 'malformed'],
  ])('is checked: %s', async (_, offset, bytes, reason, kind) => {
    const error = await refusal(damaged(unit, offset, bytes));
    expect(error.message).toMatch(reason);
    expect(error.kind).toBe(kind);
  });

  it('of version 5 is under a checksum, and features that are not known are named', async () => {
    const { unit } = intact.clean;
    expect((await refusal(damaged(unit, 108, [65]))).message).toMatch(/expected checksum .* xfs_repair/);
    const incompat = (bits: number) =>
      resealed(unit, 0, 512, 224, (view) => view.setUint32(216, view.getUint32(216) | bits));
    expect((await refusal(incompat(0x100))).message).toMatch(/not read: metadata directory \(metadir\)/);
    expect((await refusal(incompat(0x200))).message).toMatch(/zoned/);
    expect((await refusal(incompat(0x80000000))).message).toMatch(/not read: bit 31/);
    expect((await refusal(incompat(0x10))).message).toMatch(/in need of repair: run xfs_repair/);
    const readable = resealed(unit, 0, 512, 224, (view) => view.setUint32(212, 0xffffffff));
    expect(await outcome(readable)).toEqual(intact.clean.files);
    const labelled = resealed(unit, 0, 512, 224, (view) => view.setUint8(108, 66));
    expect((await openXfs(labelled)).label).toBe('B');
  });
});

/** The path of a directory that lies in its inode and is not empty. */
function smallDirectory(xfs: NaiveXfs, inode: number, path: string): string | null {
  const core = xfs.unit.view(xfs.inodePlace(inode), xfs.inodeSize);
  if (core.getUint16(2) >>> 12 !== 4) return null;
  if (core.getUint8(5) === 1 && core.getUint8(176) > 0) return path;
  for (const [name, number] of xfs.entries(inode)) {
    const found = smallDirectory(xfs, number, `${path}/${name}`);
    if (found !== null) return found;
  }
  return null;
}

describe('inodes, trees and directories of XFS', () => {
  const { unit } = intact.clean;
  const xfs = new NaiveXfs(unit);
  const inodeOf = (path: string) => {
    let inode = xfs.root;
    for (const part of path.split('/').slice(1))
      inode = xfs.entries(inode).find(([name]) => name === part)![1];
    return inode;
  };
  /** A file with a few extents, so that they lie in its inode. */
  const listed = intact.clean.files.find(({ runs }) => runs.length >= 3 && runs.length <= 10)!.path;
  const small = smallDirectory(xfs, xfs.root, '')!;
  const changed = (path: string, change: (view: DataView) => void) =>
    resealed(unit, xfs.inodePlace(inodeOf(path)), xfs.inodeSize, 100, change);

  it.each<[string, string, (view: DataView) => void, RegExp]>([
    ['a number that is another', '/tree', (view) => view.setBigUint64(152, 7n), /says that it is inode 7/],
    [
      'another file system',
      '/tree',
      (view) => view.setUint8(160, view.getUint8(160) ^ 1),
      /another file system/,
    ],
    ['not in use', '/tree', (view) => view.setUint16(2, 0), /not in use/],
    ['no kind', '/tree', (view) => view.setUint16(2, 0xf000), /kind of file/],
    ['a file in its inode', listed, (view) => view.setUint8(5, 1), /format that a file has/],
    ['a size without end', listed, (view) => view.setBigUint64(56, 2n ** 63n), /size below 2\^53/],
    ['forks past the inode', listed, (view) => view.setUint8(82, 255), /forks within the inode/],
    ['too many extents', listed, (view) => view.setUint32(76, 1000), /at most \d+ extents/],
    ['extents that are missing', '/tree', (view) => view.setUint32(76, 99), /expected the 99 extents/],
    [
      'extents over one another',
      listed,
      (view) => view.setUint32(176 + 20, view.getUint32(176 + 20) % 512),
      /at block \d+ of the file or after it/,
    ],
    [
      'an extent of no length',
      listed,
      (view) => view.setUint32(176 + 12, view.getUint32(176 + 12) & ~0x1fffff),
      /run of blocks within one group, got 0/,
    ],
    [
      'an extent nowhere',
      listed,
      (view) => view.setUint32(176 + 8, 0xffffffff),
      /run of blocks within one group/,
    ],
    ['a tree of too many levels', '/tree', (view) => view.setUint16(176, 9), /2 to 9 levels, got 10/],
    ['a root without pointers', '/tree', (view) => view.setUint16(178, 0), /pointers in the root/],
    [
      'a tree that leads elsewhere',
      '/tree',
      (view) => view.setUint16(176, view.getUint16(176) + 1),
      /expected a block of level/,
    ],
    ['a small directory cut short', small, (view) => view.setBigUint64(56, 9n), /entry|entries/],
    ['a small directory of no end', small, (view) => view.setUint8(176, 99), /entry \d+ of 99 within/],
    [
      'a directory larger than its blocks',
      '/leaf',
      (view) => view.setBigUint64(56, 2n ** 20n),
      /data up to its size/,
    ],
  ])('are checked: %s', async (_, path, change, reason) => {
    const error = await refusal(changed(path, change));
    expect(error.message).toMatch(reason);
    expect(error.kind).toBe('malformed');
    expect(error.offset).toBeGreaterThan(0);
  });

  it('refuses files on the realtime device, and lists them', async () => {
    const realtime = changed(listed, (view) => view.setUint16(90, view.getUint16(90) | 1));
    const fs = await openXfs(realtime);
    const entry = await fs.lookup(listed);
    await expect(entry.map()).rejects.toThrow(/is on the realtime device/);
    const names: string[] = [];
    for await (const { path } of fs.files()) names.push(path);
    expect(names.length).toBe(intact.clean.files.length);
  });

  it('ends where a directory leads back to one above it', async () => {
    // In version 4: the short directory /short names the root.
    const { unit } = intact.v4;
    const old = new NaiveXfs(unit);
    const short = old.entries(old.root).find(([name]) => name === 'short')![1];
    const at = old.inodePlace(short);
    const fork = unit.bytes(at + 100, 156);
    // Header, length and offset, name, kind.
    const first = 6 + 3 + fork[6]! + 1;
    const looped = damaged(unit, at + 100 + first, big32(old.root));
    expect((await refusal(looped)).message).toMatch(/is in two places of the tree/);
    expect(thrown(() => new NaiveXfs(looped).files())).toBeInstanceOf(Error);
  });

  it('notices a file that changed after it was found', async () => {
    const fs = await openXfs(unit);
    const entry = await fs.lookup(listed);
    const other = changed(listed, (view) => view.setBigUint64(56, 1n));
    const again = await openXfs(other);
    expect((await again.lookup(listed)).size).toBe(1);
    expect((await entry.map()).size).toBe(entry.size);
  });
});
