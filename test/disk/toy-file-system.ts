/**
 * A file system that tests can lay out as they please: a page of JSON, and files whose bytes lie where the
 * page says. `toyTypes` takes the place of the list of file systems (`vi.mock`), under the name of ext4.
 */

import { posix } from 'node:path';
import { DriftmapError } from '../../src/base/errors.ts';
import type { FileEntry, FileSystem } from '../../src/disk/containers/container.ts';
import type { FileSystemType } from '../../src/disk/containers/file-system-types.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';

const PAGE = 65536;
const MAGIC = '{"toy":';

export interface ToyFile {
  readonly size: number;
  /** `[file offset, unit offset, length]`, ascending. */
  readonly extents: readonly (readonly [number, number, number])[];
  readonly kind?: string;
  /** A symbolic link: the path it leads to. */
  readonly link?: string;
}

/** Lays files out one after the other, in pieces, the last piece of each first where `scatter` says so. */
export function toyImage(
  files: Readonly<Record<string, Uint8Array | { link: string }>>,
  { piece = 65536, scatter = false, kinds = {} as Readonly<Record<string, string>> } = {},
): Uint8Array {
  const table: Record<string, ToyFile> = {};
  const parts: { at: number; bytes: Uint8Array }[] = [];
  let end = PAGE;
  for (const [path, contents] of Object.entries(files)) {
    if (!(contents instanceof Uint8Array)) {
      table[path] = { size: 0, extents: [], link: contents.link };
      continue;
    }
    const count = Math.ceil(contents.length / piece);
    const extents: [number, number, number][] = [];
    for (let index = 0; index < count; index++) {
      const bytes = contents.subarray(index * piece, (index + 1) * piece);
      // Holes take no room.
      if (bytes.every((byte) => byte === 0)) continue;
      const at = end + piece * (scatter ? count - 1 - index : index);
      extents.push([index * piece, at, bytes.length]);
      parts.push({ at, bytes });
    }
    end += count * piece;
    const kind = kinds[path];
    table[path] = { size: contents.length, extents, ...(kind === undefined ? {} : { kind }) };
  }
  const image = new Uint8Array(end);
  image.set(new TextEncoder().encode(`${MAGIC}${JSON.stringify(table)}}`));
  for (const { at, bytes } of parts) image.set(bytes, at);
  return image;
}

async function readPage(unit: LogicalUnit): Promise<string> {
  if (unit.size < PAGE) return '';
  const page = new Uint8Array(PAGE);
  const pending = unit.read(0, page);
  if (pending) await pending;
  return new TextDecoder().decode(page).replace(/\0.*$/s, '');
}

class ToyFileSystem implements FileSystem {
  readonly kind = 'ext4';
  readonly label = 'toy';
  readonly warnings: readonly string[] = [];
  private readonly table: Readonly<Record<string, ToyFile>>;
  private readonly path: string;

  constructor(table: Readonly<Record<string, ToyFile>>, path: string) {
    this.table = table;
    this.path = path;
  }

  async lookup(path: string): Promise<FileEntry> {
    const file = this.table[path];
    if (file === undefined) {
      throw new DriftmapError('not-found', `no such file: ${path}`, { path: this.path });
    }
    if (file.link !== undefined) return this.lookup(posix.resolve(posix.dirname(path), file.link));
    return entryOf(path, file);
  }

  async *files(): AsyncIterable<FileEntry> {
    for (const [path, file] of Object.entries(this.table)) {
      if (file.link === undefined) yield entryOf(path, file);
    }
  }
}

function entryOf(path: string, { size, extents, kind }: ToyFile): FileEntry {
  const map = async () => {
    const builder = new ExtentMapBuilder();
    const hole = (end: number) => {
      const length = end - builder.size;
      builder.append({ offset: builder.size, length, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
    };
    for (const [offset, place, length] of extents) {
      hole(offset);
      builder.append({ offset, length, kind: Kind.data, unit: 0, place, depth: 0 });
    }
    hole(size);
    return builder.finish();
  };
  return { path, size, map, ...(kind === undefined ? {} : { kind }) };
}

export const toyTypes: readonly FileSystemType[] = [
  {
    kind: 'ext4',
    is: async (unit) => (await readPage(unit)).startsWith(MAGIC),
    open: async (unit) => {
      try {
        return new ToyFileSystem(JSON.parse(await readPage(unit)).toy, unit.name);
      } catch {
        throw new DriftmapError('malformed', 'expected a page of JSON', { path: unit.name, offset: 0 });
      }
    },
  },
];
