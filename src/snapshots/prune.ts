/**
 * Pruning: snapshots that no rule keeps are forgotten, and objects that nobody refers to are removed, in two phases
 * and beside running uploads, in a store that has neither locks nor conditional writes.
 *
 * The rules. An object is named by a *manifest* (a snapshot) or by a *draft* (an upload under way, `draft.ts`).
 *
 *   upload   U1 puts its draft, which names its parent's tree; U2 makes sure that the parent's manifest is there;
 *            U3 looks which sweeps there are and which of them are done; U4 finds and puts objects;
 *            U5 puts its draft anew: it names the new tree and the parent's; U6 looks at sweeps again. Each that is
 *            new, or was not done at U3, it waits for, and if any of its objects was on that sweep's lists it goes
 *            back to U4; U7 puts the manifest; U8 removes the draft.
 *   prune    P1 removes manifests; P2 puts `sweeps/ID`, running, with the lists of garbage that it is about to
 *            sweep; P3 reads drafts, then manifests, then drafts again: what they name is *held*; P4 removes what is
 *            on its lists and not held; P5 puts `sweeps/ID` again, done. What is neither held nor on a list becomes
 *            a new list, `garbage/ID`, which a later run sweeps when it is older than the grace.
 *
 * Whoever reads a snapshot (a restore, an access) holds it by a draft as an upload holds its parent, U1 and U2.
 *
 * The claim: no manifest ever names an object that is not there. Reads see all earlier writes (a folder does, S3
 * does). Take an upload, an object o that its manifest names, and a sweep that removes o.
 *
 *   1. The sweep's P3 sees neither a draft nor a manifest that names o, or it would hold o. If P3's first reading of
 *      drafts came after U5, it would have found the draft, or else U8 had removed it, and then U7 came before and
 *      the manifest is found. So P3, and with it P2, began before U5; and U6 sees `sweeps/ID`.
 *   2. If U3 saw it done, all its removals were over before U4: what U4 found there stayed, and what it did not find
 *      it put.
 *   3. Otherwise U6 waits until it is done, or dead, so that it removes nothing any more, finds o on its lists, and
 *      goes back to U4 for it. Its objects are named by the draft of U5 by then, as far as pages are there to be read;
 *      where they are not, and another sweep passes meanwhile, the next U6 sees that one.
 *   4. What U4 does not look at is what it takes over from the parent, unread. That is held by the draft of U1: a P3
 *      that did not see it at its second reading of drafts had read all manifests before U1, and so before U2, which
 *      found the parent there: it was held by its own manifest.
 *
 * Nothing of this is about time. The grace is there for thrift: objects of an upload that is under way, or was
 * stopped and goes on tomorrow, are named by nobody yet, and would have to be sent again if they were swept at once.
 *
 * Time comes in where somebody died, or stood still: a sweep that was killed stays running for ever, so an upload takes
 * it for dead when its object was not renewed for half an hour, by the store's clock. It may be alive all the same (a
 * process that was stopped, a machine that slept), and must not go on removing afterwards. So whoever takes a sweep for
 * dead first puts `ends/ID`, which the sweep never touches, then waits a minute, and only then believes it. The sweep
 * looks whether it is there before each hundred removals, and again before any single one when it looked more than five
 * seconds ago; it also stops by itself when its last renewal is five minutes back. Both by two clocks, of which one goes
 * on while the machine sleeps and the other is never put back (`sweep-beat.ts`). So after `ends/ID` was put:
 *
 *   - a sweep that runs sees it within five seconds. What it had under way by then, one request or a few calls of the
 *     file system, ends within the minute;
 *   - one that stood still for half an hour sees by its clocks that it did, before the next removal, also in the
 *     middle of a hundred;
 *   - one whose machine stood still unseen by any of its clocks (a virtual machine that was paused, and resumed as if
 *     no time had passed) sees `ends/ID` before the next hundred.
 *
 * What no store without conditional removals can call back is what stood still between looking and removing: one call
 * of the file system in each of four lanes, or one request, which S3 refuses when its signature is a quarter of an hour
 * old; and of the machine whose clocks saw nothing, the rest of a hundred.
 *
 * Ages are told by the store's clock alone, from when objects were put: a host whose clock is wrong does no harm. Drafts
 * that were not renewed for a week are dead; uploads renew theirs every hour, and one that slept for days gives up.
 *
 * A sweep that is done is forgotten when every draft says that its upload knows it as done: uploads note so in their
 * drafts at U3, and one whose draft comes later finds it done, or gone, at its U3.
 */

import { setTimeout as pause } from 'node:timers/promises';
import {
  SNAPSHOT_DRAFT_DAYS,
  SNAPSHOT_LIST_NAMES,
  SNAPSHOT_MAX_LISTS,
  SNAPSHOT_MAX_NAMES,
} from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import { listSnapshots } from './catalog.ts';
import { checkAborted } from './crew.ts';

import type { SnapshotInfo } from './manifest.ts';
import { NameSet } from './name-set.ts';
import { ObjectKind } from './object-format.ts';
import {
  collectReferences,
  type FoundDraft,
  ReferenceCollector,
  type References,
  readDrafts,
} from './references.ts';
import { folderOf, keyOf, nameOfKey, type Repository, randomName } from './repository.ts';
import { chooseKept, type RetentionChoice, type RetentionRules } from './retention.ts';
import {
  declareDead,
  defaultSweepTimes,
  encodeGarbage,
  encodeSweep,
  listNamed,
  namesIn,
  readGarbage,
  readSweep,
  type SweepState,
  type SweepTimes,
} from './sweep.ts';
import { SweepBeat } from './sweep-beat.ts';

export interface PruneOptions {
  /** Which snapshots are kept; all of them when absent. */
  readonly rules?: RetentionRules | undefined;
  /** Forgotten besides; of those that rules keep, too. */
  readonly forget?: readonly string[] | undefined;
  /** Milliseconds that garbage is left alone; a day when absent. */
  readonly grace?: number | undefined;
  /** Says what would be done, and does nothing. */
  readonly dryRun?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: PruneProgress) => void) | undefined;
  /** For tests. */
  readonly sweepTimes?: SweepTimes | undefined;
}

export interface PruneProgress {
  readonly phase: 'forgetting' | 'reading snapshots' | 'looking at objects' | 'done';
  readonly objects: number;
  readonly removed: number;
}

export interface Pruned {
  readonly kept: RetentionChoice['keep'];
  readonly forgotten: readonly SnapshotInfo[];
  /** Objects of earlier lists that were removed, and their bytes. */
  readonly removedObjects: number;
  readonly removedBytes: ByteCount;
  /** Objects that nobody refers to and that were put on lists now: a run after the grace removes them. */
  readonly listedObjects: number;
  readonly listedBytes: ByteCount;
  /** Objects that snapshots and uploads refer to. */
  readonly heldObjects: number;
}

const DAY = 86_400_000;
/** Few: what is under way when a sweep stands still is not called back. */
const REMOVED_AT_ONCE = 100;

/**
 * @throws DriftmapError `argument` (rules), `malformed` … when a manifest or page cannot be read: then nothing is
 *   removed, because nobody knows what it refers to; what the store throws
 */
export async function pruneRepository(repository: Repository, options: PruneOptions = {}): Promise<Pruned> {
  const { rules, forget = [], signal } = options;
  const snapshots = await listSnapshots(repository, { signal });
  const choice: RetentionChoice =
    rules === undefined
      ? { keep: snapshots.map((snapshot) => ({ snapshot, reasons: [] })), forget: [] }
      : chooseKept(snapshots, rules);
  const named = new Set(forget);
  const kept = choice.keep.filter(({ snapshot }) => !named.has(snapshot.id));
  const forgotten = snapshots.filter((snapshot) => !kept.some((one) => one.snapshot === snapshot));
  const run = new PruneRun(repository, options);
  if (options.dryRun !== true) await run.forget(forgotten);
  await run.run(options.dryRun === true ? kept.map(({ snapshot }) => snapshot) : null);
  return { kept, forgotten, ...run.counts };
}

class PruneRun {
  readonly counts = {
    removedObjects: 0,
    removedBytes: 0,
    listedObjects: 0,
    listedBytes: 0,
    heldObjects: 0,
  };
  private readonly repository: Repository;
  private readonly options: PruneOptions;
  private readonly times: SweepTimes;
  private readonly isDry: boolean;
  private objects = 0;

  constructor(repository: Repository, options: PruneOptions) {
    this.repository = repository;
    this.options = options;
    this.times = options.sweepTimes ?? defaultSweepTimes;
    this.isDry = options.dryRun === true;
  }

  async forget(snapshots: readonly SnapshotInfo[]): Promise<undefined> {
    const { repository } = this;
    this.tell('forgetting');
    const keys = snapshots.map(({ id }) => `${folderOf(ObjectKind.snapshot)}${id}`);
    if (keys.length > 0) await repository.store.remove(keys, { signal: this.options.signal });
    return undefined;
  }

  /** @param dry the snapshots that would be left, when nothing is to be done */
  async run(dry: readonly SnapshotInfo[] | null): Promise<undefined> {
    const { repository } = this;
    const { signal, grace = DAY } = this.options;
    const beat = new SweepBeat(repository, this.times, signal);
    // Its own object tells the store's clock, so it is put even where there is nothing to sweep yet.
    const now = this.isDry ? Date.now() : await beat.begin();
    const past = await readPast(repository, {
      now,
      grace,
      signal,
      dead: this.times.dead,
      settle: this.times.settle,
      isDry: this.isDry,
    });
    if (!this.isDry) await beat.take(past.due.map(({ name }) => name));
    this.tell('reading snapshots');
    const isAlive = ({ modified }: FoundDraft) => now - modified < SNAPSHOT_DRAFT_DAYS * DAY;
    const { references, drafts } = await collectReferences(repository, {
      signal,
      isAlive,
      onPage: () => (this.isDry ? undefined : beat.beat()),
    });
    const held = dry === null ? references : await this.heldBy(dry, drafts.filter(isAlive));
    this.counts.heldObjects = held.blocks.count + held.pages.count;
    await this.lookAtObjects(held, past, beat);
    if (this.isDry) return undefined;
    await beat.end();
    await this.cleanUp(now, isAlive);
    this.tell('done');
    return undefined;
  }

  private async heldBy(
    snapshots: readonly SnapshotInfo[],
    drafts: readonly FoundDraft[],
  ): Promise<References> {
    const collector = new ReferenceCollector(this.repository, { signal: this.options.signal });
    for (const { disks } of snapshots) for (const disk of disks) await collector.add(disk);
    for (const { trees } of drafts) for (const tree of trees) await collector.add(tree, true);
    return collector;
  }

  /** One walk over all objects: what is due goes, what is new garbage is listed. */
  private async lookAtObjects(held: References, past: PastLists, beat: SweepBeat): Promise<undefined> {
    const { repository } = this;
    const { signal } = this.options;
    const found = new GarbageCollector(repository, signal, this.isDry);
    for (const kind of [ObjectKind.block, ObjectKind.page] as const) {
      const isHeld = kind === ObjectKind.block ? held.blocks : held.pages;
      const due = past.dueNames[kind];
      const waiting = past.waitingNames[kind];
      let doomed: { key: string; bytes: ByteCount }[] = [];
      const remove = async () => {
        await this.remove(doomed, beat);
        doomed = [];
      };
      for await (const { key, bytes, modified } of repository.store.list(folderOf(kind), { signal })) {
        const name = nameOfKey(key);
        if (name === null) continue;
        if (++this.objects % 1000 === 0) await this.step(beat);
        if (isHeld.has(name)) continue;
        // Put again since it was listed: an upload wants it, and would have to put it once more.
        if (due.has(name) && modified <= past.dueSince) {
          doomed.push({ key, bytes });
          if (doomed.length === REMOVED_AT_ONCE) await remove();
        } else if (!waiting.has(name)) {
          await found.add(kind, name);
          this.counts.listedObjects++;
          this.counts.listedBytes += bytes;
        }
      }
      await remove();
    }
    await found.end();
    return undefined;
  }

  private async step(beat: SweepBeat): Promise<undefined> {
    this.tell('looking at objects');
    if (!this.isDry) await beat.beat();
    return undefined;
  }

  private async remove(doomed: readonly { key: string; bytes: ByteCount }[], beat: SweepBeat): Promise<void> {
    if (doomed.length === 0) return;
    if (!this.isDry) {
      const keys = doomed.map(({ key }) => key);
      await beat.look();
      await this.repository.store.remove(keys, {
        signal: this.options.signal,
        check: () => beat.check(),
      });
    }
    this.counts.removedObjects += doomed.length;
    this.counts.removedBytes += doomed.reduce((sum, { bytes }) => sum + bytes, 0);
    this.tell('looking at objects');
  }

  /** Drafts of the dead go, and sweeps that every upload has heard of. */
  private async cleanUp(now: number, isAlive: (draft: FoundDraft) => boolean): Promise<undefined> {
    const { repository } = this;
    const { signal } = this.options;
    const ended: { key: string; name: Uint8Array; sweep: SweepState }[] = [];
    for (const { key, name } of await listNamed(repository, ObjectKind.sweep, { signal })) {
      const sweep = await readSweep(repository, name, { signal });
      if (sweep?.state === 'done') ended.push({ key, name, sweep });
    }
    // By then whoever had stood still has gone on and stopped, or never will.
    const over: string[] = [];
    for (const { key, modified } of await listNamed(repository, ObjectKind.end, { signal }))
      if (now - modified > SNAPSHOT_DRAFT_DAYS * DAY) over.push(key);
    if (over.length > 0) await repository.store.remove(over, { signal });
    // After the sweeps: the upload of a draft that is not there yet will find them done.
    const drafts = await readDrafts(repository, { signal });
    const dead = drafts.filter((draft) => !isAlive(draft)).map(({ key }) => key);
    if (dead.length > 0) await repository.store.remove(dead, { signal });
    const alive = drafts.filter(isAlive);
    const isKnown = (name: Uint8Array, known: readonly Uint8Array[]) =>
      known.some((one) => Buffer.compare(one, name) === 0);
    for (const { key, name, sweep } of ended) {
      if (!alive.every((draft) => isKnown(name, draft.ended))) continue;
      // Lists first: one whose sweep is gone would be swept once more, for nothing.
      const lists = sweep.lists.map((list) => keyOf(ObjectKind.garbage, list));
      if (lists.length > 0) await repository.store.remove(lists, { signal });
      await repository.store.remove([key], { signal });
    }
    return undefined;
  }

  private tell(phase: PruneProgress['phase']): void {
    this.options.onProgress?.({ phase, objects: this.objects, removed: this.counts.removedObjects });
  }
}

interface PastLists {
  readonly due: readonly { readonly name: Uint8Array; readonly modified: number }[];
  readonly dueNames: Readonly<Record<2 | 3, NameSet>>;
  /** When the latest of the due lists was put: none of their objects was named then. */
  readonly dueSince: number;
  /** On lists that are not due yet. */
  readonly waitingNames: Readonly<Record<2 | 3, NameSet>>;
}

interface PastOptions {
  /** The store's clock. */
  readonly now: number;
  readonly grace: number;
  readonly dead: number;
  readonly settle: number;
  readonly isDry: boolean;
  readonly signal: AbortSignal | undefined;
}

/** What earlier runs left. Sweeps that died are ended. */
async function readPast(
  repository: Repository,
  { now, grace, dead, settle, isDry, signal }: PastOptions,
): Promise<PastLists> {
  const swept = new Set<string>();
  for (const { name, modified } of await listNamed(repository, ObjectKind.sweep, { signal })) {
    const sweep = await readSweep(repository, name, { signal });
    for (const list of sweep?.lists ?? []) swept.add(keyOf(ObjectKind.garbage, list));
    if (!isDry && sweep?.state === 'running' && now - modified > dead) {
      // First: whoever finds it done believes that it removes nothing any more.
      await declareDead(repository, name, { signal });
      await pause(settle, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
      checkAborted(signal);
      const bytes = encodeSweep({ ...sweep, state: 'done' });
      await repository.put(ObjectKind.sweep, name, bytes, { signal });
    }
  }
  const sets = () => ({ 2: new NameSet(SNAPSHOT_MAX_NAMES), 3: new NameSet(SNAPSHOT_MAX_NAMES) });
  const [dueNames, waitingNames] = [sets(), sets()];
  const due: { name: Uint8Array; modified: number }[] = [];
  for (const { key, name, modified } of await listNamed(repository, ObjectKind.garbage, { signal })) {
    if (swept.has(key)) continue;
    const list = await readGarbage(repository, name, { signal });
    if (list === null) continue;
    const isDue = now - modified >= grace && due.length < SNAPSHOT_MAX_LISTS;
    if (isDue) due.push({ name, modified });
    const into = isDue ? dueNames : waitingNames;
    for (const one of namesIn(list.blocks)) into[ObjectKind.block].add(one);
    for (const one of namesIn(list.pages)) into[ObjectKind.page].add(one);
  }
  const dueSince = Math.max(Number.NEGATIVE_INFINITY, ...due.map(({ modified }) => modified));
  return { due, dueNames, waitingNames, dueSince };
}

/** Names of new garbage, put as lists. */
class GarbageCollector {
  private readonly repository: Repository;
  private readonly signal: AbortSignal | undefined;
  private readonly isDry: boolean;
  private names: Record<2 | 3, Uint8Array[]> = { 2: [], 3: [] };
  private count = 0;

  constructor(repository: Repository, signal: AbortSignal | undefined, isDry: boolean) {
    this.repository = repository;
    this.signal = signal;
    this.isDry = isDry;
  }

  async add(kind: 2 | 3, name: Uint8Array): Promise<undefined> {
    this.names[kind].push(name);
    this.count++;
    if (this.count === SNAPSHOT_LIST_NAMES) await this.end();
    return undefined;
  }

  async end(): Promise<undefined> {
    const { repository, signal } = this;
    if (this.count > 0 && !this.isDry) {
      const [blocks, pages] = [Buffer.concat(this.names[2]), Buffer.concat(this.names[3])];
      await repository.put(ObjectKind.garbage, randomName(), encodeGarbage({ blocks, pages }), { signal });
    }
    this.names = { 2: [], 3: [] };
    this.count = 0;
    return undefined;
  }
}
