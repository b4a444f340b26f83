/**
 * One writer at a time: a file beside the state that names the process which holds it. It is left behind by a
 * process that was killed; then it names a process that is gone, and the next one takes it over.
 */

import { randomBytes } from 'node:crypto';
import { linkSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { DriftmapError, systemError } from '../base/errors.ts';

/** Locks of this process: two sessions in one process see each other here. */
const held = new Set<string>();

/**
 * @returns lets it go
 * @throws DriftmapError `policy` while another session, here or in another process, holds it
 */
export function lock(path: string): () => void {
  const mine = `${process.pid} ${startOf(process.pid) ?? '?'} ${hostname()}\n`;
  if (held.has(path)) throw busy(path, 'another session of this process');
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    writeFileSync(aside, mine, { flag: 'wx' });
    try {
      take(path, aside);
    } finally {
      unlinkSync(aside);
    }
  } catch (cause) {
    throw lockError(cause, path);
  }
  held.add(path);
  return () => {
    if (!held.delete(path)) return;
    try {
      if (readFileSync(path, 'utf8') === mine) unlinkSync(path);
    } catch {
      // Gone already: nobody is kept out.
    }
  };
}

/** A link is made whole or not at all, and only where no file is. */
function take(path: string, aside: string): void {
  for (let tries = 0; ; tries++) {
    try {
      linkSync(aside, path);
      return;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EEXIST' || tries === 5) throw cause;
    }
    const holder = readHolder(path);
    if (holder === null) continue;
    if (isAlive(holder)) throw busy(path, `process ${holder.pid} on ${holder.host}`);
    bury(path, `${aside}.old`, holder);
  }
}

/** Moves a stale lock away; gives it back should it have become another's in this moment. */
function bury(path: string, grave: string, stale: Holder): void {
  try {
    renameSync(path, grave);
  } catch {
    // Somebody else has buried it.
    return;
  }
  try {
    if (readHolder(grave)?.text !== stale.text) linkSync(grave, path);
  } catch {
    // A third one has taken it meanwhile: the next try finds whom to wait for.
  } finally {
    unlinkSync(grave);
  }
}

interface Holder {
  readonly text: string;
  readonly pid: number;
  readonly start: string;
  readonly host: string;
}

function readHolder(path: string): Holder | null {
  try {
    const text = readFileSync(path, 'utf8');
    const [pid = '', start = '', host = ''] = text.trim().split(' ');
    return { text, pid: Number(pid), start, host };
  } catch {
    return null;
  }
}

/** A process of another machine cannot be asked: it counts as alive. */
function isAlive({ pid, start, host }: Holder): boolean {
  if (!Number.isInteger(pid) || pid <= 0) return false;
  if (host !== hostname()) return true;
  try {
    process.kill(pid, 0);
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM';
  }
  const now = startOf(pid);
  if (now === DEAD) return false;
  return now === null || start === '?' || now === start;
}

/** A process that has ended and that nobody has waited for: it holds nothing. */
const DEAD = 'dead';

/** When a process began, in the kernel's ticks: a number that is used again has another. Null where unknown. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name, in parentheses, may hold spaces; after it come the state and, as the 20th field, the start (proc(5)).
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? DEAD : (fields[19] ?? null);
  } catch {
    return null;
  }
}

const readOnly: readonly unknown[] = ['EROFS', 'EACCES', 'EPERM'];

function lockError(cause: unknown, path: string): DriftmapError {
  const code = (cause as NodeJS.ErrnoException | null)?.code;
  if (!readOnly.includes(code)) return systemError(cause, { path, operation: 'lock' });
  const reason = `the replica, or the folder that it lies in, can only be read, and its lock and state are kept beside it: make the folder writable [${code}]`;
  return new DriftmapError('permission', reason, { path, operation: 'lock', cause });
}

function busy(path: string, holder: string): DriftmapError {
  const reason = `the replica is being written by ${holder}: wait for it; if it is gone, remove this file`;
  return new DriftmapError('policy', reason, { path });
}
