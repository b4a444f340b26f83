/** Which running system this is: two disks with one identity are one disk only where they are on one system. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

let known: string | null | undefined;

/** The same for all processes under one kernel until it is started anew, and for no other; null where it is not told. */
export function hostId(): string | null {
  known ??= read();
  return known;
}

function read(): string | null {
  try {
    const id = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    // Nobody else needs the number itself.
    return createHash('sha256').update(`driftmap host ${id}`).digest('hex').slice(0, 32);
  } catch {
    return null;
  }
}
