/** The one check that every unit makes of every range. */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteRange } from '../base/units.ts';

export function checkRange(
  unit: { readonly name: string; readonly size: ByteCount },
  range: ByteRange,
  operation: string,
): void {
  const { offset, length } = range;
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (whole && offset + length <= unit.size) return;
  const reason = `expected a range within the unit's ${unit.size} bytes`;
  throw new DriftmapError('argument', reason, { path: unit.name, offset, length, operation });
}
