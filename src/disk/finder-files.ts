/**
 * The part of the finder that looks at files: those of a file system, or a unit that is an image itself.
 *
 * All files of a file system are looked at before any is told, because a descriptor may come after the files
 * that hold its disk. What it names are parts of it, and no disks of their own.
 */

import { dirname, extname } from 'node:path';
import { DriftmapError } from '../base/errors.ts';
import { MAX_FOUND_FILES } from '../base/limits.ts';
import { openFileUnit } from '../lu/file-unit.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { ChainOpener } from './chain.ts';
import type { FileEntry } from './containers/container.ts';
import { describeImage, type Finding, type FoundDisk, refused, type SearchOptions } from './finder-images.ts';
import { DETECT_BYTES, detectHead } from './formats/detect.ts';
import { closeAll } from './mapped-disk.ts';
import { type FormatChoice, guessedFormat, namedFormat, statedFormat } from './policy.ts';
import { type FolderInside, hostFolder, type Reference, referenceInside } from './references.ts';

/** Names of raw disks. Everything else that is raw has no name that would tell. */
const rawNames: readonly string[] = ['.raw', '.img'];

/** One file that was looked at. */
interface Outcome {
  readonly finding: (Finding & { readonly what: 'disk' | 'refused' }) | null;
  readonly warnings: readonly string[];
  /** Addresses of the files that it names as parts of itself. */
  readonly parts: readonly string[];
}

export class FileSearch {
  private readonly options: SearchOptions;

  constructor(options: SearchOptions) {
    this.options = options;
  }

  /** A unit that is an image. */
  async *unit(unit: LogicalUnit): AsyncGenerator<Finding, undefined> {
    const { name: path } = unit;
    const open = async () => openFileUnit(path);
    yield* this.told([await this.look({ path, home: hostFolder(dirname(path)), open })]);
    return undefined;
  }

  async *fileSystem(place: FolderInside): AsyncGenerator<Finding, undefined> {
    const entries: FileEntry[] = [];
    let damage: Finding | null = null;
    try {
      for await (const entry of place.fileSystem.files()) {
        if (!this.options.all && !isNamed(entry.path)) continue;
        if (entries.push(entry) <= MAX_FOUND_FILES) continue;
        const reason = `expected at most ${MAX_FOUND_FILES} files to look at: name a disk by its address`;
        throw new DriftmapError('limit', reason, { path: place.unit.name });
      }
    } catch (error) {
      damage = refused(place.prefix, error);
    }
    const outcomes: Outcome[] = [];
    for (const entry of entries) outcomes.push(await this.look(referenceInside(place, entry)));
    yield* this.told(outcomes);
    if (damage !== null) yield damage;
    return undefined;
  }

  private async look(reference: Reference): Promise<Outcome> {
    const opener = new ChainOpener(this.options.allowOutside ?? false);
    const { warnings, parts } = opener;
    try {
      const unit = await reference.open();
      opener.owned.push(unit);
      const choice = await this.choose(unit, reference.path, warnings);
      if (choice === null) return { finding: null, warnings, parts };
      const image = await opener.openAlone({ ...reference, open: async () => unit }, choice);
      return { finding: { what: 'disk', disk: describeImage(image) }, warnings, parts };
    } catch (error) {
      return { finding: refused(reference.path, error), warnings, parts };
    } finally {
      const pending = closeAll(opener.owned);
      if (pending) await pending;
    }
  }

  /** As what a file is taken; null for one that is no disk. */
  private async choose(unit: LogicalUnit, path: string, warnings: string[]): Promise<FormatChoice | null> {
    const named = namedFormat(path);
    if (named !== null) {
      const choice = await guessedFormat(unit, path, true);
      if (choice.trusted && choice.format !== 'raw') return choice;
      const reason = `named like a ${named} image, and its contents look like ${choice.format}: state the format when you open it`;
      throw new DriftmapError('malformed', reason, { path });
    }
    const { format, title } = detectHead(await headOf(unit));
    if (isRawName(path)) {
      if (format !== 'raw') {
        warnings.push(
          `${path}: listed as a raw disk, as its name says, though it looks like ${title}: state the format when you open it`,
        );
      }
      return statedFormat('raw', path);
    }
    if (format === 'raw') return null;
    const choice = await guessedFormat(unit, path, true);
    warnings.push(...choice.warnings);
    return choice;
  }

  private *told(outcomes: readonly Outcome[]): Generator<Finding, undefined> {
    const owners = new Map<string, string>();
    for (const { finding, parts } of outcomes) {
      for (const part of parts) if (finding !== null) owners.set(part, addressOf(finding));
    }
    for (const { finding, warnings } of outcomes) {
      const partOf = finding === null ? null : (owners.get(addressOf(finding)) ?? null);
      if (finding === null || (partOf !== null && !this.options.all)) continue;
      for (const message of warnings) yield { what: 'warning', message };
      if (finding.what === 'disk') yield { what: 'disk', disk: { ...finding.disk, partOf } };
      // A part alone says too little to be read, which is no news.
      else if (partOf === null) yield finding;
    }
    return undefined;
  }
}

function addressOf(
  finding: { what: 'disk'; disk: FoundDisk } | { what: 'refused'; address: string },
): string {
  return finding.what === 'disk' ? finding.disk.address : finding.address;
}

function isNamed(path: string): boolean {
  return namedFormat(path) !== null || isRawName(path);
}

function isRawName(path: string): boolean {
  return rawNames.includes(extname(path).toLowerCase());
}

async function headOf(unit: LogicalUnit): Promise<Uint8Array> {
  const head = new Uint8Array(Math.min(DETECT_BYTES, unit.size));
  const pending = unit.read(0, head);
  if (pending) await pending;
  return head;
}
