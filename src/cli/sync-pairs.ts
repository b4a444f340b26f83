/** The pairs of disks that `driftmap sync` was told, as arguments or in a file. */

import { readFileSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import { MAX_CONTROL_BYTES } from '../base/limits.ts';
import { readBounded } from '../codec/atomic-file.ts';

export interface Pair {
  readonly production: string;
  readonly replica: string;
}

/**
 * @param disks production and replica, and again
 * @param file one pair a line, apart by a tab or blanks; `#` begins a comment; `-` is standard input
 * @throws DriftmapError `argument`, with the file and the line
 */
export function pairsOf(disks: readonly string[], file: string | undefined): Pair[] {
  if (disks.length % 2 !== 0) {
    const reason = `expected a replica for each production disk, got ${disks.length} disks`;
    throw new DriftmapError('argument', reason);
  }
  const pairs: Pair[] = [];
  for (let i = 0; i < disks.length; i += 2) pairs.push({ production: disks[i]!, replica: disks[i + 1]! });
  if (file !== undefined) pairs.push(...pairsOfFile(file));
  if (pairs.length > 0) return pairs;
  throw new DriftmapError('argument', 'expected PRODUCTION and REPLICA, or --pairs FILE');
}

function pairsOfFile(file: string): Pair[] {
  const bytes = file === '-' ? readFileSync(0) : readBounded(file, MAX_CONTROL_BYTES);
  const pairs: Pair[] = [];
  for (const [i, text] of Buffer.from(bytes).toString().split('\n').entries()) {
    const line = text.trim();
    if (line === '' || line.startsWith('#')) continue;
    // Where a path holds blanks, a tab stands between the two.
    const words = line.includes('\t') ? line.split(/\t+/) : line.split(/\s+/);
    const [production, replica, ...more] = words.map((word) => word.trim());
    if (!production || !replica || more.length > 0) {
      const reason = `line ${i + 1}: expected PRODUCTION and REPLICA, apart by a tab or blanks, got ${words.length} words`;
      throw new DriftmapError('argument', reason, { path: file });
    }
    pairs.push({ production, replica });
  }
  return pairs;
}
