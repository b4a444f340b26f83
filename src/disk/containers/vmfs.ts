/**
 * VMFS 3 and 5, the file systems of ESX and ESXi up to 6.0, as files with extent maps over a logical unit.
 * VMware has published no specification; each part names the descriptions that it follows. vmfs-volume.ts finds
 * the volume, vmfs-tables.ts the tables on it, vmfs-map.ts the blocks of a file.
 *
 * The unit begins where the partition does (type fb of an MBR, AA31E02A-400F-11DB-9590-000C2911D1B8 of a GPT).
 */

import { DriftmapError } from '../../base/errors.ts';
import { VMFS_MAX_DEPTH, VMFS_MAX_LINK_BYTES, VMFS_MAX_LINKS, VMFS_MAX_LISTED } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { ExtentMap } from '../../mapping/extent-map.ts';
import type { FileEntry, FileSystem } from './container.ts';
import { nameOf } from './vmfs-address.ts';
import { Addressing, DescriptorField, FileType, type VmfsDescriptor } from './vmfs-descriptor.ts';
import { directoryEntries, readLink, type VmfsEntry } from './vmfs-directory.ts';
import { heartbeatWarnings } from './vmfs-info.ts';
import { readVmfsMap } from './vmfs-map.ts';
import { ROOT_DESCRIPTOR, VmfsTables } from './vmfs-tables.ts';
import { hasVmfsDevice, VmfsVolume } from './vmfs-volume.ts';

/**
 * Whether the unit is one of VMFS, of any version: also those that `openVmfs` refuses by name.
 * @throws DriftmapError what reading throws
 */
export function isVmfs(unit: LogicalUnit): Promise<boolean> {
  return hasVmfsDevice(unit);
}

/**
 * Opens the file system on a unit.
 * @throws DriftmapError `malformed`; `unsupported` for VMFS 6, VMFS-L, and volumes of several units; `limit`
 */
export async function openVmfs(unit: LogicalUnit): Promise<FileSystem> {
  const volume = await VmfsVolume.open(unit);
  const tables = await VmfsTables.open(volume);
  const root = await tables.descriptor(ROOT_DESCRIPTOR, tables.info.place);
  if (root.type !== FileType.directory) {
    const reason = `root directory: expected a directory (type 2), got type ${root.type}`;
    throw new DriftmapError('malformed', reason, {
      path: unit.name,
      offset: root.place + DescriptorField.type,
    });
  }
  const warnings = [...volume.device.warnings, ...(await heartbeatWarnings(volume))];
  return new VmfsFileSystem(tables, root, warnings);
}

class VmfsFileSystem implements FileSystem {
  readonly kind = 'vmfs';
  readonly label: string;
  readonly warnings: readonly string[];
  private readonly tables: VmfsTables;
  private readonly root: VmfsDescriptor;

  constructor(tables: VmfsTables, root: VmfsDescriptor, warnings: readonly string[]) {
    this.tables = tables;
    this.root = root;
    this.label = tables.info.label;
    this.warnings = warnings;
  }

  async lookup(path: string): Promise<FileEntry> {
    const { entry, descriptor } = await new PathWalk(this.tables, this.root, path).find();
    if (entry !== null && isListed(descriptor.type)) {
      return this.fileEntry(`/${partsOf(path).reverse().join('/')}`, entry, descriptor);
    }
    const what = descriptor.type === FileType.directory ? 'a directory' : 'a file of the file system itself';
    throw new DriftmapError('argument', `${path} is ${what}: expected a regular file`, {
      path: this.tables.path,
    });
  }

  async *files(): AsyncGenerator<FileEntry, undefined> {
    const { tables } = this;
    const seen = new Set<number>([this.root.id]);
    // Directories that wait for their turn: the last one first, so that each comes whole before the next.
    const waiting: Waiting[] = [{ path: '', directory: this.root.id, where: tables.info.place, depth: 0 }];
    let listed = 0;
    for (let here = waiting.pop(); here !== undefined; here = waiting.pop()) {
      const directory = await tables.descriptor(here.directory, here.where);
      const below: Waiting[] = [];
      for await (const entries of directoryEntries(tables, directory)) {
        listed += entries.length;
        if (listed > VMFS_MAX_LISTED) throw this.limit('entries in all', VMFS_MAX_LISTED, here.where);
        for (const entry of entries) {
          const path = `${here.path}/${entry.name}`;
          if (entry.type === FileType.directory) below.push(await this.enter(here, path, entry, seen));
          else if (isListed(entry.type)) yield this.fileEntry(path, entry, await descriptorOf(tables, entry));
        }
      }
      for (let next = below.pop(); next !== undefined; next = below.pop()) waiting.push(next);
    }
  }

  private async enter(parent: Waiting, path: string, entry: VmfsEntry, seen: Set<number>): Promise<Waiting> {
    const { descriptor: directory, place: where } = entry;
    if (seen.has(directory)) {
      const reason = `${path} is a directory that is in another one already: the directories are a loop`;
      throw new DriftmapError('malformed', reason, { path: this.tables.path, offset: where });
    }
    seen.add(directory);
    const depth = parent.depth + 1;
    if (depth > VMFS_MAX_DEPTH) throw this.limit('directories in one another', VMFS_MAX_DEPTH, where);
    await descriptorOf(this.tables, entry);
    return { path, directory, where, depth };
  }

  private fileEntry(path: string, entry: VmfsEntry, descriptor: VmfsDescriptor): FileEntry {
    const { size } = descriptor;
    const kind = kindOf(descriptor);
    const map = () => this.mapOf(path, entry, size);
    return kind === undefined ? { path, size, map } : { path, size, kind, map };
  }

  /** A listing keeps no descriptors: a file's is read anew when its map is asked for. */
  private async mapOf(path: string, entry: VmfsEntry, size: ByteCount): Promise<ExtentMap> {
    const { tables } = this;
    const descriptor = await descriptorOf(tables, entry);
    if (descriptor.type === FileType.rawDevice) {
      const reason = `${path} is a raw device mapping: its contents are those of another logical unit; open that one`;
      throw new DriftmapError('unsupported', reason, { path: tables.path, offset: descriptor.place });
    }
    if (descriptor.size !== size) {
      const reason = `${path} has changed from ${size} to ${descriptor.size} bytes since it was found: read a snapshot of the unit`;
      throw new DriftmapError('io', reason, { path: tables.path, offset: descriptor.place });
    }
    return readVmfsMap(tables, descriptor);
  }

  private limit(what: string, most: number, offset: ByteOffset): DriftmapError {
    return new DriftmapError('limit', `expected at most ${most} ${what}`, { path: this.tables.path, offset });
  }
}

interface Waiting {
  readonly path: string;
  readonly directory: number;
  readonly where: ByteOffset;
  readonly depth: number;
}

function isListed(type: number): boolean {
  return type === FileType.file || type === FileType.rawDevice;
}

/** The descriptor that an entry means; it must still be the file that it was when the entry was made. */
async function descriptorOf(tables: VmfsTables, entry: VmfsEntry): Promise<VmfsDescriptor> {
  const descriptor = await tables.descriptor(entry.descriptor, entry.place + 4);
  if (descriptor.type === entry.type && descriptor.generation === entry.generation) return descriptor;
  const reason = `directory entry '${entry.name}': expected ${nameOf(entry.descriptor)} of type ${entry.type} and generation ${entry.generation}, it is of type ${descriptor.type} and generation ${descriptor.generation}`;
  throw new DriftmapError('malformed', reason, { path: tables.path, offset: entry.place });
}

/**
 * The class of a disk by what its descriptor counts. A thin disk that was written wholly and one that was
 * zeroed beforehand have the same tables, so both are `thick`.
 */
function kindOf({
  type,
  addressing,
  size,
  blockSize,
  blockCount,
  toBeZeroed,
}: VmfsDescriptor): string | undefined {
  if (type === FileType.rawDevice) return 'rdm';
  if (addressing === Addressing.sub || addressing === Addressing.resident || size === 0) return undefined;
  if (blockCount * blockSize < size) return 'thin';
  return toBeZeroed > 0 ? 'zeroedthick' : 'thick';
}

interface Found {
  /** Null for the root directory. */
  readonly entry: VmfsEntry | null;
  readonly descriptor: VmfsDescriptor;
}

/**
 * Follows one path from the root. Symbolic links are followed inside the file system: relative ones, and those
 * that begin with /vmfs/volumes and this file system's label or UUID, as ESXi makes them.
 */
class PathWalk {
  private readonly tables: VmfsTables;
  private readonly path: string;
  /** Parts still to follow, the next one last. */
  private parts: string[];
  /** The directories entered, the root first. */
  private readonly entered: VmfsDescriptor[];
  private links = 0;
  /** Directory entries looked through: links may lead through large directories again and again. */
  private looked = 0;

  constructor(tables: VmfsTables, root: VmfsDescriptor, path: string) {
    this.tables = tables;
    this.path = path;
    this.parts = partsOf(path);
    this.entered = [root];
  }

  async find(): Promise<Found> {
    let found: Found = { entry: null, descriptor: this.entered[0]! };
    for (let part = this.parts.pop(); part !== undefined; part = this.parts.pop()) {
      const here = this.entered.at(-1)!;
      if (part === '.') continue;
      if (part === '..') {
        if (this.entered.length > 1) this.entered.pop();
        found = { entry: null, descriptor: this.entered.at(-1)! };
        continue;
      }
      const entry = await this.entryOf(here, part);
      const descriptor = await descriptorOf(this.tables, entry);
      if (descriptor.type === FileType.link) {
        await this.follow(descriptor);
        found = { entry: null, descriptor: this.entered.at(-1)! };
        continue;
      }
      found = { entry, descriptor };
      if (descriptor.type === FileType.directory) this.entered.push(descriptor);
      else if (this.parts.length > 0) throw this.notFound(part, 'is no directory');
    }
    return found;
  }

  private async entryOf(directory: VmfsDescriptor, name: string): Promise<VmfsEntry> {
    for await (const entries of directoryEntries(this.tables, directory)) {
      this.looked += entries.length;
      if (this.looked > VMFS_MAX_LISTED) {
        const reason = `${this.path}: expected at most ${VMFS_MAX_LISTED} directory entries on the way`;
        throw new DriftmapError('limit', reason, { path: this.tables.path, offset: directory.place });
      }
      const found = entries.find((entry) => entry.name === name);
      if (found) return found;
    }
    throw this.notFound(name, 'is not there');
  }

  private async follow(link: VmfsDescriptor): Promise<void> {
    const { tables, path } = this;
    if (++this.links > VMFS_MAX_LINKS) {
      const reason = `${path}: more than ${VMFS_MAX_LINKS} symbolic links on the way: they are a loop`;
      throw new DriftmapError('malformed', reason, { path: tables.path, offset: link.place });
    }
    const target = await readLink(tables, link, VMFS_MAX_LINK_BYTES);
    const parts = partsOf(target);
    if (target.startsWith('/')) {
      const [volume, volumes, vmfs] = [parts.at(-3)!, parts.at(-2), parts.at(-1)];
      const { label, uuid } = tables.info;
      if (vmfs !== 'vmfs' || volumes !== 'volumes' || (volume !== label && volume !== uuid)) {
        const reason = `${path} leads by a symbolic link to ${target}, outside of the file system`;
        throw new DriftmapError('policy', reason, { path: tables.path, offset: link.place });
      }
      parts.splice(-3);
      this.entered.splice(1);
    }
    if (this.parts.length + parts.length > VMFS_MAX_LINK_BYTES) {
      const reason = `${path}: symbolic links make a path of more than ${VMFS_MAX_LINK_BYTES} parts`;
      throw new DriftmapError('limit', reason, { path: tables.path, offset: link.place });
    }
    this.parts.push(...parts);
  }

  private notFound(part: string, what: string): DriftmapError {
    const reason = `no file ${this.path} in the file system: '${part}' ${what}`;
    return new DriftmapError('not-found', reason, { path: this.tables.path });
  }
}

/** A path's parts, the first one last. */
function partsOf(path: string): string[] {
  return path
    .split('/')
    .filter((part) => part !== '')
    .reverse();
}
