/** The bar on standard error while a scan runs, when that is a terminal. The only importer of cli-progress. */

import { humanSize } from '../base/units.ts';
import type { ScanProgress } from '../scan/progress.ts';
import { columns } from './terminal.ts';

export interface ProgressBar {
  show(progress: ScanProgress): void;
  stop(): void;
}

/**
 * Draws on a terminal; elsewhere, and with `quiet`, it does nothing.
 * @param compares whether blocks are found to differ
 */
export async function createProgressBar(quiet: boolean, compares = true): Promise<ProgressBar> {
  const stream = process.stderr;
  if (quiet || !stream.isTTY) return { show: () => {}, stop: () => {} };
  const { default: progress } = await import('cli-progress');
  const bar = new progress.SingleBar({
    stream,
    hideCursor: true,
    clearOnComplete: true,
    barsize: Math.max(10, Math.min(40, columns(stream) - 60)),
    format: (options, params, payload: ScanProgress | undefined) => {
      const percent = `${Math.floor(params.progress * 100)}%`.padStart(4);
      return `${progress.Format.BarFormat(params.progress, options)}${percent}  ${payload ? figures(payload, compares) : ''}`;
    },
  });
  let started = false;
  return {
    show(state) {
      if (!started) bar.start(Math.max(1, state.totalBytes), 0, state);
      started = true;
      bar.update(state.totalBytes === 0 ? 1 : state.doneBytes, state);
    },
    stop: () => bar.stop(),
  };
}

function figures({ bytesPerSecond, secondsLeft, markedBlocks }: ScanProgress, compares: boolean): string {
  const left = secondsLeft === undefined ? '' : `  ${clock(secondsLeft)} left`;
  return `${humanSize(Math.round(bytesPerSecond))}/s${compares ? `  ${markedBlocks} differ` : ''}${left}`;
}

/** `75` → `1:15`, `3725` → `1:02:05`. */
export function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const pad = (value: number) => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  return hours > 0 ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}
