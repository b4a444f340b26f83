/** An open unit in another thread of the process. */

import { attachArrayImage } from './array-image.ts';
import { attachFileUnit } from './file-unit.ts';
import { attachFilter } from './filters.ts';
import type { LogicalUnit, UnitHandle } from './logical-unit.ts';
import { attachNbdUnit } from './nbd/nbd-unit.ts';

/**
 * The unit of a handle. It shares descriptors and memory with the one that the handle came from, and closes none of
 * them; an NBD connection of its own is its own to close.
 */
export function attachUnit(handle: UnitHandle): LogicalUnit {
  if (handle.kind === 'file') return attachFileUnit(handle);
  if (handle.kind === 'array') return attachArrayImage(handle);
  if (handle.kind === 'nbd') return attachNbdUnit(handle);
  return attachFilter(handle.filter, handle.options, attachUnit(handle.inner));
}
