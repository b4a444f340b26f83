/** What a unit that does not change knows of its holes, asked in order, each answer used up before the next. */

import type { ByteOffset } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import type { LogicalUnit, UnitExtent } from '../lu/logical-unit.ts';

/** Asked for at a time: finding extents in a journal costs by the bytes that they are looked for in. */
const WINDOW = 64 * MiB;
const EXTENTS = 256;

export class ExtentCursor {
  private readonly unit: LogicalUnit;
  private answer: readonly UnitExtent[] = [];
  private next = 0;
  /** The last answer: whoever reads it piece by piece asks again for each. */
  private run = { isZero: false, start: 0, end: 0 };

  constructor(unit: LogicalUnit) {
    this.unit = unit;
  }

  /** Whether zeros or data begin at an offset, and how far they are known to go, at most to `end`. */
  async runAt(offset: ByteOffset, end: ByteOffset): Promise<{ isZero: boolean; end: ByteOffset }> {
    const { run } = this;
    if (offset >= run.start && offset < run.end) return { isZero: run.isZero, end: Math.min(run.end, end) };
    const first = await this.extentAt(offset, end);
    const isZero = first.kind !== 'data';
    let to = first.offset + first.length;
    // Zero and unallocated are the same here.
    // Of data a window is enough: it is read before more is asked for.
    while (to < end && (isZero || to - offset < WINDOW)) {
      const extent = await this.extentAt(to, end);
      if ((extent.kind !== 'data') !== isZero) break;
      to = extent.offset + extent.length;
    }
    this.run = { isZero, start: offset, end: Math.min(to, end) };
    return { isZero, end: this.run.end };
  }

  private async extentAt(offset: ByteOffset, end: ByteOffset): Promise<UnitExtent> {
    for (let tries = 0; tries < 2; tries++) {
      for (; this.next < this.answer.length; this.next++) {
        const extent = this.answer[this.next]!;
        if (offset < extent.offset) break;
        if (offset < extent.offset + extent.length) return extent;
      }
      this.answer = await this.unit.extents({ offset, length: Math.min(end - offset, WINDOW) }, EXTENTS);
      this.next = 0;
    }
    return { offset, length: end - offset, kind: 'data' };
  }
}
