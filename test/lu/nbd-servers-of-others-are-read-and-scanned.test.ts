import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { copyFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { GiB, KiB, MiB } from '../../src/base/units.ts';
import { openDisk } from '../../src/disk/open.ts';
import { importBitmap } from '../../src/disk/persistent-bitmaps.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import type { UnitExtent } from '../../src/lu/logical-unit.ts';
import { type NbdUnit, openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { must, nbdkit, qemuNbd, socketIn, startPeer } from '../protect/nbd-peers.ts';
import { describeWith, temporary } from '../tools.ts';

const folder = temporary();
const SIZE = 16 * MiB;

function qemu(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

/** Data at 1 MiB, and near the end. */
function makeRaw(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, SIZE);
  const unit = openFileUnit(path, { write: true });
  unit.write(1 * MiB, randomBytes(2 * MiB));
  unit.write(SIZE - 64 * KiB, randomBytes(64 * KiB));
  unit.close();
  return path;
}

async function allExtents(unit: NbdUnit): Promise<UnitExtent[]> {
  const found: UnitExtent[] = [];
  for (let at = 0; at < unit.size; ) {
    for (const extent of await unit.extents({ offset: at, length: unit.size - at })) {
      found.push(extent);
      at = extent.offset + extent.length;
    }
  }
  return found;
}

async function failure(act: () => Promise<unknown>): Promise<unknown> {
  try {
    await act();
    return null;
  } catch (error) {
    return error;
  }
}

/** A qcow2 image whose bitmap `changed` tells of three writes. */
function makeTracked(name: string): string {
  const image = join(folder, name);
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', image, '3G');
  qemu('qemu-io', '-c', 'write -P 1 0 1M', image);
  qemu('qemu-img', 'bitmap', '--add', '-g', '65536', image, 'changed');
  qemu(
    'qemu-io',
    '-c',
    'write -P 2 65536 65536',
    '-c',
    'write -P 3 200000 10',
    '-c',
    'write -z 2G 1M',
    image,
  );
  qemu('qemu-img', 'bitmap', '--disable', image, 'changed');
  return image;
}

const changed = [
  { offset: 65_536, length: 65_536 },
  { offset: 196_608, length: 65_536 },
  { offset: 2 * GiB, length: 1 * MiB },
];

describeWith(['qemu-nbd', 'qemu-img', 'qemu-io'], 'qemu-nbd', () => {
  it('tells what of an image holds nothing, as extents', async () => {
    const image = join(folder, 'kinds.qcow2');
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', image, '4M');
    qemu('qemu-io', '-c', 'write -P 1 0 1M', '-c', 'write -z 1M 1M', image);
    const unit = await openNbdUnit((await qemuNbd(folder, ['-r', '-f', 'qcow2', image])).url());
    expect(await allExtents(unit)).toEqual([
      { offset: 0, length: 1 * MiB, kind: 'data' },
      { offset: 1 * MiB, length: 3 * MiB, kind: 'unallocated' },
    ]);
    await unit.close();
  });

  it('hands over its dirty bitmaps, across more than one question', async () => {
    const peer = await qemuNbd(folder, ['-r', '-f', 'qcow2', '-B', 'changed', makeTracked('tracked.qcow2')]);
    const unit = await openNbdUnit(peer.url());
    expect(await unit.listDirtyBitmaps()).toEqual(['changed']);
    expect(await unit.readDirtyBitmap('changed')).toEqual(changed);
    expect(await failure(() => unit.readDirtyBitmap('other'))).toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/no dirty bitmap 'other'/),
    });
    await unit.close();
  });

  it('its dirty bitmap says where a scan looks, and nowhere else', async () => {
    const peer = await qemuNbd(folder, ['-r', '-f', 'qcow2', '-B', 'changed', makeTracked('within.qcow2')]);
    const path = join(folder, 'before.raw');
    writeFileSync(path, new Uint8Array(1 * MiB).fill(1));
    truncateSync(path, 3 * GiB);
    const production = await openDisk(peer.url());
    const replica = await openDisk(path);
    const image = peer.url();
    const { bitmap: within, warnings } = await importBitmap({ image, name: 'changed', production, replica });
    expect(warnings).toEqual([
      expect.stringMatching(/does not say whether its bitmap 'changed' has every write/),
    ]);
    expect([...within.ranges()]).toEqual(changed);
    const scanner = createScanner({ workers: 1 });
    const { ranges, comparedBytes } = await scanner.scan({ production, replica, within });
    expect(ranges).toEqual(changed.slice(0, 2));
    expect(comparedBytes).toBeLessThan(2 * MiB);
    await scanner.close();
    // A bitmap of some other disk says nothing of these.
    await expect(
      importBitmap({ image, name: 'changed', production: replica, replica }),
    ).rejects.toMatchObject({
      kind: 'mismatch',
    });
    for (const disk of [production, replica]) await disk.close();
  });

  it('is not reached under another name, nor where nobody listens', async () => {
    const peer = await qemuNbd(folder, ['-r', '-f', 'raw', '-x', 'disk', makeRaw('named.raw')]);
    expect(await failure(() => openNbdUnit(peer.url('other')))).toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/no export 'other'/),
    });
    const nowhere = `nbd+unix:///?socket=${join(folder, 'nowhere')}`;
    expect(await failure(() => openNbdUnit(nowhere))).toMatchObject({ kind: 'not-found' });
    expect(await failure(() => openNbdUnit('nbd://localhost:1/'))).toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/nobody listens/),
    });
  });

  it('that is killed fails what is asked of it', async () => {
    const peer = await qemuNbd(folder, ['-r', '-f', 'raw', makeRaw('killed.raw')]);
    const unit = await openNbdUnit(peer.url());
    await unit.read(0, new Uint8Array(512));
    await peer.stop();
    expect(await failure(() => unit.read(0, new Uint8Array(512)))).toMatchObject({ kind: 'io' });
    await unit.close();
  });
});

describeWith(['qemu-storage-daemon', 'qemu-img', 'qemu-io'], 'qemu-storage-daemon', () => {
  it('serves several disks and a bitmap to one client after another', async () => {
    const raw = makeRaw('daemon.raw');
    const socket = socketIn(folder);
    await startPeer(
      'qemu-storage-daemon',
      [
        ...['--blockdev', `driver=file,node-name=f,filename=${makeTracked('daemon.qcow2')}`],
        ...['--blockdev', 'driver=qcow2,node-name=q,file=f'],
        ...['--blockdev', `driver=file,node-name=r,filename=${raw}`],
        ...['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=8`],
        ...['--export', 'type=nbd,id=e,node-name=q,name=tracked,bitmaps.0=changed'],
        ...['--export', 'type=nbd,id=w,node-name=r,name=raw,writable=on'],
      ],
      socket,
    );
    const tracked = await openNbdUnit(`nbd+unix:///tracked?socket=${socket}`);
    expect(await tracked.readDirtyBitmap('changed')).toEqual(changed);
    await tracked.close();
    const unit = await openNbdUnit(`nbd+unix:///raw?socket=${socket}`, { write: true });
    const bytes = randomBytes(3 * MiB);
    await unit.write(777, bytes);
    await unit.flush();
    await unit.zero({ offset: 1000, length: 2 * MiB });
    bytes.fill(0, 1000 - 777, 1000 - 777 + 2 * MiB);
    await unit.close();
    const file = openFileUnit(raw);
    const back = new Uint8Array(bytes.length);
    file.read(777, back);
    file.close();
    expect(Buffer.compare(back, bytes)).toBe(0);
  });
});

describeWith(['nbdkit'], 'nbdkit', () => {
  it('with failing reads fails those, with its words, and the next one goes through', async () => {
    const flag = join(folder, 'fail-now');
    writeFileSync(flag, '');
    const { url } = await nbdkit(folder, [
      '--filter=error',
      'memory',
      '1M',
      'error-pread=EIO',
      'error-pread-rate=1.0',
      `error-pread-file=${flag}`,
    ]);
    const unit = await openNbdUnit(url());
    const error = await failure(() => unit.read(4096, new Uint8Array(600 * KiB)));
    expect(error).toMatchObject({ kind: 'io', operation: 'read', offset: 4096, length: 256 * KiB });
    qemu('rm', flag);
    await unit.read(4096, new Uint8Array(600 * KiB));
    await unit.close();
  });

  it('with slow answers still gets every piece to its place', async () => {
    const path = makeRaw('slow.raw');
    const { url } = await nbdkit(folder, ['--filter=delay', 'file', path, 'rdelay=20ms', 'wdelay=20ms']);
    const unit = await openNbdUnit(url(), { write: true });
    const [all, here] = [new Uint8Array(SIZE), new Uint8Array(SIZE)];
    await unit.read(0, all);
    const file = openFileUnit(path);
    file.read(0, here);
    expect(Buffer.compare(all, here)).toBe(0);
    await Promise.all(
      [0, 1, 2, 3].map((i) => unit.write(i * MiB, here.subarray(i * MiB + 5, (i + 1) * MiB + 5))),
    );
    await unit.flush();
    const back = new Uint8Array(4 * MiB);
    file.read(0, back);
    expect(Buffer.compare(back, here.subarray(5, 4 * MiB + 5))).toBe(0);
    file.close();
    await unit.close();
  });

  it('that refuses to write is for reading only', async () => {
    const { url } = await nbdkit(folder, ['-r', 'memory', '1M']);
    const unit = await openNbdUnit(url(), { write: true });
    expect(unit.canWrite).toBe(false);
    expect(await failure(() => unit.write(0, new Uint8Array(1)))).toMatchObject({ kind: 'permission' });
    await unit.close();
  });
});

describeWith(['nbdkit', 'qemu-nbd'], 'a scan', () => {
  it('of two exports marks what a scan of their files marks, on several threads', async () => {
    const production = makeRaw('production.raw');
    const replica = join(folder, 'replica.raw');
    copyFileSync(production, replica);
    const unit = openFileUnit(replica, { write: true });
    for (const at of [0, 1.5 * MiB, 9 * MiB + 1, SIZE - 1]) unit.write(at, Buffer.from([0xee]));
    unit.close();
    const here = [production, replica];
    const there = [
      (
        await nbdkit(folder, ['--filter=blocksize-policy', 'file', production, 'blocksize-minimum=4096'])
      ).url(),
      (await qemuNbd(folder, ['-r', '-f', 'raw', replica])).url(),
    ];
    const scanner = await createScanner({ workers: 2 });
    try {
      const found = [];
      for (const pair of [here, there]) {
        const disks = await Promise.all(pair.map((path) => openDisk(path, { format: 'raw' })));
        const { bitmap } = await scanner.scan({
          production: disks[0]!,
          replica: disks[1]!,
          blockSize: 64 * KiB,
        });
        found.push([[...bitmap.runs()], bitmap.complete]);
        for (const disk of disks) await disk.close();
      }
      expect(found[0]).toEqual([expect.arrayContaining([expect.anything()]), true]);
      expect(found[1]).toEqual(found[0]);
    } finally {
      await scanner.close();
    }
  });

  it('of a server that fails halfway is an error, and the next scan is not', async () => {
    const path = makeRaw('halfway.raw');
    const flag = join(folder, 'halfway');
    writeFileSync(flag, '');
    const failing = ['error-pread=EIO', 'error-pread-rate=1', `error-pread-file=${flag}`];
    const { url } = await nbdkit(folder, ['--filter=error', 'file', path, ...failing]);
    qemu('rm', flag);
    const scanner = await createScanner({ workers: 2 });
    try {
      const disks = [
        await openDisk(url(), { format: 'raw' }),
        await openDisk(path, { format: 'raw' }),
      ] as const;
      writeFileSync(flag, '');
      const scan = () => scanner.scan({ production: disks[0], replica: disks[1], blockSize: 4 * KiB });
      expect(await failure(scan)).toMatchObject({
        kind: 'io',
        message: expect.stringMatching(/read failed/),
      });
      qemu('rm', flag);
      expect((await scan()).bitmap.count).toBe(0);
      for (const disk of disks) await disk.close();
    } finally {
      await scanner.close();
    }
  });
});

describeWith(['nbdkit', 'sgdisk'], 'an address', () => {
  it('leads into a unit that is an export', async () => {
    const path = makeRaw('parted.raw');
    await must('sgdisk', ['-n', '1:4096:+4M', path]);
    const disk = await openDisk(`${(await nbdkit(folder, ['file', path])).url()}:gpt1`, { format: 'raw' });
    const [there, here] = [new Uint8Array(1 * MiB), new Uint8Array(1 * MiB)];
    await disk.read(0, there);
    const file = openFileUnit(path);
    file.read(2 * MiB, here);
    file.close();
    expect(disk.size).toBe(4 * MiB);
    expect(Buffer.compare(there, here)).toBe(0);
    expect(here.some((byte) => byte !== 0)).toBe(true);
    await disk.close();
  });
});
