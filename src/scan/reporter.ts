/** Gathers what a worker finished and posts it now and then: often enough to show progress, seldom enough to cost nothing. */

import type { MessagePort } from 'node:worker_threads';
import type { ByteCount } from '../base/units.ts';
import type { ScanPlan } from './plan.ts';
import type { RangeReport } from './task.ts';

const INTERVAL_MS = 50;
/** Ranges and words that one report may carry: bounds what a crash can lose and what a message weighs. */
const MAX_RANGES = 16384;
const MAX_WORDS = 65536;

/** What a comparer has found in the range last compared, and its figures since it was made. */
export interface ComparedRange {
  readonly words: Uint32Array;
  readonly marked: number;
  readonly comparedBytes: ByteCount;
  readonly skippedBytes: ByteCount;
  readonly readBytes: ByteCount;
  /** Only of a scan with indexes. */
  readonly indexedBytes?: ByteCount;
  readonly sampledBlocks?: number;
}

const nothing = { comparedBytes: 0, skippedBytes: 0, readBytes: 0, indexedBytes: 0, sampledBlocks: 0 };

export class RangeReporter {
  /** Reports posted so far. */
  posted = 0;
  private readonly plan: ScanPlan;
  private readonly port: MessagePort;
  private ranges: number[] = [];
  private markedRanges: number[] = [];
  private words: number[] = [];
  private last = performance.now();
  private totals = nothing;
  private reported = nothing;

  constructor(plan: ScanPlan, port: MessagePort) {
    this.plan = plan;
    this.port = port;
  }

  /** Takes over a range that was compared to its end. */
  add(range: number, comparer: ComparedRange): void {
    this.ranges.push(range);
    if (comparer.marked > 0) {
      this.markedRanges.push(range);
      for (let i = 0; i < this.plan.counts[range]!; i++) this.words.push(comparer.words[i]!);
    }
    const { comparedBytes, skippedBytes, readBytes, indexedBytes = 0, sampledBlocks = 0 } = comparer;
    this.totals = { comparedBytes, skippedBytes, readBytes, indexedBytes, sampledBlocks };
    const due = performance.now() - this.last >= INTERVAL_MS;
    if (due || this.ranges.length >= MAX_RANGES || this.words.length >= MAX_WORDS) this.flush();
  }

  flush(): void {
    if (this.ranges.length === 0) return;
    const report: RangeReport = {
      ranges: Uint32Array.from(this.ranges),
      markedRanges: Uint32Array.from(this.markedRanges),
      words: Uint32Array.from(this.words),
      comparedBytes: this.totals.comparedBytes - this.reported.comparedBytes,
      skippedBytes: this.totals.skippedBytes - this.reported.skippedBytes,
      readBytes: this.totals.readBytes - this.reported.readBytes,
      indexedBytes: this.totals.indexedBytes - this.reported.indexedBytes,
      sampledBlocks: this.totals.sampledBlocks - this.reported.sampledBlocks,
    };
    this.port.postMessage(report);
    this.posted++;
    this.reported = this.totals;
    this.ranges = [];
    this.markedRanges = [];
    this.words = [];
    this.last = performance.now();
  }
}
