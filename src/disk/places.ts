/** Follows an address inwards, from the units it names to the place it means. */

import { posix } from 'node:path';
import { DriftmapError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { openUnit } from '../lu/open-unit.ts';
import { ExtentMapBuilder, Kind } from '../mapping/extent-map.ts';
import type { Address, Step } from './address.ts';
import type { Partition } from './containers/container.ts';
import { readVolumeGroups } from './containers/lvm-groups.ts';
import { readPartitions } from './containers/partitions.ts';
import { openFileSystem } from './file-systems.ts';
import { folderInside, type Home, nowhere, referenceInside } from './references.ts';
import { type ViewUnit, viewOver } from './view-unit.ts';

export interface Place {
  readonly unit: LogicalUnit;
  /** For a file in a file system, its folder there. */
  readonly home: Home;
}

/** A place, and whether the tables that lead to it were true all the while. */
export interface OpenedPlace extends Place {
  /** @throws DriftmapError `io` where a file system's unit was written since it was opened */
  checkUnchanged(): void;
}

/**
 * Opens the place that an address means. Every unit opened is handed to `owned` at once, so that a failure
 * halfway leaves nothing open.
 * @throws DriftmapError `not-found` for a partition, volume, file system or file that is not there, and what
 *   reading throws
 */
export async function openPlace(
  address: Address,
  owned: LogicalUnit[],
  warnings: string[],
): Promise<OpenedPlace> {
  const units: LogicalUnit[] = [];
  for (const path of address.units) {
    const unit = await openUnit(path);
    owned.push(unit);
    units.push(unit);
  }
  const generations = units.map((unit) => unit.generation());
  const walk = new Walk(units, warnings);
  let here: Place = { unit: units[0]!, home: nowhere };
  let name = address.units.join(',');
  for (const [index, step] of address.steps.entries()) {
    name += `${index === 0 ? ':' : '/'}`;
    here = await walk.follow(step, here.unit, name);
    name += step.text;
  }
  const checkUnchanged = () => {
    // Partitions and volumes seldom move under a disk that is in use; files do all the time.
    if (address.steps.at(-1)?.kind !== 'file') return;
    const changed = units.find((unit, index) => unit.generation() !== generations[index]);
    if (changed === undefined) return;
    const reason =
      'changed while its tables were read: open a snapshot of it, or when nobody writes to it (docs/SNAPSHOTS.md)';
    throw new DriftmapError('io', reason, { path: changed.name, operation: 'open' });
  };
  return { ...here, checkUnchanged };
}

class Walk {
  private readonly units: readonly LogicalUnit[];
  private readonly warnings: string[];

  constructor(units: readonly LogicalUnit[], warnings: string[]) {
    this.units = units;
    this.warnings = warnings;
  }

  /** @param prefix what stands before the step in the address */
  async follow(step: Step, here: LogicalUnit, prefix: string): Promise<Place> {
    if (step.kind === 'file') return this.toFile(step, here, prefix);
    const name = prefix + step.text;
    const unit =
      step.kind === 'partition'
        ? await this.toPartition(step, here, name)
        : await this.toVolume(step, here, name);
    return { unit, home: nowhere };
  }

  private async toFile(
    { fileSystem: kind, path }: Step & { kind: 'file' },
    here: LogicalUnit,
    prefix: string,
  ): Promise<Place> {
    const fileSystem = await openFileSystem(here, kind);
    const place = { fileSystem, unit: here, prefix: `${prefix}${fileSystem.kind}:` };
    const entry = await fileSystem.lookup(path);
    const unit = await referenceInside(place, entry).open();
    this.warnings.push(...fileSystem.warnings);
    return { unit, home: folderInside(place, posix.dirname(entry.path)) };
  }

  private async toPartition(
    step: Step & { kind: 'partition' },
    here: LogicalUnit,
    name: string,
  ): Promise<LogicalUnit> {
    const { table, partitions, warnings } = await readPartitions(here);
    this.warnings.push(...warnings);
    const found = table === step.table ? partitions.find(({ number }) => number === step.number) : undefined;
    if (found) return partitionView(here, found, name, step.text);
    const there = partitions.map(({ number }) => `${table}${number}`).join(', ');
    const reason = `no partition ${step.text}: ${there ? `there are ${there}` : 'there is no partition table'}`;
    throw new DriftmapError('not-found', reason, { path: name });
  }

  private async toVolume(
    step: Step & { kind: 'volume' },
    here: LogicalUnit,
    name: string,
  ): Promise<LogicalUnit> {
    const candidates = [here, ...(await this.others(here))];
    const { volumes, warnings } = await readVolumeGroups(candidates);
    this.warnings.push(...warnings);
    const found = volumes.find((volume) => volume.group === step.group && volume.name === step.name);
    if (found) {
      const map = await found.map();
      const tables = found.units().map((unit) => candidates[unit]!);
      return viewOver({ name, layer: 'volume', step: step.text, map, parents: candidates, tables });
    }
    const there = volumes.map((volume) => `${volume.group}/${volume.name}`).join(', ');
    const reason = `no volume ${step.group}/${step.name}: ${there ? `there are ${there}` : 'there is no volume group'}`;
    throw new DriftmapError('not-found', reason, { path: name });
  }

  /** Wherever more physical volumes of a group may lie: the units and all their partitions. */
  private async others(here: LogicalUnit): Promise<LogicalUnit[]> {
    const all: LogicalUnit[] = [];
    for (const unit of this.units) {
      const table = await readPartitions(unit);
      if (unit !== this.units[0]) this.warnings.push(...table.warnings);
      all.push(unit, ...partitionViews(unit, table));
    }
    return all.filter((unit) => unit.identity !== here.identity);
  }
}

/** Every partition of a unit. @param name the unit, as in an address */
export function partitionViews(
  unit: LogicalUnit,
  { table, partitions }: { readonly table: string | null; readonly partitions: readonly Partition[] },
  name: string = unit.name,
): ViewUnit[] {
  return partitions.map((partition) => {
    const step = `${table}${partition.number}`;
    return partitionView(unit, partition, `${name}:${step}`, step);
  });
}

function partitionView(
  unit: LogicalUnit,
  { offset, length }: Partition,
  name: string,
  step: string,
): ViewUnit {
  const builder = new ExtentMapBuilder(1);
  builder.append({ offset: 0, length, kind: Kind.data, unit: 0, place: offset, depth: 0 });
  return viewOver({ name, layer: 'partition', step, map: builder.finish(), parents: [unit] });
}
