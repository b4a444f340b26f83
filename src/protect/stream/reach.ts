/** How production reaches its replica: by ssh, by TCP, or as a process of its own on this host. */

import { type ChildProcess, spawn } from 'node:child_process';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { type Reached, reach, type SiteOptions } from '../../sync/connect.ts';
import { Connection } from '../../wire/connection.ts';
import { greet } from '../../wire/greeting.ts';
import type { Transport } from '../../wire/transport.ts';
import type { ReplicaAddress } from '../group/group-file.ts';

export interface ChildOptions {
  /** The command and its arguments that serve the replica over standard input and output. */
  readonly command: readonly string[];
  readonly signal?: AbortSignal | undefined;
  /** Silence after which it counts as dead; 60 s by default. */
  readonly deadAfterMs?: number | undefined;
  /** Told its process id. */
  readonly onStart?: ((pid: number) => void) | undefined;
}

/** A child that never greeted, or that has gone silent, is killed when it does not end within this. */
const GRACE_MS = 2000;
/** What a child said last is kept up to so many characters. */
const LAST_LINE = 500;
/** An exit waits for what was said before it. */
const LAST_LINE_MS = 200;

/**
 * Starts the replica as a child process. When its stream ends, however we end, it ends too, once nobody needs it any
 * more: while an access is open through it, it lives on without us, and takes the next stream by `living.ts`. So it
 * is never killed for taking long. It has a process group of its own, so that Ctrl-C lets us end the stream in peace.
 * @throws DriftmapError `io` … when it cannot be started or does not greet
 */
export async function reachChild({ command, signal, deadAfterMs, onStart }: ChildOptions): Promise<Reached> {
  const [program, ...args] = command;
  let child: ChildProcess;
  try {
    child = spawn(program!, args, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
  } catch (cause) {
    throw systemError(cause, { path: program, operation: 'start' });
  }
  if (child.pid !== undefined) onStart?.(child.pid);
  const { ended, why } = watchEnd(child, program!);
  const connection = new Connection(transportOf(child), { deadAfterMs });
  const stop = () =>
    void connection.abandon(new DriftmapError('aborted', 'the splitter is stopped', { operation: 'stream' }));
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop, { once: true });
  const explain = async (cause: unknown) => {
    if (!(cause instanceof DriftmapError) || cause.kind !== 'io' || connection.ending === 'said')
      return cause;
    const wait = new Promise<null>((resolve) => setTimeout(resolve, 500, null).unref());
    const reason = await Promise.race([why, wait]);
    return reason === null ? cause : new DriftmapError('io', reason, { cause });
  };
  let isGreeted = false;
  const close = async () => {
    signal?.removeEventListener('abort', stop);
    await connection.close();
    const isOver = await within(ended, GRACE_MS);
    if (!isOver && (!isGreeted || connection.ending === 'silent')) {
      child.kill('SIGKILL');
      await ended;
    }
    child.stderr?.destroy();
    child.unref();
  };
  try {
    await greet(connection);
    isGreeted = true;
    return { connection, wire: connection, explain, close };
  } catch (cause) {
    const error = await explain(systemError(cause, { operation: 'start' }));
    await close();
    throw error;
  }
}

async function within(promise: Promise<unknown>, milliseconds: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, milliseconds, false);
  });
  const isDone = await Promise.race([promise.then(() => true), late]);
  clearTimeout(timer);
  return isDone;
}

/** Passes on what a child says, and tells when it has ended, and why: what it said last, where it said anything. */
function watchEnd(
  child: ChildProcess,
  program: string,
): { readonly ended: Promise<void>; readonly why: Promise<string | null> } {
  let said = '';
  const { stderr } = child;
  stderr?.on('data', (bytes: Buffer) => {
    process.stderr.write(bytes);
    said = (said + bytes.toString()).slice(-LAST_LINE);
  });
  const silent = new Promise<void>((resolve) => {
    if (stderr === null) resolve();
    else stderr.once('close', () => resolve());
  });
  let end: () => void;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const why = new Promise<string | null>((resolve) => {
    child.on('error', (cause) => {
      resolve(systemError(cause, { path: program, operation: 'start' }).message);
      if (child.pid === undefined) end();
    });
    child.on('exit', async (status, by) => {
      end();
      if (by !== null) return resolve(`the replica's process ended by ${by}`);
      if (status === 0) return resolve(null);
      await within(silent, LAST_LINE_MS);
      const last = said.trim().split('\n').at(-1)!.trim();
      const ending = `the replica's process ended with status ${status}`;
      resolve(last === '' ? ending : `${last} (${ending})`);
    });
  });
  return { ended, why };
}

function transportOf(child: ChildProcess): Transport {
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null) throw new DriftmapError('internal', 'a child without pipes');
  child.on('error', (cause) => stdout.destroy(cause));
  return {
    name: "the replica's process",
    readable: stdout,
    writable: stdin,
    secure: true,
    binding: null,
    destroy: () => {
      stdin.destroy();
      stdout.destroy();
    },
  };
}

/** Another host. `site.disk` is what it calls the group: the path of its group file, or a name that it grants. */
export function reachSite({ site }: ReplicaAddress, options: SiteOptions): Promise<Reached> {
  if (site.kind !== 'ssh') return reach(site, options);
  const remoteCommand = options.remoteCommand ?? `driftmap replica ${quoted(site.disk)} --stdio`;
  return reach(site, { ...options, remoteCommand });
}

/** As one word of a POSIX shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
