/** One line on standard error while a snapshot is taken, restored, verified or pruned, when that is a terminal. */

import { humanSize } from '../base/units.ts';
import { clock } from './progress-bar.ts';
import { columns } from './terminal.ts';

export interface LineBar {
  show(line: string): void;
  stop(): void;
}

/** Draws at most ten times a second on a terminal; elsewhere, and with `quiet`, it does nothing. */
export function createLineBar(quiet: boolean): LineBar {
  const stream = process.stderr;
  if (quiet || !stream.isTTY) return { show: () => {}, stop: () => {} };
  let drawnAt = Number.NEGATIVE_INFINITY;
  return {
    show(line) {
      const now = performance.now();
      if (now - drawnAt < 100) return;
      drawnAt = now;
      stream.write(`\r\u001b[K${line.slice(0, columns(stream) - 1)}`);
    },
    stop() {
      if (drawnAt >= 0) stream.write('\r\u001b[K');
    },
  };
}

/** `sending   ██████░░░░  61%  12.3 MiB/s  1:02 left` and more. */
export function shareLine(
  phase: string,
  progress: {
    readonly totalBytes: number;
    readonly doneBytes: number;
    readonly bytesPerSecond: number;
    readonly secondsLeft: number | undefined;
  },
  more: readonly string[],
): string {
  const { totalBytes, doneBytes, bytesPerSecond, secondsLeft } = progress;
  const share = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
  const filled = Math.floor(share * 20);
  const bar = '█'.repeat(filled) + '░'.repeat(20 - filled);
  const parts = [phase.padEnd(9), `${bar}${`${Math.floor(share * 100)}%`.padStart(5)}`];
  parts.push(`${humanSize(Math.round(bytesPerSecond))}/s`);
  if (secondsLeft !== undefined && secondsLeft > 0.5) parts.push(`${clock(secondsLeft)} left`);
  return [...parts, ...more].join('  ');
}
