/**
 * Files that an image names: its backing file, its data file. A name is the image's own word, and an image
 * may come from a stranger; so a name leads to a regular file in the image's own folder and nowhere else,
 * unless the user allows it (`allowOutside`). Network and pseudo protocols (`nbd:`, `http:`, `json:`) are
 * refused always: driftmap has no use for them, and they have been a way out before (CVE-2024-4467).
 *
 * An image inside a logical unit lives in a file system of its own. Its names lead to files of that file
 * system, by the same rules, and never to files of this host.
 *
 * A parent that is known by a UUID only has to be looked for. That is done in the image's own folder, among
 * regular files of one extension; where the user allows more, in the folder above as well, because VirtualBox
 * keeps snapshots in a folder (`Snapshots`) within that of the disk they were taken of.
 */

import { realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, posix, relative, resolve, sep } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { openFileUnit } from '../lu/file-unit.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { FileEntry, FileSystem } from './containers/container.ts';
import { entriesByFolder, hostNames } from './folder-names.ts';
import { viewOver } from './view-unit.ts';

export interface Referrer {
  /** The image, for messages. */
  readonly image: string;
  /** False where the format was guessed from contents that a guest can write. */
  readonly trusted: boolean;
  readonly allowOutside: boolean;
}

/** Where the names in an image start from. */
export interface Home {
  /**
   * What a name leads to.
   * @throws DriftmapError `policy` where it leads out, `not-found` where nothing is there
   */
  find(what: string, name: string, from: Referrer): Promise<Reference>;
  /**
   * The regular files that may be what an image knows by something else than a file name.
   * @param known what it is known by, for messages
   * @param extension of the names, in any case: `.vdi`
   * @throws DriftmapError `policy` as `find`, `limit`, and what reading the folder throws
   */
  candidates(what: string, known: string, extension: string, from: Referrer): Promise<readonly Reference[]>;
}

/** A file that was found, not opened yet. */
export interface Reference {
  /** A path, or an address. */
  readonly path: string;
  /** Where its own names start from. */
  readonly home: Home;
  open(): Promise<LogicalUnit>;
}

/** The home of what lies in no folder: a partition, a volume. */
export const nowhere: Home = {
  async find(what, name, from) {
    throw homeless(what, name, from);
  },
  async candidates(what, known, _, from) {
    throw homeless(what, known, from);
  },
};

function homeless(what: string, name: string, from: Referrer): DriftmapError {
  return refusal(what, name, from, 'and it lies in no folder to look in', 'open it by its path');
}

/** A folder of this host: the one that the image was named in, as in QEMU. */
export function hostFolder(folder: string): Home {
  return {
    async find(what, name, from) {
      const path = await resolveOnHost(what, name, folder, from);
      return { path, home: hostFolder(dirname(path)), open: async () => openFileUnit(path) };
    },
    async candidates(what, known, extension, from) {
      checkTrusted(what, known, from);
      const folders = from.allowOutside ? [folder, join(folder, '..')] : [folder];
      return folders.flatMap((each) => {
        const home = hostFolder(each);
        return hostNames(each, extension).map((name): Reference => {
          // By the same way as a name, so that the same rules hold when it is opened.
          const open = async () => (await home.find(what, `./${name}`, from)).open();
          return { path: join(each, name), home, open };
        });
      });
    },
  };
}

/** A folder in a file system on `unit`; `prefix` is what stands before a path in an address: `lu0.img:ext4:`. */
export interface FolderInside {
  readonly fileSystem: FileSystem;
  readonly unit: LogicalUnit;
  readonly prefix: string;
}

export function folderInside(place: FolderInside, folder: string): Home {
  return {
    async find(what, name, from) {
      const entry = await findInside(what, name, place, folder, from);
      return referenceInside(place, entry);
    },
    async candidates(what, known, extension, from) {
      checkTrusted(what, known, from);
      const byFolder = await referencesByFolder(place, extension);
      const above = from.allowOutside && folder !== '/' ? [posix.dirname(folder)] : [];
      return [folder, ...above].flatMap((each) => byFolder.get(each) ?? []);
    },
  };
}

/** A search of a unit asks for every image: the files are listed once, and a reference is the same each time. */
const listed = new WeakMap<FolderInside, Map<string, Promise<ReadonlyMap<string, readonly Reference[]>>>>();

function referencesByFolder(
  place: FolderInside,
  extension: string,
): Promise<ReadonlyMap<string, readonly Reference[]>> {
  const known = listed.get(place) ?? new Map<string, Promise<ReadonlyMap<string, readonly Reference[]>>>();
  listed.set(place, known);
  const read = async () => {
    const entries = await entriesByFolder(place.fileSystem, extension, place.unit.name);
    return new Map(
      [...entries].map(([folder, each]) => [folder, each.map((one) => referenceInside(place, one))]),
    );
  };
  const listing = known.get(extension) ?? read();
  known.set(extension, listing);
  return listing;
}

/** A regular file of a file system, as what an image might name. */
export function referenceInside(place: FolderInside, entry: FileEntry): Reference {
  const { fileSystem, unit, prefix } = place;
  const path = `${prefix}${entry.path}`;
  const open = async () =>
    viewOver({
      name: path,
      layer: 'file',
      step: `${fileSystem.kind}:${entry.path}`,
      map: await entry.map(),
      parents: [unit],
      storage: entry.kind,
    });
  return { path, home: folderInside(place, posix.dirname(entry.path)), open };
}

async function findInside(
  what: string,
  name: string,
  { fileSystem, prefix }: FolderInside,
  folder: string,
  from: Referrer,
): Promise<FileEntry> {
  const path = posix.resolve(folder, plainName(what, name, from));
  const isInside = (way: string) => way.startsWith(folder === '/' ? '/' : `${folder}/`);
  const outside = () =>
    refusal(what, name, from, `which leads outside the image's folder ${prefix}${folder}`, allow);
  // What is outside is not even looked for: the error must not say what exists elsewhere.
  if (!from.allowOutside && !isInside(path)) throw outside();
  let entry: FileEntry;
  try {
    entry = await fileSystem.lookup(path);
  } catch (error) {
    if (!(error instanceof DriftmapError) || error.kind !== 'not-found') throw error;
    throw missing(what, name, from);
  }
  // A symbolic link may have led elsewhere.
  if (!from.allowOutside && !isInside(entry.path)) throw outside();
  return entry;
}

const allow = 'use --allow-outside (allowOutside: true in the library) if you trust the image';

/** @throws DriftmapError `policy` where the image's names are not followed */
function checkTrusted(what: string, name: string, from: Referrer): void {
  if (from.trusted) return;
  const advice = 'state the format (--production-format, --replica-format, --format) if you know it';
  const why = 'and its format was guessed from contents that a guest can write';
  throw refusal(what, name, from, why, advice);
}

/** The name as a path. @throws DriftmapError `policy` where the image's names are not followed, or this is none */
function plainName(what: string, name: string, from: Referrer): string {
  checkTrusted(what, name, from);
  const path = name.startsWith('file:') ? name.slice('file:'.length) : name;
  const protocol = /^[^/:]*:/.exec(path)?.[0];
  if (protocol === undefined) return path;
  const advice = 'driftmap follows file names only; copy the data beside the image and rebase it';
  const why = `which is not a file name but the protocol '${printable(protocol)}'`;
  throw refusal(what, name, from, why, advice);
}

function refusal(what: string, name: string, from: Referrer, why: string, advice: string): DriftmapError {
  const reason = `the image names the ${what} '${printable(name)}', ${why}: ${advice}`;
  return new DriftmapError('policy', reason, { path: from.image });
}

function missing(what: string, name: string, from: Referrer): DriftmapError {
  const reason = `the ${what} '${printable(name)}' that the image names is not there`;
  return new DriftmapError('not-found', reason, { path: from.image });
}

async function resolveOnHost(what: string, name: string, folder: string, from: Referrer): Promise<string> {
  const path = plainName(what, name, from);
  const named = isAbsolute(path) ? path : folder + sep + path;
  const home = realpathSync.native(folder);
  const real = realPath(named, { image: from.image, what, name });
  if (!from.allowOutside) {
    // What is not there is told as missing only inside: the error must not say what exists elsewhere.
    const inside =
      real === null
        ? isWithin(home, resolve(home, path)) || isWithin(resolve(folder), resolve(folder, path))
        : isWithin(home, real);
    if (!inside) throw refusal(what, name, from, `which leads outside the image's folder ${home}`, allow);
  }
  if (real === null) throw missing(what, name, from);
  if (!from.allowOutside && !statSync(real).isFile()) {
    throw refusal(what, name, from, 'which is not a regular file', allow);
  }
  // Where the next image's relative names start is the folder it was named in, as in QEMU.
  return named;
}

function realPath(
  path: string,
  { image, what, name }: { image: string; what: string; name: string },
): string | null {
  try {
    return realpathSync.native(path);
  } catch (cause) {
    const error = systemError(cause, { path: image, operation: `finding the ${what} '${printable(name)}'` });
    if (error.kind === 'not-found') return null;
    throw error;
  }
}

function isWithin(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/** Names come from the image and go to a terminal. */
function printable(name: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced
  const clean = name.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
  return clean.length > 200 ? `${clean.slice(0, 200)}…` : clean;
}
