/**
 * What an interrupted comparison had found, kept beside the replica's state, so that the next sync looks only at the
 * rest. It is a sync bitmap with coverage, bound to both disks as they were: to a change of either it is nothing, and
 * to disks that do not tell of changes it is never made. The state stays what it was meanwhile: nothing is written.
 */

import { rmSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import { COMPARISON_NOTE_MS } from '../base/protection-limits.ts';
import { loadBitmap, saveBitmap } from '../bitmap/drift-file.ts';
import { PagedBits } from '../bitmap/paged-bits.ts';
import { type BitmapHeader, SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { vouchesForNothing } from '../scan/generation.ts';

/** Of a comparison that is under way. */
export interface Looked {
  /** Blocks that differ. */
  readonly found: PagedBits;
  /** Blocks of which it is known whether they differ. */
  readonly settled: PagedBits;
}

export class ComparisonNotes {
  private readonly path: string;
  private readonly header: BitmapHeader;
  private last: number;
  private kept = false;

  private constructor(path: string, header: BitmapHeader) {
    this.path = path;
    this.header = header;
    this.last = performance.now();
  }

  /** Null where the generations of the disks vouch for nothing. */
  static beside(statePath: string, header: BitmapHeader): ComparisonNotes | null {
    const generations = [header.production.generation, header.replica.generation];
    if (generations.some(vouchesForNothing)) return null;
    return new ComparisonNotes(`${statePath}.comparing`, header);
  }

  /** The blocks that are left to look at, those that differed among them; null where nothing is known. */
  load(): PagedBits | null {
    let noted: SyncBitmap;
    try {
      noted = loadBitmap(this.path);
    } catch (cause) {
      // None there, or damaged: everything is compared.
      if (cause instanceof DriftmapError) return null;
      throw cause;
    }
    const now = new SyncBitmap(this.header);
    try {
      now.checkSameDisks(noted, '');
      now.checkSameGeneration(noted, '');
    } catch {
      return null;
    }
    const { signature } = noted.header;
    // Bytes are compared exactly: that holds for whatever is asked for.
    if (signature !== this.header.signature && signature !== 'bytes') return null;
    this.kept = true;
    return noted.coverage.complement().or(noted.marks);
  }

  /**
   * Keeps what is known now, at most so often.
   * @param todo what this comparison looks at; all else was found equal before
   * @param signature by which it compares
   */
  note({ found, settled }: Looked, todo: PagedBits | null, signature: string, now = false): void {
    if (!now && performance.now() - this.last < COMPARISON_NOTE_MS) return;
    if (settled.isEmpty) return;
    this.last = performance.now();
    const coverage = todo === null ? settled.clone() : settled.or(todo.complement());
    const bitmap = new SyncBitmap({ ...this.header, signature }, found.and(settled), coverage);
    saveBitmap(bitmap, this.path);
    this.kept = true;
  }

  /** They are of no more use. */
  forget(): void {
    if (!this.kept) return;
    this.kept = false;
    rmSync(this.path, { force: true });
  }
}

/** The blocks of an earlier bitmap that a comparison has to look at again: not covered, or not known to be equal. */
export function todoOf({
  within,
  resume,
}: {
  readonly within?: SyncBitmap | undefined;
  readonly resume?: SyncBitmap | undefined;
}): PagedBits | null {
  if (resume === undefined) return within?.marks.clone() ?? null;
  const rest = resume.coverage.complement();
  return within === undefined ? rest : within.marks.and(rest);
}

/** What is known of a comparison as a bitmap of its own. */
export function partOf(header: BitmapHeader, { found, settled }: Looked, todo: PagedBits | null): SyncBitmap {
  const looked = todo === null ? settled.clone() : settled.and(todo);
  return new SyncBitmap(header, found.and(looked), looked);
}

export function emptyLooked(blocks: number): Looked {
  return { found: new PagedBits(blocks), settled: new PagedBits(blocks) };
}
