/** A comparison as Markdown, for the summary of a CI job. */

import type { ComparedCase, Comparison } from './compare.ts';
import { changeText, percent, summaryOf } from './report-text.ts';

const signs: Readonly<Record<ComparedCase['verdict'], string>> = {
  slower: '🔴',
  'meaning changed': '🔴',
  faster: '🟢',
  unchanged: '',
};

export function comparisonAsMarkdown(comparison: Comparison): string {
  const { cases, notes, added, removed } = comparison;
  const lines = ['## driftmap bench', '', escapeMarkdown(summaryOf(comparison)), ''];
  for (const note of notes) lines.push(`> ${escapeMarkdown(note)}`, '');
  lines.push(
    '| case | time, head against base | 95 % interval | told from | verdict |',
    '|---|---:|---|---:|---|',
  );
  for (const { name, ratio, effect, verdict } of cases) {
    const interval = `${changeText(ratio.low)} … ${changeText(ratio.high)}`;
    const sign = signs[verdict] === '' ? verdict : `${signs[verdict]} ${verdict}`;
    lines.push(
      `| ${escapeMarkdown(name)} | ${changeText(ratio.estimate)} | ${interval} | ${percent(effect)} | ${sign} |`,
    );
  }
  lines.push('');
  if (added.length) lines.push(`Only in head: ${escapeMarkdown(added.join(', '))}`, '');
  if (removed.length) lines.push(`Only in base: ${escapeMarkdown(removed.join(', '))}`, '');
  lines.push(
    `Slower means: the estimate is at least what is told of that case, and the whole interval lies above 0.`,
    '',
  );
  return lines.join('\n');
}

/** Names come from result files, which may be anybody's. */
function escapeMarkdown(text: string): string {
  return text.replace(/[\\`*_{}[\]<>|#!]/g, '\\$&').replace(/\s+/g, ' ');
}
