/** `driftmap bitmap show --locate`: where every marked run lies, on both sites. */

import { DriftmapError } from '../base/errors.ts';
import type { ByteRange } from '../base/units.ts';
import type { DiskStamp, SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { LocatedRun } from '../disk/locate.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { warn } from './exit.ts';
import { paint, print, printable } from './terminal.ts';

export interface LocateOptions {
  /** At least one of the two. */
  readonly production?: string | undefined;
  readonly replica?: string | undefined;
  readonly productionFormat?: string | undefined;
  readonly replicaFormat?: string | undefined;
  readonly allowOutside?: boolean | undefined;
  readonly json?: boolean | undefined;
  readonly all?: boolean | undefined;
}

/** Without `--all`: ranges that are printed, and runs of each side of one. */
const FIRST = 20;
/** Characters that are gathered before they are printed. */
const PIECE = 65536;

const sides = ['production', 'replica'] as const;
type Sides = Readonly<Partial<Record<(typeof sides)[number], VirtualDisk>>>;
type Locate = (disk: VirtualDisk, range: ByteRange) => Iterable<LocatedRun>;

/** @throws DriftmapError `mismatch` where the bitmap is about other disks, and what opening them throws */
export async function showLocated(bitmap: SyncBitmap, options: LocateOptions): Promise<void> {
  const { openDisk } = await import('../disk/open.ts');
  const { locate } = await import('../disk/locate.ts');
  const { allowOutside, productionFormat, replicaFormat } = options;
  const formats = { production: productionFormat, replica: replicaFormat };
  const disks: { production?: VirtualDisk; replica?: VirtualDisk } = {};
  try {
    for (const side of sides) {
      const named = options[side];
      if (named === undefined) continue;
      const disk = await openDisk(named, { format: formats[side], allowOutside });
      disks[side] = disk;
      for (const warning of disk.warnings) warn(warning);
      checkSame(side, bitmap.header[side], disk);
    }
    const pieces = options.json
      ? locatedAsJson(bitmap, disks, locate)
      : locatedAsText(bitmap, disks, locate, options.all === true);
    await printAll(pieces);
  } finally {
    for (const disk of Object.values(disks)) await disk.close();
  }
}

async function printAll(pieces: Iterable<string>): Promise<void> {
  let gathered = '';
  for (const piece of pieces) {
    gathered += piece;
    if (gathered.length < PIECE) continue;
    await print(gathered);
    gathered = '';
  }
  if (gathered !== '') await print(gathered);
}

function checkSame(side: string, stamp: DiskStamp, disk: VirtualDisk): void {
  if (stamp.identity !== disk.identity) {
    const reason = `expected the ${side} disk that the bitmap is about, ${stamp.identity}, got ${disk.identity}: name that disk, in the format that it was scanned in`;
    throw new DriftmapError('mismatch', reason, { path: disk.name });
  }
  if (stamp.generation === disk.openedGeneration) return;
  warn(`${disk.name}: was written since the bitmap was made: the places are those of now`);
}

function* locatedAsJson(bitmap: SyncBitmap, disks: Sides, locate: Locate): Generator<string, undefined> {
  const { size, blockSize, count: markedBlocks } = bitmap;
  const front = {
    size,
    blockSize,
    markedBlocks,
    production: disks.production?.name,
    replica: disks.replica?.name,
  };
  yield `${JSON.stringify(front, null, 2).slice(0, -2)},\n  "ranges": [`;
  let first = true;
  for (const range of bitmap.ranges()) {
    yield `${first ? '' : ','}\n    {"offset": ${range.offset}, "length": ${range.length}`;
    first = false;
    for (const side of sides) {
      const disk = disks[side];
      if (!disk) continue;
      yield `,\n     "${side}": [`;
      let separator = '';
      for (const run of locate(disk, range)) {
        yield `${separator}\n       ${JSON.stringify(run)}`;
        separator = ',';
      }
      yield ']';
    }
    yield '}';
  }
  yield `${first ? '' : '\n  '}]\n}\n`;
  return undefined;
}

function* locatedAsText(
  bitmap: SyncBitmap,
  disks: Sides,
  locate: Locate,
  all: boolean,
): Generator<string, undefined> {
  yield `${paint('bold', row('', 'offset', 'length', 'kind', 'place', 'unit'))}\n`;
  let count = 0;
  for (const range of bitmap.ranges()) {
    if (++count > FIRST && !all) continue;
    yield `${row('marked', range.offset, range.length, '', '', '')}\n`;
    for (const side of sides) {
      const disk = disks[side];
      if (disk) yield* runsAsText(side, locate(disk, range), all);
    }
  }
  if (count > FIRST && !all) yield `… and ${count - FIRST} more marked runs (--all prints them)\n`;
  return undefined;
}

function* runsAsText(side: string, runs: Iterable<LocatedRun>, all: boolean): Generator<string, undefined> {
  let count = 0;
  for (const { offset, length, kind, unit, place } of runs) {
    if (++count > FIRST && !all) continue;
    yield `${row(`  ${side}`, offset, length, kind, place ?? '–', printable(unit ?? ''))}\n`;
  }
  if (count > FIRST && !all) yield `  … and ${count - FIRST} more runs (--all prints them)\n`;
  return undefined;
}

function row(...[label, offset, length, kind, place, unit]: (string | number)[]): string {
  const right = (text: string | number | undefined) => String(text).padStart(16);
  return `${String(label).padEnd(12)} ${right(offset)} ${right(length)}  ${String(kind).padEnd(11)} ${right(place)}  ${unit}`.trimEnd();
}
