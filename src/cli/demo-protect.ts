/**
 * `driftmap demo --protect`: continuous protection in a walk of two minutes, with the real commands: a guest writes
 * to two disks, an upgrade goes wrong, the moment before it is looked at and rolled to, and after production is gone
 * the disks come back from a snapshot.
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError } from '../base/errors.ts';
import { KiB, MiB } from '../base/units.ts';
import { type NbdUnit, openNbdUnit } from '../lu/nbd/nbd-unit.ts';
import { line } from './scan-report.ts';
import { paint, print } from './terminal.ts';

const DISK_BYTES = 32 * MiB;
const disks = ['system', 'data'] as const;
type Disk = (typeof disks)[number];
type Sums = Readonly<Record<Disk, string>>;

const group = {
  group: 'web',
  production: {
    state: 'state',
    disks: Object.fromEntries(disks.map((disk) => [disk, { disk: `${disk}.raw`, socket: `${disk}.sock` }])),
  },
  replica: {
    journal: 'replica/journal',
    disks: Object.fromEntries(disks.map((disk) => [disk, `replica/${disk}.raw`])),
    keep: { age: '1d', bytes: '1G' },
    snapshots: { store: 'store' },
  },
};

/** @param folder an empty one, which the caller names in what it prints */
export async function walkThroughProtection(folder: string): Promise<void> {
  const walk = new Walk(folder);
  try {
    await walk.whole();
  } finally {
    await walk.end();
  }
}

class Walk {
  private readonly folder: string;
  private protect: ChildProcess | null = null;

  constructor(folder: string) {
    this.folder = folder;
  }

  async whole(): Promise<void> {
    await this.begin();
    await this.say('A guest works on both disks: a system is installed, a database is filled.');
    await this.guest('system', 'the system, version 1', 24);
    await this.guest('data', 'orders 1 to 500', 16);
    const before = this.sums('');
    await this.say('Before an upgrade this moment gets a name, and a snapshot of it goes to the store.');
    await this.run('bookmark', 'web.json', 'before-upgrade');
    await this.run('snapshots', 'take', 'web.json');
    await this.say('The upgrade goes wrong: it writes over the system, and loses half of the orders.');
    await this.guest('system', 'the system, version 2, broken', 24);
    await this.guest('data', 'garbage', 8);
    await this.run('points', 'web.json');
    await this.look(before);
    await this.loseProduction(before);
  }

  /** Stops what runs. */
  async end(): Promise<void> {
    await this.stopProtect('SIGTERM');
  }

  private async begin(): Promise<void> {
    const { folder } = this;
    for (const sub of ['replica', 'store']) mkdirSync(join(folder, sub));
    for (const disk of disks) {
      writeFileSync(join(folder, `${disk}.raw`), '');
      truncateSync(join(folder, `${disk}.raw`), DISK_BYTES);
    }
    writeFileSync(join(folder, 'web.json'), `${JSON.stringify(group, null, 2)}\n`);
    await this.say(`Two disks of ${DISK_BYTES / MiB} MiB, one group, one file that describes it: web.json`);
    await print(
      `${line('production', disks.map((disk) => `${disk}.raw`).join(', '))}\n${line('replica', 'replica/ (its disks and its journal)')}\n${line('snapshots', 'store/')}\n`,
    );
    await this.say('The splitter serves the disks over NBD and streams every write to the replica.');
    await print(`${paint('bold', '$ driftmap protect web.json &')}\n\n`);
    await this.startProtect();
  }

  private async startProtect(): Promise<void> {
    const child = this.spawn(['protect', 'web.json']);
    this.protect = child;
    const streams = new Promise<void>((resolve, reject) => {
      let said = '';
      child.stdout!.on('data', (text: Buffer) => {
        void print(text.toString());
        said += text.toString();
        if (/ streaming\b/.test(said)) resolve();
      });
      child.once('close', () => reject(new DriftmapError('internal', 'driftmap protect ended early')));
    });
    await streams;
  }

  private async stopProtect(signal: NodeJS.Signals): Promise<void> {
    const child = this.protect;
    this.protect = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill(signal);
    await ended;
  }

  /** Looks at the bookmark without rolling anything. */
  private async look(before: Sums): Promise<void> {
    await this.say('The moment before is there to look at, at once: nothing is copied or rolled.');
    await print(`${paint('bold', '$ driftmap access web.json --at before-upgrade --socket-dir past &')}\n\n`);
    mkdirSync(join(this.folder, 'past'));
    const child = this.spawn(['access', 'web.json', '--at', 'before-upgrade', '--socket-dir', 'past']);
    const ended = new Promise((resolve) => child.once('close', resolve));
    await new Promise<void>((resolve, reject) => {
      child.stdout!.on('data', (text: Buffer) => {
        void print(text.toString());
        if (text.toString().includes('data.sock')) resolve();
      });
      child.once('close', () => reject(new DriftmapError('internal', 'driftmap access ended early')));
    });
    for (const disk of disks) {
      const unit = await this.open(join('past', `${disk}.sock`), disk);
      const bytes = new Uint8Array(DISK_BYTES);
      await unit.read(0, bytes);
      await unit.close();
      await this.check(`${disk} as of before-upgrade`, sumOf(bytes), before[disk]);
    }
    child.kill('SIGTERM');
    await ended;
  }

  private async loseProduction(before: Sums): Promise<void> {
    await this.say('Then production is lost: its process is killed, its disks are removed.');
    await this.stopProtect('SIGKILL');
    for (const disk of disks) rmSync(join(this.folder, `${disk}.raw`));
    await this.say(
      'The replica rolls its disks to the bookmark, by what the journal kept of each overwritten byte.',
    );
    await this.run('roll', 'web.json', '--to', 'before-upgrade');
    const rolled = this.sums('replica');
    for (const disk of disks) await this.check(`replica/${disk}.raw`, rolled[disk], before[disk]);
    await this.say('And had the replica been lost as well: the snapshot, from the store alone.');
    await this.run('snapshots', 'list', 'web.json');
    await this.run('snapshots', 'restore', 'web.json', 'latest', '--to', 'restored');
    const restored = this.sums('restored');
    for (const disk of disks) await this.check(`restored/${disk}.raw`, restored[disk], before[disk]);
  }

  private async say(text: string): Promise<void> {
    await print(`\n${text}\n\n`);
  }

  /** The demonstration knows the truth, and says so if it finds another. */
  private async check(what: string, found: string, expected: string): Promise<void> {
    if (found !== expected)
      throw new DriftmapError('internal', `${what}: expected SHA-256 ${expected}, got ${found}`);
    await print(`${line('', `${what}: as it was, byte for byte (SHA-256 ${found.slice(0, 12)}…)`)}\n`);
  }

  /** What a virtual machine would do, through its NBD connection. */
  private async guest(disk: Disk, text: string, mebibytes: number): Promise<void> {
    const unit = await this.open(`${disk}.sock`, disk);
    const block = Buffer.alloc(256 * KiB, `${text}. `);
    for (let offset = 0; offset < mebibytes * MiB; offset += block.length) {
      block.writeUInt32LE(offset / block.length, 0);
      await unit.write(offset, block);
    }
    await unit.flush();
    await unit.close();
    await print(`${line(disk, `${mebibytes} MiB written: ${text}`)}\n`);
  }

  private open(socket: string, disk: Disk): Promise<NbdUnit> {
    const path = encodeURIComponent(join(this.folder, socket));
    return openNbdUnit(`nbd+unix:///${disk}?socket=${path}`, { write: true });
  }

  private sums(sub: string): Sums {
    const sum = (disk: Disk) => sumOf(readFileSync(join(this.folder, sub, `${disk}.raw`)));
    return { system: sum('system'), data: sum('data') };
  }

  private spawn(args: readonly string[]): ChildProcess {
    return spawn(process.execPath, [process.argv[1]!, ...args], {
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  }

  /** A command, shown as it is typed, with what it prints. */
  private async run(...args: string[]): Promise<void> {
    await print(`${paint('bold', `$ driftmap ${args.join(' ')}`)}\n`);
    const child = this.spawn([...args]);
    let said = '';
    child.stdout!.on('data', (text: Buffer) => {
      said += text.toString();
    });
    const status = await new Promise((resolve) => child.once('close', resolve));
    await print(said);
    if (status !== 0) throw new DriftmapError('internal', `driftmap ${args[0]} ended with status ${status}`);
  }
}

function sumOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
