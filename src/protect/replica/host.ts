/** A process that has a replica group open, and how others ask it. */

import { join } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import { openJournal } from '../../journal/open.ts';
import { type AskOptions, askControl, type ControlServer, serveControl } from '../group/control.ts';
import { type GroupFile, replicaOf } from '../group/group-file.ts';
import { type OpenReplicaOptions, openReplicaGroup } from './open-replica.ts';
import { type PointsReport, reportPoints } from './points-report.ts';
import type { ReplicaGroup } from './replica-group.ts';
import { replicaRoutes, tellSnapshot } from './routes.ts';
import { Snapshots } from './snapshots.ts';
import { loadReplicaRecord } from './state-file.ts';

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
  if (name === 'GET /points') return readPoints(file);
  const host = await hostReplica(file, { schedules: false });
  try {
    for (const warning of host.group.warnings) options.onWarning?.(warning);
    const route = replicaRoutes(host.group, host.snapshots)[name];
    if (route === undefined) throw new DriftmapError('internal', `no such request: ${name}`);
    const signal = options.signal ?? new AbortController().signal;
    return await route({ body, signal, tell: (progress) => options.onProgress?.(progress) });
  } finally {
    await host.close();
  }
}

/** Nothing is locked, nor changed. */
async function readPoints(file: GroupFile): Promise<PointsReport> {
  const { journal: path } = replicaOf(file);
  const journal = await openJournal(path, { access: 'read' });
  try {
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
