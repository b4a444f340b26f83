/** Follows an address inwards, from the units it names to the place it means. */

import { DriftmapError } from '../base/errors.ts';
import { openFileUnit } from '../lu/file-unit.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { ExtentMapBuilder, Kind } from '../mapping/extent-map.ts';
import type { Address, Step } from './address.ts';
import type { Partition } from './containers/container.ts';
import { readVolumeGroups } from './containers/lvm-groups.ts';
import { readPartitions } from './containers/partitions.ts';
import { viewOver } from './view-unit.ts';

/**
 * Opens the place that an address means. Every unit opened is handed to `owned` at once, so that a failure
 * halfway leaves nothing open.
 * @throws DriftmapError `not-found` for a partition or volume that is not there, and what reading throws
 */
export async function openPlace(
  address: Address,
  owned: LogicalUnit[],
): Promise<{ unit: LogicalUnit; warnings: string[] }> {
  const units = address.units.map((path) => {
    const unit = openFileUnit(path);
    owned.push(unit);
    return unit;
  });
  const warnings: string[] = [];
  let here: LogicalUnit = units[0]!;
  let name = address.units.join(',');
  for (const [index, step] of address.steps.entries()) {
    name += `${index === 0 ? ':' : '/'}${step.text}`;
    here = await follow(step, here, units.slice(1), name, warnings);
  }
  return { unit: here, warnings };
}

async function follow(
  step: Step,
  here: LogicalUnit,
  others: readonly LogicalUnit[],
  name: string,
  warnings: string[],
): Promise<LogicalUnit> {
  if (step.kind === 'partition') {
    const table = await readPartitions(here);
    warnings.push(...table.warnings);
    const found =
      table.table === step.table ? table.partitions.find(({ number }) => number === step.number) : undefined;
    if (found) return partitionView(here, found, name, step.text);
    const there = table.partitions.map(({ number }) => `${table.table}${number}`).join(', ');
    throw new DriftmapError(
      'not-found',
      `no partition ${step.text}: ${there ? `there are ${there}` : 'there is no partition table'}`,
      { path: name },
    );
  }
  const candidates = [here, ...(await withPartitions(others, warnings))];
  const { volumes, warnings: more } = await readVolumeGroups(candidates);
  warnings.push(...more);
  const found = volumes.find((volume) => volume.group === step.group && volume.name === step.name);
  if (found) return viewOver(candidates, await found.map(), name, step.text);
  const there = volumes.map((volume) => `${volume.group}/${volume.name}`).join(', ');
  throw new DriftmapError(
    'not-found',
    `no volume ${step.group}/${step.name}: ${there ? `there are ${there}` : 'there is no volume group'}`,
    { path: name },
  );
}

function partitionView(
  unit: LogicalUnit,
  { offset, length }: Partition,
  name: string,
  place: string,
): LogicalUnit {
  const builder = new ExtentMapBuilder(1);
  builder.append({ offset: 0, length, kind: Kind.data, unit: 0, place: offset, depth: 0 });
  return viewOver([unit], builder.finish(), name, place);
}

/** The other units and all their partitions: wherever more physical volumes of a group may lie. */
async function withPartitions(units: readonly LogicalUnit[], warnings: string[]): Promise<LogicalUnit[]> {
  const all: LogicalUnit[] = [];
  for (const unit of units) {
    all.push(unit);
    const table = await readPartitions(unit);
    warnings.push(...table.warnings);
    for (const partition of table.partitions) {
      const place = `${table.table}${partition.number}`;
      all.push(partitionView(unit, partition, `${unit.name}:${place}`, place));
    }
  }
  return all;
}
