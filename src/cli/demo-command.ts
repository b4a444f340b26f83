/** `driftmap demo`: two small disks, one scan, and what to try next. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import type { Command } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import { blocksTouching, humanSize } from '../base/units.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { Exit } from './exit.ts';
import { describeScan, line } from './scan-report.ts';
import { paint, print } from './terminal.ts';

export function defineDemo(program: Command): void {
  program
    .command('demo')
    .summary('see it work on two small disks')
    .description(
      'Makes a production disk (qcow2) and a replica that has drifted (raw) in a temporary folder, and scans them.',
    )
    .option('--protect', 'continuous protection instead: a guest, a journal, a point in time, a snapshot')
    .addHelpText('after', '\nExamples:\n  driftmap demo\n  driftmap demo --protect\n')
    .action(({ protect }: { protect?: boolean }) => (protect ? runProtectDemo() : runDemo()));
}

async function runProtectDemo(): Promise<void> {
  const { walkThroughProtection } = await import('./demo-protect.ts');
  const folder = temporaryFolder();
  await print(`Continuous protection, in ${folder}:\n`);
  await walkThroughProtection(folder);
  await print(`
Nothing was lost. Try next:
  cd ${folder}
  ${commandName()} points web.json
  ${commandName()} access web.json --at latest       then, elsewhere: nbdinfo nbd://localhost/system
  ${commandName()} snapshots verify web.json
  rm -r ${folder}
docs/PROTECTION.md tells the whole.
`);
  process.exitCode = Exit.equal;
}

/** As whoever started the demonstration can type it. */
function commandName(): string {
  return process.env.npm_lifecycle_event ? 'npx driftmap' : 'driftmap';
}

async function runDemo(): Promise<void> {
  const { DEMO_SIZE, drift, makeDemoDisks } = await import('./demo-disks.ts');
  const { openDisk } = await import('../disk/open.ts');
  const { scan } = await import('../scan/scan.ts');
  const { saveBitmap } = await import('../bitmap/drift-file.ts');
  const folder = temporaryFolder();
  const [production, replica, bitmap] = ['production.qcow2', 'replica.raw', 'demo.drift'].map((name) =>
    join(folder, name),
  ) as [string, string, string];
  await print(`Two copies of one ${humanSize(DEMO_SIZE)} disk, in ${folder}:\n`);
  try {
    makeDemoDisks(production, replica);
  } catch (cause) {
    throw systemError(cause, { path: folder, operation: 'making the example disks' });
  }
  await print(
    `${line('production', production)}\n${line('replica', replica)}\n\nSince they were equal, this happened to the replica:\n`,
  );
  for (const [what, ranges] of grouped(drift)) {
    const bytes = ranges.reduce((sum, { length }) => sum + length, 0);
    await print(`  ${ranges.length > 1 ? `${ranges.length} × ` : ''}${what} (${humanSize(bytes)})\n`);
  }
  await print(`\n${paint('bold', '$ driftmap scan production.qcow2 replica.raw --bitmap demo.drift')}\n\n`);
  const disks = [
    await openDisk(production, { format: 'qcow2' }),
    await openDisk(replica, { format: 'raw' }),
  ] as const;
  try {
    const result = await scan({ production: disks[0], replica: disks[1] });
    saveBitmap(result.bitmap, bitmap);
    const names = {
      production: 'production.qcow2',
      replica: 'replica.raw',
      productionFormat: 'qcow2',
      replicaFormat: 'raw',
    };
    await print(describeScan(result, names, {}));
    checkFound(result.bitmap, drift);
  } finally {
    for (const disk of disks) await disk.close();
  }
  await print(nextSteps(folder));
  process.exitCode = Exit.equal;
}

function temporaryFolder(): string {
  try {
    return mkdtempSync(join(tmpdir(), 'driftmap-demo-'));
  } catch (cause) {
    throw systemError(cause, { path: tmpdir(), operation: 'making a temporary folder' });
  }
}

function grouped<T extends { readonly what: string }>(items: readonly T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(item.what, [...(groups.get(item.what) ?? []), item]);
  return groups;
}

/** The demonstration knows the truth: it says so if the scan does not find exactly that. */
function checkFound(bitmap: SyncBitmap, drift: readonly { offset: number; length: number }[]): void {
  const expected = new Set<number>();
  for (const range of drift) {
    const { start, end } = blocksTouching(range, bitmap.blockSize);
    for (let block = start; block < end; block++) expected.add(block);
  }
  const exact = bitmap.count === expected.size && [...expected].every((block) => bitmap.test(block));
  if (!exact)
    throw new DriftmapError(
      'internal',
      `the scan marked ${bitmap.count} blocks where ${expected.size} differ`,
    );
}

function nextSteps(folder: string): string {
  const near = relative(process.cwd(), folder);
  const place = near.startsWith('..') ? folder : near;
  const command = commandName();
  return `
Exactly the blocks that drifted. Try next:
  ${command} bitmap show ${place}/demo.drift
  ${command} scan ${place}/production.qcow2 ${place}/replica.raw --block-size 4K --signature blake3
  ${command} map ${place}/production.qcow2
  ${command} scan --help
  rm -r ${place}
`;
}
