/** Logs written by hand: what the kernel's own logs, in other tests, do not show at will. */

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { checksums } from '../../src/disk/containers/xfs-superblock.ts';
import { describeWith, root, temporary } from '../tools.ts';
import { listing, outcome, readFrozen, run, type SparseUnit, writeSparse } from './xfs-images.ts';
import {
  bufferItem,
  CONTINUE,
  END,
  inodeItem,
  type LogSpec,
  little,
  type Operation,
  plainItem,
  transaction,
  WAS_CONTINUED,
  writeLog,
} from './xfs-log-builder.ts';
import { NaiveXfs, plantTree } from './xfs-naive.ts';

const frozen = {
  4: readFrozen(join(root, 'test/disk/xfs-frozen/xfs-v4.gz')),
  5: readFrozen(join(root, 'test/disk/xfs-frozen/xfs-clean.gz')),
};

interface Scene {
  readonly unit: SparseUnit;
  readonly xfs: NaiveXfs;
  /** A small file, `/odd` or `/list`, and its inode. */
  readonly path: string;
  readonly inode: number;
}

function scene(version: 4 | 5): Scene {
  const unit = frozen[version].unit.copy();
  const xfs = new NaiveXfs(unit);
  const path = version === 4 ? '/odd' : '/preallocated';
  const inode = xfs.entries(xfs.root).find(([name]) => `/${name}` === path)![1];
  // In version 5 nothing is to be newer than a log in its first cycle: a full one of 64 MiB is much to write.
  if (version === 5) {
    reseal(unit, 0, 512, 224, (view) => view.setBigUint64(240, 0n));
    reseal(unit, xfs.inodePlace(inode), xfs.inodeSize, 100, (view) => view.setBigUint64(112, 0n));
  }
  return { unit, xfs, path, inode };
}

/** Changes a structure that is under a checksum. */
function reseal(
  unit: SparseUnit,
  at: number,
  length: number,
  sumAt: number,
  change: (view: DataView) => void,
): void {
  const bytes = unit.bytes(at, length);
  const view = new DataView(bytes.buffer);
  change(view);
  view.setUint32(sumAt, checksums(bytes, sumAt).computed, true);
  unit.put(at, bytes);
}

const logBlocks = ({ xfs }: Scene) => (xfs.logBlocks * xfs.blockSize) / 512;
/** Later than anything in the frozen file systems. */
const later = { at: 0, cycle: 90 };

const resized = ({ xfs, inode }: Scene, size: number) =>
  inodeItem(xfs, inode, (core) => core.setBigUint64(56, BigInt(size), true));

async function sizeOf({ unit, path }: Scene): Promise<number> {
  return (await (await openXfs(unit)).lookup(path)).size;
}

async function refusal({ unit, xfs }: Scene, spec: LogSpec): Promise<DriftmapError> {
  writeLog(unit, xfs, spec);
  const result = await outcome(unit);
  if (!(result instanceof DriftmapError)) throw new Error('was not refused');
  return result;
}

describe.each([4, 5] as const)('the log of an XFS file system of version %i', (version) => {
  const begin = version === 4 ? later : { at: 0, cycle: 1 };

  it('is replayed in order, and a transaction that does not commit never was', async () => {
    const here = scene(version);
    const third = transaction(7, [resized(here, 300)]);
    writeLog(here.unit, here.xfs, {
      ...begin,
      records: [
        transaction(5, [resized(here, 100)]),
        transaction(6, [resized(here, 200)]),
        third.slice(0, -1),
      ],
    });
    expect(await sizeOf(here)).toBe(200);
    expect((await openXfs(here.unit)).warnings).toHaveLength(1);
  });

  it('takes regions that go on in the next record, and transactions that lie among one another', async () => {
    const here = scene(version);
    const [format, core] = resized(here, 123) as [Uint8Array, Uint8Array];
    const one = transaction(1, [[format, core]]);
    const two = transaction(2, [resized(here, 456)]);
    const region = one[3]!;
    const part = (from: number, to: number, flags: number): Operation => ({
      id: 1,
      flags,
      bytes: region.bytes.slice(from, to),
    });
    writeLog(here.unit, here.xfs, {
      ...begin,
      records: [
        [one[0]!, two[0]!, two[1]!, one[1]!, one[2]!, part(0, 40, CONTINUE)],
        [part(40, 41, WAS_CONTINUED | CONTINUE), ...two.slice(2)],
        [part(41, 999, WAS_CONTINUED | END), one[4]!],
      ],
    });
    expect(await sizeOf(here)).toBe(123);
  });

  it('begins at the tail that its last record names', async () => {
    const here = scene(version);
    const records = [transaction(1, [plainItem(0x7777, 0)]), transaction(2, [resized(here, 11)])];
    writeLog(here.unit, here.xfs, { ...begin, records, tail: 1 });
    expect(await sizeOf(here)).toBe(11);
    expect((await refusal(here, { ...begin, records })).message).toMatch(
      /an item that is not known \(type 7777\)/,
    );
  });

  it('does not replay a buffer that is given up later', async () => {
    const here = scene(version);
    const { unit, xfs } = here;
    // A block of the file itself: as if a directory had been there before.
    const place = xfs.placeOf(xfs.extents(here.inode)[0]!.block);
    const before = await listing(await openXfs(unit));
    const old = new Uint8Array(256).fill(0xee);
    const item = bufferItem(place, xfs.blockSize, [[2, old]]);
    const cancel = bufferItem(place, xfs.blockSize, [], 2);
    const superblock = bufferItem(0, 512, [[0, new Uint8Array(128)]]);
    const cancelSuperblock = bufferItem(0, 512, [], 2);
    writeLog(unit, xfs, {
      ...begin,
      records: [transaction(1, [item, superblock]), transaction(2, [cancel, cancelSuperblock])],
    });
    expect(await listing(await openXfs(unit))).toEqual(before);
    // Once it is given up, the next one counts.
    const error = await refusal(here, {
      ...begin,
      records: [transaction(1, [cancelSuperblock]), transaction(2, [superblock])],
    });
    expect(error.message).toMatch(/expected the magic XFSB/);
  });

  it('makes new inodes: what was there is in use no more', async () => {
    const here = scene(version);
    const { xfs } = here;
    // The chunk that the file is in, made anew; that the kernel's logs make inodes which are then used, other tests show.
    const per = xfs.inodesPerBlock;
    const first = Math.floor(here.inode / 64) * 64;
    const block = Math.floor(first / per) % xfs.groupStride;
    const group = Math.floor(first / per / xfs.groupStride);
    const made = little(28, (view) => {
      view.setUint16(0, 0x123f, true);
      view.setUint16(2, 1, true);
      for (const [i, value] of [group, block, 64, xfs.inodeSize, 64 / per, 5].entries())
        view.setUint32(4 + 4 * i, value);
    });
    const error = await refusal(here, { ...begin, records: [transaction(1, [[made]])] });
    expect(error.message).toMatch(/not in use|expected the root/);
    const wrong = made.slice();
    new DataView(wrong.buffer).setUint32(12, 65);
    expect(
      (await refusal(scene(version), { ...begin, records: [transaction(1, [[wrong]])] })).message,
    ).toMatch(/new inodes within a group/);
  });

  it('is refused where a change of extents was begun and not ended', async () => {
    for (const [intent, done] of [
      [0x1244, 0x1245],
      [0x1248, 0x1249],
    ] as const) {
      const here = scene(version);
      const both = [
        transaction(1, [plainItem(intent, 9)]),
        transaction(2, [plainItem(done, 9), resized(here, 77)]),
      ];
      writeLog(here.unit, here.xfs, { ...begin, records: both });
      expect(await sizeOf(here)).toBe(77);
      const other = [transaction(1, [plainItem(intent, 9)]), transaction(2, [plainItem(done, 8)])];
      const error = await refusal(scene(version), { ...begin, records: other });
      expect([error.kind, error.message]).toEqual([
        'unsupported',
        expect.stringMatching(/begun .* not ended: mount and unmount/),
      ]);
    }
  });

  it('passes over what a reader does not look at', async () => {
    const here = scene(version);
    const items = [0x1236, 0x1237, 0x123d, 0x1240, 0x1241, 0x1242, 0x1243, 0x1246, 0x1247].map((type) =>
      plainItem(type, 3),
    );
    writeLog(here.unit, here.xfs, { ...begin, records: [transaction(1, [...items, resized(here, 5)])] });
    expect(await sizeOf(here)).toBe(5);
  });

  it.each<[string, (here: Scene) => Partial<LogSpec>, RegExp]>([
    [
      'a record of another file system',
      () => ({ patch: (view) => view.setUint32(304, 1) }),
      /another file system/,
    ],
    ['a machine of other numbers', () => ({ patch: (view) => view.setUint32(300, 2) }), /little end first/],
    ['a record too long', () => ({ patch: (view) => view.setUint32(12, 2 ** 30) }), /1 to 262144 bytes/],
    ['a record elsewhere', () => ({ patch: (view) => view.setUint32(20, 99) }), /it says 99/],
    [
      'a tail outside',
      (here) => ({ patch: (view) => view.setUint32(28, logBlocks(here)) }),
      /expected a tail within/,
    ],
    [
      'a tail where no record is',
      () => ({ patch: (view) => view.setUint32(28, 1) }),
      /expected a record, got the magic/,
    ],
    [
      'a tail of another cycle',
      () => ({ patch: (view) => view.setUint32(24, 7) }),
      /expected a record of cycle 7/,
    ],
    [
      'too many operations',
      () => ({ patch: (view) => view.setUint32(40, 9999) }),
      /expected 9999 operations|of a transaction, got client/,
    ],
    [
      'a stranger',
      () => ({ records: [[{ id: 1, flags: 1, bytes: new Uint8Array(0), client: 0x11 }]] }),
      /got client 17/,
    ],
    [
      'flags that are not known',
      () => ({
        records: [[...transaction(1, []).slice(0, 2), { id: 1, flags: 0x40, bytes: new Uint8Array(4) }]],
      }),
      /got flags 64/,
    ],
    [
      'no transaction header',
      () => ({ records: [[transaction(1, [])[0]!, { id: 1, flags: 0, bytes: new Uint8Array(16) }]] }),
      /header of a transaction/,
    ],
    [
      'an item of no regions',
      () => ({ records: [transaction(1, [[new Uint8Array(32)]])] }),
      /says how many regions/,
    ],
    [
      'an item that is cut off',
      () => ({
        records: [
          transaction(1, [
            [plainItem(0x1236, 1)[0]!, new Uint8Array(4)].slice(0, 1),
            [little(32, (view) => view.setUint32(0, 0x00031236, true))],
          ]),
        ],
      }),
      /an item of 3 regions/,
    ],
    [
      'a continuation of nothing',
      () => ({
        records: [
          [...transaction(1, []).slice(0, 2), { id: 1, flags: WAS_CONTINUED, bytes: new Uint8Array(4) }],
        ],
      }),
      /go on with, got none/,
    ],
    [
      'an inode nowhere',
      (here) => ({
        records: [
          transaction(1, [
            inodeItem(here.xfs, here.inode, () => undefined).map((bytes, i) =>
              i === 0
                ? little(56, (view) => {
                    new Uint8Array(view.buffer).set(bytes);
                    view.setBigUint64(16, 2n ** 50n, true);
                  })
                : bytes,
            ),
          ]),
        ],
      }),
      /an inode of this file system/,
    ],
    [
      'a core that is none',
      (here) => ({
        records: [transaction(1, [inodeItem(here.xfs, here.inode, (core) => core.setUint16(0, 0))])],
      }),
      /the core of an inode/,
    ],
    [
      'a fork that does not fit',
      (here) => ({
        records: [
          transaction(1, [
            inodeItem(here.xfs, here.inode, () => undefined, { fields: 4, bytes: new Uint8Array(2048) }),
          ]),
        ],
      }),
      /a data fork of at most/,
    ],
    [
      'a root that does not fit',
      (here) => ({
        records: [
          transaction(1, [
            inodeItem(here.xfs, here.inode, () => undefined, { fields: 8, bytes: new Uint8Array(80) }),
          ]),
        ],
      }),
      /root of an extent tree/,
    ],
    [
      'a buffer past the end',
      (here) => ({
        records: [transaction(1, [bufferItem(here.unit.size, 512, [[0, new Uint8Array(128)]])])],
      }),
      /a buffer of at most/,
    ],
    [
      'a buffer without its bytes',
      (here) => ({
        records: [transaction(1, [bufferItem(8192, 512, [[0, new Uint8Array(64 + here.inode * 0)]])])],
      }),
      /bytes of a buffer|regions of a buffer/,
    ],
    [
      'changes past the buffer',
      () => ({ records: [transaction(1, [bufferItem(8192, 512, [[3, new Uint8Array(256)]])])] }),
      /changes within the buffer/,
    ],
    [
      'an intent cut short',
      () => ({ records: [transaction(1, [plainItem(0x1244, 0, 8)])] }),
      /at least 16 bytes/,
    ],
  ])('is refused for %s', async (_, change, reason) => {
    const here = scene(version);
    const spec = { ...begin, records: [transaction(1, [resized(here, 1)])], ...change(here) };
    const error = await refusal(here, spec);
    expect(error.message).toMatch(reason);
    expect(error.path).toBe(here.unit.name);
  });
});

describe('the log of XFS', () => {
  it('is a ring: records go on at its beginning', async () => {
    const here = scene(4);
    const blocks = logBlocks(here);
    for (let before = 1; before <= 6; before++) {
      const records = [
        transaction(1, [resized(here, 1), plainItem(0x1236, 1, 600)]),
        transaction(2, [resized(here, 100 + before)]),
      ];
      writeLog(here.unit, here.xfs, { at: blocks - before, cycle: 90, records });
      expect(await sizeOf(here)).toBe(100 + before);
    }
  });

  it('of version 5 leaves out records that did not arrive whole, and refuses older damage', async () => {
    const here = scene(5);
    const sizes = Array.from({ length: 12 }, (_, i) => transaction(i, [resized(here, 1000 + i)]));
    writeLog(here.unit, here.xfs, { at: 0, cycle: 1, records: sizes, tear: 11 });
    expect(await sizeOf(here)).toBe(1010);
    writeLog(here.unit, here.xfs, { at: 0, cycle: 1, records: sizes, tear: 5 });
    expect(await sizeOf(here)).toBe(1004);
    // More than eight records are never on their way: this one had arrived.
    expect((await refusal(here, { at: 0, cycle: 1, records: sizes, tear: 2 })).message).toMatch(
      /checksum does not fit/,
    );
  });

  it('of version 5 begins after the record of mkfs.xfs, which has no checksum', async () => {
    const here = scene(5);
    const unmount: Operation = { id: 1, flags: 0x20, bytes: new Uint8Array(8), client: 0xaa };
    const records = [[unmount], transaction(1, [resized(here, 21)]), transaction(2, [resized(here, 22)])];
    writeLog(here.unit, here.xfs, { at: 0, cycle: 1, records, tail: 1, unsummed: 0 });
    expect(await sizeOf(here)).toBe(22);
  });

  it('leaves out a last record that is cut off', async () => {
    const here = scene(5);
    const records = [transaction(1, [resized(here, 1)]), transaction(2, [resized(here, 2)])];
    const { head } = writeLog(here.unit, here.xfs, { at: 0, cycle: 1, records });
    here.unit.put(here.xfs.placeOf(here.xfs.logStart) + (head - 1) * 512, new Uint8Array(512));
    expect(await sizeOf(here)).toBe(1);
  });

  it('of version 5 does not change what is newer on the unit', async () => {
    const here = scene(5);
    const { unit, xfs, inode } = here;
    const before = await sizeOf(here);
    const set = (cycle: number, block: number) =>
      reseal(unit, xfs.inodePlace(inode), xfs.inodeSize, 100, (view) => {
        view.setUint32(112, cycle);
        view.setUint32(116, block);
      });
    set(1, 1);
    writeLog(unit, xfs, { at: 0, cycle: 1, records: [transaction(1, [resized(here, 9)])] });
    expect(await sizeOf(here)).toBe(before);
    set(2, 0);
    expect(await sizeOf(here)).toBe(before);
    set(1, 0);
    expect(await sizeOf(here)).toBe(9);
  });

  it('of version 4 goes by how often an inode was written', async () => {
    for (const [there, logged, replayed] of [
      [5, 6, true],
      [6, 5, false],
      [0xffff, 3, true],
      [0xffff, 0xfff0, false],
    ] as const) {
      const here = scene(4);
      const { unit, xfs, inode } = here;
      unit.put(
        xfs.inodePlace(inode) + 30,
        little(2, (view) => view.setUint16(0, there)),
      );
      const item = inodeItem(xfs, inode, (core) => {
        core.setUint16(30, logged, true);
        core.setBigUint64(56, 42n, true);
      });
      writeLog(unit, xfs, { ...later, records: [transaction(1, [item])] });
      expect(await sizeOf(here)).toBe(replayed ? 42 : 777);
    }
  });

  it('of version 4 brings forks: extents, and roots of trees', async () => {
    const here = scene(4);
    const { unit, xfs, inode } = here;
    const donor = xfs.entries(xfs.root).find(([name]) => name === 'disk.raw')![1];
    const [first] = xfs.extents(donor);
    // The tree is planted in a copy and its root logged as the kernel does: a block's header, keys, pointers.
    const other = new NaiveXfs(unit.copy());
    const extents = Array.from({ length: 130 }, (_, i) => ({
      start: 2 * i,
      block: first!.block,
      count: 1,
      unwritten: i % 2 === 1,
    }));
    const free = [0, 2, 4, 6].map((i) => first!.block + i);
    plantTree(other, inode, extents, free, 2);
    for (const block of free)
      unit.put(xfs.placeOf(block), other.unit.bytes(other.placeOf(block), xfs.blockSize));
    const fork = other.unit.view(other.inodePlace(inode) + 100, 156);
    const count = fork.getUint16(2);
    const logged = little(24 + 16 * (count + 2), (view) => {
      view.setUint32(0, 0x424d4150);
      view.setUint16(4, 1);
      view.setUint16(6, count);
      for (let i = 0; i < count; i++) {
        view.setBigUint64(24 + 8 * i, fork.getBigUint64(4 + 8 * i));
        view.setBigUint64(24 + 8 * (count + 2 + i), fork.getBigUint64(4 + 8 * (9 + i)));
      }
    });
    const size = 260 * xfs.blockSize;
    const item = inodeItem(
      xfs,
      inode,
      (core) => {
        core.setUint8(5, 3);
        core.setUint32(76, 130, true);
        core.setBigUint64(56, BigInt(size), true);
      },
      { fields: 8, bytes: logged },
    );
    writeLog(unit, xfs, { ...later, records: [transaction(1, [item])] });
    const found = (await listing(await openXfs(unit))).find(({ path }) => path === here.path)!;
    expect(found.size).toBe(size);
    expect(found.runs).toEqual(other.runs(inode, size));
    expect(found.runs).toHaveLength(130);
  });

  it('ends with an unmount where it is clean', async () => {
    const here = scene(4);
    const unmount: Operation = { id: 1, flags: 0x20, bytes: new Uint8Array(8), client: 0xaa };
    writeLog(here.unit, here.xfs, { ...later, records: [transaction(1, [resized(here, 1)]), [unmount]] });
    expect(await sizeOf(here)).toBe(777);
    expect((await openXfs(here.unit)).warnings).toEqual([]);
    writeLog(here.unit, here.xfs, { ...later, records: [], at: 0, cycle: 1 });
    expect(await sizeOf(here)).toBe(777);
  });

  it('of version 5 is refused where it has features that are not known', async () => {
    const here = scene(5);
    reseal(here.unit, 0, 512, 224, (view) => view.setUint32(220, 0x6));
    expect(await sizeOf(here)).toBeGreaterThan(0);
    const error = await refusal(here, { at: 0, cycle: 1, records: [transaction(1, [resized(here, 1)])] });
    expect(error.message).toMatch(/features that are not known \(bits 6\)/);
  });
});

describeWith(['xfs_logprint'], 'logs written by hand', () => {
  it('are logs to xfs_logprint', () => {
    const folder = temporary();
    const here = scene(4);
    const blocks = logBlocks(here);
    for (const at of [0, 100, blocks - 2]) {
      const records = [
        transaction(1, [resized(here, 1), plainItem(0x1236, 1, 600)]),
        transaction(2, [resized(here, 2)]),
      ];
      const { starts, head } = writeLog(here.unit, here.xfs, { at, cycle: 90, records });
      const image = join(folder, 'image');
      writeSparse(here.unit, image);
      const says = /log tail: (\d+) head: (\d+) state: <(\w+)>/.exec(run('xfs_logprint', '-t', image));
      expect(says?.slice(1)).toEqual([String(starts[0]), String(head), 'DIRTY']);
    }
  });
});
