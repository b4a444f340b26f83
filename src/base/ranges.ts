/** The algebra of half-open byte ranges. */

import { DriftmapError, type ErrorContext } from './errors.ts';
import type { ByteCount, ByteRange } from './units.ts';

/** Whether `[offset, offset + length)` lies within `[0, size)`; numbers that are no whole bytes never do. */
export function isWithin({ offset, length }: ByteRange, size: ByteCount): boolean {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  return whole && offset + length <= size;
}

/**
 * The one check that everything with a size makes of every range.
 * @param whose for the message: `the unit's`, `the disk's`
 * @throws DriftmapError `argument`, with the range
 */
export function checkWithin(
  range: ByteRange,
  size: ByteCount,
  whose: string,
  context: ErrorContext = {},
): void {
  if (isWithin(range, size)) return;
  const { offset, length } = range;
  const reason = `expected a range within ${whose} ${size} bytes`;
  throw new DriftmapError('argument', reason, { ...context, offset, length });
}
