/** `driftmap snapshots verify` */

import { humanSize } from '../base/units.ts';
import type { Verified } from '../snapshots/verify.ts';
import { Exit } from './exit.ts';
import { createLineBar } from './snapshots-bar.ts';
import { pickSnapshot, type StoreFlags, shortId, withRepository } from './snapshots-store.ts';
import { stopOnSignals } from './stop.ts';
import { print, printable } from './terminal.ts';

export interface VerifyFlags extends StoreFlags {
  group?: string;
  quick?: boolean;
  quiet?: boolean;
}

export async function runVerify(store: string, texts: string[], flags: VerifyFlags): Promise<void> {
  const signal = stopOnSignals();
  const bar = createLineBar(flags.quiet === true || flags.json === true);
  const verified = await withRepository(store, flags, signal, async (repository, group) => {
    const { verifyRepository } = await import('../snapshots/verify.ts');
    const { listSnapshots } = await import('../snapshots/catalog.ts');
    const picked = [];
    for (const text of texts) picked.push(await pickSnapshot(repository, text, { group, signal }));
    const ofGroup = group === undefined ? undefined : await listSnapshots(repository, { group, signal });
    try {
      return await verifyRepository(repository, {
        snapshots: texts.length > 0 ? picked : ofGroup,
        quick: flags.quick,
        connections: flags.connections,
        signal,
        onProgress: ({ snapshots, snapshotsDone, objects, bytes, damaged }) =>
          bar.show(
            `verifying  ${snapshotsDone} of ${snapshots} snapshots  ${objects} objects  ${humanSize(bytes)}  ${damaged} damaged`,
          ),
      });
    } finally {
      bar.stop();
    }
  });
  await print(flags.json ? `${JSON.stringify(verified)}\n` : report(verified));
  process.exitCode = verified.damaged.length > 0 ? Exit.different : Exit.equal;
}

function report({ snapshots, objects, bytes, damaged }: Verified): string {
  const lines = damaged.map(({ key, reason, snapshots: hit }) => {
    const whom = hit.length === 0 ? 'no snapshot' : hit.map(shortId).join(', ');
    return `${printable(key)}: ${printable(reason)}; hits ${whom}`;
  });
  const result = damaged.length === 0 ? 'all is well' : `${damaged.length} damaged or missing`;
  return `${[...lines, `${snapshots} snapshots, ${objects} objects, ${humanSize(bytes)}: ${result}`].join('\n')}\n`;
}
