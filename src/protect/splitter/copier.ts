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
  STREAM_MAX_DATA_BYTES,
  STREAM_MAX_PROBES,
  STREAM_PROBE_BLOCKS,
  STREAM_PROBE_ZERO_BLOCKS,
} from '../../base/limits.ts';
import type { BlockRun, ByteCount } from '../../base/units.ts';
import { bytesOfBlocks } from '../../base/units.ts';
import { BlockHasher } from '../../sync/block-hasher.ts';
import type { StreamLink } from '../stream/link.ts';
import type { Order } from '../stream/messages.ts';
import type { StreamQueue } from '../stream/queue.ts';
import type { SplitDisk } from './split-disk.ts';

export interface CopierParts {
  readonly disks: readonly SplitDisk[];
  readonly queue: StreamQueue;
  readonly link: StreamLink;
}

interface Sent {
  readonly order: Order;
  readonly disk: SplitDisk;
  readonly run: BlockRun;
}

export class Copier {
  copiedBytes: ByteCount = 0;
  /** Bytes that turned out to be equal. */
  equalBytes: ByteCount = 0;
  private readonly parts: CopierParts;
  private readonly buffer = Buffer.allocUnsafeSlow(STREAM_MAX_DATA_BYTES);
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
    for (let at = bits.nextSet(0); at < bits.length; at = bits.nextSet(at)) {
      await this.until(() => this.hasRoom());
      at = bits.nextSet(at);
      if (at >= bits.length) return;
      const isUnsure = unsure.test(at);
      const end = Math.min(bits.nextClear(at), isUnsure ? unsure.nextClear(at) : unsure.nextSet(at));
      at = isUnsure ? this.probe(disk, at, end) : this.copy(disk, at, end);
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

  /** Whole blocks of zeros that a run begins with, as far as the disk knows without reading. */
  private zeroBlocks({ unit, marks }: SplitDisk, start: number, end: number): number {
    const range = bytesOfBlocks({ start, end }, marks.blockSize, marks.size);
    const [first] = unit.extents(range, 1);
    if (first === undefined || first.kind === 'data') return 0;
    return first.length === range.length ? end - start : Math.floor(first.length / marks.blockSize);
  }

  /** Sends what a run begins with, read in this very turn. @returns where the rest begins */
  private copy(disk: SplitDisk, start: number, end: number): number {
    const { queue, link } = this.parts;
    const { marks, number, unit } = disk;
    const { blockSize } = marks;
    const zeros = this.zeroBlocks(disk, start, Math.min(end, start + STREAM_PROBE_ZERO_BLOCKS));
    const blocks =
      zeros > 0 ? zeros : Math.min(end - start, Math.max(1, Math.floor(STREAM_MAX_DATA_BYTES / blockSize)));
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
    this.copiedBytes += length;
    this.sent.push({ order: queue.next - 1, disk, run });
    link.kick();
    return run.end;
  }

  /** As `copy`, for what may be equal. */
  private probe(disk: SplitDisk, start: number, end: number): number {
    const { marks, number, unit } = disk;
    const { blockSize } = marks;
    const zeros = this.zeroBlocks(disk, start, Math.min(end, start + STREAM_PROBE_ZERO_BLOCKS));
    const count = zeros > 0 ? zeros : Math.min(end - start, STREAM_PROBE_BLOCKS);
    const run = { start, end: start + count };
    const { offset, length } = bytesOfBlocks(run, blockSize, marks.size);
    let signatures: Uint8Array | null = null;
    if (zeros === 0) {
      unit.read(offset, this.hasher!.buffer(length));
      signatures = this.hasher!.signatures(length, blockSize);
    }
    this.probing++;
    this.parts.link
      .probe({ disk: number, blockSize, first: start, count, signatures })
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
    if (differs.length !== run.end - run.start)
      throw new DriftmapError(
        'malformed',
        `expected answers for ${run.end - run.start} blocks, got ${differs.length}`,
      );
    for (let at = 0; at < differs.length; ) {
      let end = at + 1;
      while (end < differs.length && differs[end] === differs[at]) end++;
      const part = { start: run.start + at, end: run.start + end };
      if (differs[at] === 0) {
        marks.clear(part);
        this.equalBytes += bytesOfBlocks(part, marks.blockSize, marks.size).length;
      } else marks.unsure.clearRun(part);
      at = end;
    }
  }
}
