/**
 * A production disk that is written to while it is synchronized. Passes repeat over what became dirty until the rest
 * is small; then production is made quiet for the last one, if somebody says how.
 *
 * Marks come in two kinds. Those that are *taken* are marked anew only by a later write: what they mark is sent. Those
 * that are *kept* (a dirty bitmap that cannot be cleared from outside, `LiveMarks`) only grow, and a block
 * that is marked already may have been written again unseen: so in each pass all of them are compared by signature,
 * and what differs is sent. Either way nothing that was written before the last pass began is left out of it.
 */

import { MAX_LIVE_PASSES } from '../base/limits.ts';
import type { BlockCount, ByteCount } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';

/** What marks are asked for: bits of so many blocks. */
export interface LiveGeometry {
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
}

/**
 * A production disk that is written to during the session, and whose writes are marked: when a write has ended, and
 * before it is acknowledged. (Marked earlier, it could be taken, and its block sent, before its bytes are there.)
 */
export interface LiveProduction {
  /** The blocks that were marked since the last call, which are no longer marked then; or all, where `keeps` is true. */
  take(geometry: LiveGeometry): PagedBits | Promise<PagedBits>;
  /** Marks only grow: `take` gives those that it gave before, too. */
  readonly keeps?: boolean | undefined;
  /** Aborted, with its reason, when marks are lost: the session ends with that, and goes on with nothing. */
  readonly lost?: AbortSignal | undefined;
  /** When a pass leaves no more than this, production is asked to be quiet. */
  readonly threshold: ByteCount;
  /** In place of it: when the rest is expected to take no longer than so many seconds. */
  readonly thresholdSeconds?: number | undefined;
  /** Stops writes to production, and resolves when none is under way. Without it the session ends as it is then. */
  readonly quiesce?: (() => Promise<void>) | undefined;
  /** Lets production write again: called once after `quiesce`, when all was read that the last pass needs, or failed. */
  readonly resume?: (() => Promise<void>) | undefined;
  /** Called before each pass. */
  readonly onPass?: ((pass: LivePass) => void) | undefined;
}

export interface LivePass {
  /** From 1: the pass after the first comparison. */
  readonly pass: number;
  /** Of the blocks that are looked at in it. */
  readonly markedBytes: ByteCount;
  /** Production is quiet: this is the last pass. */
  readonly quiet: boolean;
}

/** What a session does when it is told to. */
export interface LiveSteps {
  readonly geometry: LiveGeometry;
  /** Makes equal what is marked on both sides; resolves when that is durable. Returns its bytes. */
  transfer(): Promise<ByteCount>;
  /** Marks on both sides. */
  mark(dirty: PagedBits): Promise<void>;
  /** Compares what is marked, and leaves only what differs marked. */
  compare(): Promise<BlockCount>;
  /** Of production: durable, so that whatever is stored later makes another one. */
  generation(): Promise<string>;
}

export interface LiveEnd {
  /** Nothing was written since the last pass began. */
  readonly quiesced: boolean;
  /** Of production, when all was read. */
  readonly generation: string;
}

/** From the first transfer to the end. */
export async function followLive(live: LiveProduction, steps: LiveSteps): Promise<LiveEnd> {
  let last = await timed(() => steps.transfer());
  for (let pass = 1; ; pass++) {
    const dirty = await live.take(steps.geometry);
    const final = pass >= MAX_LIVE_PASSES;
    // Kept marks tell what may differ; how much does, the pass itself tells.
    const fits = live.keeps
      ? dirty.isEmpty || (pass > 1 && isSmall(live, last, last.bytes))
      : isSmall(live, last, dirty.count * steps.geometry.blockSize);
    if (!fits && !final) {
      last = await onePass(live, steps, { pass, dirty, quiet: false });
      continue;
    }
    if (live.quiesce === undefined) {
      await onePass(live, steps, { pass, dirty, quiet: false });
      return { quiesced: false, generation: await steps.generation() };
    }
    await live.quiesce();
    try {
      const before = await steps.generation();
      const rest = dirty.or(await live.take(steps.geometry));
      await onePass(live, steps, { pass, dirty: rest, quiet: true });
      // It was said to be quiet: whether it was, marks tell, and the generation of a disk that tells of writes.
      const later = await live.take(steps.geometry);
      const generation = await steps.generation();
      const written = !(live.keeps ? later.andNot(rest) : later).isEmpty || generation !== before;
      return { quiesced: !written, generation };
    } finally {
      await live.resume?.();
    }
  }
}

interface Timed {
  readonly bytes: ByteCount;
  readonly seconds: number;
}

async function timed(act: () => Promise<ByteCount>): Promise<Timed> {
  const begun = performance.now();
  const bytes = await act();
  return { bytes, seconds: (performance.now() - begun) / 1000 };
}

function onePass(
  live: LiveProduction,
  steps: LiveSteps,
  { pass, dirty, quiet }: { readonly pass: number; readonly dirty: PagedBits; readonly quiet: boolean },
): Promise<Timed> {
  live.onPass?.({ pass, markedBytes: dirty.count * steps.geometry.blockSize, quiet });
  return timed(async () => {
    await steps.mark(dirty);
    if (live.keeps) await steps.compare();
    return steps.transfer();
  });
}

/** @param last what the last pass took: the rest takes as long, byte for byte */
function isSmall({ threshold, thresholdSeconds }: LiveProduction, last: Timed, rest: ByteCount): boolean {
  if (thresholdSeconds === undefined) return rest <= threshold;
  const seconds = last.bytes === 0 ? last.seconds : (last.seconds * rest) / last.bytes;
  return seconds <= thresholdSeconds;
}
