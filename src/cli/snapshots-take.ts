/** `driftmap snapshots take STORE DISK...` */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_MAX_CONFIGURATION_BYTES } from '../base/protection-limits.ts';
import { humanDuration } from '../base/time.ts';
import type { ByteRange } from '../base/units.ts';
import { bytesOfBlocks, humanSize } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { SnapshotDiskSource } from '../snapshots/disk-taker.ts';
import type { SnapshotInfo } from '../snapshots/manifest.ts';
import type { SnapshotProgress, TakenSnapshot } from '../snapshots/take.ts';
import { Exit, warn } from './exit.ts';
import { split } from './export-command.ts';
import { createLineBar, shareLine } from './snapshots-bar.ts';
import { pickSnapshot, type StoreFlags, shortId, snapshotJson, withRepository } from './snapshots-store.ts';
import { stopOnSignals } from './stop.ts';
import { print, printable } from './terminal.ts';

export interface TakeFlags extends StoreFlags {
  group?: string;
  format?: string;
  allowOutside?: boolean;
  changed?: string[];
  parent?: string;
  full?: boolean;
  name?: string;
  application?: boolean;
  configuration?: string;
  limit?: number;
  at?: string;
  quiet?: boolean;
}

export async function runTake(store: string, disks: string[], flags: TakeFlags): Promise<void> {
  const signal = stopOnSignals();
  if (disks.length === 0) return takeOfGroup(store, flags, signal);
  if (flags.at !== undefined)
    throw new DriftmapError('argument', "--at is for a group's file: disks are taken as they are");
  const group = flags.group ?? split(disks[0]!).name;
  await withRepository(store, { ...flags, group }, signal, async (repository) => {
    const { takeSnapshot } = await import('../snapshots/take.ts');
    const { readBounded } = await import('../codec/atomic-file.ts');
    const { RateLimiter } = await import('../wire/limiter.ts');
    const opened: VirtualDisk[] = [];
    const bar = createLineBar(flags.quiet === true || flags.json === true);
    try {
      const parent = await parentOf(repository, group, flags, signal);
      if (flags.changed !== undefined && parent === null) {
        const reason =
          'changes are changes since a snapshot, and there is none: leave out --changed the first time';
        throw new DriftmapError('argument', reason, { path: repository.store.name });
      }
      const sources = await openSources(disks, flags, opened);
      const configuration =
        flags.configuration === undefined
          ? null
          : Buffer.from(readBounded(flags.configuration, SNAPSHOT_MAX_CONFIGURATION_BYTES)).toString();
      const point = {
        sequence: 0,
        time: Date.now(),
        consistency: flags.application === true ? 'application' : 'crash',
        bookmark: flags.name ?? null,
        journal: null,
      } as const;
      const taken = await takeSnapshot(
        repository,
        { group, disks: sources, point, parent, configuration },
        {
          connections: flags.connections,
          limiter: flags.limit === undefined ? undefined : new RateLimiter(flags.limit),
          signal,
          onProgress: (progress) => {
            const more = [`sent ${humanSize(progress.bytesSent)}`, `${progress.blocksKnown} blocks known`];
            bar.show(shareLine(progress.phase, progress, more));
          },
        },
      );
      bar.stop();
      warnOfWrites(opened);
      await print(flags.json ? `${JSON.stringify(takenJson(taken))}\n` : report(taken));
    } finally {
      bar.stop();
      for (const disk of opened) await disk.close();
    }
  });
  process.exitCode = Exit.equal;
}

/** Of a protected group, by the process that has its journal, or else by opening it. */
async function takeOfGroup(path: string, flags: TakeFlags, signal: AbortSignal): Promise<void> {
  const { looksLikeGroupFile, readGroupFile } = await import('../protect/group/group-file.ts');
  if (!looksLikeGroupFile(path))
    throw new DriftmapError('argument', "expected disks after the store, or a group's file alone", { path });
  const { askReplica } = await import('../protect/replica/host.ts');
  const bar = createLineBar(flags.quiet === true || flags.json === true);
  const onProgress = (progress: unknown) => {
    const { phase, bytesSent, blocksKnown, ...rest } = progress as SnapshotProgress;
    bar.show(shareLine(phase, rest, [`sent ${humanSize(bytesSent)}`, `${blocksKnown} blocks known`]));
  };
  let taken: TakenOfGroup;
  try {
    const options = { signal, onProgress, onWarning: warn };
    const body = flags.at === undefined ? {} : { at: flags.at };
    taken = (await askReplica(readGroupFile(path), 'POST /snapshot', body, options)) as TakenOfGroup;
  } finally {
    bar.stop();
  }
  const { id, at, sequence, bytesRead, bytesScanned, changedBytes, bytesSent, blocksSent } = taken;
  const changed = changedBytes === null ? 'everything was looked at' : `${humanSize(changedBytes)} changed`;
  await print(
    flags.json
      ? `${JSON.stringify(taken)}\n`
      : `snapshot ${shortId(id)} as of ${at} (sequence ${sequence})\n${changed}; read ${humanSize(bytesRead)}, scanned ${humanSize(bytesScanned)}; sent ${blocksSent} blocks, ${humanSize(bytesSent)}\n`,
  );
  process.exitCode = Exit.equal;
}

interface TakenOfGroup
  extends Pick<
    TakenSnapshot,
    'id' | 'bytesRead' | 'bytesScanned' | 'changedBytes' | 'bytesSent' | 'blocksSent'
  > {
  readonly at: string;
  readonly sequence: number;
}

type Repo = Parameters<typeof pickSnapshot>[0];

async function parentOf(
  repository: Repo,
  group: string,
  { full, parent }: TakeFlags,
  signal: AbortSignal,
): Promise<SnapshotInfo | null> {
  if (full === true) return null;
  if (parent !== undefined) return pickSnapshot(repository, parent, { group, signal });
  const { listSnapshots } = await import('../snapshots/catalog.ts');
  return (await listSnapshots(repository, { group, signal })).at(-1) ?? null;
}

async function openSources(
  disks: readonly string[],
  { format, allowOutside, changed = [] }: TakeFlags,
  opened: VirtualDisk[],
): Promise<SnapshotDiskSource[]> {
  const { openDisk } = await import('../disk/open.ts');
  const { diskUnit } = await import('../snapshots/disk-unit.ts');
  const sources: SnapshotDiskSource[] = [];
  const changes = new Map(
    changed.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) throw new DriftmapError('argument', `expected --changed NAME=FILE, got '${text}'`);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
  for (const text of disks) {
    const { name, disk } = split(text);
    const one = await openDisk(disk, { format, allowOutside });
    opened.push(one);
    for (const warning of one.warnings) warn(warning);
    const file = changes.get(name);
    changes.delete(name);
    const ranges = file === undefined ? null : await changesOf(file, one);
    sources.push({ name, size: one.size, unit: diskUnit(one), changed: ranges });
  }
  for (const name of changes.keys())
    throw new DriftmapError('argument', `--changed names '${name}', and no such disk is taken`);
  return sources;
}

/** What a bitmap marks, and what it does not know. */
async function changesOf(file: string, disk: VirtualDisk): Promise<Iterable<ByteRange>> {
  const { loadBitmap } = await import('../bitmap/drift-file.ts');
  const bitmap = loadBitmap(file);
  const { production, replica } = bitmap.header;
  if (bitmap.size < disk.size)
    throw new DriftmapError('mismatch', `expected a bitmap of ${disk.size} bytes, got ${bitmap.size}`, {
      path: file,
    });
  if (![production.identity, replica.identity].includes(disk.identity)) {
    const reason = `is a bitmap of other disks than ${disk.name}: it cannot say what changed there`;
    throw new DriftmapError('mismatch', reason, { path: file });
  }
  return (function* () {
    for (const run of bitmap.suspectRuns()) {
      const range = bytesOfBlocks(run, bitmap.blockSize, disk.size);
      if (range.length > 0) yield range;
    }
  })();
}

/** A disk that is written to while it is taken is none of any moment. */
function warnOfWrites(opened: readonly VirtualDisk[]): void {
  for (const disk of opened) {
    const now = disk.generation();
    if (/(^| )(device|live)( |$)/.test(now))
      warn(`${disk.name}: nothing tells whether it was written to while the snapshot was taken`);
    else if (now !== disk.openedGeneration)
      warn(`${disk.name}: was written to while the snapshot was taken: it holds no single moment`);
  }
}

function report(taken: TakenSnapshot): string {
  const {
    id,
    disks,
    bytesRead,
    bytesScanned,
    changedBytes,
    blocksSent,
    blocksKnown,
    bytesSent,
    milliseconds,
  } = taken;
  const lines = [
    `snapshot ${shortId(id)} of ${printable(taken.group)}: ${disks.map(({ name }) => printable(name)).join(', ')}`,
  ];
  const changed = changedBytes === null ? '' : `, ${humanSize(changedBytes)} changed`;
  lines.push(`read ${humanSize(bytesRead)}${changed}, scanned ${humanSize(bytesScanned)}`);
  lines.push(
    `sent ${blocksSent} blocks, ${humanSize(bytesSent)}; ${blocksKnown} were there; ${humanDuration(milliseconds)}`,
  );
  return `${lines.join('\n')}\n`;
}

function takenJson(taken: TakenSnapshot): object {
  const {
    bytesRead,
    bytesScanned,
    changedBytes,
    blocksSent,
    blocksKnown,
    pagesSent,
    bytesSent,
    milliseconds,
    ...info
  } = taken;
  const cost = {
    bytesRead,
    bytesScanned,
    changedBytes,
    blocksSent,
    blocksKnown,
    pagesSent,
    bytesSent,
    milliseconds,
  };
  return { ...snapshotJson(info), ...cost };
}
