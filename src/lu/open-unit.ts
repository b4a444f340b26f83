/** Opens a logical unit by what a user writes: a path, or the URL of an NBD export. */

import { openFileUnit } from './file-unit.ts';
import type { LogicalUnit } from './logical-unit.ts';
import { openNbdUnit } from './nbd/nbd-unit.ts';
import { isNbdUrl } from './nbd/url.ts';

/** @throws DriftmapError what `openFileUnit` and `openNbdUnit` throw */
export async function openUnit(
  pathOrUrl: string,
  options: { readonly write?: boolean } = {},
): Promise<LogicalUnit> {
  return isNbdUrl(pathOrUrl) ? openNbdUnit(pathOrUrl, options) : openFileUnit(pathOrUrl, options);
}
