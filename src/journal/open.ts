/** Making and opening a journal. */

import { randomBytes } from 'node:crypto';
import { DriftmapError } from '../base/errors.ts';
import { JOURNAL_SEGMENT_BYTES } from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { Core } from './core.ts';
import { type JournalFolder, makeFolder, realFolder } from './folder.ts';
import { Journal } from './journal.ts';
import { UNFINISHED } from './mirror.ts';
import type { Time } from './record.ts';
import { openStream } from './recover.ts';
import type { Place } from './segment.ts';
import {
  checkGroup,
  GROUP_FILE,
  type Group,
  type JournalDisk,
  loadGroup,
  loadPosition,
  POSITION_FILE,
  saveGroup,
  savePosition,
} from './state.ts';

export interface NewJournal {
  /** The consistency group's name. */
  readonly group: string;
  /** `identity` binds a disk to one unit; without it, any unit of that size may be it. */
  readonly disks: readonly {
    readonly name: string;
    readonly size: ByteCount;
    readonly identity?: string | null;
  }[];
  /** Data of one segment file, after which the next begins; 128 MiB by default. */
  readonly segmentBytes?: ByteCount;
  /** The disks are no moment of the production's until `resume` says so; false by default. */
  readonly suspended?: boolean;
}

export interface JournalOptions {
  /** Disks of the group that are at hand, by name; `attach` adds others later. */
  readonly disks?: ReadonlyMap<string, LogicalUnit>;
  /** The clock, in milliseconds since 1970. */
  readonly clock?: () => Time;
  /**
   * `write` (the default): one opening at a time; repairs what a crash left. `read`: changes no file, and sees what
   * was durable when it was opened; once a writer uses the journal its views end with a `mismatch` error.
   */
  readonly access?: 'read' | 'write';
  /**
   * Of one that is open for reading, whose last segment of a direction is damaged in its metadata: `pass` opens it with
   * the points that do not need what is damaged, and a warning. `refuse` (the default) throws.
   */
  readonly damage?: 'refuse' | 'pass';
}

/**
 * Makes a journal for a group in a folder, which is made where there is none.
 * @throws DriftmapError `argument`, `policy` when there is a journal in it, `io` …
 */
export async function createJournal(
  at: string | JournalFolder,
  { group, disks, segmentBytes = JOURNAL_SEGMENT_BYTES, suspended = false }: NewJournal,
  options: JournalOptions = {},
): Promise<Journal> {
  const description: Group = {
    journal: randomBytes(16).toString('hex'),
    group,
    disks: disks.map(({ name, size, identity }): JournalDisk => ({ name, size, identity: identity ?? null })),
    segmentBytes,
  };
  checkGroup(description, typeof at === 'string' ? at : at.path);
  if (typeof at === 'string') makeFolder(at);
  const folder = typeof at === 'string' ? realFolder(at) : at;
  if (folder.list().includes(GROUP_FILE)) {
    throw new DriftmapError('policy', 'there is a journal in this folder already: open it, or name another', {
      path: folder.path,
    });
  }
  const time = clockOf(options)();
  savePosition(folder, { low: 0, high: 0, durableDo: 0, durableUndo: 0, time, suspended, cut: null });
  // Last: a folder without it is no journal.
  saveGroup(folder, description);
  return openJournal(folder, options);
}

/**
 * Opens a journal as its writer left it, whole or killed.
 * @throws DriftmapError `not-found`, `policy` while another has it open, `malformed` for damage, with path and
 *   offset, `mismatch` for files or disks of another, `unsupported` for a newer version
 */
export async function openJournal(
  at: string | JournalFolder,
  options: JournalOptions = {},
): Promise<Journal> {
  const folder = typeof at === 'string' ? realFolder(at) : at;
  const write = options.access !== 'read';
  // Before a lock is put there: a folder of something else is not to be touched.
  loadGroup(folder);
  const lock = write ? folder.lock() : null;
  try {
    const warnings: string[] = [];
    const pass = !write && options.damage === 'pass';
    const core = await openCore(folder, { write, pass }, (line) => warnings.push(line));
    if (options.disks) core.attach(options.disks);
    return new Journal(core, { lock, clock: clockOf(options), warnings });
  } catch (error) {
    lock?.release();
    throw error;
  }
}

function clockOf({ clock = Date.now }: JournalOptions): () => Time {
  return () => {
    const time = Math.floor(clock());
    if (Number.isSafeInteger(time) && time >= 0) return time;
    throw new DriftmapError('argument', `expected a clock in milliseconds since 1970, got ${time}`);
  };
}

interface Manner {
  readonly write: boolean;
  /** Damage is passed over where that can be done. */
  readonly pass: boolean;
}

async function openCore(
  folder: JournalFolder,
  { write, pass }: Manner,
  warn: (line: string) => void,
): Promise<Core> {
  const group = loadGroup(folder);
  const newest = folder.list().filter((name) => name.startsWith('undo.meta.'));
  const watched = [POSITION_FILE, ...newest.sort().slice(-1)];
  const stamp = folder.stamp(watched);
  const position = loadPosition(folder);
  if (write) {
    for (const name of folder.list()) if (name.endsWith(UNFINISHED)) folder.remove(name);
  }
  const { low, time, suspended, cut } = position;
  const durableDo = Math.min(position.durableDo, cut ?? position.durableDo);
  const durableUndo = Math.min(position.durableUndo, cut ?? position.durableUndo);
  const sizes = group.disks.map(({ size }) => size);
  const place: Place = { folder, journal: group.journal, sizes, segmentBytes: group.segmentBytes };
  const beginning = { next: low + 1, time, suspended };
  // How far the damaged end of a direction had gone. A cut that was begun is for a writer to finish first.
  const damaged = { undo: 0, do: 0 };
  const passing = (direction: 'undo' | 'do') => {
    if (!pass || cut !== null) return {};
    return {
      passOver(last: number) {
        damaged[direction] = last;
      },
    };
  };
  const common = { write, beginning, warn };
  const undo = await openStream(place, 'undo', { ...common, durable: durableUndo, ...passing('undo') });
  const redo = await openStream(place, 'do', { ...common, durable: durableDo, ...passing('do') });
  // A roll forwards says where it goes by the overwritten data that it appends; a cut is not made in the middle of one.
  const grown = cut === null && undo.last > durableUndo;
  const grownTo = grown ? Math.max(undo.last, position.high) : position.high;
  // The disks may have taken all that the damaged end told of; of what is no new data they have nothing.
  const told = damaged.do > 0 ? damaged.do : redo.last;
  const high = damaged.undo > grownTo ? Math.max(grownTo, Math.min(damaged.undo, told)) : grownTo;
  const core = new Core(place, group, redo, undo, { ...position, high });
  if (redo.segments.length > 0 && redo.first > low + 1) {
    const reason = `the new data of sequences ${low + 1} to ${redo.first - 1} is missing: put back its files`;
    throw new DriftmapError('malformed', reason, { path: folder.path });
  }
  if (core.reach() === null) {
    warn(`${folder.path}: no point can be rolled to any more; synchronize the replica anew`);
  }
  if (!write) {
    core.watch(watched, stamp);
    core.checkStill?.();
    return core;
  }
  if (cut !== null) await core.cutAfter(cut);
  await core.settle();
  if (high !== position.high || undo.last < durableUndo || redo.last < durableDo) core.savePosition();
  return core;
}
