import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { unpack } from '../disk/images.ts';
import { buildQcow2, dataEntry } from '../disk/qcow2-builder.ts';
import { sparseFile } from '../scan/pairs.ts';
import { corpus, describeWith, temporary } from '../tools.ts';
import { driftmap } from './command.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const cluster = 65536;

beforeAll(() => {
  // Clusters: data, a hole, data that lies before the first.
  writeFileSync(
    path('vm.qcow2'),
    buildQcow2({ entries: [[dataEntry(1)], [0n], [dataEntry(0)]], dataClusters: 2 }),
  );
  const contents = new Uint8Array(3 * cluster);
  contents.fill(2, 0, cluster);
  contents.fill(3, cluster, 2 * cluster);
  contents.fill(4, 2 * cluster);
  sparseFile(path('replica.raw'), contents.subarray(0, 2 * cluster));
});

describe('disks', () => {
  it('lists units that are disks themselves; tells what it refuses on standard error, and goes on', () => {
    writeFileSync(path('cut.qcow2'), readFileSync(path('vm.qcow2')).subarray(0, 90));
    const units = [path('cut.qcow2'), path('vm.qcow2'), path('replica.raw')];
    const { status, stdout, stderr } = driftmap(['disks', ...units]);
    expect(status).toBe(0);
    const rows = stdout.split('\n').slice(1, -1);
    expect(rows.map((row) => row.trim().split(/ {2,}/))).toEqual([
      ['192 KiB', '128 KiB', 'qcow2', 'thin', path('vm.qcow2')],
      ['128 KiB', '128 KiB', 'raw', 'unit', path('replica.raw')],
    ]);
    expect(stderr).toMatch(/^driftmap: refused: .*cut\.qcow2: /);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    const json = JSON.parse(driftmap(['disks', '--json', ...units]).stdout);
    expect(json.disks).toMatchObject([
      { address: path('vm.qcow2'), format: 'qcow2', size: 3 * cluster, class: 'thin', data: 2 * cluster },
      { address: path('replica.raw'), class: 'unit' },
    ]);
    expect(json.refused).toMatchObject([{ address: path('cut.qcow2'), kind: 'malformed' }]);
  });

  it('exits 2 where a unit is not there', () => {
    writeFileSync(path('cut.qcow2'), 'QFI\xfb', 'latin1');
    const nothing = driftmap(['disks', path('cut.qcow2')]);
    expect([nothing.status, nothing.stdout]).toEqual([2, 'no virtual disk found; 1 refused\n']);
    expect(driftmap(['disks', '--json', path('cut.qcow2')]).status).toBe(2);
    const { status, stderr } = driftmap(['disks', path('gone')]);
    expect([status, stderr]).toEqual([2, expect.stringMatching(/gone: .*no such file/)]);
  });

  describeWith(['corpus'], 'on the sample units', () => {
    it('finds images in ext4 on LVM on GPT; the addresses open', () => {
      for (const name of ['lu0', 'lu1']) {
        unpack(join(corpus!, 'generated', 'lu', `${name}.img.gz`), path(`${name}.img`));
      }
      const { status, stdout, stderr } = driftmap(['disks', '--json', 'lu0.img', 'lu1.img'], { cwd: folder });
      expect([status, stderr]).toEqual([0, '']);
      const { disks } = JSON.parse(stdout) as { disks: { address: string; format: string }[] };
      expect(disks.map(({ address, format }) => [address, format])).toEqual([
        ['lu0.img:gpt1', 'raw'],
        ['lu0.img,lu1.img:gpt2/lvm:vglu/lin/ext4:/disk-flat.raw', 'raw'],
        ['lu0.img,lu1.img:gpt2/lvm:vglu/lin/ext4:/disk.qcow2', 'qcow2'],
        ['lu0.img,lu1.img:gpt2/lvm:vglu/lin/ext4:/sub/disk.vmdk', 'vmdk'],
        ['lu0.img,lu1.img:gpt2/lvm:vglu/strip', 'raw'],
        ['lu0.img,lu1.img:gpt2/lvm:vglu/raidlin', 'raw'],
      ]);
      const [, flat, qcow2] = disks.map(({ address }) => address);
      expect(driftmap(['scan', flat!, qcow2!, '-q', '-j', '1'], { cwd: folder }).status).toBe(0);
      const explained = driftmap(['explain', qcow2!, '1M'], { cwd: folder });
      expect(explained.stdout.split('\n').map((row) => row.trim().split(/ +/).slice(0, 3))).toEqual([
        ['layer', 'offset', 'length'],
        ['disk', '1048576', '65536'],
        ['image', '1048576', '65536'],
        ['file', '1376256', '65536'],
        ['volume', '14364672', '65536'],
        ['partition', '15413248', '65536'],
        // composition.oracle.json: guest byte 0 lies at 32190464, in one run of 1114112 bytes.
        ['unit', String(32190464 + 1048576), '65536'],
        [''],
      ]);
    });
  });
});

describe('explain', () => {
  it('tells an image, its tables, and the byte of its file', () => {
    const { status, stdout } = driftmap(['explain', path('vm.qcow2'), String(2 * cluster + 512)]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^disk +131584 +65024 +data +\S+vm\.qcow2 +qcow2, 196608 bytes$/m);
    expect(stdout).toMatch(/^image +131584 +65024 +data +\S+ +qcow2, depth 0, L1 0, L2 2$/m);
    expect(stdout).toMatch(new RegExp(`^unit +${4 * cluster + 512} +65024 +data +\\S+vm\\.qcow2$`, 'm'));
  });

  it('ends at the layer that has no storage, and prints JSON', () => {
    const { stdout } = driftmap(['explain', path('vm.qcow2'), '64K', '--json']);
    const { offset, layers } = JSON.parse(stdout);
    expect(offset).toBe(cluster);
    expect(layers.map(({ layer, kind }: { layer: string; kind: string }) => [layer, kind])).toEqual([
      ['disk', 'unallocated'],
      ['image', 'unallocated'],
    ]);
  });

  it('refuses an offset past the end, and one that is none', () => {
    expect(driftmap(['explain', path('vm.qcow2'), '192K'])).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/expected a range within the disk's 196608 bytes/),
    });
    expect(driftmap(['explain', path('vm.qcow2'), 'x'])).toMatchObject({ status: 2 });
  });
});

describe('bitmap show --locate', () => {
  const disks = () => ['--production', path('vm.qcow2'), '--replica', path('replica.raw')];

  it('lists where every marked run lies on both units', () => {
    const made = ['scan', path('vm.qcow2'), path('replica.raw'), '-q', '-o', path('vm.drift')];
    expect(driftmap(made).status).toBe(1);
    const { status, stdout } = driftmap([
      'bitmap',
      'show',
      path('vm.drift'),
      '--locate',
      '--json',
      ...disks(),
    ]);
    expect(status).toBe(0);
    const located = JSON.parse(stdout);
    expect(located).toMatchObject({ size: 3 * cluster, markedBlocks: 2 });
    expect(located.ranges).toEqual([
      {
        offset: cluster,
        length: 2 * cluster,
        production: [
          { offset: cluster, length: cluster, kind: 'unallocated' },
          {
            offset: 2 * cluster,
            length: cluster,
            kind: 'data',
            unit: path('vm.qcow2'),
            place: 4 * cluster,
          },
        ],
        replica: [
          { offset: cluster, length: cluster, kind: 'data', unit: path('replica.raw'), place: cluster },
          { offset: 2 * cluster, length: cluster, kind: 'absent' },
        ],
      },
    ]);
    const text = driftmap(['bitmap', 'show', path('vm.drift'), '--locate', ...disks()]).stdout;
    expect(text.split('\n').map((row) => row.trim().split(/ +/).slice(0, 5))).toEqual([
      ['offset', 'length', 'kind', 'place', 'unit'],
      ['marked', '65536', '131072'],
      ['production', '65536', '65536', 'unallocated', '–'],
      ['production', '131072', '65536', 'data', '262144'],
      ['replica', '65536', '65536', 'data', '65536'],
      ['replica', '131072', '65536', 'absent', '–'],
      [''],
    ]);
  });

  it('refuses other disks, and to go without them', () => {
    const swapped = ['--production', path('replica.raw'), '--replica', path('vm.qcow2')];
    expect(driftmap(['bitmap', 'show', path('vm.drift'), '--locate', ...swapped])).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/expected the production disk that the bitmap is about/),
    });
    expect(driftmap(['bitmap', 'show', path('vm.drift'), '--locate'])).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/--production DISK --replica DISK/),
    });
    expect(driftmap(['bitmap', 'show', path('vm.drift'), ...disks()])).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/go with --locate/),
    });
  });

  it('says when a disk was written since', () => {
    sparseFile(path('replica.raw'), new Uint8Array(2 * cluster).fill(9));
    const { stderr } = driftmap(['bitmap', 'show', path('vm.drift'), '--locate', ...disks()]);
    expect(stderr).toMatch(/replica\.raw: was written since the bitmap was made/);
  });
});

describe('snapshot', () => {
  it('never overwrites, and leaves nothing behind when it cannot', () => {
    const before = readdirSync(folder);
    const { status, stderr } = driftmap(['snapshot', path('vm.qcow2'), '-o', path('replica.raw')]);
    expect([status, stderr]).toEqual([2, expect.stringMatching(/replica\.raw: is there already/)]);
    const env = { DRIFTMAP_NO_NATIVE: '1' };
    const refused = driftmap(['snapshot', path('vm.qcow2'), '-o', path('new')], { env });
    expect([refused.status, refused.stderr]).toEqual([2, expect.stringMatching(/docs\/SNAPSHOTS\.md/)]);
    expect(readdirSync(folder)).toEqual(before);
  });
});
