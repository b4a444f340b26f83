import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/units.ts';
import { saveBitmap } from '../../src/bitmap/drift-file.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { driftmap } from '../cli/command.ts';
import { describeWith, temporary } from '../tools.ts';
import { endLater, must } from './nbd-peers.ts';

const folder = temporary();
const bin = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'dist', 'lib', 'main.js');
const SIZE = 2 * MiB;

interface Running {
  readonly child: ChildProcess;
  readonly urls: readonly string[];
  stderr(): string;
  /** Sends SIGTERM. @returns the exit status */
  stop(): Promise<number | null>;
}

/** Starts `driftmap export` and waits for as many addresses. */
function start(args: readonly string[], count: number): Promise<Running> {
  const child = spawn(process.execPath, [bin, 'export', ...args], { env: { ...process.env, NO_COLOR: '1' } });
  endLater(child);
  let [stdout, stderr] = ['', ''];
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  return new Promise((resolve, reject) => {
    child.stdout.on('data', (text) => {
      stdout += text;
      const urls = stdout.trim().split('\n');
      if (urls.length < count || !stdout.endsWith('\n')) return;
      const stop = () => {
        child.kill('SIGTERM');
        return ended;
      };
      resolve({ child, urls, stderr: () => stderr, stop });
    });
    child.once('close', () => reject(new Error(`export ended: ${stderr}`)));
  });
}

function makeRaw(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, randomBytes(SIZE));
  return path;
}

describeWith([], 'driftmap export', () => {
  it('serves disks by name, for writing, until it is told to stop', async () => {
    const path = makeRaw('vm.raw');
    const socket = join(folder, 'a');
    const server = await start([path, `second=${makeRaw('b.raw')}`, '--socket', socket], 2);
    expect(server.urls).toEqual(['vm.raw', 'second'].map((name) => `nbd+unix:///${name}?socket=${socket}`));
    const unit = await openNbdUnit(server.urls[0]!, { write: true });
    await unit.write(100, Buffer.from('written'));
    await unit.flush();
    expect(readFileSync(path).subarray(100, 107).toString()).toBe('written');
    expect(await server.stop()).toBe(0);
    expect(existsSync(socket)).toBe(false);
    await unit.close();
    expect(server.stderr()).toBe('');
  });

  it('listens again where a server was killed, and not where one runs', async () => {
    const path = makeRaw('stale.raw');
    const socket = join(folder, 'b');
    const first = await start([path, '-r', '-U', socket], 1);
    const second = driftmap(['export', path, '-r', '-U', socket]);
    expect([second.status, second.stderr]).toEqual([
      2,
      expect.stringMatching(/somebody listens there already/),
    ]);
    first.child.kill('SIGKILL');
    await new Promise((resolve) => first.child.once('close', resolve));
    expect(existsSync(socket)).toBe(true);
    const third = await start([path, '-r', '-U', socket], 1);
    expect(await third.stop()).toBe(0);
  });

  it('takes a port, and is scanned from the shell', async () => {
    const path = makeRaw('tcp.raw');
    const server = await start([path, '--read-only', '--listen', '127.0.0.1:0'], 1);
    const [url] = server.urls;
    expect(url).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/tcp\.raw$/);
    const same = driftmap(['scan', url!, path, '-q']);
    expect([same.status, same.stdout]).toEqual([0, expect.stringMatching(/result {6}equal/)]);
    const bytes = readFileSync(path);
    bytes[SIZE - 1]! ^= 1;
    writeFileSync(join(folder, 'other.raw'), bytes);
    expect(driftmap(['scan', join(folder, 'other.raw'), url!, '-q', '-j', '1']).status).toBe(1);
    expect(await server.stop()).toBe(0);
  });

  it('says what it will not do', () => {
    const path = makeRaw('refused.raw');
    for (const [args, message] of [
      [[path, path, '-U', join(folder, 'c')], /two exports are named 'refused.raw'/],
      [[path, '-l', 'nowhere'], /HOST:PORT/],
      [[path, '-U', 'x', '-l', '1'], /cannot be used with/],
      [[join(folder, 'none')], /no such file/],
      [[path, '-B', 'nofile'], /NAME=FILE/],
      [[path, '--tls-certificates', join(folder, 'none'), '-U', join(folder, 'c')], /no such file/],
    ] as const) {
      const { status, stderr } = driftmap(['export', ...args]);
      expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
    }
  });

  describeWith(['qemu-img', 'nbdinfo'], 'with QEMU and libnbd', () => {
    it('serves images of other formats for reading only, and sync bitmaps as dirty bitmaps', async () => {
      const raw = makeRaw('source.raw');
      const image = join(folder, 'image.qcow2');
      await must('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-c', raw, image]);
      const stamp = { identity: 'x', size: SIZE, generation: '1' };
      const header = { size: SIZE, blockSize: 65_536, signature: 'none', production: stamp, replica: stamp };
      const bitmap = new SyncBitmap(header);
      bitmap.mark(5);
      saveBitmap(bitmap, join(folder, 'marks.drift'));
      const bitmaps = ['--bitmap', `marks=${join(folder, 'marks.drift')}`];
      const server = await start([image, '-U', join(folder, 'd'), ...bitmaps], 1);
      expect(server.stderr()).toMatch(/served for reading only/);
      const [url] = server.urls;
      expect(await must('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', url!, raw])).toMatch(/identical/);
      const map = JSON.parse(await must('nbdinfo', ['--json', '--map=qemu:dirty-bitmap:marks', url!]));
      expect(
        map.map((run: { offset: number; length: number; type: number }) => [
          run.offset,
          run.length,
          run.type,
        ]),
      ).toEqual([
        [0, 5 * 65_536, 0],
        [5 * 65_536, 65_536, 1],
        [6 * 65_536, SIZE - 6 * 65_536, 0],
      ]);
      expect(await server.stop()).toBe(0);
    });
  });
});
