/**
 * One writer to a journal: a file that names the process which has it open, by its id, the moment the kernel
 * started it, and the boot. A process that was killed leaves its lock, which the next writer sees is nobody's.
 * Processes that do not see one another (containers with process ids of their own, machines that share a folder)
 * are not kept apart by it.
 */

import { randomBytes } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { DriftmapError, systemError } from '../base/errors.ts';

export interface Lock {
  /** Idempotent. */
  release(): void;
}

/** Attempts: each fails only because somebody else took the lock or gave it up in between. */
const ATTEMPTS = 10;

/** @throws DriftmapError `policy` while another process, or another opening in this one, has the lock */
export function takeLock(path: string): Lock {
  const aside = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`;
  const mine = `${signOf(process.pid) ?? process.pid}\n${randomBytes(8).toString('hex')}\n`;
  try {
    writeFileSync(aside, mine, { flag: 'wx' });
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (linked(aside, path)) return lockOf(path, mine);
      removeIfNobodys(path, `${aside}.old`);
    }
  } catch (cause) {
    throw systemError(cause, { path, operation: 'lock' });
  } finally {
    rmSync(aside, { force: true });
  }
  throw new DriftmapError('policy', 'others take this lock and leave it again and again: try later', {
    path,
  });
}

function lockOf(path: string, mine: string): Lock {
  let held = true;
  return {
    release() {
      if (!held) return;
      held = false;
      if (readIfThere(path) === mine) rmSync(path, { force: true });
    },
  };
}

/** Whether the name was free, and is ours now: a link is made or not, whoever tries at the same time. */
function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw cause;
  }
}

function removeIfNobodys(path: string, old: string): void {
  const text = readIfThere(path);
  if (text === null) return;
  const sign = text.split('\n')[0] ?? '';
  const pid = Number(sign.split(' ')[0]);
  if (Number.isSafeInteger(pid) && pid > 0 && signOf(pid) === sign) {
    const who = pid === process.pid ? 'this process' : `process ${pid}`;
    const reason = `this journal is open for writing in ${who}: close it there first`;
    throw new DriftmapError('policy', reason, { path });
  }
  // Moved away first: a lock that another took in the meantime is put back rather than removed.
  try {
    renameSync(path, old);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw cause;
  }
  if (readIfThere(old) !== text) linked(old, path);
  rmSync(old, { force: true });
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw cause;
  }
}

/** `pid start boot` of a living process, null of none. */
function signOf(pid: number): string | null {
  try {
    // The name in parentheses may hold anything; the 22nd field is the start in clock ticks since boot (proc(5)).
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return null;
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${pid} ${fields[19]} ${boot}`;
  } catch {
    return isAlive(pid) && !hasProc() ? `${pid} unknown` : null;
  }
}

function hasProc(): boolean {
  return statSync('/proc/self/stat', { throwIfNoEntry: false }) !== undefined;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM';
  }
}
