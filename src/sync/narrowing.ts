/** Comparisons of two sites that look at a part of the disks: `within` an earlier bitmap, or at what one left over. */

import { DriftmapError } from '../base/errors.ts';
import { exactSize } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { checkStillTracking, vouchesForNothing } from '../scan/generation.ts';
import { type Looked, partOf, todoOf } from './comparison-notes.ts';
import type { Chosen } from './session-options.ts';

interface NarrowOptions {
  readonly within?: SyncBitmap | undefined;
  readonly resume?: SyncBitmap | undefined;
  readonly onPartial?: ((bitmap: SyncBitmap) => void) | undefined;
}

/** A session that compares. */
interface Comparing {
  readonly bitmap: SyncBitmap | null;
  readonly looked: Looked | null;
  run(): Promise<void>;
}

export class Narrowing {
  /** The blocks that are looked at; null for all. */
  readonly todo: PagedBits | null;
  warnings: readonly string[] = [];
  private readonly options: NarrowOptions;

  /** @throws DriftmapError `mismatch` for bitmaps of other blocks, or compared in another way */
  constructor(options: NarrowOptions, { blockSize, signature }: Chosen) {
    const { within, resume } = options;
    this.options = options;
    for (const [what, bitmap] of Object.entries({ '--within': within, '--resume': resume })) {
      if (bitmap === undefined || bitmap.blockSize === blockSize) continue;
      const reason = `${what}: expected blocks of ${exactSize(blockSize)}, got ${exactSize(bitmap.blockSize)}: use the same block size`;
      throw new DriftmapError('mismatch', reason);
    }
    if (resume !== undefined && resume.header.signature !== signature) {
      const reason = `--resume: the bitmap was compared by '${resume.header.signature}', this session compares by '${signature}': use the same, or scan anew`;
      throw new DriftmapError('mismatch', reason);
    }
    this.todo = todoOf(options);
  }

  /**
   * Before anything is compared.
   * @param bitmap of the session, whose header says which disks it is about
   * @throws DriftmapError `mismatch`, `policy`, as a scan of two disks here
   */
  check(bitmap: SyncBitmap): void {
    const { within, resume } = this.options;
    const { header } = bitmap;
    if (within) {
      bitmap.checkSameDisks(within, '--within');
      checkStillTracking(within.header, header.production.identity, 'scan');
    }
    if (resume) {
      bitmap.checkSameDisks(resume, '--resume');
      bitmap.checkSameGeneration(resume, '--resume');
    }
    const sides = ['production', 'replica'] as const;
    const stale = sides.filter(
      (side) => within && within.header[side].generation !== header[side].generation,
    );
    const trusted = sides.filter((side) => resume && vouchesForNothing(header[side].generation));
    this.warnings = [
      ...stale.map(
        (side) =>
          `${side}: was written to since the bitmap was made that says where to look: what was written since is not looked at, and may differ unseen`,
      ),
      ...trusted.map(
        (side) =>
          `${side}: does not tell whether it was written to since the scan that was resumed; blocks compared then are not compared again`,
      ),
    ];
  }

  /** Runs the session. Its bitmap has what was known before, too; so has what is handed out when it fails. */
  async watch(session: Comparing): Promise<void> {
    const { resume, onPartial } = this.options;
    try {
      await session.run();
    } catch (cause) {
      const { bitmap, looked } = session;
      if (bitmap !== null && looked !== null && onPartial !== undefined) {
        const part = partOf(bitmap.header, looked, this.todo);
        if (resume) part.adopt(resume);
        onPartial(part);
      }
      throw cause;
    }
    if (resume) session.bitmap!.adopt(resume);
  }
}
