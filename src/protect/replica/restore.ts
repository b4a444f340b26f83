/** Disks of a group as of a point, written into files: from the journal, which is nearer than any snapshot. */

import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { DriftmapError, systemError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import { MiB } from '../../base/units.ts';
import type { Point } from '../../journal/points.ts';
import { openFileUnit } from '../../lu/file-unit.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { ReplicaGroup } from './replica-group.ts';

export interface RestoreOptions {
  /** As `ReplicaGroup.find`. */
  readonly at: string;
  /** A folder, which is made where it is not; each disk becomes `DISK.raw` in it. */
  readonly to: string;
  readonly overwrite?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?:
    | ((progress: { readonly doneBytes: ByteCount; readonly totalBytes: ByteCount }) => void)
    | undefined;
}

/** What there is to restore from: a group that is open, or a journal that is damaged. */
export type RestoreSource = Pick<ReplicaGroup, 'find' | 'journal'>;

export interface RestoredPoint extends Point {
  readonly files: readonly { readonly disk: string; readonly path: string }[];
  /** Bytes that were written; the rest are zeros. */
  readonly bytes: ByteCount;
}

const PIECE = 1 * MiB;
const PIECES_A_TURN = 4;

/**
 * Files take their places when all of them are whole and durable.
 * @throws DriftmapError `policy` where a file is there already; as `ReplicaGroup.find`; what reading and writing throw
 */
export async function restoreFromJournal(
  group: RestoreSource,
  options: RestoreOptions,
): Promise<RestoredPoint> {
  const { at, to, overwrite = false, signal } = options;
  const { sequence, time } = group.find(at);
  const files = group.journal.disks.map(({ name, size }) => ({
    disk: name,
    size,
    path: join(to, `${name}.raw`),
  }));
  const there = files.find(({ path }) => existsSync(path));
  if (there !== undefined && !overwrite) {
    const reason = 'is there already: it is overwritten only with --overwrite';
    throw new DriftmapError('policy', reason, { path: there.path, operation: 'restore' });
  }
  try {
    mkdirSync(to, { recursive: true });
  } catch (cause) {
    throw systemError(cause, { path: to, operation: 'create' });
  }
  const views: LogicalUnit[] = [];
  const totalBytes = files.reduce((sum, { size }) => sum + size, 0);
  let [before, bytes] = [0, 0];
  try {
    // All at once: retention is not to come between.
    for (const { disk } of files) views.push(group.journal.view(disk, { sequence }));
    for (const [i, { path, size }] of files.entries()) {
      bytes += await copyTo(views[i]!, `${path}.part`, signal, (done) =>
        options.onProgress?.({ doneBytes: before + done, totalBytes }),
      );
      before += size;
    }
    for (const { path } of files) renameSync(`${path}.part`, path);
    syncFolder(to);
  } catch (cause) {
    for (const { path } of files) rmSync(`${path}.part`, { force: true });
    throw systemError(cause, { path: to, operation: 'restore' });
  } finally {
    for (const view of views) await view.close();
  }
  return { sequence, time, files: files.map(({ disk, path }) => ({ disk, path })), bytes };
}

/** @returns bytes written */
async function copyTo(
  view: LogicalUnit,
  path: string,
  signal: AbortSignal | undefined,
  onDone: (bytes: ByteCount) => void,
): Promise<ByteCount> {
  rmSync(path, { force: true });
  closeSync(openSync(path, 'wx', 0o600));
  truncateSync(path, view.size);
  const file = openFileUnit(path, { write: true });
  const buffer = new Uint8Array(PIECE);
  let [written, turn] = [0, 0];
  try {
    for (let at = 0; at < view.size; ) {
      for (const { offset, length, kind } of await view.extents({ offset: at, length: view.size - at })) {
        for (let from = offset; from < offset + length && kind === 'data'; from += PIECE) {
          const piece = buffer.subarray(0, Math.min(PIECE, offset + length - from));
          await view.read(from, piece);
          file.write(from, piece);
          written += piece.length;
          if (++turn % PIECES_A_TURN !== 0) continue;
          if (signal?.aborted)
            throw new DriftmapError('aborted', 'the restore was stopped', { path, cause: signal.reason });
          onDone(from);
          await setImmediate();
        }
        at = offset + length;
      }
    }
    file.flush();
    onDone(view.size);
    return written;
  } finally {
    file.close();
  }
}

function syncFolder(path: string): void {
  const folder = openSync(path, 'r');
  try {
    fsyncSync(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EINVAL' && code !== 'ENOTSUP') throw cause;
  } finally {
    closeSync(folder);
  }
}
