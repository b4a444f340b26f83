/** What exports must be before they are served: everything that the protocol demands of a server's words. */

import { DriftmapError } from '../../base/errors.ts';
import { NBD_MAX_TEXT_BYTES } from '../../base/limits.ts';
import { isPowerOfTwo, KiB } from '../../base/units.ts';
import { DIRTY_BITMAP } from '../../lu/nbd/protocol.ts';
import type { NbdExport } from './nbd-export.ts';

/** proto.md, "Size constraints". */
const MAX_MINIMUM_BLOCK = 64 * KiB;

/** @throws DriftmapError `argument` */
export function checkExports(exports: ReadonlyMap<string, NbdExport>): void {
  if (exports.size === 0) throw new DriftmapError('argument', 'expected at least one export');
  for (const [name, exported] of exports) {
    checkText(name, name, 'a name');
    checkText(name, exported.description ?? '', 'a description');
    for (const bitmap of exported.bitmaps?.keys() ?? [])
      checkText(name, DIRTY_BITMAP + bitmap, 'a bitmap name');
    checkBlocks(name, exported);
  }
}

function checkText(path: string, text: string, what: string): void {
  if (Buffer.byteLength(text) <= NBD_MAX_TEXT_BYTES && !text.includes('\0')) return;
  throw new DriftmapError('argument', `expected ${what} of at most ${NBD_MAX_TEXT_BYTES} bytes without NUL`, {
    path,
  });
}

function checkBlocks(path: string, { size, minimumBlock = 1, preferredBlock = 4 * KiB }: NbdExport): void {
  const bad = (reason: string) => new DriftmapError('argument', reason, { path, length: size });
  if (!Number.isSafeInteger(size) || size < 0) throw bad('expected a size in bytes');
  if (!isPowerOfTwo(minimumBlock) || minimumBlock > MAX_MINIMUM_BLOCK) {
    throw bad(`expected a smallest block that is a power of two up to 64K, got ${minimumBlock}`);
  }
  if (!isPowerOfTwo(preferredBlock))
    throw bad(`expected a preferred block that is a power of two, got ${preferredBlock}`);
  if (size % minimumBlock !== 0)
    throw bad(`expected a size that is a multiple of its smallest block, ${minimumBlock}`);
}
