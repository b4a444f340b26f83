/**
 * What a splitter keeps of itself: the file of write intents; while it runs, and after a kill, the stamps of its disks;
 * and after a clean stop the exact marks of each disk (`NAME.drift`). Opening it tells what the replica may lack,
 * whatever became of the splitter before, and whoever wrote to the disks since.
 */

import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { loadBitmap, saveBitmap } from '../../bitmap/drift-file.ts';
import { NO_SIGNATURE, SyncBitmap } from '../../bitmap/sync-bitmap.ts';
import { AsideFile, readBounded, writeAtomically } from '../../codec/atomic-file.ts';
import { type FileTimes, type FileUnit, openFileUnit } from '../../lu/file-unit.ts';
import { hostId } from '../../sync/host.ts';
import { holdDisk, lockOr } from '../group/hold-disk.ts';
import { Intents } from './intents.ts';
import {
  type IntentDisk,
  type IntentImage,
  newImage,
  placeOfRegion,
  readImage,
  regionCount,
  regionFor,
  runOf,
  sealSector,
} from './intents-file.ts';
import { Marks } from './marks.ts';
import { Stamps } from './stamp.ts';
import {
  MAX_STAMP_BYTES,
  newStamp,
  readStamp,
  type Stamp,
  type StampImage,
  type StampRecord,
} from './stamp-file.ts';
import { writtenPast } from './written-past.ts';

const INTENTS = 'intents';
const STAMP = 'stamp';
/** A group of a thousand disks with a million regions each. */
const MAX_INTENTS_BYTES = 256 * 1024 * 1024;

export interface StateDisk {
  readonly name: string;
  readonly unit: FileUnit;
}

export interface OpenedState {
  readonly intents: Intents;
  readonly stamps: Stamps;
  /** By disk, in the given order. */
  readonly marks: readonly Marks[];
  /** For people: what was found, where it means that much is compared. */
  readonly notes: readonly string[];
}

/** One splitter for a folder, and one for a disk. */
export interface Held {
  readonly units: readonly FileUnit[];
  release(): void;
}

/**
 * Opens the disks and keeps other splitters away from them and from the folder.
 * @throws DriftmapError `policy` when another has one of them, and what opening a file throws
 */
export async function hold(
  folder: string,
  disks: readonly { readonly name: string; readonly disk: string }[],
): Promise<Held> {
  const undo: (() => void)[] = [];
  const release = () => {
    for (const act of undo.splice(0).reverse()) act();
  };
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    undo.push(lockOr(join(realpathSync(folder), 'lock'), 'this state folder is used by another splitter'));
    const units: FileUnit[] = [];
    for (const { name, disk } of disks) {
      const unit = openFileUnit(disk, { write: true });
      undo.push(() => unit.close());
      if (unit.size === 0) {
        const reason = `the disk '${name}' has 0 bytes, so there is nothing to protect: give it its size, or take it out of the group`;
        throw new DriftmapError('argument', reason, { path: disk });
      }
      undo.push(holdDisk(realpathSync(disk)));
      units.push(unit);
    }
    const twice = units.find(
      ({ identity }, i) => units.findIndex((unit) => unit.identity === identity) !== i,
    );
    if (twice !== undefined)
      throw new DriftmapError('argument', 'two disks of the group are one file', { path: twice.name });
    return { units, release };
  } catch (cause) {
    release();
    throw systemError(cause, { path: folder, operation: 'open' });
  }
}

/** Name of a disk's file of marks: names may hold what file names may not. */
export function marksFile(folder: string, name: string): string {
  const plain = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/.test(name);
  return join(
    folder,
    plain ? `${name}.drift` : `${createHash('sha256').update(name).digest('hex').slice(0, 32)}.drift`,
  );
}

/**
 * Reads what is there, and begins anew from it: the new file of intents has a bit for all that is marked, and the old
 * marks are gone. Until it is in its place the old files are untouched. The new stamps tell the times that the disks
 * were judged by: whatever is written to them past the splitter until its own first write shows at the next start.
 * @throws DriftmapError what writing the folder throws: without intents nothing can be protected
 */
export function openState(folder: string, group: string, disks: readonly StateDisk[]): OpenedState {
  const notes: string[] = [];
  const path = join(folder, INTENTS);
  const old = readOld(path, notes);
  const table = {
    group,
    disks: disks.map(({ name, unit }) => ({
      name,
      size: unit.size,
      identity: unit.identity,
      region: regionFor(unit.size),
    })),
  };
  const times = disks.map(({ unit }) => unit.times());
  const before = { image: old, stamp: old === null ? null : readOldStamp(folder, old) };
  const marks = disks.map((disk, i) => marksOf(folder, disk, table.disks[i]!, before, times[i]!, notes));
  const image = newImage(table, old?.condition.journal ?? null, old?.condition.sequence ?? 0);
  for (const [disk, { bits, blockSize }] of marks.entries()) {
    const { region } = table.disks[disk]!;
    for (const { start, end } of bits.runs()) {
      const last = Math.floor((end * blockSize - 1) / region);
      setBits(
        image,
        disk,
        Math.floor((start * blockSize) / region),
        Math.min(last + 1, regionCount(table.disks[disk]!)),
      );
    }
  }
  const at = Date.now();
  const records = times.map(
    (now): StampRecord | null => now && { state: 'idle', at, times: now, durable: null },
  );
  const stamp = newStamp({ host: hostId(), run: runOf(image), records });
  replaceBoth(folder, image, stamp);
  // The bits speak from now on.
  for (const name of readdirSync(folder))
    if (name.endsWith('.drift')) rmSync(join(folder, name), { force: true });
  const units = disks.map(({ unit }) => unit);
  const stamps = new Stamps(join(folder, STAMP), stamp, units, records);
  try {
    return { intents: new Intents(path, image), stamps, marks, notes };
  } catch (error) {
    void stamps.close();
    throw error;
  }
}

/** Puts the files of a new run in their places: a kill between the two leaves intents without stamps, which is safe. */
function replaceBoth(folder: string, image: IntentImage, stamp: StampImage): void {
  const aside = new AsideFile(join(folder, STAMP));
  try {
    // Before the intents are in their place: should there be no room, the old files stay as they are.
    aside.append(stamp.bytes);
    writeAtomically(join(folder, INTENTS), image.bytes);
  } catch (error) {
    aside.discard();
    throw error;
  }
  aside.commit();
}

/**
 * A clean stop: the exact marks, with the generations of the disks, so that a write that passed by shows.
 * @throws DriftmapError `io` …: then the bits go on speaking, and the next start compares more
 */
export async function endState(
  folder: string,
  {
    intents,
    disks,
    sequence,
  }: {
    readonly intents: Intents;
    readonly disks: readonly (StateDisk & { readonly marks: Marks })[];
    readonly sequence: number;
  },
): Promise<undefined> {
  for (const { name, unit, marks } of disks) {
    const generation = unit.generation();
    const stamp = { identity: unit.identity, size: unit.size, generation };
    const header = {
      size: unit.size,
      blockSize: marks.blockSize,
      signature: NO_SIGNATURE,
      production: stamp,
      replica: stamp,
    };
    saveBitmap(new SyncBitmap(header, marks.bits, marks.unsure), marksFile(folder, name));
  }
  await intents.conclude({ clean: true, sequence });
  // The marks have the generations.
  rmSync(join(folder, STAMP), { force: true });
}

function setBits(image: IntentImage, disk: number, first: number, end: number): void {
  const sectors = new Set<number>();
  for (let region = first; region < end; region++) {
    const { sector, byte, mask } = placeOfRegion(image.starts[disk]!, region);
    image.bytes[byte]! |= mask;
    sectors.add(sector);
  }
  for (const sector of sectors) sealSector(image, sector);
}

function readOld(path: string, notes: string[]): IntentImage | null {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
  try {
    const { image, torn } = readImage(readBounded(path, MAX_INTENTS_BYTES), path);
    if (torn > 0) notes.push(`${path}: ${torn} torn sectors: all that they speak of is compared`);
    return image;
  } catch (cause) {
    if (!(cause instanceof DriftmapError) || cause.kind !== 'malformed') throw cause;
    notes.push(`${cause.message}: everything is compared`);
    return null;
  }
}

/** Null where there is none that belongs to these intents: one of a driftmap that wrote none, or of another run. */
function readOldStamp(folder: string, image: IntentImage): Stamp | null {
  const path = join(folder, STAMP);
  try {
    const stamp = readStamp(readBounded(path, MAX_STAMP_BYTES), path);
    return Buffer.compare(stamp.run, runOf(image)) === 0 ? stamp : null;
  } catch {
    // Then nothing tells, and everything is compared.
    return null;
  }
}

interface Before {
  readonly image: IntentImage | null;
  readonly stamp: Stamp | null;
}

function marksOf(
  folder: string,
  { name, unit }: StateDisk,
  disk: IntentDisk,
  { image: old, stamp }: Before,
  times: FileTimes | null,
  notes: string[],
): Marks {
  const marks = new Marks(unit.size);
  const everything = (why: string | null) => {
    if (why !== null) notes.push(`disk '${name}': ${why}: all of it is compared`);
    if (unit.size > 0) marks.suspect(0, unit.size);
    return marks;
  };
  if (old === null) return everything(null);
  const at = old.table.disks.findIndex((then) => then.name === name);
  const then = old.table.disks[at];
  if (then === undefined) return everything('it is new in the group');
  if (then.identity !== disk.identity) return everything('it is another disk than before');
  if (then.size !== disk.size) return everything(`it had ${then.size} bytes and has ${disk.size}`);
  if (!old.condition.clean) {
    const [host, hostThen] = [hostId(), stamp?.host ?? null];
    const isSameSystem = host === null || hostThen === null || host === hostThen;
    // A block device has no times: there the intents alone speak.
    const past = times === null ? null : writtenPast(stamp?.records[at] ?? null, times, isSameSystem);
    if (past !== null) return everything(past);
    for (let region = 0; region < regionCount(then); region++) {
      const { byte, mask } = placeOfRegion(old.starts[at]!, region);
      if ((old.bytes[byte]! & mask) === 0) continue;
      const offset = region * then.region;
      marks.suspect(offset, Math.min(then.region, then.size - offset));
    }
    return marks;
  }
  return (
    savedMarks(folder, name, unit, marks) ??
    everything('it was written to while it was not protected, or its marks are gone')
  );
}

/** Null where they are not about this disk as it is. */
function savedMarks(folder: string, name: string, unit: FileUnit, marks: Marks): Marks | null {
  let saved: SyncBitmap;
  try {
    saved = loadBitmap(marksFile(folder, name));
  } catch (cause) {
    if (cause instanceof DriftmapError && (cause.kind === 'not-found' || cause.kind === 'malformed'))
      return null;
    throw cause;
  }
  const { production, blockSize } = saved.header;
  if (production.identity !== unit.identity || production.size !== unit.size || blockSize !== marks.blockSize)
    return null;
  if (production.generation !== unit.generation()) return null;
  marks.bits.add(saved.marks);
  marks.unsure.add(saved.coverage);
  return marks;
}
