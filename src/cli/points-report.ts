/** The points of a group for people: what can be rolled to, drawn on a line of time. */

import { humanDuration, tellMoment } from '../base/time.ts';
import { humanSize } from '../base/units.ts';
import type { PointsReport } from '../protect/replica/points-report.ts';
import { line } from './scan-report.ts';
import { columns, paint, printable } from './terminal.ts';

/** How many of each kind are listed without `--all`. */
const LISTED = 20;

export function describePoints(report: PointsReport, { now, all }: { now: number; all: boolean }): string {
  const { group, journal, bytes, disks, ranges, bookmarks, suspensions, clockSteps, stale } = report;
  const size = disks.reduce((sum, disk) => sum + disk.size, 0);
  const lines = [
    line('group', `${printable(group)}  ${paint('dim', `${disks.length} disks, ${humanSize(size)}`)}`),
    line('journal', `${printable(journal)}  ${paint('dim', humanSize(bytes))}`),
  ];
  if (report.role === 'production') lines.push(line('role', paint('yellow', 'production (failed over)')));
  if (stale !== null) lines.push(line('points', paint('red', printable(stale))));
  if (ranges.length === 0) {
    const why = suspensions.at(-1)?.reason;
    lines.push(line('points', `none yet${why === undefined ? '' : ` (${printable(why)})`}`));
    return `${lines.join('\n')}\n`;
  }
  const { from } = ranges[0]!;
  const { to } = ranges.at(-1)!;
  lines.push(
    line('oldest', `${from.at}  ${paint('dim', `sequence ${from.sequence}${ago(from.time, now)}`)}`),
  );
  lines.push(line('newest', `${to.at}  ${paint('dim', `sequence ${to.sequence}${ago(to.time, now)}`)}`));
  lines.push(line('disks at', paint('dim', position(report))), '', ...drawTimeline(report), '');
  const shown = <T>(list: readonly T[]) => (all ? list : list.slice(-LISTED));
  const heading = (name: string, list: readonly unknown[]) => {
    const left = list.length - shown(list).length;
    return `${paint('bold', name)}${left > 0 ? paint('dim', `  (the last ${LISTED} of ${list.length}: --all lists all)`) : ''}`;
  };
  if (bookmarks.length > 0) lines.push(heading('Bookmarks', bookmarks));
  for (const { at, name, consistency, reachable, sequence } of shown(bookmarks)) {
    const notes = [`${consistency}-consistent`, `sequence ${sequence}`];
    if (!reachable) notes.push('not reachable: the group was suspended');
    lines.push(`  ${at}  ${printable(name)}  ${paint('dim', notes.join(', '))}`);
  }
  if (suspensions.length > 0) lines.push(heading('Suspensions (no points between)', suspensions));
  for (const gap of shown(suspensions)) {
    const until = gap.to === null ? 'now' : gap.to.at;
    lines.push(`  ${gap.from.at} … ${until}  ${paint('dim', printable(gap.reason))}`);
  }
  if (clockSteps.length > 0) lines.push(heading('Steps of the clock', clockSteps));
  for (const { sequence, before, after } of shown(clockSteps))
    lines.push(`  ${before} → ${after}  ${paint('dim', `at sequence ${sequence}`)}`);
  return `${lines.join('\n').replace(/\n+$/, '')}\n`;
}

function ago(time: number, now: number): string {
  return time > now ? '' : `, ${humanDuration(now - time)} ago`;
}

function position({ applied: { low, high } }: PointsReport): string {
  return low === high ? `sequence ${low}` : `between sequences ${low} and ${high}`;
}

/**
 * One line of time: `━` where every moment is a point, `╌` where the group was suspended; above it bookmarks,
 * below it the ends. Time that the clock ran twice is drawn once.
 */
export function drawTimeline({ ranges, bookmarks, suspensions }: PointsReport): string[] {
  const times = [...ranges, ...suspensions].flatMap(({ from, to }) => [from.time, to?.time ?? from.time]);
  const [first, last] = [times.reduce((a, b) => Math.min(a, b)), times.reduce((a, b) => Math.max(a, b))];
  const width = columns() - 4;
  const at = (time: number) =>
    last === first ? 0 : Math.round(((time - first) / (last - first)) * (width - 1));
  const cells: string[] = new Array(width).fill(' ');
  const fill = (from: number, to: number, cell: string) => {
    for (let i = Math.min(from, to); i <= Math.max(from, to); i++) cells[i] = cell;
  };
  for (const { from, to } of suspensions) fill(at(from.time), to === null ? width - 1 : at(to.time), '╌');
  for (const { from, to } of ranges) fill(at(from.time), at(to.time), '━');
  const above: string[] = new Array(width).fill(' ');
  for (const { time, consistency, reachable } of bookmarks) {
    if (time < first || time > last) continue;
    above[at(time)] = !reachable ? '×' : consistency === 'application' ? '◆' : '▾';
  }
  const [left, right] = [tellMoment(first).slice(0, 19), tellMoment(last).slice(0, 19)];
  const gap = Math.max(2, width - left.length - right.length);
  const lines = [`  ${cells.join('')}`, `  ${paint('dim', `${left}${' '.repeat(gap)}${right}`)}`];
  return bookmarks.length > 0 ? [`  ${above.join('').trimEnd()}`, ...lines] : lines;
}
