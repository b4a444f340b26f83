/** What makes a virtual disk this one and no other. */

import { createHash } from 'node:crypto';
import type { ByteCount } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';

/**
 * A disk's identity: its format, size and the identities of its units, in order. Rebasing an image onto
 * another backing file, or resizing it, makes another disk of it; writing to it does not.
 */
export function diskIdentity(format: string, size: ByteCount, units: readonly LogicalUnit[]): string {
  const digest = createHash('sha256');
  for (const unit of units) digest.update(`${unit.identity}\0`);
  return `${format}:${size}:${digest.digest('hex').slice(0, 32)}`;
}
