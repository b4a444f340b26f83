/** A real sshd on loopback, for one test. */

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs';
import { createServer, connect as netConnect } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { tool } from '../tools.ts';

export const sshdNeeds = ['ssh', 'ssh-keygen', 'sshd'];

export interface Sshd {
  /** The command that reaches it, with its key. */
  readonly ssh: string;
  /** `ssh://user@host:port` */
  readonly address: string;
}

export async function withSshd(folder: string, act: (sshd: Sshd) => Promise<void>): Promise<void> {
  const home = mkdtempSync(join(folder, 'sshd-'));
  const key = join(home, 'key');
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(home, 'host')]);
  execFileSync('cp', [`${key}.pub`, join(home, 'authorized')]);
  chmodSync(join(home, 'authorized'), 0o600);
  const port = await freePort();
  const config = join(home, 'config');
  writeFileSync(
    config,
    [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${join(home, 'host')}`,
      `AuthorizedKeysFile ${join(home, 'authorized')}`,
      'StrictModes no',
      'UsePAM no',
      'PidFile none',
      'PermitRootLogin prohibit-password',
    ].join('\n'),
  );
  spawnSync('mkdir', ['-p', '/run/sshd']);
  const server = spawn(tool('sshd') ?? 'sshd', ['-D', '-e', '-f', config], { stdio: 'ignore' });
  try {
    await reachable(port);
    const ssh = `ssh -i ${key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR`;
    await act({ ssh, address: `ssh://${userInfo().username}@127.0.0.1:${port}` });
  } finally {
    server.kill();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function reachable(port: number): Promise<void> {
  for (let tries = 0; ; tries++) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = netConnect(port, '127.0.0.1');
      socket.once('connect', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (open) return;
    if (tries === 100) throw new Error('sshd did not start');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
