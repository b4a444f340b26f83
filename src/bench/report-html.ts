/** A result as one page that needs nothing else: plots as inline SVG, no scripts, light or dark as the reader has it. */

import { machineText, percent, rateText } from './report-text.ts';
import { type BenchResult, type CaseResult, rateOf, shareOfLimit } from './run.ts';
import { median } from './statistics.ts';

const ROW = 24;
const LABEL_WIDTH = 250;
const BAR_WIDTH = 420;
const WIDTH = LABEL_WIDTH + BAR_WIDTH + 190;

const style = `
:root { color-scheme: light dark; --ink: #1c2530; --paper: #fdfdfb; --bar: #2f6fb0; --faint: #d8dde3; --mark: #b4552d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe5ea; --paper: #14191f; --bar: #6aa9e6; --faint: #333c46; --mark: #e6935f; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); }
.bar { fill: var(--bar); } .back { fill: var(--faint); } .run { fill: var(--mark); opacity: .6; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--faint); }
.number { text-align: right; }
`;

export function resultAsHtml(result: BenchResult): string {
  const suites = [...new Set(result.cases.map(({ suite }) => suite))];
  const small =
    result.scale === 'full'
      ? ''
      : `<p>Scale ${escapeHtml(result.scale)}: small runs, figures mean little.</p>`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>driftmap bench</title>
<style>${style}</style>
</head>
<body>
<h1>driftmap bench</h1>
<p>${escapeHtml(machineText(result.machine))}</p>
<p>${escapeHtml(result.time)}</p>
${small}
<p>A bar is a share of the machine's own limit (the fastest tenth of its runs, measured in the same run); where
there is no limit, of the fastest case beside it. Dots are the rounds: where they lie apart, the machine was not quiet.</p>
${suites.map((suite) => suiteAsHtml(result, suite)).join('\n')}
</body>
</html>
`;
}

function suiteAsHtml(result: BenchResult, suite: string): string {
  const cases = result.cases.filter((one) => one.suite === suite);
  return `<section>
<h2>${escapeHtml(suite)}</h2>
${plot(result, cases)}
<details><summary>As a table</summary>
<table>
<thead><tr><th>case</th><th>rate</th><th>of its limit</th><th>bytes a run</th><th>digest</th></tr></thead>
<tbody>
${cases.map((one) => tableRow(result, one)).join('\n')}
</tbody>
</table>
</details>
</section>`;
}

function tableRow(result: BenchResult, one: CaseResult): string {
  const share = shareOfLimit(result, one);
  const held = share === null ? '' : `${percent(share)} of ${one.limit}`;
  const cells = [one.name, rateText(one), held, one.bytes || '', one.digest];
  return `<tr>${cells.map((cell) => `<td>${escapeHtml(String(cell))}</td>`).join('')}</tr>`;
}

function plot(result: BenchResult, cases: readonly CaseResult[]): string {
  const height = cases.length * ROW + 8;
  const fastest = Math.max(...cases.map(rateOf));
  const rows = cases.map((one, i) => plotRow(result, one, { y: 4 + i * ROW, fastest }));
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="rates of suite ${escapeHtml(cases[0]!.suite)}">
${rows.join('\n')}
</svg>`;
}

function plotRow(
  result: BenchResult,
  one: CaseResult,
  { y, fastest }: { readonly y: number; readonly fastest: number },
): string {
  const rate = rateOf(one);
  const share = shareOfLimit(result, one);
  const full = share === null ? fastest : rate / share;
  const at = (value: number) => LABEL_WIDTH + BAR_WIDTH * Math.min(1, value / full);
  const dots = one.rounds.map((round) => {
    const x = at((one.bytes || one.operations) / median(round));
    return `<circle class="run" cx="${x.toFixed(1)}" cy="${y + 8}" r="2.5"/>`;
  });
  const held = share === null ? '' : ` (${percent(share)})`;
  return `<text x="0" y="${y + 13}">${escapeHtml(one.name.slice(one.suite.length + 1))}</text>
<rect class="back" x="${LABEL_WIDTH}" y="${y}" width="${BAR_WIDTH}" height="16"/>
<rect class="bar" x="${LABEL_WIDTH}" y="${y}" width="${(at(rate) - LABEL_WIDTH).toFixed(1)}" height="16"/>
${dots.join('')}
<text x="${LABEL_WIDTH + BAR_WIDTH + 10}" y="${y + 13}">${escapeHtml(rateText(one) + held)}</text>`;
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character]!);
}
