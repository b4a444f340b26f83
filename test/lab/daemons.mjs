// What the labs share: daemons that live as long as their starter's standard input, in a temporary folder.
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Runs `make`, then `tell`, then answers lines `restart NAME`; ends when standard input does, or by a signal: kills the
 * daemons by their ids, since nothing is to be kept, and removes the folder.
 */
export class Lab {
  daemons = new Map();
  ending = false;

  constructor(name, env = {}) {
    this.name = name;
    this.folder = mkdtempSync(join(tmpdir(), `driftmap-${name}-`));
    this.env = { ...process.env, ...env };
  }

  at(...parts) {
    return join(this.folder, ...parts);
  }

  /** @param commands by name: what to run, and what is there when it is up */
  async run({ commands, make, tell }) {
    this.commands = commands;
    process.on('SIGINT', () => this.end(0));
    process.on('SIGTERM', () => this.end(0));
    const orders = createInterface({ input: process.stdin });
    orders.on('close', () => this.end(0));
    orders.on('line', async (line) => {
      await this.start(line.replace(/^restart /, ''));
      this.tell(tell);
    });
    try {
      await make();
      this.tell(tell);
    } catch (error) {
      if (!this.ending) console.error(`${this.name}: ${error.message}\n${error.stderr ?? ''}`);
      await this.end(1);
    }
  }

  tell(tell) {
    const ids = Object.fromEntries([...this.daemons].map(([name, { pid }]) => [name, pid]));
    console.log(JSON.stringify({ ...tell(), folder: this.folder, ids }));
  }

  /** Returns when it is up. */
  async start(name) {
    const { command, up } = this.commands[name];
    const log = openSync(this.at(`${name}.out`), 'a');
    const [program, ...args] = command;
    const child = spawn(program, args, { env: this.env, cwd: this.folder, stdio: ['ignore', log, log] });
    closeSync(log);
    child.on('error', (error) => console.error(`${this.name}: ${program}: ${error.message}`));
    this.daemons.set(name, child);
    await this.until(name, up);
  }

  async until(name, holds) {
    for (let tries = 0; tries < 900; tries++) {
      if (
        await Promise.resolve()
          .then(holds)
          .catch(() => false)
      )
        return;
      await sleep(100);
    }
    throw new Error(`${name} does not come up; see ${this.folder}`);
  }

  async end(status) {
    if (this.ending) return;
    this.ending = true;
    for (const child of this.daemons.values()) {
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) continue;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
    rmSync(this.folder, { recursive: true, force: true });
    process.exit(status);
  }
}

/** Taken and let go: whoever starts two labs at one moment may be unlucky. */
export async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  const ports = [];
  for (const server of servers) {
    if (!server.listening) await new Promise((resolve) => server.once('listening', resolve));
    ports.push(server.address().port);
  }
  for (const server of servers) await new Promise((resolve) => server.close(resolve));
  return ports;
}

export async function answers(port) {
  await fetch(`http://127.0.0.1:${port}/`);
  return true;
}
