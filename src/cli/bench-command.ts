/** `driftmap bench` and `driftmap bench compare BASE HEAD` */

import { accessSync, constants, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { BenchResult } from '../bench/run.ts';
import { Exit } from './exit.ts';
import { workersOption } from './options.ts';
import { columns, paint, print } from './terminal.ts';

interface BenchCommandOptions {
  suite?: string[];
  filter?: string;
  workers?: number;
  rounds: number;
  time: number;
  quick?: boolean;
  json?: string;
  html?: string;
  quiet?: boolean;
}

interface CompareCommandOptions {
  effect: number;
  changed?: string[];
  as: 'text' | 'json' | 'markdown';
}

/** Not imported from the suites: they load everything there is to measure. A test holds the two together. */
export const suites = [
  'machine',
  'kernels',
  'mapping',
  'bitmap',
  'range',
  'array-scan',
  'file-scan',
  'dispatch',
];

const explainBenchExits = `
Exit status: 0 done (or no regression), 1 regression, 2 trouble, 130 stopped by Ctrl-C.
`;

export function defineBench(program: Command): void {
  const bench = program
    .command('bench')
    .summary('measure driftmap on this machine')
    .description(
      "Measures driftmap by block size, algorithm and workers, beside the machine's own limits: reading and copying memory, reading files.",
    )
    .addOption(new Option('--suite <name...>', 'measure only these').choices(suites))
    .option('--filter <text>', "measure only cases whose name contains this text, such as 'nh128/64K'")
    .addOption(workersOption())
    .option(
      '--rounds <count>',
      'every case runs in every round, in turn; to compare takes three',
      wholeFrom(1, 1000),
      5,
    )
    .option('--time <ms>', 'milliseconds for each case in each round', numberFrom(1, 600_000), 200)
    .option('--quick', 'small runs, to see that it works: the figures mean nothing')
    .option('--json <file>', 'write all samples, for comparing')
    .option('--html <file>', 'write a page with plots')
    .option('-q, --quiet', 'do not show which case is running')
    .addHelpText(
      'after',
      `
Examples:
  driftmap bench                                       everything, in some minutes
  driftmap bench --suite kernels --json before.json    and after a change:
  driftmap bench --suite kernels --json after.json
  driftmap bench compare before.json after.json
  driftmap bench --suite array-scan file-scan --html bench.html
${explainBenchExits}`,
    )
    .action(runBenchCommand);
  bench
    .command('compare')
    .summary('compare two results')
    .description(
      'Compares two results of `driftmap bench --json`. Results of two machines are compared as fractions of what each machine can do.',
    )
    .argument('<base>', 'the result before')
    .argument('<head>', 'the result after')
    .option('--effect <percent>', 'a smaller slowdown is no regression', numberFrom(0.1, 1000), 5)
    .option('--changed <case...>', 'cases whose results are meant to be others')
    .addOption(
      new Option('--as <form>', 'how it is printed; Markdown is for the summary of a CI job')
        .choices(['text', 'json', 'markdown'])
        .default('text'),
    )
    .addHelpText(
      'after',
      `
A case is slower when the estimate of its time is at least the effect above the base's, and its whole
95 % interval (a bootstrap over rounds and runs) lies above the base. A case with another digest than
before does something else than before, which counts as a regression unless --changed names it.
With fewer than three rounds on either side nothing is told of speed.

Examples:
  driftmap bench compare before.json after.json
  driftmap bench compare before.json after.json --effect 10 --as markdown >> $GITHUB_STEP_SUMMARY
${explainBenchExits}`,
    )
    .action(runCompareCommand);
}

function numberFrom(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`expected a number from ${least} to ${most}`);
  };
}

function wholeFrom(least: number, most: number): (text: string) => number {
  const number = numberFrom(least, most);
  return (text) => {
    const value = number(text);
    if (Number.isInteger(value)) return value;
    throw new InvalidArgumentError(`expected a whole number from ${least} to ${most}`);
  };
}

async function runBenchCommand(options: BenchCommandOptions): Promise<void> {
  checkOutputs(options);
  const stop = new AbortController();
  const stopped = (signal: NodeJS.Signals) => {
    if (stop.signal.aborted) process.exit(signal === 'SIGINT' ? Exit.interrupted : Exit.terminated);
    stop.abort(signal);
  };
  process.on('SIGINT', stopped).on('SIGTERM', stopped);
  const { runBench } = await import('../bench/run.ts');
  const { suiteByName } = await import('../bench/suites.ts');
  const { defaultWorkers } = await import('../scan/pool.ts');
  const { describeResult } = await import('../bench/report-text.ts');
  const shown = options.quiet !== true && process.stderr.isTTY === true;
  const result = await runBench({
    suites: (options.suite ?? suites).map(suiteByName),
    scale: options.quick ? 'smoke' : 'full',
    workers: [...new Set([1, options.workers ?? defaultWorkers()])],
    filter: options.filter,
    rounds: options.rounds,
    milliseconds: options.time,
    signal: stop.signal,
    onProgress: (done, total, name) => {
      if (shown) showProgress(`${done + 1}/${total} ${name}`);
    },
  });
  if (shown) showProgress('');
  // The figures first: a disk that has become full meanwhile does not take them away.
  await print(describeResult(result));
  await writeFiles(result, options);
  process.exitCode = Exit.equal;
}

/**
 * Minutes of measuring must not end with "no such directory".
 * @throws DriftmapError `argument` for one file named twice or no regular file; the system's kinds for folders
 */
function checkOutputs({ json, html }: BenchCommandOptions): void {
  for (const path of [json, html]) if (path !== undefined) checkOutput(path);
  if (json === undefined || html === undefined || realPath(json) !== realPath(html)) return;
  const reason = 'expected two files for --json and --html, got one for both';
  throw new DriftmapError('argument', reason, { path: html });
}

function checkOutput(path: string): void {
  const there = statSync(path, { throwIfNoEntry: false });
  if (there !== undefined && !there.isFile()) {
    throw new DriftmapError('argument', 'expected a regular file to write the result to', { path });
  }
  try {
    // Files are replaced by renaming: it is the folder that must let us.
    accessSync(dirname(path), constants.W_OK);
  } catch (cause) {
    throw systemError(cause, { path: dirname(path), operation: 'writing the result' });
  }
}

/** Of a file in a folder that is there. */
function realPath(path: string): string {
  return statSync(path, { throwIfNoEntry: false })
    ? realpathSync(path)
    : join(realpathSync(dirname(path)), basename(path));
}

/** One line that is written over; nothing stays of it. */
function showProgress(text: string): void {
  process.stderr.write(
    `\r\u001b[K${paint('dim', text.slice(0, columns(process.stderr) - 1), process.stderr)}`,
  );
}

async function writeFiles(result: BenchResult, { json, html }: BenchCommandOptions): Promise<void> {
  const { writeAtomically } = await import('../codec/atomic-file.ts');
  if (json !== undefined) writeAtomically(json, Buffer.from(`${JSON.stringify(result)}\n`));
  if (html === undefined) return;
  const { resultAsHtml } = await import('../bench/report-html.ts');
  writeAtomically(html, Buffer.from(resultAsHtml(result)));
}

async function runCompareCommand(base: string, head: string, options: CompareCommandOptions): Promise<void> {
  const { loadResult } = await import('../bench/result-file.ts');
  const { compareResults } = await import('../bench/compare.ts');
  const { describeComparison } = await import('../bench/report-text.ts');
  const { comparisonAsMarkdown } = await import('../bench/report-markdown.ts');
  const comparison = compareResults(loadResult(base), loadResult(head), {
    effect: options.effect / 100,
    meaningChanged: options.changed,
  });
  if (options.as === 'json') await print(`${JSON.stringify(comparison, null, 2)}\n`);
  else if (options.as === 'markdown') await print(comparisonAsMarkdown(comparison));
  else await print(describeComparison(comparison));
  process.exitCode = comparison.passed ? Exit.equal : Exit.different;
}
