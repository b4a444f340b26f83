/** `driftmap scan` with a disk at another site. */

import type { Command } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { CompareResult } from '../sync/compare-sites.ts';
import { parseSite } from '../wire/site.ts';
import { parseBitmapSource } from './bitmap-source.ts';
import { Exit, warn } from './exit.ts';
import { withPartial } from './keep-partial.ts';
import {
  chosenBlockSize,
  chosenSignature,
  type IndexFlags,
  type SiteFlags,
  siteOptions,
} from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { createSyncBar } from './sync-bar.ts';
import { print } from './terminal.ts';
import { asJson, describe } from './verify-command.ts';

export interface RemoteScanFlags extends SiteFlags, IndexFlags {
  blockSize: number;
  signature: AlgorithmName;
  compare: string;
  workers?: number;
  bitmap?: string;
  within?: string;
  resume?: string;
  json?: boolean;
  all?: boolean;
  quiet?: boolean;
  productionFormat?: string;
  replicaFormat?: string;
  allowOutside?: boolean;
  sample?: number;
  direct?: boolean;
}

/** Whether one of the disks is at another site. */
export function isRemote(...disks: readonly string[]): boolean {
  return disks.some((disk) => parseSite(disk).kind !== 'local');
}

export async function runRemoteScan(
  production: string,
  replica: string,
  flags: RemoteScanFlags,
  command: Command,
): Promise<void> {
  refuseHereOnly(flags);
  const { checkReplaceable, loadBitmap, saveBitmap } = await import('../bitmap/drift-file.ts');
  if (flags.bitmap) checkReplaceable(flags.bitmap);
  const within = flags.within === undefined ? undefined : loadBitmap(flags.within);
  const resume = flags.resume === undefined ? undefined : loadBitmap(flags.resume);
  const signal = stopOnSignals();
  const { compareSites } = await import('../sync/compare-sites.ts');
  const bar = await createSyncBar(flags.quiet === true || flags.json === true);
  const { workers, productionFormat, replicaFormat, allowOutside, productionIndex, replicaIndex } = flags;
  let partial: SyncBitmap | undefined;
  let result: CompareResult;
  try {
    result = await compareSites({
      ...siteOptions(flags, signal),
      ...{ production, replica, workers, productionFormat, replicaFormat, allowOutside },
      ...{ productionIndex, replicaIndex, within, resume },
      blockSize: chosenBlockSize(command, flags),
      signature: chosenSignature(command, flags),
      onProgress: (progress) => bar.show(progress),
      onPartial: (bitmap) => {
        partial = bitmap;
      },
    });
  } catch (cause) {
    throw flags.bitmap ? await withPartial(cause, partial, flags.bitmap) : cause;
  } finally {
    bar.stop();
  }
  for (const warning of result.warnings) warn(warning);
  process.exitCode = result.markedBlocks === 0 ? Exit.equal : Exit.different;
  const all = flags.all === true;
  await print(flags.json ? asJson(production, replica, result) : describe(production, replica, result, all));
  if (flags.bitmap) saveBitmap(result.bitmap, flags.bitmap);
}

/** What would mean nothing over a network, or cost what the network is to be spared. */
function refuseHereOnly({ compare, within, sample, direct }: RemoteScanFlags): void {
  const refuse = (reason: string) => new DriftmapError('unsupported', reason);
  if (compare === 'bytes')
    throw refuse(
      '--compare bytes is for two disks here: over a network one disk would have to travel whole; signatures find the same blocks (--signature blake3, or nh128 with its proven bound)',
    );
  if (within !== undefined && parseBitmapSource(within) !== null)
    throw refuse(`--within takes a .drift file where a disk is at another site, got '${within}'`);
  if (sample !== undefined) throw refuse('--sample is for two disks here');
  if (direct) throw refuse('--direct is for two disks here');
}
