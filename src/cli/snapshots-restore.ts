/** `driftmap snapshots restore` */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { humanDuration, tellMoment } from '../base/time.ts';
import { humanSize } from '../base/units.ts';
import type { SnapshotInfo } from '../snapshots/manifest.ts';
import type { FileTarget } from '../snapshots/restore-files.ts';
import { Exit } from './exit.ts';
import { createLineBar, shareLine } from './snapshots-bar.ts';
import { pickSnapshot, type StoreFlags, shortId, tellDistance, withRepository } from './snapshots-store.ts';
import { stopOnSignals } from './stop.ts';
import { print, printable } from './terminal.ts';

export interface RestoreFlags extends StoreFlags {
  group?: string;
  to?: string;
  disk?: string[];
  overwrite?: boolean;
  quiet?: boolean;
}

export async function runRestore(store: string, text: string, flags: RestoreFlags): Promise<void> {
  const signal = stopOnSignals();
  const bar = createLineBar(flags.quiet === true || flags.json === true);
  await withRepository(store, flags, signal, async (repository, group) => {
    const { restoreFiles } = await import('../snapshots/restore-files.ts');
    const snapshot = await pickSnapshot(repository, text, { group, signal });
    const targets = targetsOf(snapshot, flags);
    try {
      const restored = await restoreFiles(repository, snapshot, targets, {
        overwrite: flags.overwrite,
        connections: flags.connections,
        signal,
        onProgress: (progress) =>
          bar.show(shareLine('restoring', progress, [`fetched ${humanSize(progress.bytesFetched)}`])),
      });
      bar.stop();
      const { id, point } = snapshot;
      const lines = [
        `snapshot ${shortId(id)} of ${printable(snapshot.group)}, as of ${tellMoment(point.time)}${tellDistance(snapshot, text)}`,
        ...targets.map(({ disk, path }) => `${printable(disk)}: ${printable(path)}`),
        `fetched ${humanSize(restored.bytesFetched)}, ${humanSize(restored.bytesKept)} were there; ${humanDuration(restored.milliseconds)}`,
      ];
      const json = { snapshot: id, time: new Date(point.time).toISOString(), targets, ...restored };
      await print(flags.json ? `${JSON.stringify(json)}\n` : `${lines.join('\n')}\n`);
    } finally {
      bar.stop();
    }
  });
  process.exitCode = Exit.equal;
}

function targetsOf(snapshot: SnapshotInfo, { to, disk }: RestoreFlags): FileTarget[] {
  if (disk !== undefined) {
    return disk.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) throw new DriftmapError('argument', `expected --disk NAME=PLACE, got '${text}'`);
      return { disk: text.slice(0, at), path: text.slice(at + 1) };
    });
  }
  if (to === undefined)
    throw new DriftmapError('argument', 'expected --to FOLDER for all disks, or --disk NAME=PLACE for some');
  try {
    mkdirSync(to, { recursive: true });
  } catch (cause) {
    throw systemError(cause, { path: to, operation: 'make' });
  }
  return snapshot.disks.map(({ name }) => ({ disk: name, path: join(to, fileNameOf(name)) }));
}

/** A disk's name comes from a store: it leads nowhere else than into the folder. */
function fileNameOf(name: string): string {
  const isPlain = /^[^/\\\0]+$/.test(name) && !name.startsWith('.');
  if (!isPlain) {
    const reason = `'${name}' cannot be the name of a file: restore this disk with --disk NAME=PLACE`;
    throw new DriftmapError('argument', reason);
  }
  return `${name}.raw`;
}
