/**
 * Which format an image is opened as, and how far that can be trusted.
 *
 * A stated format is the user's word and nothing is looked at. Otherwise the contents tell, and contents
 * of a raw disk are written by its guest: a guest that writes a qcow2 header over its own disk would choose
 * how it is read. So a guess that the name of a regular file does not confirm (`.qcow2`, `.qcow`, `.qc2`)
 * is told in a warning, and names of other files in such an image are not followed (`trusted: false`): all
 * that a guest can then spoil is the reading of its own disk. Formats that driftmap cannot read are refused
 * by name, because to compare their bytes as a raw disk is rarely what was meant; a stated `raw` does it.
 */

import { extname } from 'node:path';
import { DriftmapError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { DETECT_BYTES, type Detected, detectFooter, detectHead, FOOTER_BYTES } from './formats/detect.ts';
import { isFileInside, ViewUnit } from './view-unit.ts';

/** Every format that is read, with the names that its files have and that confirm a guess. */
const names = {
  raw: [],
  qcow2: ['.qcow2', '.qcow', '.qc2'],
  vhd: ['.vhd', '.avhd', '.vpc'],
  vhdx: ['.vhdx', '.avhdx'],
  vdi: ['.vdi'],
  vmdk: ['.vmdk'],
} as const satisfies Readonly<Record<string, readonly string[]>>;

export type ReadableFormat = keyof typeof names;

/** For help texts and messages. */
export const readableFormats = Object.keys(names) as ReadableFormat[];

/** The format that a file's name says; null for one that says none. */
export function namedFormat(name: string): ReadableFormat | null {
  const extension = extname(name).toLowerCase();
  return readableFormats.find((format) => names[format].some((known) => known === extension)) ?? null;
}

export interface FormatChoice {
  readonly format: ReadableFormat;
  /** May the image name other files? */
  readonly trusted: boolean;
  readonly warnings: readonly string[];
}

/** Recognised, and refused by name. */
const recognised: readonly string[] = ['qcow', 'qed', 'parallels', 'luks', 'dmg', 'cloop', 'bochs'];
/** Formats that keep their mark at the end of the file, by the names their files have. */
const footerNames: Readonly<Record<string, string>> = { '.vhd': 'vpc', '.vpc': 'vpc', '.dmg': 'dmg' };

/** QEMU calls VHD by the program it came from. */
function readableName(format: string): ReadableFormat | null {
  const name = format === 'vpc' ? 'vhd' : format;
  return name in names ? (name as ReadableFormat) : null;
}

/** The format that the user, or a backing format extension, stated. */
export function statedFormat(format: string, path: string): FormatChoice {
  const readable = readableName(format);
  if (readable !== null) return { format: readable, trusted: true, warnings: [] };
  if (recognised.includes(format)) throw unsupported(format, path);
  const reason = `unknown format '${format}': expected ${readableFormats.join(', ')}`;
  throw new DriftmapError('argument', reason, { path });
}

/**
 * The format that the contents tell.
 * @param isFile whether it is a regular file of that name, here or in a file system of its own: then the name
 *   was given by who keeps the disk, and not by its guest
 */
export async function guessedFormat(unit: LogicalUnit, name: string, isFile: boolean): Promise<FormatChoice> {
  const detected = detectHead(await readPart(unit, 0, DETECT_BYTES));
  const extension = extname(name).toLowerCase();
  if (detected.format === 'raw') return guessedRaw(unit, name, extension, isFile);
  const format = readableName(detected.format);
  if (format === null) throw unsupported(detected.title, name);
  if (isFile && names[format].some((known) => known === extension)) {
    return { format, trusted: true, warnings: [] };
  }
  const warning = `${name}: the format ${format} was guessed from contents that a guest can write; state the format ${format} (--production-format, --replica-format, --format), or raw to take its bytes as they are`;
  return { format, trusted: false, warnings: [warning] };
}

/** A device's name, or the address of a partition or a volume, says nothing of what is there. */
export function isPlainFile(unit: LogicalUnit): boolean {
  if (unit instanceof ViewUnit) return isFileInside(unit);
  const file = unit.handle();
  return file.kind === 'file' && file.sparse;
}

async function guessedRaw(
  unit: LogicalUnit,
  name: string,
  extension: string,
  isFile: boolean,
): Promise<FormatChoice> {
  const raw: FormatChoice = { format: 'raw', trusted: true, warnings: [] };
  if (unit.size < FOOTER_BYTES) return raw;
  const footer = detectFooter(await readPart(unit, unit.size - FOOTER_BYTES, FOOTER_BYTES));
  if (footer.format === 'raw') return (isFile ? namedOtherwise(name) : null) ?? raw;
  if (footerNames[extension] === footer.format && isFile) {
    const format = readableName(footer.format);
    if (format === null) throw unsupported(footer.title, name);
    return { format, trusted: true, warnings: [] };
  }
  const warning = `${name}: read as a raw disk, though its last sector looks like the footer of ${footer.title}; state the format raw (--production-format, --replica-format, --format) if it is one`;
  return { ...raw, warnings: [warning] };
}

/** A damaged image must not be compared, container and all, as if it were a raw disk. */
function namedOtherwise(name: string): null {
  const format = namedFormat(name);
  if (format === null) return null;
  const why =
    format === 'vmdk'
      ? 'it holds the contents of a flat disk (then open its descriptor, the small .vmdk file), or is damaged'
      : 'it is damaged, or misnamed';
  const reason = `named like a ${format} image, and is none: ${why}; state the format raw (--production-format, --replica-format, --format) to take its bytes as they are`;
  throw new DriftmapError('malformed', reason, { path: name });
}

async function readPart(unit: LogicalUnit, offset: number, most: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.min(most, unit.size - offset));
  const pending = unit.read(offset, bytes);
  if (pending) await pending;
  return bytes;
}

function unsupported(title: Detected['title'], path: string): DriftmapError {
  const reason = `driftmap does not read ${title}: convert it (qemu-img convert -O qcow2), or state the format raw (--production-format, --replica-format, --format) to take its bytes as they are`;
  return new DriftmapError('unsupported', reason, { path });
}
