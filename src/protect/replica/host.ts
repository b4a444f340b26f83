/** A process that has a replica group open, and how others ask it. */

import { join } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import type { Journal } from '../../journal/journal.ts';
import { openJournal } from '../../journal/open.ts';
import { openFileUnit } from '../../lu/file-unit.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import {
  type AskOptions,
  askControl,
  type ControlRequest,
  type ControlServer,
  serveControl,
} from '../group/control.ts';
import { type GroupFile, replicaOf } from '../group/group-file.ts';
import { hasReplica, noJournal, type OpenReplicaOptions, openReplicaGroup } from './open-replica.ts';
import { type PointsReport, reportPoints } from './points-report.ts';
import type { ReplicaGroup } from './replica-group.ts';
import { replicaRoutes, restore, tellSnapshot } from './routes.ts';
import { Snapshots } from './snapshots.ts';
import { loadReplicaRecord } from './state-file.ts';
import { findTarget } from './target.ts';

/** Where a replica's process is asked. */
export function replicaSocket(file: GroupFile): string {
  return join(replicaOf(file).journal, 'control.sock');
}

export interface ReplicaHost {
  readonly group: ReplicaGroup;
  readonly snapshots: Snapshots;
  /** Resolves when no access is open: until then the process had better live on. */
  whenUnused(): Promise<void>;
  /** Ends what is under way; accesses are discarded. */
  close(): Promise<void>;
}

export interface HostOptions extends OpenReplicaOptions {
  /** Whether snapshots are taken by the group's schedule; true by default. */
  readonly schedules?: boolean | undefined;
}

/** Opens a group and listens on its control socket. @throws DriftmapError as `openReplicaGroup` */
export async function hostReplica(file: GroupFile, options: HostOptions = {}): Promise<ReplicaHost> {
  const group = await openReplicaGroup(file, options);
  const snapshots = new Snapshots(group);
  group.takeSnapshot = async () => tellSnapshot(await snapshots.take());
  let control: ControlServer;
  try {
    control = await serveControl(replicaSocket(file), replicaRoutes(group, snapshots));
  } catch (error) {
    await group.close();
    throw error;
  }
  if (options.schedules !== false) snapshots.start();
  return {
    group,
    snapshots,
    async whenUnused() {
      while (group.accesses.size > 0) await Promise.race([...group.accesses].map((access) => access.ended));
    },
    async close() {
      await control.close();
      await snapshots.close();
      await group.close();
    },
  };
}

/**
 * Asks the process that has a group open, or opens the group for this one question.
 * @param name of a route, as `POST /roll`
 * @throws DriftmapError what the route throws, and as `openReplicaGroup`
 */
export async function askReplica(
  file: GroupFile,
  name: string,
  body: object = {},
  options: AskOptions & { readonly onWarning?: (line: string) => void } = {},
): Promise<unknown> {
  const asked = await askControl(replicaSocket(file), name, body, options);
  if (asked !== null) return asked.answer;
  if (name === 'GET /points') return readPoints(file, options.onWarning);
  const signal = options.signal ?? new AbortController().signal;
  const request: ControlRequest = {
    body,
    signal,
    hears: true,
    tell: (progress) => options.onProgress?.(progress),
  };
  let host: ReplicaHost;
  try {
    host = await hostReplica(file, { schedules: false });
  } catch (error) {
    const isDamaged = error instanceof DriftmapError && error.kind === 'malformed';
    if (!isDamaged || name !== 'POST /restore') throw error;
    return restoreDamaged(file, request, error, options.onWarning);
  }
  try {
    for (const warning of host.group.warnings) options.onWarning?.(warning);
    const route = replicaRoutes(host.group, host.snapshots)[name];
    if (route === undefined) throw new DriftmapError('internal', `no such request: ${name}`);
    return await route(request);
  } finally {
    await host.close();
  }
}

/** Nothing is locked, nor changed. What a damaged end of the journal leaves is told. */
async function readPoints(file: GroupFile, onWarning?: (line: string) => void): Promise<PointsReport> {
  const side = replicaOf(file);
  const { journal: path } = side;
  if (!hasReplica(file)) throw noJournal(file, side);
  const journal = await openJournal(path, { access: 'read', damage: 'pass' });
  try {
    for (const warning of journal.warnings) onWarning?.(warning);
    const record = loadReplicaRecord(path);
    const failedOver = record?.failedOver ?? null;
    const stale =
      failedOver === null
        ? null
        : 'this site was failed over: they hold only as long as nobody used the disks';
    return reportPoints(journal, record, stale);
  } finally {
    await journal.close();
  }
}

/**
 * From the points that a damaged end of the journal leaves; nothing is changed.
 * @throws DriftmapError `damage`, where nothing can be said of the disks: somebody has worked on them
 */
async function restoreDamaged(
  file: GroupFile,
  request: ControlRequest,
  damage: DriftmapError,
  onWarning?: (line: string) => void,
): Promise<unknown> {
  const side = replicaOf(file);
  const record = loadReplicaRecord(side.journal);
  if (record !== null && (record.failedOver !== null || record.rolled !== null || record.renewing))
    throw damage;
  const disks = new Map<string, LogicalUnit>();
  let journal: Journal | null = null;
  try {
    for (const { name, path } of side.disks) disks.set(name, openFileUnit(path));
    journal = await openJournal(side.journal, { access: 'read', damage: 'pass', disks });
    for (const warning of journal.warnings) onWarning?.(warning);
    const opened = journal;
    const find = (target: string) => findTarget(opened, target, Date.now());
    return await restore({ journal: opened, find }, request);
  } finally {
    await journal?.close();
    for (const disk of disks.values()) await disk.close();
  }
}
