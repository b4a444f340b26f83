/** `driftmap restore`: the disks of a group as of a point, from its journal or else from a snapshot. */

import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { humanDuration, parseMoment, tellMoment } from '../base/time.ts';
import { humanSize } from '../base/units.ts';
import type { GroupFile } from '../protect/group/group-file.ts';
import type { TimedPoint } from '../protect/replica/points-report.ts';
import type { SnapshotInfo } from '../snapshots/manifest.ts';
import { Exit, warn } from './exit.ts';
import { explainGroup, explainTimes, type Missing, warnOfMissing } from './points-command.ts';
import { createLineBar } from './snapshots-bar.ts';
import { shortId, withRepository } from './snapshots-store.ts';
import { stopOnSignals } from './stop.ts';
import { print, printable } from './terminal.ts';

interface RestoreFlags {
  at: string;
  to: string;
  from?: 'journal' | 'snapshots';
  overwrite?: boolean;
  key?: string;
  quiet?: boolean;
  json?: boolean;
}

/** What was restored, whichever way. */
interface Restored {
  readonly from: 'journal' | 'snapshot';
  readonly snapshot: string | null;
  readonly time: number;
  /** Milliseconds between it and the time that was asked for; null where no time was. */
  readonly distance: number | null;
  readonly files: readonly { readonly disk: string; readonly path: string }[];
  readonly bytes: number;
}

export function defineRestore(program: Command): void {
  program
    .command('restore')
    .summary('write the disks of a group as of a point in time into files')
    .description(
      "Writes all disks of a group as of a point into files: from the group's journal when it reaches back that far, else from the nearest snapshot that is not after it. Says which, and how far it is from what was asked for.",
    )
    .argument('<group>', "the group's file")
    .requiredOption('--at <point>', "a time, a bookmark, a sequence of the journal, or 'latest'")
    .requiredOption('--to <folder>', 'where the files DISK.raw are put')
    .addOption(
      new Option('--from <where>', 'look nowhere else (default: the journal first)').choices([
        'journal',
        'snapshots',
      ]),
    )
    .option('--overwrite', 'replace files that are there')
    .option('--key <file>', "the snapshots' key, when it is not where the group's file says")
    .option('-q, --quiet', 'no progress')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `${explainTimes}
${explainGroup}

Where the replica site is lost as well, a group file that only names the store will do.

Examples:
  driftmap restore web.json --at 14:02:07 --to /srv/restored
  driftmap restore web.json --at before-upgrade --to /srv/restored
  driftmap restore web.json --at 2026-03-01 --to /srv/restored --from snapshots

Exit status: 0 done, 2 trouble, 130 stopped by Ctrl-C.
`,
    )
    .action(runRestore);
}

async function runRestore(path: string, flags: RestoreFlags): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const file = readGroupFile(path);
  const signal = stopOnSignals();
  const bar = createLineBar(flags.quiet === true || flags.json === true);
  const show = (progress: unknown) => {
    const { doneBytes, totalBytes } = progress as { doneBytes: number; totalBytes: number };
    bar.show(`restoring: ${humanSize(doneBytes)} of ${humanSize(totalBytes)}`);
  };
  let restored: Restored;
  try {
    restored = await restoreFrom(file, flags, { signal, show });
  } finally {
    bar.stop();
  }
  await print(flags.json ? `${JSON.stringify(restored)}\n` : describe(restored));
  process.exitCode = Exit.equal;
}

interface Run {
  readonly signal: AbortSignal;
  readonly show: (progress: unknown) => void;
}

async function restoreFrom(file: GroupFile, flags: RestoreFlags, run: Run): Promise<Restored> {
  if (flags.from === 'snapshots') return fromSnapshot(file, flags, run);
  try {
    return await fromJournal(file, flags, run);
  } catch (error) {
    const mayBeElsewhere = error instanceof DriftmapError && isNotThere(error);
    if (flags.from === 'journal' || file.replica?.snapshots == null || !mayBeElsewhere) throw error;
    return fromSnapshot(file, flags, run, error);
  }
}

/** Not in the journal, or no journal to look in; not a file in the way, nor a stop. */
function isNotThere({ kind, operation }: DriftmapError): boolean {
  if (operation === 'restore' || operation === 'create') return false;
  return ['not-found', 'argument', 'malformed', 'mismatch', 'policy', 'io'].includes(kind);
}

async function fromJournal(
  file: GroupFile,
  { at, to, overwrite, json }: RestoreFlags,
  run: Run,
): Promise<Restored> {
  const { askReplica } = await import('../protect/replica/host.ts');
  const body = { at, to: resolve(to), ...(overwrite && { overwrite }) };
  const options = { signal: run.signal, onProgress: run.show, onWarning: warn };
  const done = (await askReplica(file, 'POST /restore', body, options)) as TimedPoint &
    Pick<Restored, 'files' | 'bytes'> & { readonly missing: Missing | null };
  if (!json) warnOfMissing(done.missing);
  const { time, files, bytes } = done;
  return { from: 'journal', snapshot: null, time, distance: distanceOf(at, time), files, bytes };
}

/** @param why it is not from the journal; null when nobody asked there */
async function fromSnapshot(
  file: GroupFile,
  flags: RestoreFlags,
  run: Run,
  why: DriftmapError | null = null,
): Promise<Restored> {
  let isFound = false;
  const { restoreFiles } = await import('../snapshots/restore-files.ts');
  const { mkdirSync } = await import('node:fs');
  return withRepository(file.path, flags, run.signal, async (repository): Promise<Restored> => {
    const snapshot = await pick(repository, file.group, flags.at, run.signal);
    isFound = true;
    if (why !== null) warn(`not from the journal: ${why.message}`);
    mkdirSync(flags.to, { recursive: true });
    const files = snapshot.disks.map(({ name }) => ({ disk: name, path: resolve(flags.to, fileOf(name)) }));
    const { overwrite } = flags;
    const restored = await restoreFiles(repository, snapshot, files, {
      overwrite,
      signal: run.signal,
      onProgress: run.show,
    });
    const { time } = snapshot.point;
    const distance = distanceOf(flags.at, time);
    return { from: 'snapshot', snapshot: snapshot.id, time, distance, files, bytes: restored.bytesFetched };
  }).catch((error: unknown) => {
    if (isFound || why === null || run.signal.aborted || !(error instanceof DriftmapError)) throw error;
    // A word that is neither a point nor a time: no store has it.
    if (why.kind === 'argument') throw why;
    throw new DriftmapError(why.kind, `${why.message}; nor from a snapshot: ${error.message}`);
  });
}

/** By a bookmark that it was taken at; else by time. */
async function pick(
  repository: import('../snapshots/repository.ts').Repository,
  group: string,
  at: string,
  signal: AbortSignal,
): Promise<SnapshotInfo> {
  const { findSnapshot, listSnapshots } = await import('../snapshots/catalog.ts');
  const snapshots = await listSnapshots(repository, { group, signal });
  const name = at.replace(/^bookmark:/, '');
  const named = snapshots.findLast(({ point }) => point.bookmark === name);
  if (named !== undefined) return named;
  if (at === 'latest') return findSnapshot(snapshots, 'latest', repository.store.name);
  const time = timeOf(at);
  if (time === null) {
    const reason = `no snapshot was taken at a bookmark '${name}': name a time`;
    throw new DriftmapError('not-found', reason, { path: repository.store.name });
  }
  return findSnapshot(snapshots, { time }, repository.store.name);
}

/** A disk's name comes from a store: it leads nowhere else than into the folder. */
function fileOf(name: string): string {
  if (/^[^/\\\0]+$/.test(name) && !name.startsWith('.')) return `${name}.raw`;
  throw new DriftmapError(
    'argument',
    `'${name}' cannot be the name of a file: use 'driftmap snapshots restore'`,
  );
}

function timeOf(at: string): number | null {
  if (at === 'latest' || /^\d+$/.test(at)) return null;
  try {
    return parseMoment(at, Date.now());
  } catch {
    return null;
  }
}

function distanceOf(at: string, time: number): number | null {
  const asked = timeOf(at);
  return asked === null ? null : Math.max(0, Math.min(asked, Date.now()) - time);
}

function describe({ from, snapshot, time, distance, files, bytes }: Restored): string {
  const where = from === 'journal' ? 'from the journal' : `from snapshot ${shortId(snapshot!)}`;
  // Of the journal it is the last write before that time: in between there was none.
  const what =
    from === 'journal' ? 'the last point before the time asked for, by' : 'off the time asked for by';
  const off = distance === null || distance === 0 ? '' : `, ${what} ${humanDuration(distance)}`;
  const lines = files.map(({ disk, path }) => `  ${printable(disk).padEnd(12)}${printable(path)}`);
  return `restored ${where}, as of ${tellMoment(time)}${off} (${humanSize(bytes)})\n${lines.join('\n')}\n`;
}
