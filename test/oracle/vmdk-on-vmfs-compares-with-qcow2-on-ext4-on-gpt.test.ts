import { execFileSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { locate } from '../../src/disk/locate.ts';
import { openDisk } from '../../src/disk/open.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { scan } from '../../src/scan/scan.ts';
import { gptDisk } from '../disk/gpt-builder.ts';
import { qemuImg } from '../disk/images.ts';
import { unpackToFile } from '../disk/vmfs-sample.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';

const MiB = 2 ** 20;

describeWith(['corpus', 'qemu-img', 'mkfs.ext4'], 'production on VMFS, the replica on ext4 on GPT', () => {
  const folder = temporary();
  const path = (name: string) => join(folder, name);
  const production = `${path('vmfs.raw')}:vmfs:/zeroedthick.vmdk`;
  const replica = `${path('replica.img')}:gpt1/ext4:/vm/disk.qcow2`;

  function write(file: string, offset: number, bytes: Uint8Array): void {
    const fd = openSync(file, 'r+');
    writeSync(fd, bytes, 0, bytes.length, offset);
    closeSync(fd);
  }

  /** Fills what the disk holds with noise, and with what must never be seen what is still to be zeroed. */
  async function fill(): Promise<void> {
    unpackToFile(gunzip(join(corpus!, 'vmfs', 'test.img.gz')), path('vmfs.raw'));
    const disk = await openDisk(production);
    const extents = [...disk.map.extents()].filter(({ place }) => place >= 0);
    await disk.close();
    let hidden = 0;
    for (const { length, place, kind } of extents) {
      const isData = kind === Kind.data;
      for (let at = 0; at < length; at += MiB) {
        const bytes = Uint8Array.from(
          { length: isData ? 65536 : 4096 },
          (_, i) => ((i * 7 + at / MiB) % 251) | 1,
        );
        write(path('vmfs.raw'), place + at, bytes);
        if (!isData) hidden++;
      }
    }
    expect(hidden).toBeGreaterThan(100);
  }

  /** The same contents as qcow2, in a file system, in a partition. */
  async function makeReplica(): Promise<void> {
    const disk = await openDisk(production);
    const piece = new Uint8Array(MiB);
    writeFileSync(path('flat.raw'), '');
    truncateSync(path('flat.raw'), disk.size);
    for (let at = 0; at < disk.size; at += MiB) {
      await disk.read(at, piece);
      if (piece.some((byte) => byte !== 0)) write(path('flat.raw'), at, piece);
    }
    await disk.close();
    mkdirSync(path('tree/vm'), { recursive: true });
    qemuImg('convert', '-f', 'raw', '-O', 'qcow2', path('flat.raw'), path('tree/vm/disk.qcow2'));
    writeFileSync(path('ext4.img'), '');
    truncateSync(path('ext4.img'), 16 * MiB);
    execFileSync('mkfs.ext4', ['-q', '-F', '-d', path('tree'), path('ext4.img')], { stdio: 'pipe' });
    const { bytes } = gptDisk(20 * 2048, 512, [{ first: 2048, last: 18 * 2048 - 1 }]);
    bytes.set(readFileSync(path('ext4.img')), MiB);
    writeFileSync(path('replica.img'), bytes);
  }

  it('without a conversion or a mount: no marks, and exactly those of what was written since', async () => {
    await fill();
    await makeReplica();
    const compare = async () => {
      const disks = [await openDisk(production), await openDisk(replica)] as const;
      const result = await scan({ production: disks[0], replica: disks[1], blockSize: 4096, workers: 1 });
      return { disks, ranges: [...result.bitmap.ranges()] };
    };
    const same = await compare();
    expect(same.ranges).toEqual([]);
    const [run] = [...locate(same.disks[0], { offset: 0, length: 4096 })];
    expect(run).toMatchObject({ kind: 'data', unit: path('vmfs.raw') });
    const [far] = [...locate(same.disks[1], { offset: 8192, length: 4096 })];
    expect(far).toMatchObject({ kind: 'data', unit: path('replica.img') });
    for (const disk of same.disks) await disk.close();

    write(path('vmfs.raw'), run!.place! + 100, Uint8Array.of(254));
    write(path('replica.img'), far!.place! + 4095, Uint8Array.of(254));
    const differs = await compare();
    expect(differs.ranges).toEqual([
      { offset: 0, length: 4096 },
      { offset: 8192, length: 4096 },
    ]);
    for (const disk of differs.disks) await disk.close();
  });
});
