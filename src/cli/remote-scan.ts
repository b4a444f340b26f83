/** `driftmap scan` with a disk at another site. */

import { DriftmapError } from '../base/errors.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import { parseSite } from '../wire/site.ts';
import { Exit, warn } from './exit.ts';
import { type SiteFlags, siteOptions } from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { createSyncBar } from './sync-bar.ts';
import { print } from './terminal.ts';
import { asJson, describe } from './verify-command.ts';

export interface RemoteScanFlags extends SiteFlags {
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
}

/** Whether one of the disks is at another site. */
export function isRemote(...disks: readonly string[]): boolean {
  return disks.some((disk) => parseSite(disk).kind !== 'local');
}

export async function runRemoteScan(
  production: string,
  replica: string,
  flags: RemoteScanFlags,
): Promise<void> {
  if (flags.within !== undefined || flags.resume !== undefined || flags.compare === 'bytes') {
    const reason = '--within, --resume and --compare bytes are for two disks here';
    throw new DriftmapError('unsupported', reason);
  }
  const { checkReplaceable, saveBitmap } = await import('../bitmap/drift-file.ts');
  if (flags.bitmap) checkReplaceable(flags.bitmap);
  const signal = stopOnSignals();
  const { compareSites } = await import('../sync/compare-sites.ts');
  const bar = await createSyncBar(flags.quiet === true || flags.json === true);
  const { blockSize, signature, workers, productionFormat, replicaFormat, allowOutside } = flags;
  const result = await compareSites({
    ...siteOptions(flags, signal),
    ...{ production, replica, blockSize, signature, workers, productionFormat, replicaFormat, allowOutside },
    onProgress: (progress) => bar.show(progress),
  }).finally(() => bar.stop());
  for (const warning of result.warnings) warn(warning);
  process.exitCode = result.markedBlocks === 0 ? Exit.equal : Exit.different;
  const all = flags.all === true;
  await print(flags.json ? asJson(production, replica, result) : describe(production, replica, result, all));
  if (flags.bitmap) saveBitmap(result.bitmap, flags.bitmap);
}
