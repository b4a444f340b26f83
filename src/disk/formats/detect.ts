/**
 * Which format is it? Told by magic numbers only: the first `DETECT_BYTES` bytes of a unit, and its last
 * sector, where two formats keep a footer. What to do with the answer is policy and is decided in `open`.
 */

import { KiB } from '../../base/units.ts';

/** Read this much of the start; a VMDK descriptor's first words lie within it, every magic in its first 80 bytes. */
export const DETECT_BYTES = 4 * KiB;
export const FOOTER_BYTES = 512;

/** Names as qemu-img gives them, where it knows the format. */
export type FormatName =
  | 'raw'
  | 'qcow2'
  | 'qcow'
  | 'qed'
  | 'vmdk'
  | 'vpc'
  | 'vhdx'
  | 'vdi'
  | 'parallels'
  | 'luks'
  | 'dmg'
  | 'cloop'
  | 'bochs';

export interface Detected {
  readonly format: FormatName;
  /** For people: `VMware VMDK (sparse)`. */
  readonly title: string;
}

const raw: Detected = { format: 'raw', title: 'raw' };

interface Magic extends Detected {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

function text(words: string): Uint8Array {
  return Uint8Array.from(words, (character) => character.charCodeAt(0));
}

const magics: readonly Magic[] = [
  { format: 'qed', title: 'QED', offset: 0, bytes: text('QED\0') },
  { format: 'vmdk', title: 'VMware VMDK (sparse)', offset: 0, bytes: text('KDMV') },
  { format: 'vmdk', title: 'VMware VMDK (COWD, ESX sparse)', offset: 0, bytes: text('COWD') },
  {
    format: 'vmdk',
    title: 'VMware VMDK (seSparse)',
    offset: 0,
    bytes: Uint8Array.of(0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0),
  },
  { format: 'vpc', title: 'VHD (dynamic or differencing)', offset: 0, bytes: text('conectix') },
  { format: 'vhdx', title: 'VHDX', offset: 0, bytes: text('vhdxfile') },
  { format: 'vdi', title: 'VirtualBox VDI', offset: 64, bytes: Uint8Array.of(0x7f, 0x10, 0xda, 0xbe) },
  { format: 'parallels', title: 'Parallels', offset: 0, bytes: text('WithoutFreeSpace') },
  { format: 'parallels', title: 'Parallels (extended)', offset: 0, bytes: text('WithouFreSpacExt') },
  { format: 'luks', title: 'LUKS', offset: 0, bytes: text('LUKS\xba\xbe') },
  { format: 'cloop', title: 'cloop', offset: 0, bytes: text('#!/bin/sh\n#V2.0 Format\nmodprobe cloop') },
  { format: 'bochs', title: 'Bochs', offset: 0, bytes: text('Bochs Virtual HD Image') },
];

const qcowMagic = text('QFI\xfb');

/** @param head the first `DETECT_BYTES` of the unit, or all of a smaller one */
export function detectHead(head: Uint8Array): Detected {
  if (has(head, 0, qcowMagic)) {
    // The version is a big-endian word after the magic; version 1 is a format of its own.
    const first = has(head, 4, Uint8Array.of(0, 0, 0, 1));
    return first ? { format: 'qcow', title: 'QCOW (version 1)' } : { format: 'qcow2', title: 'qcow2' };
  }
  const found = magics.find(({ offset, bytes }) => has(head, offset, bytes));
  if (found) return { format: found.format, title: found.title };
  return isVmdkDescriptor(head) ? { format: 'vmdk', title: 'VMware VMDK (descriptor)' } : raw;
}

/** @param footer the last `FOOTER_BYTES` of the unit. Only a hint: the guest of a raw disk can write there. */
export function detectFooter(footer: Uint8Array): Detected {
  // Virtual PC before 2004 wrote 511 bytes.
  if (has(footer, 0, text('conectix')) || has(footer, 1, text('conectix')))
    return { format: 'vpc', title: 'VHD (fixed)' };
  if (has(footer, 0, text('koly'))) return { format: 'dmg', title: 'Apple DMG' };
  return raw;
}

/** A descriptor is text: comments and blank lines, and then its version, which comes first. */
function isVmdkDescriptor(head: Uint8Array): boolean {
  const words = String.fromCharCode(...head.subarray(0, 1024));
  if (/^# Disk DescriptorFile\s/i.test(words)) return true;
  return /^(?:#[^\n\0]*\n|[ \t]*\r?\n)*version=[123]\r?\n/.test(words);
}

function has(bytes: Uint8Array, offset: number, magic: Uint8Array): boolean {
  return bytes.length >= offset + magic.length && magic.every((byte, i) => bytes[offset + i] === byte);
}
