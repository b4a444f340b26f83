/** Watches a disk of a splitter in another process, through its control socket: the other end of `watch-routes.ts`. */

import { DriftmapError, systemError } from '../../base/errors.ts';
import { MAX_BLOCK_SIZE, MIN_BLOCK_SIZE } from '../../base/limits.ts';
import { WATCH_MAX_BLOCKS, WATCH_PART_BLOCKS } from '../../base/protection-limits.ts';
import type { ByteCount, ByteRange } from '../../base/units.ts';
import { blockCount } from '../../base/units.ts';
import { PagedBits } from '../../bitmap/paged-bits.ts';
import { decodeRoaring } from '../../bitmap/roaring.ts';
import { askControl } from '../group/control.ts';
import type { WatchBegun, WatchPart, WatchTaken } from './watch-routes.ts';

export interface WatchOptions {
  readonly disk: string;
  readonly blockSize?: ByteCount | undefined;
  /** Ends what is asked for, and the watch. */
  readonly signal?: AbortSignal | undefined;
}

const again =
  'what is written from now on is marked nowhere: begin the sync again once the group is protected';

export class WatchClient {
  readonly control: string;
  readonly begun: WatchBegun;
  private readonly leave: AbortController;
  private readonly losing: AbortController;
  private readonly over: Promise<void>;
  private takes = 0;

  private constructor(
    control: string,
    begun: WatchBegun,
    parts: {
      readonly leave: AbortController;
      readonly losing: AbortController;
      readonly over: Promise<void>;
    },
  ) {
    this.control = control;
    this.begun = begun;
    this.leave = parts.leave;
    this.losing = parts.losing;
    this.over = parts.over;
  }

  /**
   * Marks begin before this resolves.
   * @throws DriftmapError `not-found` when nobody listens or for a disk that is none, `limit`, `malformed`, `aborted`
   */
  static async begin(control: string, { disk, blockSize, signal }: WatchOptions): Promise<WatchClient> {
    const leave = new AbortController();
    const losing = new AbortController();
    const stop = () => leave.abort(signal?.reason);
    if (signal?.aborted) stop();
    signal?.addEventListener('abort', stop, { once: true });
    let told: (begun: unknown) => void = () => undefined;
    const first = new Promise<unknown>((resolve) => {
      told = resolve;
    });
    const asked = askControl(
      control,
      'POST /watch',
      { disk, blockSize },
      { signal: leave.signal, onProgress: told },
    );
    const ended = asked.then(
      (answer) => (answer === null ? nobody(control) : new DriftmapError('io', 'the watch is over')),
      (cause) => systemError(cause, { path: control, operation: 'watch' }),
    );
    const over = ended.then((error) => {
      signal?.removeEventListener('abort', stop);
      losing.abort(error.kind === 'aborted' && leave.signal.aborted ? error : lost(control, error));
    });
    const begun = await Promise.race([first, ended]);
    if (begun instanceof DriftmapError) throw begun;
    try {
      return new WatchClient(control, readBegun(begun, disk, control), { leave, losing, over });
    } catch (error) {
      leave.abort();
      throw error;
    }
  }

  /** Aborted, with a DriftmapError as its reason, when marks are lost, or after `close`. */
  get lost(): AbortSignal {
    return this.losing.signal;
  }

  /**
   * What was written since the last take, or since the beginning: ascending, whole blocks of `begun.blockSize`.
   * @throws DriftmapError the reason of `lost`, `malformed` for an answer that contradicts itself, `mismatch` where
   *   somebody else took marks of this watch
   */
  async take(): Promise<PagedBits> {
    const { control, begun } = this;
    if (this.lost.aborted) throw this.lost.reason;
    const bits = new PagedBits(blockCount(begun.size, begun.blockSize));
    let next = 0;
    let wrong: unknown = null;
    const onProgress = (part: unknown) => {
      try {
        if (wrong === null) next = addPart(part, next, bits, control);
      } catch (error) {
        wrong = error;
      }
    };
    let answer: unknown;
    try {
      const signal = this.leave.signal;
      const asked = await askControl(
        control,
        'POST /watch/take',
        { watch: begun.watch },
        { signal, onProgress },
      );
      if (asked === null) throw nobody(control);
      answer = asked.answer;
    } catch (cause) {
      const error = systemError(cause, { path: control, operation: 'watch' });
      throw error.kind === 'aborted' ? error : lost(control, error);
    }
    if (wrong !== null) throw wrong;
    this.checkTaken(answer as Partial<WatchTaken> | null, bits);
    return bits;
  }

  /** Ends the watch: the splitter forgets it as soon as it finds that nobody is there. Idempotent. */
  async close(): Promise<void> {
    this.leave.abort();
    await this.over;
  }

  private checkTaken(taken: Partial<WatchTaken> | null, bits: PagedBits): void {
    const { control, begun } = this;
    this.takes++;
    if (taken?.watch !== begun.watch || taken.markedBlocks !== bits.count) {
      const reason = `expected ${taken?.markedBlocks} marked blocks of this watch, got ${bits.count}`;
      throw new DriftmapError('malformed', reason, { path: control });
    }
    if (taken.take !== this.takes) {
      const reason = `expected take ${this.takes} of this watch, got ${taken.take}: somebody else took marks of it; ${again}`;
      throw new DriftmapError('mismatch', reason, { path: control });
    }
  }
}

/** The bytes that marks are about; the last block may reach past the end of the disk. */
export function* rangesOf(bits: PagedBits, blockSize: ByteCount): Generator<ByteRange, undefined> {
  for (const { start, end } of bits.runs())
    yield { offset: start * blockSize, length: (end - start) * blockSize };
}

export function nobody(control: string): DriftmapError {
  return new DriftmapError('not-found', 'the group is not being protected: nobody listens there', {
    path: control,
  });
}

function lost(control: string, cause: DriftmapError): DriftmapError {
  const why = cause.message.replace(`${cause.path}: `, '');
  const reason = `the splitter's marks are lost (${why}); ${again}`;
  return new DriftmapError('io', reason, { path: control, operation: 'watch', cause });
}

function readBegun(value: unknown, disk: string, control: string): WatchBegun {
  const { watch, disk: named, size, blockSize } = (value ?? {}) as Partial<WatchBegun>;
  const isCount = (count: unknown, least: number, most: number): count is number =>
    Number.isSafeInteger(count) && (count as number) >= least && (count as number) <= most;
  if (
    typeof watch === 'string' &&
    named === disk &&
    isCount(size, 1, Number.MAX_SAFE_INTEGER) &&
    isCount(blockSize, MIN_BLOCK_SIZE, MAX_BLOCK_SIZE) &&
    blockCount(size, blockSize) <= WATCH_MAX_BLOCKS
  )
    return { watch, disk, size, blockSize };
  const reason = `expected a watch of the disk '${disk}', its size and its blocks`;
  throw new DriftmapError('malformed', reason, { path: control });
}

/** @returns the first block of the part that may follow */
function addPart(value: unknown, from: number, bits: PagedBits, control: string): number {
  const { first, marks } = (value ?? {}) as Partial<WatchPart>;
  const isPlace =
    Number.isSafeInteger(first) && first! >= from && first! < bits.length && first! % WATCH_PART_BLOCKS === 0;
  // A part's blocks as a plain bitmap, and a good deal for what surrounds it.
  if (!isPlace || typeof marks !== 'string' || marks.length > WATCH_PART_BLOCKS / 2) {
    const reason = `expected marks from a multiple of ${WATCH_PART_BLOCKS} at or after ${from}`;
    throw new DriftmapError('malformed', reason, { path: control });
  }
  const part = new PagedBits(Math.min(WATCH_PART_BLOCKS, bits.length - first!));
  decodeRoaring(new Uint8Array(Buffer.from(marks, 'base64')), part, { path: control, offset: 0 });
  for (const { start, end } of part.runs()) bits.setRun({ start: first! + start, end: first! + end });
  return first! + WATCH_PART_BLOCKS;
}
