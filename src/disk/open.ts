/** The single entry to virtual disks: `openDisk`. (In workers: `attachDisk`, in attach.ts.) */

import { PAGE_BYTES } from '../base/limits.ts';
import { FileUnit } from '../lu/file-unit.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { type ExtentMap, Kind } from '../mapping/extent-map.ts';
import { ChainOpener, chainMap } from './chain.ts';
import { diskIdentity } from './identity.ts';
import { closeAll, MappedDisk } from './mapped-disk.ts';
import { flattened, ViewUnit } from './view-unit.ts';
import type { VirtualDisk } from './virtual-disk.ts';

export interface OpenDiskOptions {
  /** `raw`, `qcow2`, `vhd`, `vhdx`, `vdi` or `vmdk`; without it the contents tell, see `policy.ts`. */
  readonly format?: string | undefined;
  /** Lets images name backing and data files outside their folder, and devices. */
  readonly allowOutside?: boolean | undefined;
  /** Reads data past the page cache where the file system can (O_DIRECT); a warning says where it cannot. */
  readonly direct?: boolean | undefined;
}

/**
 * Opens a virtual disk for reading.
 * @param source a path; an address inside logical units (`address.ts`); or a unit that is open already, which
 *   stays the caller's to close
 * @throws DriftmapError `malformed`, `unsupported`, `policy`, `limit`, or what opening and reading throws
 */
export async function openDisk(
  source: string | LogicalUnit,
  options: OpenDiskOptions = {},
): Promise<VirtualDisk> {
  const opener = new ChainOpener(options.allowOutside ?? false);
  try {
    return await openMapped(opener, source, options);
  } catch (error) {
    // What went wrong first is what the user needs to hear.
    await Promise.resolve(opener.owned)
      .then(closeAll)
      .catch(() => undefined);
    throw error;
  }
}

async function openMapped(
  opener: ChainOpener,
  source: string | LogicalUnit,
  { format, direct = false }: OpenDiskOptions,
): Promise<MappedDisk> {
  const chain = await opener.openChain(source, format);
  const chained = chain.flatMap((image) => image.units);
  const { map, units } = flattened(chainMap(chain), chained);
  const { path: name, layer: top } = chain[0]!;
  const identity = diskIdentity(top.format, map.size, chained);
  // Inside a unit there is no file for a layer's finer points: the map says all.
  const layers = units === chained ? chain.map(({ layer }) => layer) : [];
  const { owned, warnings } = opener;
  if (direct) warnings.push(...readPastCache(name, map, units));
  const images = chain.map((image) => image.units);
  return new MappedDisk({ images, name, format: top.format, map, units, layers, identity, warnings, owned });
}

/** Tables were read through the cache, in small pieces; what is left to read is data. */
function readPastCache(name: string, map: ExtentMap, units: readonly LogicalUnit[]): string[] {
  const warnings: string[] = [];
  for (const unit of units) {
    // A view reads by the units below it, which are here too.
    if (unit instanceof ViewUnit || (unit instanceof FileUnit && unit.goDirect())) continue;
    warnings.push(`${unit.name}: cannot be read past the page cache here: read through it`);
  }
  if (!mostlyInPages(map)) {
    warnings.push(
      `${name}: does not lie in whole pages of its unit: most of it is read through the page cache`,
    );
  }
  return warnings;
}

/** Whether most data lies at the same place within a page of its unit as within one of the disk. */
function mostlyInPages(map: ExtentMap): boolean {
  let inside = 0;
  let outside = 0;
  for (let index = 0; index < map.count; index++) {
    if (map.kindOf(index) !== Kind.data) continue;
    const length = map.endOf(index) - map.startOf(index);
    if ((map.placeOf(index) - map.startOf(index)) % PAGE_BYTES === 0) inside += length;
    else outside += length;
  }
  return inside >= outside;
}
