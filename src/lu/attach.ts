/** An open unit in another thread of the process. */

import { attachArrayImage } from './array-image.ts';
import { attachFileUnit } from './file-unit.ts';
import { attachFilter } from './filters.ts';
import type { LogicalUnit, UnitHandle } from './logical-unit.ts';

/** The unit of a handle. It shares descriptors and memory with the one that the handle came from, and closes nothing. */
export function attachUnit(handle: UnitHandle): LogicalUnit {
  if (handle.kind === 'file') return attachFileUnit(handle);
  if (handle.kind === 'array') return attachArrayImage(handle);
  return attachFilter(handle.filter, handle.options, attachUnit(handle.inner));
}
