/**
 * Makes the replica equal again where it is marked, while the guest goes on writing: marked blocks are read from the
 * disk and put into the stream in one turn, so that their place in the order is right; whatever the guest writes
 * afterwards follows them. Blocks that the replica may have all the same are asked for by signature before.
 *
 * An answer to a probe, or a journal that has a copy, clears marks. Both are true only while every write is streamed:
 * once writes are marked instead, what is still on its way belongs to the past, and is forgotten (`stop`).
 */

import { DriftmapError } from '../../base/errors.ts';
import {
  STREAM_COPY_MESSAGES,
  STREAM_COPY_TURN_BYTES,
  STREAM_COPY_TURN_PIECES,
  STREAM_MAX_PROBES,
  STREAM_PROBE_BLOCKS,
  STREAM_PROBE_BYTES,
  STREAM_PROBE_ZERO_BLOCKS,
} from '../../base/protection-limits.ts';
import type { BlockRun, ByteCount } from '../../base/units.ts';
import { alignDown, bytesOfBlocks } from '../../base/units.ts';
import { BlockHasher } from '../../sync/block-hasher.ts';
import type { StreamLink } from '../stream/link.ts';
import type { Order } from '../stream/messages.ts';
import type { StreamQueue } from '../stream/queue.ts';
import type { SplitDisk } from './split-disk.ts';

export interface CopierParts {
  readonly disks: readonly SplitDisk[];
  readonly queue: StreamQueue;
  readonly link: StreamLink;
  readonly totals: CopyTotals;
}

export interface CopyTotals {
  /** Bytes that were sent. */
  copiedBytes: ByteCount;
  /** Bytes that were marked and turned out to be equal. */
  equalBytes: ByteCount;
}

/** Blocks that are looked up as zeros at a time, and from how many on that pays. */
const MOST_ZEROS = 262_144;
const LEAST_ZEROS = 64;

interface Sent {
  readonly order: Order;
  readonly disk: SplitDisk;
  readonly run: BlockRun;
}

export class Copier {
  private readonly parts: CopierParts;
  private readonly buffer = Buffer.allocUnsafeSlow(STREAM_COPY_TURN_BYTES);
  private hasher: BlockHasher | null = null;
  /** Copies that the journal has not got yet, in their order. */
  private sent: Sent[] = [];
  private probing = 0;
  private stopped: DriftmapError | null = null;
  private wake: (() => void) | null = null;

  constructor(parts: CopierParts) {
    this.parts = parts;
  }

  /**
   * Returns when nothing is marked any more.
   * @throws DriftmapError why it was stopped; `io` where a disk cannot be read
   */
  async run(): Promise<void> {
    this.hasher = await BlockHasher.create();
    try {
      while (this.parts.disks.some(({ marks }) => !marks.isEmpty)) {
        for (const disk of this.parts.disks) await this.pass(disk);
        await this.until(() => this.probing === 0 && this.sent.length === 0);
      }
    } finally {
      this.hasher.close();
      this.hasher = null;
    }
  }

  /** What is on its way counts no more. */
  stop(reason: DriftmapError): void {
    this.stopped ??= reason;
    this.sent = [];
    this.awaken();
  }

  /** The journal has all up to `order`. */
  acknowledged(order: Order): void {
    if (this.stopped !== null) return;
    let done = 0;
    for (; done < this.sent.length && this.sent[done]!.order <= order; done++) {
      const { disk, run } = this.sent[done]!;
      disk.marks.clear(run);
    }
    if (done > 0) this.sent.splice(0, done);
    this.awaken();
  }

  /** Every block that is marked now, once. */
  private async pass(disk: SplitDisk): Promise<void> {
    const { bits, unsure } = disk.marks;
    for (let at = bits.nextSet(0); at < bits.length; ) {
      await this.until(() => this.hasRoom());
      const { totals } = this.parts;
      const before = totals.copiedBytes;
      for (let pieces = 0; pieces < STREAM_COPY_TURN_PIECES && this.hasRoom(); pieces++) {
        at = bits.nextSet(at);
        if (at >= bits.length) return;
        if (unsure.test(at)) {
          at = this.probe(disk, at, Math.min(bits.nextClear(at), unsure.nextClear(at)));
          break;
        }
        at = this.copy(disk, at, Math.min(bits.nextClear(at), unsure.nextSet(at)));
        if (totals.copiedBytes - before >= STREAM_COPY_TURN_BYTES) break;
      }
      // The guest's turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  private hasRoom(): boolean {
    return this.probing < STREAM_MAX_PROBES && this.parts.queue.messages < STREAM_COPY_MESSAGES;
  }

  private async until(isTrue: () => boolean): Promise<void> {
    for (;;) {
      if (this.stopped !== null) throw this.stopped;
      if (isTrue()) return;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
  }

  private awaken(): void {
    const { wake } = this;
    this.wake = null;
    wake?.();
  }

  /**
   * Whole pieces of zeros, of so many blocks each, that a run begins with, as far as the disk knows without reading.
   * @returns their blocks
   */
  private zeroBlocks({ unit, marks }: SplitDisk, start: number, end: number, piece: number): number {
    const range = bytesOfBlocks({ start, end }, marks.blockSize, marks.size);
    const [first] = unit.extents(range, 1);
    if (first === undefined || first.kind === 'data') return 0;
    return first.length === range.length
      ? end - start
      : alignDown(Math.floor(first.length / marks.blockSize), piece);
  }

  /** Sends what a run begins with, read in this very turn. @returns where the rest begins */
  private copy(disk: SplitDisk, start: number, end: number): number {
    const { queue, link } = this.parts;
    const { marks, number, unit } = disk;
    const { blockSize } = marks;
    // A small piece is read sooner than asked about.
    const isLong = end - start >= LEAST_ZEROS;
    const zeros = isLong ? this.zeroBlocks(disk, start, Math.min(end, start + MOST_ZEROS), 1) : 0;
    const most = STREAM_COPY_TURN_BYTES / blockSize;
    const blocks = zeros > 0 ? zeros : Math.min(end - start, most);
    const run = { start, end: start + blocks };
    const { offset, length } = bytesOfBlocks(run, blockSize, marks.size);
    let queued: boolean;
    if (zeros > 0) {
      queued = queue.addZeros(number, offset, length);
    } else {
      const bytes = this.buffer.subarray(0, length);
      unit.read(offset, bytes);
      queued = queue.add(number, offset, bytes);
    }
    // There was room for more than this.
    if (!queued) throw new DriftmapError('limit', 'the queue filled up while blocks were copied');
    this.parts.totals.copiedBytes += length;
    this.sent.push({ order: queue.next - 1, disk, run });
    link.kick();
    return run.end;
  }

  /** As `copy`, for what may be equal. */
  private probe(disk: SplitDisk, start: number, end: number): number {
    const { marks, number, unit } = disk;
    const { blockSize } = marks;
    const each = STREAM_PROBE_BYTES / blockSize;
    const zeros = this.zeroBlocks(disk, start, Math.min(end, start + STREAM_PROBE_ZERO_BLOCKS * each), each);
    const count = zeros > 0 ? zeros : Math.min(end - start, STREAM_PROBE_BLOCKS * each);
    const run = { start, end: start + count };
    const { offset, length } = bytesOfBlocks(run, blockSize, marks.size);
    let signatures: Uint8Array | null = null;
    if (zeros === 0) {
      unit.read(offset, this.hasher!.buffer(length));
      signatures = this.hasher!.signatures(length, STREAM_PROBE_BYTES);
    }
    this.probing++;
    this.parts.link
      .probe({
        disk: number,
        blockSize: STREAM_PROBE_BYTES,
        first: start / each,
        count: Math.ceil(count / each),
        signatures,
      })
      .then((differs) => this.probed(disk, run, differs))
      // The link has ended, and whoever owns it knows.
      .catch((cause) =>
        this.stop(cause instanceof DriftmapError ? cause : new DriftmapError('io', String(cause))),
      )
      .finally(() => {
        this.probing--;
        this.awaken();
      });
    return run.end;
  }

  private probed({ marks }: SplitDisk, run: BlockRun, differs: Uint8Array): void {
    if (this.stopped !== null) return;
    const each = STREAM_PROBE_BYTES / marks.blockSize;
    const expected = Math.ceil((run.end - run.start) / each);
    if (differs.length !== expected)
      throw new DriftmapError('malformed', `expected answers for ${expected} blocks, got ${differs.length}`);
    for (let at = 0; at < differs.length; ) {
      let end = at + 1;
      while (end < differs.length && differs[end] === differs[at]) end++;
      const part = { start: run.start + at * each, end: Math.min(run.start + end * each, run.end) };
      if (differs[at] === 0) {
        marks.clear(part);
        this.parts.totals.equalBytes += bytesOfBlocks(part, marks.blockSize, marks.size).length;
      } else marks.unsure.clearRun(part);
      at = end;
    }
  }
}
