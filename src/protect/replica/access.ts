/**
 * Image access: all disks of a group as of one point, served over NBD, to look at, to test, or to start the virtual
 * machine from.
 *
 *   virtual   read through the journal, written to an overlay: up at once, and the disks go on following
 *   rolled    the disks themselves, rolled to the point: as fast as they are; nothing follows meanwhile
 *
 * It ends in one of two ways. Discarded, as if it had never been. Or kept: the group becomes production with what was
 * written, and everything after its point is gone.
 */

import { join } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { Point } from '../../journal/points.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { ServerCredentials } from '../../lu/nbd/credentials.ts';
import { type NbdListen, type NbdServer, serveNbd } from '../nbd/server.ts';
import { unitExport } from '../nbd/unit-export.ts';
import { becomeProduction, checkMayBecomeProduction } from './failover.ts';
import type { AccessState, Ending, OpenAccess, ReplicaGroup } from './replica-group.ts';
import { keepRolled, openRolled, type Rolled } from './rolled-access.ts';
import { OverlaidDisk } from './worked-disk.ts';

/** One server for all disks, each by its name; or a socket of its own for each, `FOLDER/DISK.sock`. */
export type AccessPlace = NbdListen | { readonly socketFolder: string };

export interface AccessOptions {
  /** As `ReplicaGroup.find`. */
  readonly at: string;
  readonly kind: 'virtual' | 'rolled';
  readonly place: AccessPlace;
  /** Where a virtual access keeps what is written; the journal's folder by default. */
  readonly overlay?: string | undefined;
  readonly readOnly?: boolean | undefined;
  readonly tls?: ServerCredentials | undefined;
  readonly onTrouble?: ((error: DriftmapError) => void) | undefined;
}

/** The disks of an access, whichever kind it is. */
interface Work {
  readonly units: ReadonlyMap<string, LogicalUnit>;
  writtenBytes(): ByteCount;
  discard(): Promise<void>;
  keep(): Promise<void>;
}

let lastId = 0;

export class Access implements OpenAccess {
  readonly id = ++lastId;
  readonly kind: 'virtual' | 'rolled';
  readonly point: Point;
  /** Resolves when it has ended, however. */
  readonly ended: Promise<Ending>;
  private readonly group: ReplicaGroup;
  private readonly work: Work;
  private readonly servers: ReadonlyMap<string, NbdServer>;
  private ending: Promise<Ending> | null = null;
  /** Then the history has been cut: there is no way back. */
  private isBeingKept = false;
  private hasEnded: (how: Ending) => void = () => undefined;

  constructor(
    group: ReplicaGroup,
    kind: 'virtual' | 'rolled',
    point: Point,
    work: Work,
    servers: ReadonlyMap<string, NbdServer>,
  ) {
    this.group = group;
    this.kind = kind;
    this.point = point;
    this.work = work;
    this.servers = servers;
    this.ended = new Promise((resolve) => {
      this.hasEnded = resolve;
    });
    group.accesses.add(this);
  }

  /** The disks that are served, by name: what is written to them counts as a client's. */
  get units(): ReadonlyMap<string, LogicalUnit> {
    return this.work.units;
  }

  state(): AccessState {
    const { id, kind, point, servers, work } = this;
    const exports = [...servers].map(([disk, server]) => ({ disk, uri: server.uri(disk) }));
    return { id, kind, point, exports, writtenBytes: work.writtenBytes() };
  }

  /**
   * Takes no more clients, answers those that there are, and ends it. Where keeping is refused it goes on being
   * served. @throws DriftmapError `policy` when it cannot be kept, and what writing throws
   */
  end(how: Ending): Promise<Ending> {
    this.ending ??= this.finish(how).catch((error) => {
      this.ending = null;
      throw error;
    });
    return this.ending;
  }

  private async finish(how: Ending): Promise<Ending> {
    if (how === 'keep') {
      checkMayBecomeProduction(this.group, this);
      this.isBeingKept = true;
    } else if (this.isBeingKept && !this.group.isClosing) {
      const reason = 'keeping what was written had begun, and did not come to its end: promote it once more';
      throw new DriftmapError('policy', reason, { path: this.group.side.journal });
    }
    for (const server of new Set(this.servers.values())) await server.close();
    if (how === 'keep') await this.work.keep();
    else await this.work.discard();
    this.group.accesses.delete(this);
    this.hasEnded(how);
    return how;
  }
}

/**
 * Opens all disks of a group as of a point, and returns once clients can connect.
 * @throws DriftmapError as `ReplicaGroup.find`, `policy` while another rolled access is open, and what listening throws
 */
export async function startAccess(group: ReplicaGroup, options: AccessOptions): Promise<Access> {
  const point = group.find(options.at);
  const work =
    options.kind === 'rolled' ? await rolledWork(group, point) : virtualWork(group, point, options);
  const servers = new Map<string, NbdServer>();
  try {
    await serve(group, work.units, servers, options);
  } catch (error) {
    for (const server of new Set(servers.values())) await server.close();
    await work.discard();
    throw error;
  }
  return new Access(group, options.kind, { sequence: point.sequence, time: point.time }, work, servers);
}

async function serve(
  group: ReplicaGroup,
  units: ReadonlyMap<string, LogicalUnit>,
  servers: Map<string, NbdServer>,
  { place, readOnly, tls, onTrouble }: AccessOptions,
): Promise<void> {
  const exportOf = ([disk, unit]: readonly [string, LogicalUnit]) =>
    [disk, unitExport(unit, { description: `${group.name}/${disk}` })] as const;
  const options = { readOnly, tls, onTrouble };
  if (!('socketFolder' in place)) {
    const exports = Object.fromEntries([...units].map(exportOf));
    const server = await serveNbd({ ...options, exports, listen: place });
    for (const disk of units.keys()) servers.set(disk, server);
    return;
  }
  for (const entry of units) {
    const [disk] = entry;
    const listen = { socket: join(place.socketFolder, `${disk}.sock`) };
    servers.set(disk, await serveNbd({ ...options, exports: Object.fromEntries([exportOf(entry)]), listen }));
  }
}

function virtualWork(group: ReplicaGroup, { sequence }: Point, { overlay, readOnly }: AccessOptions): Work {
  const { journal } = group;
  const units = new Map<string, OverlaidDisk>();
  const discard = async () => {
    for (const unit of units.values()) await unit.close();
  };
  try {
    for (const { name } of journal.disks) {
      const folder = readOnly ? {} : { overlay: overlay ?? group.side.journal };
      units.set(name, new OverlaidDisk(journal.view(name, { sequence }, folder)));
    }
  } catch (error) {
    void discard();
    throw error;
  }
  return {
    units,
    writtenBytes: () => sum([...units.values()].flatMap((unit) => unit.blocks())),
    discard,
    keep: async () => {
      const written = [...units].map(([disk, unit]) => ({ disk, unit, ranges: unit.blocks() }));
      const what = 'what an access wrote is being kept';
      await group.exclusively(what, () =>
        group.withoutStream(what, () => becomeProduction(group, sequence, written)),
      );
      await discard();
    },
  };
}

async function rolledWork(group: ReplicaGroup, { sequence }: Point): Promise<Work> {
  const rolled: Rolled = await openRolled(group, sequence);
  return {
    units: rolled.units,
    writtenBytes: () => sum([...group.disks.keys()].flatMap((_, disk) => rolled.log.blocksOf(disk))),
    discard: () => rolled.discard(),
    keep: () => keepRolled(group, rolled.log),
  };
}

const sum = (ranges: readonly { readonly length: ByteCount }[]) =>
  ranges.reduce((total, { length }) => total + length, 0);

/** @throws DriftmapError `not-found`, saying which there are */
export function findAccess(group: ReplicaGroup, id: number | null): OpenAccess {
  const all = [...group.accesses];
  const found = id === null ? all[0] : all.find((access) => access.id === id);
  if (found !== undefined && (id !== null || all.length === 1)) return found;
  const ids = all.map((access) => String(access.id)).join(', ') || 'none';
  const reason = id === null && all.length > 1 ? 'say which access is meant' : 'no such access is open';
  throw new DriftmapError('not-found', `${reason}; there are: ${ids}`, { path: group.side.journal });
}
