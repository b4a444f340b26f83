/**
 * Which blocks to try to compress. Trying costs fifty times as much as copying, so what will not give way is not to be
 * tried often. Blocks that did not give way come in runs (a file that is compressed already): after one, some are not
 * tried. And most of them show it: bytes that occur all about equally often leave nothing to a code of single bytes;
 * only repeats could still be found, and of such blocks few are tried, one at a time.
 */

interface Runs {
  /** After a block that did not give way, twice as many as the last time are not tried. */
  readonly first: number;
  readonly longest: number;
  /** All are tried as long as they give way; else one at a time. */
  readonly isHopeful: boolean;
}

const skewed: Runs = { first: 2, longest: 32, isHopeful: true };
const flat: Runs = { first: 16, longest: 256, isHopeful: false };

/** Bytes of a block that are looked at. */
const SAMPLE = 2048;
/**
 * The sum of the squares of how often each byte occurs; of random bytes it is n + n(n - 1)/256, give or take 1 % for
 * this n. What packs to 0.95 by single bytes has 1.3 times as much at least (its collision entropy is at most its
 * entropy, 7.6 bits).
 */
const FLAT_BELOW = 1.15 * (SAMPLE + (SAMPLE * (SAMPLE - 1)) / 256);

export class Trials {
  private readonly skewed = new Pauses(skewed);
  private readonly flat = new Pauses(flat);

  /** Null where the block is not to be tried; else to be ended. @param isFlat `looksRandom` of it */
  begin(isFlat: boolean): Trial | null {
    const pauses = isFlat ? this.flat : this.skewed;
    return pauses.begin() ? pauses : null;
  }

  end(trial: Trial, gaveWay: boolean): void {
    trial.end(gaveWay);
  }
}

const counts = new Uint32Array(256);

/** Whether its bytes occur all about equally often, by a sample of them. */
export function looksRandom(block: Uint8Array): boolean {
  if (block.length < SAMPLE) return false;
  counts.fill(0);
  // Odd, so that no field of a table is all that is looked at.
  const step = Math.floor((block.length / SAMPLE - 1) / 2) * 2 + 1;
  for (let i = 0, at = 0; i < SAMPLE; i++, at += step) counts[block[at]!]!++;
  let sum = 0;
  for (const count of counts) sum += count * count;
  return sum < FLAT_BELOW;
}

export interface Trial {
  end(gaveWay: boolean): void;
}

class Pauses implements Trial {
  private readonly runs: Runs;
  private pause: number;
  private skip = 0;
  private tried = 0;

  constructor(runs: Runs) {
    this.runs = runs;
    this.pause = runs.first;
  }

  begin(): boolean {
    const isTrusted = this.runs.isHopeful && this.pause === this.runs.first;
    const isTried = this.skip === 0 && (isTrusted || this.tried === 0);
    if (isTried) this.tried++;
    else this.skip = Math.max(0, this.skip - 1);
    return isTried;
  }

  end(gaveWay: boolean): void {
    this.tried--;
    this.pause = gaveWay ? this.runs.first : Math.min(2 * this.pause, this.runs.longest);
    if (!gaveWay) this.skip = this.pause;
  }
}
