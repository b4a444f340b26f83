/** `driftmap snapshots access` */

import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { tellMoment } from '../base/time.ts';
import { GiB } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { NbdExport } from '../protect/nbd/nbd-export.ts';
import type { NbdListen } from '../protect/nbd/server.ts';
import { Exit, warn } from './exit.ts';
import { isLocal, stopped } from './export-command.ts';
import { pickSnapshot, type StoreFlags, shortId, tellDistance, withRepository } from './snapshots-store.ts';
import { print, printable } from './terminal.ts';

export interface AccessFlags extends StoreFlags {
  group?: string;
  listen?: NbdListen;
  socket?: string;
  readOnly?: boolean;
  cache?: string;
  cacheBytes?: number;
  overlay?: string;
  tlsCertificates?: string;
  tlsPsk?: string;
  tlsVerifyPeer?: boolean;
}

const CACHE_BYTES = 4 * GiB;

export async function runAccess(store: string, text: string, flags: AccessFlags): Promise<void> {
  const { serveNbd } = await import('../protect/nbd/server.ts');
  const { unitExport } = await import('../protect/nbd/unit-export.ts');
  const { readServerCredentials } = await import('../lu/nbd/credentials.ts');
  const { overlayUnit } = await import('../journal/overlay.ts');
  const { openSnapshotDisk } = await import('../snapshots/snapshot-unit.ts');
  const { holdSnapshot } = await import('../snapshots/draft.ts');
  const { ObjectCache } = await import('../snapshots/object-cache.ts');
  const { tlsCertificates: certificates, tlsPsk: pskFile, tlsVerifyPeer: verifyPeer } = flags;
  const isSecure = certificates !== undefined || pskFile !== undefined;
  const listen = flags.socket === undefined ? (flags.listen ?? { port: 10809 }) : { socket: flags.socket };
  // From now on: whoever reads the addresses may send the signal at once.
  const stop = stopped();
  await withRepository(store, flags, undefined, async (repository, group) => {
    const snapshot = await pickSnapshot(repository, text, { group, signal: undefined });
    const cache =
      flags.cache === undefined
        ? null
        : new ObjectCache(join(flags.cache, repository.id), flags.cacheBytes ?? CACHE_BYTES);
    const release = await holdSnapshot(repository, snapshot);
    const units: LogicalUnit[] = [];
    const exports: Record<string, NbdExport> = {};
    try {
      for (const { name } of snapshot.disks) {
        const disk = openSnapshotDisk(repository, snapshot, name, { connections: flags.connections, cache });
        const unit = flags.readOnly ? disk : overlayUnit(disk, flags.overlay ?? tmpdir());
        units.push(unit);
        exports[name] = unitExport(unit, { description: `snapshot ${shortId(snapshot.id)}` });
      }
      const server = await serveNbd({
        exports,
        listen,
        tls: isSecure ? readServerCredentials({ certificates, pskFile, verifyPeer }) : undefined,
        readOnly: flags.readOnly,
        onTrouble: (error) => warn(error.message),
      });
      if (!isSecure && !isLocal(listen))
        warn('everybody who can reach this address can read these disks: ask for TLS');
      const { id, point } = snapshot;
      process.stderr.write(
        `snapshot ${shortId(id)} of ${printable(snapshot.group)}, as of ${tellMoment(point.time)}${tellDistance(snapshot, text)}\n`,
      );
      for (const name of Object.keys(exports)) await print(`${printable(server.uri(name))}\n`);
      await stop;
      await server.close();
    } finally {
      for (const unit of units) await unit.close();
      await release();
    }
  });
  process.exitCode = Exit.equal;
}
