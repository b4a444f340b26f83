import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readPartitions } from '../../src/disk/containers/partitions.ts';
import { describeWith, temporary } from '../tools.ts';
import { gptDisk } from './gpt-builder.ts';
import { BytesUnit } from './images.ts';
import { randomFrom } from './lvm-builder.ts';

const MiB = 1024 * 1024;
const folder = temporary();

function run(command: string, words: readonly string[], input?: string): string {
  return execFileSync(command, words, { encoding: 'utf8', input, stdio: ['pipe', 'pipe', 'pipe'] });
}

function blank(name: string, size: number): string {
  const path = join(folder, name);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

interface Listed {
  node: string;
  start: number;
  size: number;
  type: string;
  name?: string;
}

/** What sfdisk says: extended partitions themselves are not among ours. */
function bySfdisk(path: string) {
  const { label, partitions = [] } = (
    JSON.parse(run('sfdisk', ['--json', path])) as {
      partitiontable: { label: string; partitions?: Listed[] };
    }
  ).partitiontable;
  const listed = partitions
    .filter(({ type }) => label === 'gpt' || !['5', 'f', '85'].includes(type))
    .map(({ node, start, size, type, name = '' }) => ({
      number: Number(node.slice(path.length)),
      offset: start * 512,
      length: size * 512,
      type: label === 'gpt' ? type : `0x${type.padStart(2, '0')}`,
      name,
    }));
  return { table: label === 'gpt' ? 'gpt' : 'mbr', partitions: listed };
}

async function byDriftmap(path: string) {
  return readPartitions(new BytesUnit(readFileSync(path), { name: path }));
}

describeWith(['sgdisk', 'sfdisk'], 'GUID partition tables made by sgdisk', () => {
  it('are read as sfdisk reads them, with holes in the numbers, types and names', async () => {
    const random = randomFrom(11);
    for (let round = 0; round < 5; round++) {
      const path = blank(`gpt-${round}.img`, (8 + random(40)) * MiB);
      const words: string[] = [];
      const names = ['root', 'Größe 100 %', '数据', 'x'.repeat(36), 'a b', '😀 disk'];
      for (let i = 0, number = 1; i < 1 + random(6); i++, number += 1 + random(9)) {
        words.push(
          '-n',
          `${number}:0:+${1 + random(900)}K`,
          '-t',
          `${number}:${random(2) ? '8e00' : '8300'}`,
        );
        words.push('-c', `${number}:${names[random(names.length)]}`);
      }
      run('sgdisk', [...words, path]);
      const { table, partitions, warnings } = await byDriftmap(path);
      expect({ table, partitions }, `${path}: ${words.join(' ')}`).toEqual(bySfdisk(path));
      expect(warnings).toEqual([]);
    }
  });

  it('are read from more than 128 entries, and beside a hybrid MBR with a warning', async () => {
    const path = blank('gpt-hybrid.img', 64 * MiB);
    run('sgdisk', ['-S', '256', '-n', '1:0:+4M', '-n', '200:0:+8M', '-n', '2:0:+1M', path]);
    run('sgdisk', ['-h', '1:2', path]);
    const { table, partitions, warnings } = await byDriftmap(path);
    expect({ table, partitions }).toEqual(bySfdisk(path));
    expect(partitions.map(({ number }) => number)).toEqual([1, 2, 200]);
    expect(warnings).toEqual([expect.stringMatching(/hybrid/)]);
  });
});

describeWith(['sfdisk'], 'MBR partition tables made by sfdisk', () => {
  it('are read as it reads them, with logical partitions in their order', async () => {
    const random = randomFrom(5);
    for (let round = 0; round < 6; round++) {
      const path = blank(`mbr-${round}.img`, 64 * MiB);
      const lines = ['label: dos'];
      const primaries = random(4);
      for (let i = 0; i < primaries; i++)
        lines.push(`size=${1 + random(6)}M, type=${['83', '7', 'c'][random(3)]}`);
      const logical = random(7);
      if (logical > 0) {
        lines.push(`type=${['5', 'f', '85'][random(3)]}`);
        for (let i = 0; i < logical; i++)
          lines.push(`size=${1 + random(5)}M, type=${random(2) ? '8e' : '83'}`);
      }
      run('sfdisk', ['-q', path], `${lines.join('\n')}\n`);
      if (logical > 2) run('sfdisk', ['-q', '--delete', path, '5']);
      const { table, partitions, warnings } = await byDriftmap(path);
      expect({ table, partitions }, lines.join('\n')).toEqual(bySfdisk(path));
      expect(warnings).toEqual([]);
    }
  });
});

describeWith(['partx'], 'GUID partition tables of disks with sectors of 4096 bytes', () => {
  it('are read as partx reads them', async () => {
    const random = randomFrom(8);
    for (let round = 0; round < 8; round++) {
      const count = 1 + random(5);
      const entries = Array.from({ length: count }, (_, i) => ({
        first: 10 + i * 50,
        last: 10 + i * 50 + random(50),
        name: `part ${i}`,
      }));
      const disk = gptDisk(512, 4096, entries);
      const path = join(folder, `native-${round}`);
      writeFileSync(path, disk.bytes);
      const listed = run('partx', ['-S', '4096', '-g', '-r', '-o', 'NR,START,SECTORS', path])
        .trim()
        .split('\n');
      const { table, partitions, warnings } = await byDriftmap(path);
      // partx counts in 512-byte sectors whatever the disk's are.
      const expected = listed.map((line) => line.split(' ').map(Number));
      expect(partitions.map(({ number, offset, length }) => [number, offset / 512, length / 512])).toEqual(
        expected,
      );
      expect({ table, warnings }).toEqual({ table: 'gpt', warnings: [] });
    }
  });
});
