/**
 * Finds the virtual disks in logical units: `findDisks`.
 *
 * A unit holds partitions, or a file system, or a physical volume of a volume group, or none of these; then it
 * may be a disk itself. Partitions and volumes are looked into in the same way, except for partition tables:
 * one that lies inside a partition or a volume is a guest's, and so is all that it leads to.
 *
 * In a file system names decide what is looked at, because names are given by who keeps the disks, and contents
 * by their guests. A file is listed when its name says a format and its contents confirm it, and as a raw disk
 * when its name ends in `.raw` or `.img`, whatever is in it. So no guest can make its disk look like another's
 * image, nor make it vanish. `all` also takes files whose contents alone look like an image, and says so.
 *
 * One bad part never hides the others: it is told as refused, with its address and the reason.
 */

import { DriftmapError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { openUnit } from '../lu/open-unit.ts';
import type { FileSystem } from './containers/container.ts';
import { readVolumeGroups } from './containers/lvm-groups.ts';
import { readPhysicalVolume } from './containers/lvm-label.ts';
import { type PartitionTable, readPartitions } from './containers/partitions.ts';
import { findFileSystem } from './file-systems.ts';
import { FileSearch } from './finder-files.ts';
import { describeRaw, type Finding, isImage, refused, type SearchOptions } from './finder-images.ts';
import { closeAll } from './mapped-disk.ts';
import { partitionViews } from './places.ts';
import { viewOver } from './view-unit.ts';

export type { Finding, FoundDisk, SearchOptions } from './finder-images.ts';

/** Somewhere to look: a unit, a partition, a volume. */
interface Spot {
  readonly layer: 'unit' | 'partition' | 'volume';
  readonly unit: LogicalUnit;
  readonly address: string;
  /** What comes between the address and the next step: `:` after a unit, `/` after a step. */
  readonly joint: ':' | '/';
  /** The path of the unit that it lies on, and the way from there to it: ``, `gpt2`. */
  readonly path: string;
  readonly way: string;
}

/**
 * Yields what is found as it is found, in the order of the units. Units given together may hold one volume
 * group. Nothing is written, and nothing stays open.
 * @param paths files, block devices and NBD URLs
 * @throws DriftmapError where a unit cannot be opened; all else is told as refused
 */
export async function* findDisks(
  paths: readonly string[],
  options: SearchOptions = {},
): AsyncGenerator<Finding, undefined> {
  const units: LogicalUnit[] = [];
  try {
    for (const path of new Set(paths)) units.push(await openUnit(path));
    const generations = units.map((unit) => unit.generation());
    yield* new Search(units, options).run();
    const changed = units.filter((unit, index) => unit.generation() !== generations[index]);
    const why = 'was written while it was searched: what was found may be gone, or torn; search a snapshot';
    yield* told(changed.map(({ name }) => `${name}: ${why}`));
  } finally {
    const pending = closeAll(units);
    if (pending) await pending;
  }
  return undefined;
}

class Search {
  private readonly units: readonly LogicalUnit[];
  private readonly options: SearchOptions;
  /** Spots where physical volumes may lie, in the order of `units`. */
  private readonly spots: Spot[] = [];

  constructor(units: readonly LogicalUnit[], options: SearchOptions) {
    this.units = units;
    this.options = options;
  }

  async *run(): AsyncGenerator<Finding, undefined> {
    for (const unit of this.units) yield* guarded(unit.name, this.unit(unit));
    yield* this.volumes();
    return undefined;
  }

  private async *unit(unit: LogicalUnit): AsyncGenerator<Finding, undefined> {
    const { name: path } = unit;
    const spot: Spot = { layer: 'unit', unit, address: path, joint: ':', path, way: '' };
    if (await isImage(unit)) {
      yield* new FileSearch(this.options).unit(unit);
      return undefined;
    }
    const table = await readPartitions(unit);
    yield* told(table.warnings);
    if (table.partitions.length === 0) return yield* this.spot(spot);
    for (const [index, view] of partitionViews(unit, table).entries()) {
      const way = stepOf(table, index);
      const { name: address } = view;
      const part: Spot = { layer: 'partition', unit: view, address, joint: '/', path, way };
      yield* guarded(address, this.spot(part));
    }
    return undefined;
  }

  /** Physical volumes wait until all are known. */
  private async *spot(spot: Spot): AsyncGenerator<Finding, undefined> {
    const warnings: string[] = [];
    const volume = await readPhysicalVolume(spot.unit, (message) => warnings.push(message));
    if (volume === null) {
      yield* told(warnings);
      return yield* this.contents(spot);
    }
    this.spots.push(spot);
    return undefined;
  }

  private async *volumes(): AsyncGenerator<Finding, undefined> {
    const { spots } = this;
    if (spots.length === 0) return undefined;
    const parents = spots.map(({ unit }) => unit);
    const { volumes, warnings } = await readVolumeGroups(parents);
    yield* told(warnings);
    for (const volume of volumes) {
      const [first, ...others] = volume.places.map((place) => spots[place]!);
      // A pool holds no disk itself; its thin volumes do.
      if (first === undefined || volume.kind === 'thin-pool') continue;
      const step = `lvm:${volume.group}/${volume.name}`;
      const paths = new Set([first, ...others].map(({ path }) => path));
      const address = `${[...paths].join(',')}:${first.way === '' ? '' : `${first.way}/`}${step}`;
      const look = async function* (search: Search): AsyncGenerator<Finding, undefined> {
        const map = await volume.map();
        const tables = volume.units().map((unit) => parents[unit]!);
        const unit = viewOver({ name: address, layer: 'volume', step, map, parents, tables });
        yield* search.contents({ layer: 'volume', unit, address, joint: '/', path: first.path, way: '' });
        return undefined;
      };
      yield* guarded(address, look(this));
    }
    return undefined;
  }

  /** What lies in a spot: files of its file system, or, where there is none, a disk that takes all of it. */
  private async *contents(spot: Spot): AsyncGenerator<Finding, undefined> {
    const { unit, layer, address, joint } = spot;
    const type = layer !== 'unit' && (await isPartitioned(unit)) ? null : await findFileSystem(unit);
    let fileSystem: FileSystem | null = null;
    try {
      fileSystem = (await type?.open(unit)) ?? null;
    } catch (error) {
      yield refused(address, error);
    }
    if (fileSystem === null || this.options.all) {
      yield { what: 'disk', disk: await describeRaw(unit, address, layer, type?.kind ?? null) };
    }
    if (fileSystem === null) return undefined;
    const known = fileSystem.warnings.length;
    yield* told(fileSystem.warnings);
    const prefix = `${address}${joint}${fileSystem.kind}:`;
    yield* new FileSearch(this.options).fileSystem({ fileSystem, unit, prefix });
    // What was found on the way.
    yield* told(fileSystem.warnings.slice(known));
    return undefined;
  }
}

/** A partition table inside a partition or a volume, whole or not, is a guest's: that is a disk. */
async function isPartitioned(unit: LogicalUnit): Promise<boolean> {
  try {
    return (await readPartitions(unit)).partitions.length > 0;
  } catch (error) {
    if (error instanceof DriftmapError && (error.kind === 'malformed' || error.kind === 'limit')) return true;
    throw error;
  }
}

function stepOf({ table, partitions }: PartitionTable, index: number): string {
  return `${table}${partitions[index]!.number}`;
}

function* told(warnings: readonly string[]): Generator<Finding, undefined> {
  for (const message of warnings) yield { what: 'warning', message };
  return undefined;
}

/** What one part throws is told, and the search goes on. A broken promise of our own code is not hidden. */
async function* guarded(
  address: string,
  part: AsyncGenerator<Finding, undefined>,
): AsyncGenerator<Finding, undefined> {
  try {
    yield* part;
  } catch (error) {
    yield refused(address, error);
  }
  return undefined;
}
