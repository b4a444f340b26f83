/**
 * Files that an image names: its backing file, its data file. A name is the image's own word, and an image
 * may come from a stranger; so a name leads to a regular file in the image's own folder and nowhere else,
 * unless the user allows it (`allowOutside`). Network and pseudo protocols (`nbd:`, `http:`, `json:`) are
 * refused always: driftmap has no use for them, and they have been a way out before (CVE-2024-4467).
 */

import { realpathSync, statSync } from 'node:fs';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';

export interface Referrer {
  /** The image, for messages. */
  readonly image: string;
  /** The folder that relative names start from: the one that the image was named in. Null where there is none. */
  readonly folder: string | null;
  /** False where the format was guessed from contents that a guest can write. */
  readonly trusted: boolean;
  readonly allowOutside: boolean;
}

/**
 * The path to open for a name in an image.
 * @throws DriftmapError `policy` where the name leads out, `not-found` where nothing is there
 */
export function resolveReference(what: string, name: string, from: Referrer): string {
  const refuse = (why: string, advice: string) =>
    new DriftmapError('policy', `the image names the ${what} '${printable(name)}', ${why}: ${advice}`, {
      path: from.image,
    });
  if (!from.trusted) {
    const advice = 'state the format (--production-format, --replica-format, --format) if you know it';
    throw refuse('and its format was guessed from contents that a guest can write', advice);
  }
  if (from.folder === null) throw refuse('and it lies in no folder to look in', 'open it by its path');
  const path = name.startsWith('file:') ? name.slice('file:'.length) : name;
  const protocol = /^[^/:]*:/.exec(path)?.[0];
  if (protocol !== undefined) {
    const advice = 'driftmap follows file names only; copy the data beside the image and rebase it';
    throw refuse(`which is not a file name but the protocol '${printable(protocol)}'`, advice);
  }

  const named = isAbsolute(path) ? path : from.folder + sep + path;
  const home = realpathSync.native(from.folder);
  const real = realPath(named, { image: from.image, what, name });
  const allow = 'use --allow-outside (allowOutside: true in the library) if you trust the image';
  if (!from.allowOutside) {
    // What is not there is told as missing only inside: the error must not say what exists elsewhere.
    const inside =
      real === null
        ? isWithin(home, resolve(home, path)) || isWithin(resolve(from.folder), resolve(from.folder, path))
        : isWithin(home, real);
    if (!inside) throw refuse(`which leads outside the image's folder ${home}`, allow);
  }
  if (real === null) {
    throw new DriftmapError(
      'not-found',
      `the ${what} '${printable(name)}' that the image names is not there`,
      {
        path: from.image,
      },
    );
  }
  if (!from.allowOutside && !statSync(real).isFile()) throw refuse('which is not a regular file', allow);
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
