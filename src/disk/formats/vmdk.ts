/**
 * VMDK images as extent maps (VMware, "Virtual Disk Format 5.0").
 *
 * A descriptor lists extents, and the disk is these one after the other: runs of plain files (flat), sparse files
 * with tables of their own (hosted, ESX, seSparse), and runs of zeros. All is one map over the files; the
 * descriptor, where it is a file of its own, is the last unit, because the disk changes with it.
 *
 * The size of an extent stands in two places. VirtualBox rounds the capacity of a sparse file up to whole
 * grains and means the descriptor's; so the descriptor counts where the two differ by less than a grain, and
 * anything else is a pair of files that do not belong together.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import type { ImageHost, LoadedImage } from './image.ts';
import { cowdLayout, readCowdHeader } from './vmdk-cowd.ts';
import { SECTOR, type VmdkDescriptor, type VmdkExtent } from './vmdk-descriptor.ts';
import { appendGrains, type DiskUnderway, type GrainLayout } from './vmdk-grains.ts';
import { parentOfVmdk, readVmdkStart } from './vmdk-parent.ts';
import { readSeSparseHeader, seSparseLayout } from './vmdk-se-sparse.ts';
import { hostedLayout, readSparseHeader, type VmdkSparseHeader } from './vmdk-sparse.ts';

/**
 * Reads a VMDK of any kind.
 * @throws DriftmapError `malformed`, `unsupported`, `limit`, `policy`, `mismatch`, and what opening and reading throws
 */
export async function loadVmdk(host: ImageHost): Promise<LoadedImage> {
  const { unit } = host;
  const { descriptor, sparse } = await readVmdkStart(unit);
  const loader = new ExtentLoader(host);
  if (sparse !== null) await loader.addOwn(descriptor, sparse);
  else for (const extent of descriptor.extents) await loader.add(extent);
  const map = loader.builder.finish();
  if (map.size === 0) {
    const reason = 'VMDK descriptor: expected at least one extent, got none';
    throw new DriftmapError('malformed', reason, { path: unit.name });
  }
  const units = sparse === null ? [...loader.units, unit] : [unit];
  return { map, units, backing: parentOfVmdk(host, descriptor) };
}

class ExtentLoader implements DiskUnderway {
  readonly builder = new ExtentMapBuilder();
  readonly units: LogicalUnit[] = [];
  tableBytes: ByteCount = 0;
  private readonly host: ImageHost;
  private readonly names = new Map<string, { readonly index: number; readonly flat: boolean }>();

  constructor(host: ImageHost) {
    this.host = host;
  }

  warn(message: string): void {
    this.host.warn(message);
  }

  /** The one extent that holds its descriptor, whatever name that gives it: the file may have been renamed since. */
  async addOwn(descriptor: VmdkDescriptor, header: VmdkSparseHeader): Promise<void> {
    const { unit } = this.host;
    const [extent] = descriptor.extents;
    if (descriptor.extents.length > 1 || (extent !== undefined && extent.type !== 'SPARSE')) {
      const reason = `VMDK descriptor: expected one sparse extent, as it lies in one, got ${descriptor.extents.length} of type ${extent!.type} …`;
      throw new DriftmapError('unsupported', reason, { path: unit.name, offset: extent!.at });
    }
    const length = extent?.length ?? header.capacity;
    await this.addHosted(unit, 0, length, header);
  }

  async add(extent: VmdkExtent): Promise<void> {
    const { type, length } = extent;
    if (type === 'ZERO') {
      const offset = this.builder.size;
      this.builder.append({ offset, length, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
      return;
    }
    const flat = type === 'FLAT' || type === 'VMFS';
    const index = await this.open(extent, flat);
    const unit = this.units[index]!;
    if (flat) this.addFlat(extent, unit, index);
    else if (type === 'SPARSE') await this.addHosted(unit, index, length, await readSparseHeader(unit));
    else if (type === 'VMFSSPARSE') await this.addCowd(unit, index, length);
    else await this.addSeSparse(unit, index, length);
  }

  /** A flat file may hold several extents; a sparse one is one extent. */
  private async open({ name, at }: VmdkExtent, flat: boolean): Promise<number> {
    const { host, names, units } = this;
    const known = names.get(name);
    if (known !== undefined) {
      if (known.flat && flat) return known.index;
      const reason = 'VMDK descriptor: expected every sparse extent in a file of its own';
      throw new DriftmapError('malformed', reason, { path: host.path, offset: at });
    }
    const unit = await host.open('extent', name);
    if (unit.identity === host.unit.identity) {
      const reason = 'VMDK descriptor: an extent that is the descriptor itself';
      throw new DriftmapError('malformed', reason, { path: host.path, offset: at });
    }
    names.set(name, { index: units.length, flat });
    return units.push(unit) - 1;
  }

  private addFlat({ length, start, at }: VmdkExtent, file: LogicalUnit, unit: number): void {
    if (start + length > file.size) {
      const reason = `VMDK descriptor: an extent of ${length} bytes from ${start} on needs as many in ${file.name}, which has ${file.size}: it is cut short or another's`;
      throw new DriftmapError('malformed', reason, { path: this.host.path, offset: at });
    }
    const offset = this.builder.size;
    this.builder.append({ offset, length, kind: Kind.data, unit, place: start, depth: 0 });
  }

  private async addHosted(
    unit: LogicalUnit,
    index: number,
    length: ByteCount,
    header: VmdkSparseHeader,
  ): Promise<void> {
    if (header.capacity === 0) {
      const reason = 'VMDK header: expected a sparse extent, got a file that holds only a descriptor';
      throw new DriftmapError('malformed', reason, { path: unit.name, offset: 12 });
    }
    this.checkLength(unit, length, header, header.at + 12);
    if (header.unclean) this.warnUnclean(unit);
    await this.addGrains(index, length, await hostedLayout(unit, header));
  }

  private async addCowd(unit: LogicalUnit, index: number, length: ByteCount): Promise<void> {
    const header = await readCowdHeader(unit);
    this.checkLength(unit, length, header, 12);
    if (header.unclean) this.warnUnclean(unit);
    await this.addGrains(index, length, await cowdLayout(unit, header));
  }

  private async addSeSparse(unit: LogicalUnit, index: number, length: ByteCount): Promise<void> {
    const header = await readSeSparseHeader(unit);
    const layout = await seSparseLayout(unit, header);
    this.checkLength(unit, length, { capacity: header.capacity, grainBytes: layout.grainBytes }, 16);
    await this.addGrains(index, length, layout);
  }

  private addGrains(index: number, length: ByteCount, layout: GrainLayout): Promise<void> {
    return appendGrains(this, layout, index, length);
  }

  private checkLength(
    unit: LogicalUnit,
    length: ByteCount,
    { capacity, grainBytes }: { readonly capacity: ByteCount; readonly grainBytes: ByteCount },
    offset: number,
  ): void {
    if (length === capacity) return;
    if (length > capacity || capacity - length >= grainBytes) {
      const reason = `the extent has ${capacity / SECTOR} sectors, and the descriptor says ${length / SECTOR}: they do not belong together`;
      throw new DriftmapError('mismatch', reason, { path: unit.name, offset });
    }
    this.warn(
      `${unit.name}: the extent has ${capacity / SECTOR} sectors, of which the descriptor shows ${length / SECTOR}: the disk ends there, as in VirtualBox (QEMU shows them all)`,
    );
  }

  private warnUnclean(unit: LogicalUnit): void {
    this.warn(`${unit.name}: was not closed: it is open elsewhere, or its last writes may be missing`);
  }
}
