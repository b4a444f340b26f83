/** Results and comparisons for a terminal: tables with bars, plain text throughout. */

import { humanSize } from '../base/units.ts';
import type { ComparedCase, Comparison } from './compare.ts';
import type { Machine } from './machine.ts';
import { type BenchResult, type CaseResult, rateOf, shareOfLimit } from './run.ts';
import { LEAST_GROUPS } from './statistics.ts';

const BAR = 20;
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/** `11.2 GB/s` for bytes, `1.1 M/s` for operations: decimal units, as bandwidths are given. */
export function rateText(one: CaseResult): string {
  const rate = rateOf(one);
  if (one.bytes > 0) return `${threeDigits(rate / 1e9)} GB/s`;
  if (rate >= 1e6) return `${threeDigits(rate / 1e6)} M/s`;
  return rate >= 1e3 ? `${threeDigits(rate / 1e3)} k/s` : `${threeDigits(rate)} /s`;
}

export function threeDigits(value: number): string {
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return value.toFixed(1);
  return value >= 0.1 ? value.toFixed(2) : value.toPrecision(2);
}

export function machineText(machine: Machine): string {
  const { cpu, cores, memoryBytes, platform, kernel, node, v8, load } = machine;
  const cpus = cores === 1 ? '1 processor' : `${cores} processors`;
  return `${cpu}, ${cpus}, ${humanSize(memoryBytes)} of memory, ${platform} ${kernel}, Node ${node} (V8 ${v8}), load ${load}`;
}

export function describeResult(result: BenchResult): string {
  const lines = [machineText(result.machine)];
  if (result.scale !== 'full') lines.push(`Scale '${result.scale}': small runs, figures mean little.`);
  const width = Math.max(...result.cases.map(({ name }) => name.length));
  for (const suite of new Set(result.cases.map((one) => one.suite))) {
    const cases = result.cases.filter((one) => one.suite === suite);
    lines.push('', suite === 'machine' ? 'machine: what it can do itself' : suite);
    const best = Math.max(...cases.map(rateOf));
    for (const one of cases) lines.push(caseLine(result, one, { width, best }));
  }
  return `${lines.join('\n')}\n`;
}

function caseLine(
  result: BenchResult,
  one: CaseResult,
  { width, best }: { width: number; best: number },
): string {
  const share = shareOfLimit(result, one);
  const bar = barOf(share ?? rateOf(one) / best);
  const held = share === null ? '' : `${percent(share)} of ${one.limit!.slice('machine/'.length)}`;
  return `  ${one.name.padEnd(width)}  ${rateText(one).padStart(10)}  ${bar}  ${held}`.trimEnd();
}

/** A full bar is the limit; what is faster than its limit (bytes in a cache) has a full bar too. */
function barOf(share: number): string {
  const eighths = Math.round(Math.max(0, Math.min(1, share)) * BAR * 8);
  return `${'█'.repeat(Math.floor(eighths / 8))}${EIGHTHS[eighths % 8]}`.padEnd(BAR, '·');
}

export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** `+3.1 %` of time: plus is slower. */
export function changeText(ratio: number): string {
  const change = (ratio - 1) * 100;
  return `${change < 0 ? '−' : '+'}${Math.abs(change).toFixed(1)} %`;
}

export function describeComparison(comparison: Comparison): string {
  const { cases, notes, added, removed } = comparison;
  const width = Math.max(4, ...cases.map(({ name }) => name.length));
  const lines = [
    ...notes,
    `${'case'.padEnd(width)}  ${'time'.padStart(9)}  95 % interval         told from  verdict`,
  ];
  for (const { name, ratio, effect, verdict } of cases) {
    const interval = `${changeText(ratio.low)} … ${changeText(ratio.high)}`;
    lines.push(
      `${name.padEnd(width)}  ${changeText(ratio.estimate).padStart(9)}  ${interval.padEnd(20)}  ${percent(effect).padStart(9)}  ${verdict}`,
    );
  }
  if (added.length) lines.push(`only in head: ${added.join(', ')}`);
  if (removed.length) lines.push(`only in base: ${removed.join(', ')}`);
  lines.push('', summaryOf(comparison));
  return `${lines.join('\n')}\n`;
}

/** The verdict in one line. */
export function summaryOf({ cases, missing, passed }: Comparison): string {
  const named = (verdict: ComparedCase['verdict']) =>
    cases.filter((one) => one.verdict === verdict).map(({ name }) => name);
  const slower = named('slower');
  const changed = named('meaning changed');
  const faster = named('faster');
  if (passed) {
    const better = faster.length ? `; faster: ${faster.join(', ')}` : '';
    const told = cases.filter(({ groups }) => groups >= LEAST_GROUPS);
    if (told.length === 0) return `No case's results changed; of their speed nothing can be told.`;
    const effects = [...new Set(told.map(({ effect }) => effect))].sort((a, b) => a - b);
    const counted = effects.map((effect) => {
      const count = told.filter((one) => one.effect === effect).length;
      return `${percent(effect)} or more in ${count} ${count === 1 ? 'case' : 'cases'}`;
    });
    return `No regression of ${counted.join(', nor of ')}${better}.`;
  }
  const parts: string[] = [];
  if (slower.length) parts.push(`slower: ${slower.join(', ')}`);
  if (changed.length) parts.push(`other results than before: ${changed.join(', ')}`);
  if (missing.length) parts.push(`gone, and not said to be: ${missing.join(', ')}`);
  return `REGRESSION: ${parts.join('; ')}.`;
}
