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

/** A child that is told to end and does not is killed after this. */
const GRACE_MS = 2000;

/**
 * Starts the replica as a child process. It ends when we do, however we end, because its standard input ends; and it
 * has a process group of its own, so that Ctrl-C lets us end the stream in peace first.
 * @throws DriftmapError `io` … when it cannot be started or does not greet
 */
export async function reachChild({ command, signal, deadAfterMs, onStart }: ChildOptions): Promise<Reached> {
  const [program, ...args] = command;
  let child: ChildProcess;
  try {
    child = spawn(program!, args, { stdio: ['pipe', 'pipe', 'inherit'], detached: true });
  } catch (cause) {
    throw systemError(cause, { path: program, operation: 'start' });
  }
  if (child.pid !== undefined) onStart?.(child.pid);
  const ended = new Promise<string | null>((resolve) => {
    child.on('error', (cause) => resolve(systemError(cause, { path: program, operation: 'start' }).message));
    child.on('exit', (status, by) => {
      resolve(
        status === 0
          ? null
          : `the replica's process ended ${by === null ? `with status ${status}` : `by ${by}`}`,
      );
    });
  });
  const connection = new Connection(transportOf(child), { deadAfterMs });
  const stop = () =>
    void connection.abandon(new DriftmapError('aborted', 'the splitter is stopped', { operation: 'stream' }));
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop, { once: true });
  const explain = async (cause: unknown) => {
    if (!(cause instanceof DriftmapError) || cause.kind !== 'io') return cause;
    const wait = new Promise<null>((resolve) => setTimeout(resolve, 500, null).unref());
    const why = await Promise.race([ended, wait]);
    return why === null ? cause : new DriftmapError('io', why, { cause });
  };
  const close = async () => {
    signal?.removeEventListener('abort', stop);
    await connection.close();
    const timer = setTimeout(() => child.kill('SIGKILL'), GRACE_MS);
    await ended;
    clearTimeout(timer);
  };
  try {
    await greet(connection);
    return { connection, explain, close };
  } catch (cause) {
    const error = await explain(systemError(cause, { operation: 'start' }));
    await close();
    throw error;
  }
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
