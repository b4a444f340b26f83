/**
 * What a unit knows about its own holes, asked lazily and remembered: the file under a raw disk is often
 * sparse, and a hole that is known need not be read.
 *
 * A forward scan asks about each stretch once: the last answer is kept, and reaches as far as the unit
 * cared to tell. Fragmented files could cost more to ask about than to read (openzfs #18402), so the extents
 * taken while a reader passes one window of the disk are counted, and past the cap the unit is not asked
 * again before the next window.
 */

import { HOLE_EXTENTS_PER_WINDOW, HOLE_WINDOW } from '../base/limits.ts';
import type { ByteOffset } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitExtent } from '../lu/logical-unit.ts';

/** Extents of one question: enough to pass a few small holes, few enough to be cheap when only one matters. */
const EXTENTS_PER_QUESTION = 16;

export class HoleHints {
  private readonly unit: LogicalUnit;
  /** The last answer: runs that adjoin from `from` on; run i ends at `ends[i]`. */
  private from: ByteOffset = 0;
  private ends: ByteOffset[] = [];
  private zeros: boolean[] = [];
  private window = -1;
  private credit = 0;

  constructor(unit: LogicalUnit) {
    this.unit = unit;
  }

  /**
   * Makes the answer reach `place`, by asking if there is credit left for the window.
   * @param virtual where on the disk the reader is, which decides the window
   */
  prepare(place: ByteOffset, virtual: ByteOffset): Completion {
    if (this.knows(place)) return undefined;
    const window = Math.floor(virtual / HOLE_WINDOW);
    if (window !== this.window) {
      this.window = window;
      this.credit = HOLE_EXTENTS_PER_WINDOW;
    }
    if (this.credit <= 0) return undefined;
    const range = { offset: place, length: this.unit.size - place };
    const answer = this.unit.extents(range, Math.min(EXTENTS_PER_QUESTION, this.credit));
    if (!(answer instanceof Promise)) {
      this.keep(place, answer);
      return undefined;
    }
    return answer.then((extents) => {
      this.keep(place, extents);
      return undefined;
    });
  }

  /** End of the run of known zeros at `place`; `place` itself where none is known. Counts on `prepare`. */
  zeroUntil(place: ByteOffset): ByteOffset {
    const run = this.runAt(place);
    return run >= 0 && this.zeros[run] ? this.ends[run]! : place;
  }

  /** End of the run at `place` that must be read, as far as is known; infinity where nothing is known. */
  dataUntil(place: ByteOffset): ByteOffset {
    const run = this.runAt(place);
    if (run < 0) return Number.POSITIVE_INFINITY;
    return this.zeros[run] ? place : this.ends[run]!;
  }

  private knows(place: ByteOffset): boolean {
    return place >= this.from && this.ends.length > 0 && place < this.ends[this.ends.length - 1]!;
  }

  private runAt(place: ByteOffset): number {
    return this.knows(place) ? this.ends.findIndex((end) => place < end) : -1;
  }

  private keep(from: ByteOffset, extents: readonly UnitExtent[]): void {
    this.from = from;
    this.ends = extents.map(({ offset, length }) => offset + length);
    this.zeros = extents.map(({ kind }) => kind !== 'data');
    this.credit -= Math.max(1, extents.length);
  }
}
