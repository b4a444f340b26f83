/** An open disk in another thread. Apart from `open.ts`, so that a worker loads no parser. */

import { attachUnit } from '../lu/attach.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { ExtentMap } from '../mapping/extent-map.ts';
import { MappedDisk } from './mapped-disk.ts';
import { type ViewHandle, ViewUnit } from './view-unit.ts';
import type { DiskHandle, VirtualDisk } from './virtual-disk.ts';

/**
 * The same disk in another thread. What it reads belongs to the disk it was attached to; closing it ends what it made
 * for itself: connections to NBD servers.
 */
export function attachDisk(handle: DiskHandle): VirtualDisk {
  const { name, format, identity } = handle;
  const map = ExtentMap.fromHandle(handle.map);
  const units = handle.units.map((unit) => (unit.kind === 'view' ? attachView(unit) : attachUnit(unit)));
  return new MappedDisk({ name, format, identity, map, units, warnings: [], layers: [], owned: own(units) });
}

/** Attached units; a view closes nothing below it. */
function own(units: readonly LogicalUnit[]): LogicalUnit[] {
  return units.flatMap((unit) => (unit instanceof ViewUnit ? [unit, ...unit.units] : [unit]));
}

function attachView({ name, identity, map, units }: ViewHandle): ViewUnit {
  return new ViewUnit({
    name,
    identity,
    map: ExtentMap.fromHandle(map),
    units: units.map((unit) => attachUnit(unit)),
  });
}
