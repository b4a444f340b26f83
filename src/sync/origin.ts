/** Opens production's disk for a session, and finds out whether it was a replica once. */

import { existsSync } from 'node:fs';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import { openDisk } from '../disk/open.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { settleGeneration } from '../scan/generation.ts';
import type { DiskInfo, Lineage } from '../wire/session-messages.ts';
import { infoOf } from './replica-session.ts';
import { loadState, type ReplicaState, statePath } from './state-file.ts';
import { canonical, sameDisk } from './target.ts';

export interface Origin {
  readonly disk: VirtualDisk;
  readonly info: DiskInfo;
  /** Of the disk, and of what its generation is worth. */
  readonly warnings: readonly string[];
  /** What was written to it since it was failed over, if all of that is marked. */
  readonly marks: PagedBits | undefined;
  close(): Promise<void>;
}

export interface OriginOptions {
  readonly format?: string | undefined;
  readonly allowOutside?: boolean | undefined;
  readonly state?: string | undefined;
}

export async function openOrigin(
  source: string | LogicalUnit | VirtualDisk,
  options: OriginOptions = {},
): Promise<Origin> {
  const given = typeof source !== 'string' && 'map' in source;
  const disk = given ? source : await openDisk(source, options);
  try {
    // Stores through a mapping that come later must show in the generation.
    const unsettled = await settleGeneration(disk);
    const stateAt = options.state ?? (typeof source === 'string' ? statePath(canonical(source)) : null);
    const state = stateAt !== null && existsSync(stateAt) ? loadState(stateAt) : null;
    const lineage = lineageOf(state, disk);
    return {
      disk,
      info: infoOf(disk, lineage),
      warnings: [...disk.warnings, ...unsettled],
      marks: lineage?.marked ? state!.bitmap.marks : undefined,
      close: async () => {
        if (!given) await disk.close();
      },
    };
  } catch (error) {
    if (!given) await disk.close();
    throw error;
  }
}

/**
 * Marks count only while nobody has written past them: the generation that was stored with the last of them is
 * still the disk's.
 */
function lineageOf(state: ReplicaState | null, disk: VirtualDisk): Lineage | null {
  if (state === null || state.status !== 'failed-over') return null;
  const { production, replica } = state.bitmap.header;
  if (!sameDisk(replica.identity, disk.identity)) return null;
  const generation = disk.generation();
  return {
    partner: production.identity,
    partnerGeneration: production.generation,
    epoch: state.epoch,
    written: generation !== replica.generation,
    marked: generation === state.generation && !/(?:^| )(?:device|live)(?: |$)/.test(generation),
  };
}
