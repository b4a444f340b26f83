/** Commands that are awaited, and processes that are killed and started again. */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** Never a synchronous call while the group works: the network between the sites lives in this process. */
export async function run(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'])
    child[name].on('data', (text) => {
      said[name] += text;
    });
  const status = await new Promise((resolve) => child.on('close', resolve));
  return { status, ...said };
}

export const command = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'dist', 'lib', 'main.js');
export const driftmap = (...args) => run(process.execPath, [command, ...args]);

/** A process that is started again when it is killed. */
export class Service {
  starts = 0;
  rss = [];
  /** @param log a file that gets what it says */
  constructor({ name, args, log }) {
    this.name = name;
    this.args = args;
    this.log = log;
  }
  start() {
    this.starts++;
    this.child = spawn(process.execPath, [command, ...this.args], { stdio: ['ignore', 'pipe', 'pipe'] });
    const { child } = this;
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (text) => {
        writeFileSync(this.log, text, { flag: 'a' });
      });
    this.ended = new Promise((resolve) => child.on('close', resolve));
  }
  sample() {
    try {
      this.rss.push(
        Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${this.child.pid}/status`, 'utf8'))[1]) / 1024,
      );
    } catch {}
  }
  async restart() {
    this.child.kill('SIGKILL');
    await this.ended;
    this.start();
  }
  async stop() {
    this.child.kill('SIGTERM');
    return Promise.race([
      this.ended,
      sleep(60_000).then(() => {
        this.child.kill('SIGKILL');
        return 'killed';
      }),
    ]);
  }
}
