/** What one worker reports, while it works. */

import type { MessagePort } from 'node:worker_threads';
import { DriftmapError } from '../base/errors.ts';
import type { RangeReport } from './task.ts';

/** Receives the reports of one worker: they travel apart from its outcome and may arrive after it. */
export class ReportInbox {
  private count = 0;
  private wanted = Number.POSITIVE_INFINITY;
  private failure: unknown;
  private settle: (() => void) | null = null;

  constructor(port: MessagePort, merge: (report: RangeReport) => void) {
    port.on('message', (report: RangeReport) => {
      try {
        if (this.failure === undefined) merge(report);
      } catch (cause) {
        this.failure = cause ?? new DriftmapError('internal', 'a report could not be merged');
      }
      this.count++;
      this.settle?.();
    });
  }

  /** Resolves when that many have been merged; rejects with what merging one threw. */
  received(wanted: number): Promise<void> {
    this.wanted = wanted;
    return new Promise((resolve, reject) => {
      this.settle = () => {
        if (this.count < this.wanted) return;
        if (this.failure === undefined) resolve();
        else reject(this.failure);
      };
      this.settle();
    });
  }
}
