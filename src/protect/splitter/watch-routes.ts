/**
 * Watches of a splitter (`watches.ts`) by its control socket.
 *
 * A watch lasts as long as the request that began it, as an access to a replica does: whoever is killed leaves nothing
 * behind, and a splitter that is killed is noticed at once, without leases or timeouts. So it takes two connections:
 * one that is kept, and one for each take.
 *
 * Marks are told in parts, each of a quarter of a million blocks at most and in a turn of its own, so that guests are
 * served between them. Which marks they are was settled in the first of these turns.
 */

import { DriftmapError } from '../../base/errors.ts';
import { WATCH_PART_BLOCKS } from '../../base/protection-limits.ts';
import type { BlockIndex, ByteCount } from '../../base/units.ts';
import type { LiveMarks } from '../../bitmap/live-marks.ts';
import { encodeRoaring } from '../../bitmap/roaring.ts';
import type { ControlRequest, ControlRoutes } from '../group/control.ts';
import type { Splitter } from './splitter.ts';

/** The first that a watch's request is told. */
export interface WatchBegun {
  readonly watch: string;
  readonly disk: string;
  readonly size: ByteCount;
  /** What a mark is about: what was asked for, or more where the disk has too many such blocks. */
  readonly blockSize: ByteCount;
}

/** Marks of `WATCH_PART_BLOCKS` blocks, fewer at the disk's end; parts without marks are left out. */
export interface WatchPart {
  readonly first: BlockIndex;
  /** Bit 0 is block `first`: Roaring, 64-bit portable layout, in Base64. */
  readonly marks: string;
}

export interface WatchTaken {
  readonly watch: string;
  /** From 1: who misses one has lost marks. */
  readonly take: number;
  /** Of all parts. */
  readonly markedBlocks: number;
}

/** Parts without marks that are looked through in one turn. */
const EMPTY_PARTS = 64;

/** What these routes ask of a splitter. */
type Watched = Pick<Splitter, 'watch' | 'findWatch'>;

export function watchRoutes(splitter: Watched): ControlRoutes {
  return {
    'POST /watch': (request) => watch(splitter, request),
    'POST /watch/take': (request) => take(splitter, request),
    'POST /watch/end': ({ body }) => {
      const found = splitter.findWatch(idOf(body));
      found.end(new DriftmapError('aborted', 'the watch was ended by somebody else'));
      return found.state();
    },
  };
}

async function watch(splitter: Watched, { body, signal, hears, tell }: ControlRequest): Promise<never> {
  expectHearing(hears);
  const { disk, blockSize } = body as { disk?: unknown; blockSize?: unknown };
  if (typeof disk !== 'string') throw new DriftmapError('argument', "expected the name of a 'disk'");
  if (blockSize !== undefined && typeof blockSize !== 'number')
    throw new DriftmapError('argument', "expected bytes as 'blockSize'");
  const begun = splitter.watch(disk, blockSize);
  const end = () =>
    begun.end(new DriftmapError('aborted', 'the splitter is stopped, or the client has gone'));
  signal.addEventListener('abort', end, { once: true });
  if (signal.aborted) end();
  const told: WatchBegun = { watch: begun.id, disk, size: begun.size, blockSize: begun.blockSize };
  tell(told);
  return new Promise((_, reject) => {
    const { ended } = begun;
    const over = () => {
      signal.removeEventListener('abort', end);
      reject(ended.reason);
    };
    if (ended.aborted) over();
    else ended.addEventListener('abort', over, { once: true });
  });
}

async function take(splitter: Watched, { body, signal, hears, tell }: ControlRequest): Promise<WatchTaken> {
  expectHearing(hears);
  const found = splitter.findWatch(idOf(body));
  const marks = found.take();
  const number = found.takes;
  const markedBlocks = await tellMarks(marks, tell, signal);
  return { watch: found.id, take: number, markedBlocks };
}

async function tellMarks(
  marks: LiveMarks,
  tell: (part: WatchPart) => void,
  signal: AbortSignal,
): Promise<number> {
  let count = 0;
  let empty = 0;
  for (let first = 0; first < marks.blocks && !signal.aborted; first += WATCH_PART_BLOCKS) {
    const bits = marks.snapshot({ start: first, end: Math.min(first + WATCH_PART_BLOCKS, marks.blocks) });
    if (bits.isEmpty && ++empty % EMPTY_PARTS !== 0) continue;
    if (!bits.isEmpty) {
      count += bits.count;
      tell({ first, marks: Buffer.from(encodeRoaring(bits)).toString('base64') });
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  return count;
}

function idOf(body: unknown): string {
  const { watch: id } = body as { watch?: unknown };
  if (typeof id === 'string') return id;
  throw new DriftmapError('argument', "expected the name of a 'watch'");
}

/** Who does not read lines would begin a watch without learning its name, and take marks without seeing them. */
function expectHearing(hears: boolean): void {
  if (hears) return;
  throw new DriftmapError('argument', "ask with 'Accept: application/x-ndjson': the answer comes in lines");
}
