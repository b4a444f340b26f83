/** One line on standard error while a session runs, when that is a terminal. */

import { humanSize } from '../base/units.ts';
import type { SyncProgress } from '../sync/progress.ts';
import type { AllProgress } from '../sync/sync-all.ts';
import { clock } from './progress-bar.ts';
import { columns, printable } from './terminal.ts';

export interface SyncBar {
  show(progress: SyncProgress | AllProgress): void;
  /** A line that stays, above the bar; also where no bar is drawn. */
  say(text: string): void;
  stop(): void;
}

/** Draws on a terminal; elsewhere, and with `quiet`, it does nothing. */
export async function createSyncBar(quiet: boolean): Promise<SyncBar> {
  const stream = process.stderr;
  const say = (text: string) => {
    stream.write(`${stream.isTTY ? '\r\u001b[K' : ''}driftmap: ${printable(text)}\n`);
  };
  if (quiet || !stream.isTTY) return { show: () => {}, say, stop: () => {} };
  let drawn = false;
  return {
    say,
    show(progress) {
      stream.write(`\r\u001b[K${progressLine(progress).slice(0, columns(stream) - 1)}`);
      drawn = true;
    },
    stop() {
      if (drawn) stream.write('\r\u001b[K');
    },
  };
}

const cells = '█';

/** `sending    ██████░░░░  61%  12.3 MiB/s  1:02 left  placed 32 MiB  saved 5 MiB` */
export function progressLine(progress: SyncProgress | AllProgress): string {
  const { phase, totalBytes, doneBytes, bytesPerSecond, secondsLeft, placedBytes, savedBytes, wireBytes } =
    progress;
  const share = totalBytes === 0 ? 1 : doneBytes / totalBytes;
  const filled = Math.floor(share * 20);
  const bar = cells.repeat(filled) + '░'.repeat(20 - filled);
  const parts = [
    phase.padEnd(10),
    `${bar}${`${Math.floor(share * 100)}%`.padStart(5)}`,
    `${humanSize(Math.round(bytesPerSecond))}/s`,
  ];
  if ('pairs' in progress) parts.push(`${progress.endedPairs} of ${progress.pairs} pairs`);
  if (secondsLeft !== undefined && secondsLeft > 0.5) parts.push(`${clock(secondsLeft)} left`);
  if (placedBytes > 0) parts.push(`placed ${humanSize(placedBytes)}`);
  if (savedBytes > 0) parts.push(`saved ${humanSize(savedBytes)}`);
  if (wireBytes > 0) parts.push(`wire ${humanSize(wireBytes)}`);
  return parts.join('  ');
}
