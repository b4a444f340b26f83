/** `driftmap info` */

import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { Exit } from './exit.ts';
import { print } from './terminal.ts';

export function defineInfo(program: Command): void {
  program
    .command('info')
    .summary('show what runs here: kernels, features, formats')
    .description(
      'Shows what of driftmap runs on this machine and with this Node, for reports and for scripts.',
    )
    .option('--json', 'print it as one JSON object')
    .addHelpText(
      'after',
      `
DRIFTMAP_KERNEL=plain or DRIFTMAP_KERNEL=swizzle takes that build of the kernels instead of the one that is
fastest on this V8. Both give the same signatures. Either has to pass its test first.

Examples:
  driftmap info
  DRIFTMAP_KERNEL=plain driftmap info --json
`,
    )
    .action(runInfo);
}

async function runInfo(options: { json?: boolean }): Promise<void> {
  const info = await gatherInfo();
  await print(options.json ? `${JSON.stringify(info, null, 2)}\n` : describeInfo(info));
  process.exitCode = Exit.equal;
}

async function gatherInfo() {
  const { describeMachine } = await import('../bench/machine.ts');
  const { chosenKernels, kernelBuilds } = await import('../signature/kernel-builds.ts');
  const { algorithms } = await import('../signature/algorithm.ts');
  const { readableFormats } = await import('../disk/policy.ts');
  const { canUnpackZstd } = await import('../disk/unpack.ts');
  const { hasNative } = await import('../lu/posix.ts');
  const { defaultWorkers } = await import('../scan/pool.ts');
  const { build, reason, failed, compileMilliseconds, testMilliseconds } = chosenKernels();
  return {
    version: versionOf(),
    machine: describeMachine(),
    kernels: {
      build,
      reason,
      builds: kernelBuilds,
      failed,
      compileMilliseconds: hundredths(compileMilliseconds),
      testMilliseconds: hundredths(testMilliseconds),
    },
    workers: defaultWorkers(),
    features: {
      holes: hasNative(),
      zstd: canUnpackZstd(),
    },
    formats: readableFormats,
    signatures: algorithms.map(({ name, kernel }) => ({ name, kernel })),
  };
}

function hundredths(value: number): number {
  return Math.round(value * 100) / 100;
}

type Info = Awaited<ReturnType<typeof gatherInfo>>;

function describeInfo({ version, machine, kernels, workers, features, formats, signatures }: Info): string {
  const { build, reason, failed, testMilliseconds } = kernels;
  const passedOver = failed.length ? `; wrong here, and passed over: ${failed.join(', ')}` : '';
  const by = (kind: string) => signatures.filter(({ kernel }) => kernel === kind).map(({ name }) => name);
  const rows = [
    ['driftmap', version],
    ['node', `${machine.node}, V8 ${machine.v8}`],
    ['machine', `${machine.cpu}, ${machine.cores} processors, ${machine.platform} ${machine.kernel}`],
    ['workers', `${workers} by default (-j)`],
    ['kernels', `${build}, tested in ${testMilliseconds} ms (${reason})${passedOver}`],
    ['signatures', `${by('wasm').join(', ')} by kernels; ${by('library').join(', ')} by libraries`],
    ['formats', formats.join(', ')],
    [
      'holes',
      features.holes
        ? 'the file system is asked for them'
        : 'not asked for: koffi is not there; they are read',
    ],
    ['zstd', features.zstd ? 'clusters are read' : 'clusters are not read: that needs Node 22.15'],
  ];
  return `${rows.map(([name, text]) => `${name!.padEnd(12)}${text}`).join('\n')}\n`;
}

function versionOf(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
