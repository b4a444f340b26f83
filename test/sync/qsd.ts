/** A real QEMU that keeps a disk and shows it over NBD, with a monitor; and a guest that writes to it. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterAll } from 'vitest';

export interface RunningQemu {
  /** Of the export `vm`. */
  readonly url: string;
  readonly monitor: string;
  stop(): Promise<void>;
}

const started: ChildProcess[] = [];

/** @param bitmap shown with the export; it must be in the image */
export async function runQemu(folder: string, image: string, bitmap?: string): Promise<RunningQemu> {
  const name = `${started.length}`;
  const [socket, monitor] = [join(folder, `${name}.nbd`), join(folder, `${name}.qmp`)];
  const shown = bitmap === undefined ? '' : `,bitmaps.0=${bitmap}`;
  const child = spawn(
    'qemu-storage-daemon',
    [
      ...['--blockdev', `driver=file,node-name=file,filename=${image}`],
      ...['--blockdev', 'driver=qcow2,node-name=vm,file=file'],
      ...['--nbd-server', `addr.type=unix,addr.path=${socket},max-connections=40`],
      ...['--export', `type=nbd,id=e,node-name=vm,name=vm,writable=on${shown}`],
      ...['--chardev', `socket,id=m,path=${monitor},server=on,wait=off`, '--monitor', 'chardev=m'],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  if (started.length === 0) afterAll(() => started.map((one) => one.kill('SIGKILL')));
  started.push(child);
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  for (let tries = 0; !existsSync(socket) || !existsSync(monitor); tries++) {
    if (tries === 200 || child.exitCode !== null) throw new Error('qemu-storage-daemon did not start');
    await setTimeout(25);
  }
  const url = `nbd+unix:///vm?socket=${socket}`;
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  return { url, monitor, stop };
}

/** Commands of qemu-io over an export, as a guest would write. */
export function guestWrites(url: string, commands: readonly string[]): void {
  const args = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), url];
  const { status, stdout, stderr } = spawnSync('qemu-io', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`qemu-io: ${stdout}${stderr}`);
}

/** A guest in a process of its own that writes until it is told to stop. */
export class RunningGuest {
  writes = 0;
  private readonly url: string;
  private readonly size: number;
  private child: ChildProcess | null = null;
  private going = true;
  private readonly done: Promise<void>;

  constructor(url: string, size: number) {
    this.url = url;
    this.size = size;
    this.done = this.run();
  }

  /** Resolves when no write is under way any more. */
  async stop(): Promise<void> {
    this.going = false;
    await this.done;
  }

  private async run(): Promise<void> {
    while (this.going) {
      const commands = Array.from({ length: 4 }, () => {
        const at = ((++this.writes * 7919) % (this.size / 4096)) * 4096;
        return ['-c', `write -q -P ${1 + (this.writes % 250)} ${at} 4096`];
      });
      this.child = spawn('qemu-io', ['-f', 'raw', ...commands.flat(), this.url], { stdio: 'ignore' });
      await new Promise((resolve) => this.child!.once('close', resolve));
      await setTimeout(20);
    }
  }
}

/** The bytes of a disk, whatever its format, as a raw file. */
export function rawOf(image: string, format: string, target: string): string {
  const { status, stderr } = spawnSync('qemu-img', ['convert', '-f', format, '-O', 'raw', image, target]);
  if (status !== 0) throw new Error(String(stderr));
  return target;
}
