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

export type ReadableFormat = 'raw' | 'qcow2';

export interface FormatChoice {
  readonly format: ReadableFormat;
  /** May the image name other files? */
  readonly trusted: boolean;
  readonly warnings: readonly string[];
}

const readable: readonly string[] = ['raw', 'qcow2'];
const recognised: readonly string[] = [
  'qcow',
  'qed',
  'vmdk',
  'vpc',
  'vhd',
  'vhdx',
  'vdi',
  'parallels',
  'luks',
  'dmg',
  'cloop',
  'bochs',
];
const qcow2Names: readonly string[] = ['.qcow2', '.qcow', '.qc2'];
/** Formats that keep their mark at the end of the file, by the names their files have. */
const footerNames: Readonly<Record<string, string>> = { '.vhd': 'vpc', '.vpc': 'vpc', '.dmg': 'dmg' };

/** The format that the user, or a backing format extension, stated. */
export function statedFormat(format: string, path: string): FormatChoice {
  if (readable.includes(format)) return { format: format as ReadableFormat, trusted: true, warnings: [] };
  if (recognised.includes(format)) throw unsupported(format, path);
  throw new DriftmapError('argument', `unknown format '${format}': expected raw or qcow2`, { path });
}

/** The format that the contents tell. */
export async function guessedFormat(unit: LogicalUnit, name: string): Promise<FormatChoice> {
  const detected = detectHead(await readPart(unit, 0, DETECT_BYTES));
  const extension = extname(name).toLowerCase();
  if (detected.format === 'raw') return guessedRaw(unit, name, extension);
  if (detected.format !== 'qcow2') throw unsupported(detected.title, name);
  // A device's name says nothing of what is on it.
  const file = unit.handle();
  const named = file.kind === 'file' && file.sparse && qcow2Names.includes(extension);
  if (named) return { format: 'qcow2', trusted: true, warnings: [] };
  const warning = `${name}: the format qcow2 was guessed from contents that a guest can write; state the format qcow2 (--production-format, --replica-format, --format), or raw to take its bytes as they are`;
  return { format: 'qcow2', trusted: false, warnings: [warning] };
}

async function guessedRaw(unit: LogicalUnit, name: string, extension: string): Promise<FormatChoice> {
  const raw: FormatChoice = { format: 'raw', trusted: true, warnings: [] };
  if (unit.size < FOOTER_BYTES) return raw;
  const footer = detectFooter(await readPart(unit, unit.size - FOOTER_BYTES, FOOTER_BYTES));
  if (footer.format === 'raw') return raw;
  if (footerNames[extension] === footer.format) throw unsupported(footer.title, name);
  const warning = `${name}: read as a raw disk, though its last sector looks like the footer of ${footer.title}; state the format raw (--production-format, --replica-format, --format) if it is one`;
  return { ...raw, warnings: [warning] };
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
