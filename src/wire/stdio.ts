/** Sessions over standard input and output: of this process, or of one that ssh runs at another site. */

import { type ChildProcess, spawn } from 'node:child_process';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { Place } from './site.ts';
import type { Transport } from './transport.ts';

/** The other end of somebody's `ssh host driftmap serve --stdio`. Whoever can start us may do what we may do. */
export function ownStdio(): Transport {
  return {
    name: '<standard input>',
    readable: process.stdin,
    writable: process.stdout,
    secure: true,
    binding: null,
    copies: true,
    destroy: () => {
      process.stdin.destroy();
      process.stdout.end();
    },
  };
}

export interface SshOptions {
  /** As rsync's -e: a command and its arguments, apart by blanks; `DRIFTMAP_SSH`, or `ssh`, when absent. */
  readonly ssh?: string | undefined;
  /** What is run there, by its shell; `driftmap serve --stdio` by default. */
  readonly remoteCommand?: string | undefined;
}

export interface SshTransport extends Transport {
  /** What its end says about why the session failed; null while it runs, or when it ended well. */
  ending(): Promise<string | null>;
}

/** Starts ssh. It asks for passwords on the terminal itself, and its messages go to our standard error. */
export function overSsh(
  { host, user, port }: Extract<Place, { kind: 'ssh' }>,
  { ssh = process.env.DRIFTMAP_SSH ?? 'ssh', remoteCommand = 'driftmap serve --stdio' }: SshOptions = {},
): SshTransport {
  const [command, ...options] = ssh.trim().split(/\s+/);
  if (command === undefined || command === '')
    throw new DriftmapError('argument', 'expected a command that connects, such as ssh, got nothing');
  const args = [...options];
  if (port !== null) args.push('-p', String(port));
  if (user !== null) args.push('-l', user);
  args.push(host, remoteCommand);
  let child: ChildProcess;
  try {
    child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  } catch (cause) {
    throw systemError(cause, { path: command, operation: 'start' });
  }
  const { stdout, stdin } = child;
  if (stdout === null || stdin === null) throw new DriftmapError('internal', 'ssh without pipes');
  const ended = new Promise<string | null>((resolve) => {
    child.on('error', (cause) => {
      const error = systemError(cause, { path: command, operation: 'start' });
      resolve(error.message);
      stdout.destroy(error);
    });
    child.on('exit', (status, signal) => resolve(status === 0 ? null : endingOf(command, status, signal)));
  });
  return {
    name: `ssh://${host}`,
    readable: stdout,
    writable: stdin,
    secure: true,
    binding: null,
    copies: true,
    destroy: () => {
      stdin.destroy();
      stdout.destroy();
      // It ends by itself when its pipes are closed; one that does not is ended.
      setTimeout(() => child.kill(), 2000).unref();
    },
    ending: () =>
      Promise.race([ended, new Promise<null>((resolve) => setTimeout(resolve, 500, null).unref())]),
  };
}

function endingOf(command: string, status: number | null, signal: string | null): string {
  if (status === null) return `${command} was ended by ${signal}`;
  const hint =
    status === 127
      ? ': driftmap is not in the PATH there (--remote-command says what to run)'
      : status === 255
        ? ': it could not connect'
        : '';
  return `${command} ended with status ${status}${hint}`;
}
