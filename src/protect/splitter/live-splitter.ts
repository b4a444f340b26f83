/** A live sync whose marks come from a running splitter: a `driftmap protect` of this host, or one of this process. */

import { realpathSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { PagedBits } from '../../bitmap/paged-bits.ts';
import { openDisk } from '../../disk/open.ts';
import { isNbdUrl, parseNbdUrl } from '../../lu/nbd/url.ts';
import type { LiveGeometry } from '../../sync/live.ts';
import { bitsOf, type LiveEnding, type OpenLive } from '../../sync/live-marks.ts';
import { isLoopback, parseSite } from '../../wire/site.ts';
import { askControl } from '../group/control.ts';
import { productionOf, readGroupFile } from '../group/group-file.ts';
import { controlSocketOf } from './control-routes.ts';
import type { SplitDiskState, Splitter, SplitterState } from './splitter.ts';
import { nobody, rangesOf, WatchClient } from './watch-client.ts';

export interface SplitterOfDisk {
  /** The group's file, the splitter's control socket, or a splitter of this process. */
  readonly splitter: string | Splitter;
  /** The disk as `sync` is given it: the path that the splitter has it by, or the splitter's own NBD export of it. */
  readonly production: string;
  /** Its name in the group; found by `production` unless it is said. */
  readonly disk?: string | undefined;
  /** Of the session: marks of smaller blocks tell it no more. 64 KiB by default. */
  readonly blockSize?: ByteCount | undefined;
  /** As `sync` is told, where it is. */
  readonly format?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Follows the writes that a splitter sees, by a watch: see `watches.ts` for why no write is lost. Call it before `sync`
 * opens the disk. When the splitter stops, the session ends with an error: nobody knows then what was written.
 * @throws DriftmapError `not-found` when the group is not being protected or has no such disk; `mismatch` for another
 *   disk, or another size; `limit` when too many watch it; what reading the group's file and opening the disk throw
 */
export async function liveFromSplitter(options: SplitterOfDisk, ending: LiveEnding): Promise<OpenLive> {
  const { splitter, production } = options;
  const source = typeof splitter === 'string' ? far(controlOf(splitter), options) : near(splitter, options);
  const disk = await findDisk(await source.state(), options);
  const watch = await source.begin(disk.name);
  const take = async (geometry: LiveGeometry) => {
    if (geometry.size !== watch.size) throw otherSize(production, disk.name, watch.size, geometry.size);
    return bitsOf(rangesOf(await watch.take(), watch.blockSize), geometry);
  };
  return { ...ending, lost: watch.lost, take, close: async () => watch.close() };
}

interface Source {
  state(): SplitterState | Promise<SplitterState>;
  begin(disk: string): Watching | Promise<Watching>;
}

interface Watching {
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly lost: AbortSignal;
  take(): PagedBits | Promise<PagedBits>;
  close(): void | Promise<void>;
}

function far(control: string, { blockSize, signal }: SplitterOfDisk): Source {
  return {
    state: async () => {
      const asked = await askControl(control, 'GET /state', {}, { signal });
      if (asked === null) throw nobody(control);
      return asked.answer as SplitterState;
    },
    begin: async (disk) => {
      const client = await WatchClient.begin(control, { disk, blockSize, signal });
      const { begun, lost } = client;
      return { ...begun, lost, take: () => client.take(), close: () => client.close() };
    },
  };
}

function near(splitter: Splitter, { blockSize }: SplitterOfDisk): Source {
  return {
    state: () => splitter.state(),
    begin: (name) => {
      const watch = splitter.watch(name, blockSize);
      return {
        size: watch.size,
        blockSize: watch.blockSize,
        lost: watch.ended,
        take: () => watch.take().snapshot(),
        close: () => watch.end(new DriftmapError('aborted', 'the sync is over')),
      };
    },
  };
}

function controlOf(splitter: string): string {
  if (statSync(splitter, { throwIfNoEntry: false })?.isSocket()) return resolve(splitter);
  return controlSocketOf(productionOf(readGroupFile(splitter)).state);
}

/** The disk of the group that production is; whatever is said, it must be that. */
async function findDisk({ group, disks }: SplitterState, options: SplitterOfDisk): Promise<SplitDiskState> {
  const { disk: wanted, production } = options;
  const named = wanted === undefined ? disks : disks.filter(({ name }) => name === wanted);
  const list = disks.map(({ name, disk, uri }) => `'${name}' is ${disk} and ${uri}`).join('; ');
  if (named.length === 0)
    throw new DriftmapError('not-found', `the group '${group}' has no disk '${wanted}': ${list}`);
  const { size, is } = await lookAt(options);
  const found = named.find(is);
  if (found === undefined) {
    const which = wanted === undefined ? 'a disk of the group' : `the group's disk '${wanted}'`;
    const reason = `is not ${which}, whose splitter sees no write to it; name production as it is there: ${list}`;
    throw new DriftmapError('mismatch', reason, { path: production });
  }
  if (size !== found.size) throw otherSize(production, found.name, found.size, size);
  return found;
}

/**
 * A file is known by itself, whatever its name; an export by its address alone: another server of the same file could
 * not be told from one of another.
 */
async function lookAt({
  production,
  format,
}: SplitterOfDisk): Promise<{ readonly size: ByteCount; is(disk: SplitDiskState): boolean }> {
  if (parseSite(production).kind !== 'local') {
    const reason = 'expected a production disk here: its splitter is followed on its own host';
    throw new DriftmapError('argument', reason, { path: production });
  }
  const disk = await openDisk(production, { format });
  try {
    if (disk.format !== 'raw') {
      const reason = `a splitter sees a raw disk, and this is read as ${disk.format}: marks would be about other places`;
      throw new DriftmapError('mismatch', reason, { path: production });
    }
    const { size, units } = disk;
    if (isNbdUrl(production)) {
      const place = placeOf(production);
      return { size, is: ({ uri }) => placeOf(uri) === place };
    }
    const identity = units.length === 1 ? units[0]!.identity : null;
    return { size, is: (one) => one.identity === identity };
  } finally {
    await disk.close();
  }
}

function placeOf(url: string): string {
  const { socket, host, port, exportName } = parseNbdUrl(url);
  if (socket !== null) return JSON.stringify([realPath(socket), exportName]);
  return JSON.stringify([isLoopback(host) ? 'localhost' : host.toLowerCase(), port, exportName]);
}

function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function otherSize(production: string, name: string, expected: ByteCount, size: ByteCount): DriftmapError {
  const reason = `expected the ${expected} bytes that the group's disk '${name}' has, got ${size}: it is another disk, or was resized since the splitter was started`;
  return new DriftmapError('mismatch', reason, { path: production });
}
