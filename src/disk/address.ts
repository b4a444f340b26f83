/**
 * Addresses of what lies inside logical units, written as one string:
 *
 *   UNIT[,UNIT…]:STEP/STEP/…      lu0.img,lu1.img:gpt2/lvm:vg/home/ext4:/images/vm.qcow2
 *
 * Steps lead inwards: `gptN` or `mbrN` (a partition), `lvm:GROUP/VOLUME`, `ext4:/PATH` and so on (a file;
 * always last, since a path may hold anything). `ext2:` and `ext3:` mean the same as `ext4:`. A name that is
 * a file is that file, whatever it looks like.
 */

import { existsSync } from 'node:fs';
import { posix } from 'node:path';
import { DriftmapError } from '../base/errors.ts';
import { MAX_ADDRESS_STEPS } from '../base/limits.ts';
import type { FileSystemType } from './containers/file-system-types.ts';

export type Step =
  | {
      readonly kind: 'partition';
      readonly table: 'gpt' | 'mbr';
      readonly number: number;
      readonly text: string;
    }
  | { readonly kind: 'volume'; readonly group: string; readonly name: string; readonly text: string }
  | {
      readonly kind: 'file';
      readonly fileSystem: FileSystemKind;
      /** Absolute; parts `.`, `..` and empty ones are gone. */
      readonly path: string;
      readonly text: string;
    };

type FileSystemKind = FileSystemType['kind'];

export interface Address {
  /** Paths of the units; the steps begin in the first, and the others may hold more of a volume group. */
  readonly units: readonly string[];
  readonly steps: readonly Step[];
}

const partition = /^(gpt|mbr)([1-9]\d{0,3})(?:\/|$)/;
/** What is behind each word of an address. */
const words: Readonly<Record<string, FileSystemKind>> = {
  ext2: 'ext4',
  ext3: 'ext4',
  ext4: 'ext4',
  xfs: 'xfs',
  vmfs: 'vmfs',
  ntfs: 'ntfs',
};
const file = /^(ext[234]|xfs|vmfs|ntfs):(?=\/)(.*)$/s;
const volume = /^lvm:([A-Za-z0-9+_.-]+)\/([A-Za-z0-9+_.-]+)(?:\/|$)/;

/**
 * The address that a string is; null where it is a plain path: because there is such a file, or because
 * nothing behind a colon looks like a step.
 * @throws DriftmapError `argument` for an address with a step that is none
 */
export function parseAddress(text: string): Address | null {
  if (existsSync(text)) return null;
  const colon = /:(?=(?:gpt|mbr)\d|lvm:|(?:ext[234]|xfs|vmfs|ntfs):)/.exec(text);
  if (colon === null || colon.index === 0) return null;
  const before = text.slice(0, colon.index);
  // A comma may also be part of a name.
  const units = existsSync(before) ? [before] : before.split(',');
  const steps: Step[] = [];
  let rest = text.slice(colon.index + 1);
  while (rest !== '') {
    if (steps.length === MAX_ADDRESS_STEPS) {
      throw new DriftmapError('limit', `expected at most ${MAX_ADDRESS_STEPS} steps in an address`, {
        path: text,
      });
    }
    const [step, length] = nextStep(rest, text);
    steps.push(step);
    rest = rest.slice(length);
  }
  return { units, steps };
}

function nextStep(rest: string, address: string): [Step, number] {
  const part = partition.exec(rest);
  if (part) {
    const table = part[1] as 'gpt' | 'mbr';
    return [
      { kind: 'partition', table, number: Number(part[2]), text: `${table}${part[2]}` },
      part[0].length,
    ];
  }
  const found = volume.exec(rest);
  if (found) {
    const [all, group, name] = found as unknown as [string, string, string];
    return [{ kind: 'volume', group, name, text: `lvm:${group}/${name}` }, all.length];
  }
  const inside = file.exec(rest);
  if (inside) return [fileStep(inside[1]!, inside[2]!, address), rest.length];
  const reason = `expected a step such as gpt2, mbr1, lvm:GROUP/VOLUME or ext4:/PATH, got '${rest}'`;
  throw new DriftmapError('argument', reason, { path: address });
}

function fileStep(word: string, path: string, address: string): Step {
  const plain = posix.normalize(path);
  if (plain === '/' || plain.endsWith('/')) {
    const reason = `expected the path of a file after ${word}:, got '${path}'`;
    throw new DriftmapError('argument', reason, { path: address });
  }
  const fileSystem = words[word]!;
  return { kind: 'file', fileSystem, path: plain, text: `${fileSystem}:${plain}` };
}
