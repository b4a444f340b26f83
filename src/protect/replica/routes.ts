/** What can be asked of a replica group: by its control socket while a process has it open, and by commands that open it themselves. */

import { DriftmapError } from '../../base/errors.ts';
import type { ServerCredentials } from '../../lu/nbd/credentials.ts';
import { readServerCredentials } from '../../lu/nbd/credentials.ts';
import type { TakenSnapshot } from '../../snapshots/take.ts';
import { type ControlRequest, type ControlRoutes, TextAnswer } from '../group/control.ts';
import { Fields } from '../group/fields.ts';
import { type AccessPlace, findAccess, startAccess } from './access.ts';
import { failBack, failOver } from './failover.ts';
import { metricsOf } from './metrics.ts';
import { reportPoints, timed } from './points-report.ts';
import type { ReplicaGroup } from './replica-group.ts';
import { type RestoreSource, restoreFromJournal } from './restore.ts';
import { rollGroup } from './roll.ts';
import type { Snapshots } from './snapshots.ts';

export function replicaRoutes(group: ReplicaGroup, snapshots: Snapshots): ControlRoutes {
  return {
    'GET /state': () => ({ ...group.state(), snapshots: snapshots.state(), warnings: group.warnings }),
    'GET /points': () => reportPoints(group.journal, group.record, staleness(group)),
    'GET /metrics': () => new TextAnswer(metricsOf(group.state()), 'text/plain; version=0.0.4'),
    'POST /bookmark': ({ body }) => bookmark(group, fieldsOf(body)),
    'POST /forget': ({ body }) => forget(group, fieldsOf(body)),
    'POST /roll': (request) => roll(group, request),
    'POST /access': (request) => access(group, request),
    'POST /access/end': ({ body }) => endAccess(group, fieldsOf(body)),
    'POST /failover': (request) => failover(group, request),
    'POST /failback': () => failBack(group),
    'POST /retain': () => group.retain(),
    'POST /snapshot': (request) => snapshot(snapshots, request),
    'POST /restore': (request) => restore(group, request),
  };
}

const fieldsOf = (body: unknown) => new Fields(body, 'request');

function staleness(group: ReplicaGroup): string | null {
  if (group.pointsHold()) return null;
  return 'the disks were used since the failover, so none of these points holds any more';
}

async function bookmark(group: ReplicaGroup, fields: Fields) {
  const name = fields.text('name');
  const consistency = fields.optional('consistency', () =>
    fields.choice('consistency', ['crash', 'application'] as const),
  );
  fields.done();
  return { ...timed(await group.bookmark(name, consistency ?? 'crash')), name };
}

async function forget(group: ReplicaGroup, fields: Fields) {
  const name = fields.text('name');
  fields.done();
  return { ...timed(await group.forget(name)), name };
}

async function roll(group: ReplicaGroup, { body, signal, tell }: ControlRequest) {
  const fields = fieldsOf(body);
  const to = fields.text('to');
  fields.done();
  const rolled = await rollGroup(group, { to, signal, onProgress: tell });
  const { from, follows, others } = rolled;
  return { ...timed(rolled), from, follows, others: others.map(timed) };
}

async function failover(group: ReplicaGroup, { body, signal }: ControlRequest) {
  const fields = fieldsOf(body);
  const at = fields.optional('at', () => fields.text('at')) ?? 'latest';
  const force = fields.optional('force', () => fields.flag('force')) ?? false;
  fields.done();
  const done = await failOver(group, { at, force, signal });
  const disks = [...group.disks].map(([name, disk]) => ({ name, path: disk.name }));
  return { ...timed(done), newest: timed(done.newest), wasConsistent: done.wasConsistent, disks };
}

async function snapshot(snapshots: Snapshots, { body, signal, tell }: ControlRequest) {
  const fields = fieldsOf(body);
  const at = fields.optional('at', () => fields.text('at')) ?? undefined;
  fields.done();
  return tellSnapshot(await snapshots.take({ at, signal, onProgress: tell }));
}

/** As plain data: what it holds, and what it cost. */
export function tellSnapshot(taken: TakenSnapshot): object {
  const { id, point, parent, bytesRead, bytesScanned, changedBytes } = taken;
  const { blocksSent, blocksKnown, bytesSent, milliseconds } = taken;
  const cost = { bytesRead, bytesScanned, changedBytes, blocksSent, blocksKnown, bytesSent, milliseconds };
  return { id, ...timed(point), bookmark: point.bookmark, parent, ...cost };
}

export async function restore(group: RestoreSource, { body, signal, tell }: ControlRequest) {
  const fields = fieldsOf(body);
  const at = fields.text('at');
  const to = fields.text('to');
  const overwrite = fields.optional('overwrite', () => fields.flag('overwrite')) ?? false;
  fields.done();
  const { files, bytes, ...point } = await restoreFromJournal(group, {
    at,
    to,
    overwrite,
    signal,
    onProgress: tell,
  });
  return { ...timed(point), files, bytes, missing: missingAfter(group, at) };
}

/** Since when, and why, writes of production are missing although the latest point was asked for; else null. */
function missingAfter({ journal }: RestoreSource, at: string) {
  const last = at === 'latest' ? journal.points().suspensions.at(-1) : undefined;
  return last === undefined || last.to !== null ? null : { ...timed(last.from), reason: last.reason };
}

/** Answers only when the access has ended. It is discarded when whoever asked for it goes away. */
async function access(group: ReplicaGroup, { body, signal, tell }: ControlRequest) {
  const fields = fieldsOf(body);
  const at = fields.text('at');
  const kind =
    fields.optional('kind', () => fields.choice('kind', ['virtual', 'rolled'] as const)) ?? 'virtual';
  const overlay = fields.optional('overlay', () => fields.text('overlay')) ?? undefined;
  const readOnly = fields.optional('readOnly', () => fields.flag('readOnly')) ?? false;
  const place = readPlace(fields);
  const tls = fields.optional('tls', () => readTls(fields.object('tls'))) ?? undefined;
  fields.done();
  const onTrouble = ({ message }: DriftmapError) => tell({ trouble: message });
  const open = await startAccess(group, { at, kind, overlay, readOnly, place, tls, onTrouble });
  const { others } = group.find(at);
  const { point, ...state } = open.state();
  const missing = missingAfter(group, at);
  const told = { ...state, ...timed(point), others: others.map(timed), missing };
  tell({ open: told });
  const gone = () => void open.end('discard').catch(() => undefined);
  if (signal.aborted) gone();
  signal.addEventListener('abort', gone, { once: true });
  const ended = await open.ended;
  signal.removeEventListener('abort', gone);
  return { ...told, ended };
}

function readPlace(fields: Fields): AccessPlace {
  const socketFolder = fields.optional('socketFolder', () => fields.text('socketFolder'));
  const host = fields.optional('host', () => fields.text('host'));
  const port = fields.optional('port', () => fields.count('port'));
  if (socketFolder !== null) return { socketFolder };
  if (port !== null && port > 65535) throw fields.wrong('port', `a port up to 65535, got ${port}`);
  return { host: host ?? undefined, port: port ?? 10809 };
}

function readTls(fields: Fields): ServerCredentials {
  const certificates = fields.optional('certificates', () => fields.text('certificates')) ?? undefined;
  const pskFile = fields.optional('pskFile', () => fields.text('pskFile')) ?? undefined;
  const verifyPeer = fields.optional('verifyPeer', () => fields.flag('verifyPeer')) ?? undefined;
  fields.done();
  return readServerCredentials({ certificates, pskFile, verifyPeer });
}

async function endAccess(group: ReplicaGroup, fields: Fields) {
  const id = fields.optional('id', () => fields.count('id'));
  const how = fields.choice('how', ['discard', 'keep'] as const);
  fields.done();
  const access = findAccess(group, id);
  const { point, ...state } = access.state();
  const ended = await access.end(how);
  if (ended !== how) {
    throw new DriftmapError('policy', `access ${access.id} has ended otherwise already: ${ended}`);
  }
  return { ...state, ...timed(point), ended };
}
