/**
 * The way back after a failover: the same group with its sites exchanged. What was the replica is production, and
 * protects itself to where production was. The disks keep their places; each side gets a folder of its own for what it
 * did not have before, beside the one that it had.
 */

import { dirname, isAbsolute, resolve } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import { GROUP_MAX_FILE_BYTES } from '../../base/protection-limits.ts';
import { readBounded, writeAtomically } from '../../codec/atomic-file.ts';
import { type GroupFile, parseGroupFile, productionOf, replicaOf } from './group-file.ts';

/** As far as we use it: what `readGroupFile` has accepted. */
interface Written {
  readonly group: string;
  readonly production: { readonly state: string; readonly disks: Record<string, { readonly disk: string }> };
  readonly replica: {
    readonly journal: string;
    readonly disks: Record<string, string>;
    readonly keep?: unknown;
  };
}

export interface Reversal {
  /** The group file, which both sites have. */
  readonly file: GroupFile;
  /** What is written; in the folder of the group file, because relative paths start there, on both sites. */
  readonly to: string;
  /** Where the old production is reached, as in a group file; null when it is on this host. */
  readonly replica: string | null;
}

/**
 * Writes the reversed group file. @returns it, read again
 * @throws DriftmapError `argument` when a side is missing, or when it is not where relative paths mean the same
 */
export function writeReversed({ file, to, replica }: Reversal): GroupFile {
  productionOf(file);
  replicaOf(file);
  const written = JSON.parse(
    new TextDecoder().decode(readBounded(file.path, GROUP_MAX_FILE_BYTES)),
  ) as Written;
  const { production: before, replica: there } = written;
  const paths = [
    before.state,
    there.journal,
    ...Object.values(before.disks).map(({ disk }) => disk),
    ...Object.values(there.disks),
  ];
  const relative = paths.find((path) => !isAbsolute(path));
  if (relative !== undefined && dirname(resolve(to)) !== dirname(file.path)) {
    const reason = `expected a file in ${dirname(file.path)}, because the group file names places from there ('${relative}')`;
    throw new DriftmapError('argument', reason, { path: to });
  }
  const state = `${trimmed(there.journal)}.production`;
  const reversed = {
    group: written.group,
    production: {
      state,
      disks: Object.fromEntries(
        Object.entries(there.disks).map(([name, disk]) => [name, { disk, socket: `${state}/${name}.sock` }]),
      ),
      ...(replica !== null && { replica }),
    },
    replica: {
      journal: `${trimmed(before.state)}.journal`,
      disks: Object.fromEntries(Object.entries(before.disks).map(([name, { disk }]) => [name, disk])),
      ...(there.keep !== undefined && { keep: there.keep }),
    },
  };
  const text = `${JSON.stringify(reversed, null, 2)}\n`;
  const parsed = parseGroupFile(text, resolve(to));
  writeAtomically(to, new TextEncoder().encode(text));
  return parsed;
}

function trimmed(path: string): string {
  return path.replace(/\/+$/, '');
}
