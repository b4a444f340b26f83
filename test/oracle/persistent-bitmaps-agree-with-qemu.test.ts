import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { DriftmapError } from '../../src/base/errors.ts';
import { openDisk } from '../../src/disk/open.ts';
import { importBitmap, listBitmaps } from '../../src/disk/persistent-bitmaps.ts';
import { scan } from '../../src/scan/scan.ts';
import { driftmap } from '../cli/command.ts';
import { qemuImg, qemuIo, unpack } from '../disk/images.ts';
import { corpus, describeWith, temporary } from '../tools.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);

async function rangesOf(image: string, name: string, blockSize: number): Promise<[number, number][]> {
  const { bitmap } = await importBitmap({ image, name, blockSize });
  expect(bitmap.complete).toBe(true);
  return [...bitmap.ranges()].map(({ offset, length }) => [offset, length]);
}

async function failure(promise: Promise<unknown>): Promise<DriftmapError> {
  return promise.then(
    () => {
      throw new Error('expected an error');
    },
    (error: DriftmapError) => error,
  );
}

/** What a list of ranges touches, in units of `unit` bytes. */
function widened(
  ranges: readonly (readonly [number, number])[],
  unit: number,
  size: number,
): [number, number][] {
  const marks = new Set<number>();
  for (const [offset, length] of ranges)
    for (let at = Math.floor(offset / unit); at * unit < offset + length; at++) marks.add(at);
  const found: [number, number][] = [];
  for (const at of [...marks].sort((a, b) => a - b)) {
    const end = Math.min((at + 1) * unit, size);
    const last = found.at(-1);
    if (last && last[0] + last[1] === at * unit) last[1] = end - last[0];
    else found.push([at * unit, end - at * unit]);
  }
  return found;
}

describeWith(['corpus'], 'the bitmaps of the sample', () => {
  it.each(['b64', 'b4', 'merged'])('%s marks what QEMU tells over NBD', async (name) => {
    const image = path('bitmaps.qcow2');
    if (!existsSync(image)) unpack(join(corpus!, 'generated/qcow2/bitmaps.qcow2.gz'), image);
    const told = JSON.parse(
      readFileSync(join(corpus!, `generated/qcow2/bitmaps.${name}.oracle.json`), 'utf8'),
    ) as { start: number; length: number; data: boolean }[];
    const dirty = told.filter(({ data }) => !data).map(({ start, length }) => [start, length] as const);
    const size = told.at(-1)!.start + told.at(-1)!.length;
    expect(dirty.length).toBeGreaterThan(0);
    for (const blockSize of [512, 4096, 65536, 2 ** 20])
      expect(await rangesOf(image, name, blockSize)).toEqual(widened(dirty, blockSize, size));
  });

  it('that claims four thousand million of them is refused, and the image is read', async () => {
    const image = path('huge.qcow2');
    unpack(join(corpus!, 'malformed/q-bitmapdir-huge.qcow2.gz'), image);
    expect(await failure(listBitmaps(image))).toMatchObject({ kind: 'malformed', path: image });
    expect((await failure(importBitmap({ image, name: 'any' }))).message).toMatch(/1 to 65535 bitmaps/);
    await (await openDisk(image)).close();
  });
});

describeWith(['qemu-img', 'qemu-io'], 'bitmaps that QEMU keeps', () => {
  const write = fc.record({
    kind: fc.constantFrom('write -P 7', 'write -z', 'discard'),
    at: fc.nat(2 ** 13 - 1),
    sectors: fc.integer({ min: 1, max: 300 }),
  });

  it('mark every write, and only what was written, at their granularity and at ours', async () => {
    const image = path('tracked.qcow2');
    await fc.assert(
      fc.asyncProperty(
        fc.array(write, { minLength: 1, maxLength: 6 }),
        fc.constantFrom('512', '4k', '64k'),
        fc.constantFrom(512, 4096, 65536, 2 ** 20),
        fc.constantFrom(2 ** 22, 2 ** 22 + 1536),
        async (writes, cluster, granularity, size) => {
          qemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=${cluster}`, image, String(size));
          qemuImg('bitmap', '-f', 'qcow2', '--add', '-g', String(granularity), image, 'first');
          const ranges = writes.map(({ kind, at, sectors }) => {
            const offset = (at * 512) % size;
            return { kind, offset, length: Math.min(sectors * 512, size - offset) };
          });
          const commands = ranges.map(({ kind, offset, length }) => `${kind} ${offset} ${length}`);
          qemuIo(image, commands, ['-f', 'qcow2', '-d', 'unmap']);
          const told = widened(
            ranges.map(({ offset, length }) => [offset, length]),
            granularity,
            size,
          );
          for (const blockSize of [512, 65536])
            expect(await rangesOf(image, 'first', blockSize)).toEqual(widened(told, blockSize, size));
        },
      ),
      { numRuns: 6 },
    );
  }, 60_000);

  it('are combined by qemu-img as it says, and a disabled one is told and not scanned by', async () => {
    const image = path('merged.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', image, '8M');
    qemuImg('bitmap', '-f', 'qcow2', '--add', '-g', '65536', image, 'a');
    qemuIo(image, ['write 1M 64k'], ['-f', 'qcow2']);
    qemuImg('bitmap', '-f', 'qcow2', '--disable', image, 'a');
    qemuImg('bitmap', '-f', 'qcow2', '--add', '-g', '4096', image, 'b');
    qemuIo(image, ['write 3M 4k'], ['-f', 'qcow2']);
    qemuImg('bitmap', '-f', 'qcow2', '--add', '--merge', 'a', '--merge', 'b', image, 'both');
    expect(await rangesOf(image, 'a', 4096)).toEqual([[2 ** 20, 65536]]);
    expect(await rangesOf(image, 'b', 4096)).toEqual([[3 * 2 ** 20, 4096]]);
    expect((await rangesOf(image, 'both', 65536)).map(([offset]) => offset)).toEqual([2 ** 20, 3 * 2 ** 20]);
    expect((await listBitmaps(image)).map(({ name, enabled }) => [name, enabled])).toEqual([
      ['a', false],
      ['b', true],
      ['both', true],
    ]);
    const { warnings } = await importBitmap({ image, name: 'a' });
    expect(warnings.join()).toMatch(/'a' is disabled/);
    // It lacks the write at 3 MiB.
    driftmap(['index', image, '-o', path('merged.sig'), '-q']);
    driftmap(['bitmap', 'import', image, 'a', '-o', path('a.drift')]);
    const alone = driftmap(['bitmap', 'import', image, 'b', '-o', path('b.drift')]);
    expect(alone.stdout).toMatch(/about the image alone: for index --refresh/);
    for (const within of [`${image}:bitmap=a`, path('a.drift')]) {
      const refresh = ['index', image, '-o', path('merged.sig'), '--refresh', path('merged.sig')];
      for (const command of [['scan', image, image], refresh]) {
        const { status, stdout, stderr } = driftmap([...command, '--within', within]);
        expect([status, stdout]).toEqual([2, '']);
        expect(stderr).toMatch(/was disabled: it stopped recording/);
      }
    }
  });

  it('lead a scan and a refresh to all that differs, and to nothing else', async () => {
    const image = path('vm.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', image, '16M');
    qemuIo(image, ['write -P 5 0 6M'], ['-f', 'qcow2']);
    qemuImg('convert', '-O', 'raw', image, path('copy.raw'));
    expect(driftmap(['index', image, '-o', path('vm.sig'), '-q']).status).toBe(0);
    qemuImg('bitmap', '-f', 'qcow2', '--add', '-g', '4096', image, 'since');
    qemuIo(
      image,
      ['write -P 6 1M 4k', 'write -P 5 2M 64k', 'write -z 4M 512', 'write -P 1 12M 1M'],
      ['-f', 'qcow2'],
    );
    const within = `${image}:bitmap=since`;
    const marks = (more: readonly string[]) => {
      const common = ['scan', image, path('copy.raw'), '--replica-format', 'raw', '--json', '-s', 'blake3'];
      const { status, stdout, stderr } = driftmap([...common, ...more]);
      expect([status, stderr]).toEqual([1, '']);
      return JSON.parse(stdout) as { ranges: object[]; coveredBlocks: number; readBytes: number };
    };
    const whole = marks([]);
    const narrow = marks(['--within', within]);
    expect(narrow.ranges).toEqual(whole.ranges);
    // 1 + 1 + 1 + 16 blocks were written.
    expect([narrow.coveredBlocks, whole.coveredBlocks]).toEqual([19, 256]);

    const stale = driftmap(['scan', image, path('copy.raw'), '--production-index', path('vm.sig')]);
    expect([stale.status, stale.stderr]).toEqual([2, expect.stringMatching(/vm\.sig: the index is stale/)]);
    const refresh = ['index', image, '-o', path('vm.sig'), '--refresh', path('vm.sig'), '--within', within];
    const refreshed = driftmap([...refresh, '--sample', '100%', '--json']);
    expect(refreshed.status).toBe(0);
    expect(refreshed.stderr).toMatch(/trusts that the bitmap marks every write/);
    expect(JSON.parse(refreshed.stdout).sampledBlocks).toBeGreaterThan(0);
    expect(marks(['--production-index', path('vm.sig')]).ranges).toEqual(whole.ranges);

    const drift = path('vm.drift');
    expect(
      driftmap(['bitmap', 'import', image, 'since', '-o', drift, '--replica', path('copy.raw')]).status,
    ).toBe(0);
    expect(marks(['--within', drift]).ranges).toEqual(whole.ranges);
    const [production, replica] = [await openDisk(image), await openDisk(path('copy.raw'))];
    const { bitmap } = await importBitmap({ image, name: 'since', production, replica });
    const result = await scan({ production, replica, within: bitmap, workers: 1 });
    expect(result.ranges).toEqual(whole.ranges);
    await production.close();
    await replica.close();
  }, 60_000);

  it('of a backing file, or of a copy, are not those of the disk', async () => {
    const image = path('base.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', image, '4M');
    qemuImg('bitmap', '-f', 'qcow2', '--add', image, 'b');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', image, '-F', 'qcow2', path('top.qcow2'));
    writeFileSync(path('other.qcow2'), readFileSync(image));
    const top = await openDisk(path('top.qcow2'));
    for (const other of [image, path('other.qcow2')]) {
      const error = await failure(importBitmap({ image: other, name: 'b', production: top, replica: top }));
      expect(error).toMatchObject({ kind: 'mismatch', path: other });
      expect(error.message).toMatch(/this image is neither/);
    }
    await top.close();
    qemuImg('bitmap', '-f', 'qcow2', '--add', path('top.qcow2'), 'own');
    const { warnings } = await importBitmap({ image: path('top.qcow2'), name: 'own' });
    expect(warnings.join()).toMatch(/has a backing file: writes to that one are not in the bitmap 'own'/);
    expect((await importBitmap({ image, name: 'b' })).warnings).toEqual([]);
  });

  it('of the shorter disk leave the rest of the longer one marked', async () => {
    const image = path('short.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', image, '1M');
    qemuImg('bitmap', '-f', 'qcow2', '--add', image, 'b');
    writeFileSync(path('long.raw'), new Uint8Array(2 ** 20 + 100_000));
    const replica = await openDisk(path('long.raw'), { format: 'raw' });
    const production = await openDisk(image);
    const { bitmap } = await importBitmap({ image, name: 'b', production, replica });
    expect([...bitmap.ranges()]).toEqual([{ offset: 2 ** 20, length: 100_000 }]);
    await production.close();
    await replica.close();
  });
});

describeWith(['qemu-img', 'qemu-nbd'], 'a bitmap that QEMU has open', () => {
  const image = path('open.qcow2');

  /** The socket is there before the image is open; who is greeted comes after. */
  async function greets(socket: string): Promise<boolean> {
    return new Promise((resolve) => {
      const client = connect(socket);
      client.once('data', () => client.destroy()).once('error', () => resolve(false));
      client.once('close', () => resolve(client.bytesRead > 0));
    });
  }

  async function serve(): Promise<ChildProcess> {
    const socket = path(`nbd-${Math.random().toString(36).slice(2)}.sock`);
    const child = spawn('qemu-nbd', ['--persistent', '-f', 'qcow2', '-k', socket, image], {
      stdio: 'ignore',
    });
    for (let tries = 0; !(await greets(socket)); tries++) {
      if (tries === 500 || child.exitCode !== null) throw new Error('qemu-nbd does not listen');
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return child;
  }

  async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill(signal);
    await gone;
  }

  it('is refused while it runs and after it is killed, and trusted after it is closed', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', image, '4M');
    qemuImg('bitmap', '-f', 'qcow2', '--add', image, 'b');
    const refused = async () => {
      expect((await listBitmaps(image))[0]!.refusal).toMatchObject({ kind: 'policy', path: image });
      const error = await failure(importBitmap({ image, name: 'b' }));
      expect(error.message).toMatch(/'b' is not consistent and may lack writes.*scan the whole disk instead/);
      const listed = driftmap(['bitmap', 'list', image]);
      expect([listed.status, listed.stdout]).toEqual([0, expect.stringMatching(/^b .* no$/m)]);
      expect(listed.stderr).toMatch(/in use/);
      const scanned = driftmap(['scan', image, image, '--within', `${image}:bitmap=b`]);
      expect([scanned.status, scanned.stdout]).toEqual([2, '']);
    };
    const closed = await serve();
    await refused();
    await ended(closed, 'SIGTERM');
    expect(await rangesOf(image, 'b', 65536)).toEqual([]);
    await ended(await serve(), 'SIGKILL');
    await refused();
  }, 60_000);

  it('is refused when a program without knowledge of bitmaps has cleared the autoclear bit', async () => {
    const bytes = readFileSync(image);
    bytes[95]! &= ~1;
    const cleared = path('cleared.qcow2');
    writeFileSync(cleared, bytes);
    const error = await failure(importBitmap({ image: cleared, name: 'b' }));
    expect(error.message).toMatch(/knows nothing of bitmaps/);
  });
});
