/** `driftmap snapshots init`, `list` and `show`. */

import { DriftmapError } from '../base/errors.ts';
import { tellMoment } from '../base/time.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { SnapshotInfo } from '../snapshots/manifest.ts';
import type { Compression } from '../snapshots/object-format.ts';
import { Exit, warn } from './exit.ts';
import {
  pickSnapshot,
  type StoreFlags,
  shortId,
  snapshotJson,
  snapshotLine,
  storeOf,
  tellDistance,
  withRepository,
} from './snapshots-store.ts';
import { stopOnSignals } from './stop.ts';
import { print, printable } from './terminal.ts';

export interface InitFlags extends StoreFlags {
  blockSize?: number;
  compression?: Compression;
}

export async function runInit(store: string, flags: InitFlags): Promise<void> {
  const { openObjectStore } = await import('../store/open-object-store.ts');
  const { createRepository } = await import('../snapshots/repository.ts');
  const { address, key } = await storeOf(store, flags);
  const objects = await openObjectStore(address, { create: true });
  try {
    const { blockSize, compression } = flags;
    const made = await createRepository(objects, { key, blockSize, compression, signal: stopOnSignals() });
    const { id, isEncrypted } = made;
    const json = {
      repository: id,
      blockSize: made.blockSize,
      compression: made.compression,
      encrypted: isEncrypted,
    };
    const text = `${printable(objects.name)}: repository ${id.slice(0, 8)}, blocks of ${exactSize(made.blockSize)}, compressed by ${made.compression}, ${isEncrypted ? 'encrypted' : 'not encrypted'}\n`;
    await print(flags.json ? `${JSON.stringify(json)}\n` : text);
  } finally {
    await objects.close();
  }
  process.exitCode = Exit.equal;
}

export async function runList(store: string, flags: StoreFlags & { group?: string }): Promise<void> {
  const signal = stopOnSignals();
  const { listSnapshots } = await import('../snapshots/catalog.ts');
  let damaged = 0;
  await withRepository(store, flags, signal, async (repository, group) => {
    const onDamage = (_: string, error: DriftmapError) => {
      damaged++;
      warn(error.message);
    };
    const snapshots = await listSnapshots(repository, { group, signal, onDamage });
    if (flags.json) await print(`${JSON.stringify(snapshots.map(snapshotJson))}\n`);
    else for (const info of snapshots) await print(`${snapshotLine(info)}\n`);
    if (!flags.json && snapshots.length === 0) await print('no snapshots\n');
  });
  process.exitCode = damaged > 0 ? Exit.trouble : Exit.equal;
}

export interface ShowFlags extends StoreFlags {
  group?: string;
  configuration?: boolean;
}

export async function runShow(store: string, text: string, flags: ShowFlags): Promise<void> {
  const signal = stopOnSignals();
  await withRepository(store, flags, signal, async (repository, group) => {
    const info = await pickSnapshot(repository, text, { group, signal });
    if (flags.configuration) {
      if (info.configuration === null)
        throw new DriftmapError('not-found', 'no description of the virtual machine was kept', {
          path: shortId(info.id),
        });
      await print(info.configuration);
    } else {
      await print(flags.json ? `${JSON.stringify(snapshotJson(info))}\n` : description(info, text));
    }
  });
  process.exitCode = Exit.equal;
}

function description(info: SnapshotInfo, text: string): string {
  const { id, group, point, taken, parent, disks, counts, blockSize, configuration } = info;
  const lines = [
    `snapshot ${id}`,
    `group    ${printable(group)}`,
    `point    ${tellMoment(point.time)}, ${point.consistency}-consistent${tellDistance(info, text)}`,
    ...(point.bookmark === null ? [] : [`bookmark ${printable(point.bookmark)}`]),
    ...(point.journal === null ? [] : [`journal  ${printable(point.journal)}, sequence ${point.sequence}`]),
    `taken    ${tellMoment(taken)}`,
    `after    ${parent === null ? 'nothing' : shortId(parent)}`,
    ...disks.map(
      ({ name, size, blocks }) =>
        `disk     ${printable(name)}: ${humanSize(size)} (${size} bytes), ${humanSize(blocks * blockSize)} of data`,
    ),
    `cost     ${humanSize(counts.bytesRead)} read, ${counts.blocksSent} blocks sent, ${humanSize(counts.bytesSent)}`,
    `machine  ${configuration === null ? 'no description kept' : `${humanSize(Buffer.byteLength(configuration))} of description (--configuration prints it)`}`,
  ];
  return `${lines.join('\n')}\n`;
}
