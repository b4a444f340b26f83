/** The one check that every unit makes of every range. */

import { checkWithin } from '../base/ranges.ts';
import type { ByteCount, ByteRange } from '../base/units.ts';

export function checkRange(
  unit: { readonly name: string; readonly size: ByteCount },
  range: ByteRange,
  operation: string,
): void {
  checkWithin(range, unit.size, "the unit's", { path: unit.name, operation });
}
