/**
 * What an NTFS volume says of itself: its label, whether it was left in order ("$Volume", "$LogFile"), and how
 * it compares names ("$UpCase").
 */

import { DriftmapError } from '../../base/errors.ts';
import { KiB } from '../../base/units.ts';
import { littleUint64, viewOf } from '../formats/byte-source.ts';
import type { UpCase } from './ntfs-index.ts';
import type { Mft } from './ntfs-mft.ts';
import { AttributeType, damage, readUtf16, undoFixups } from './ntfs-record.ts';

export interface VolumeState {
  readonly label: string;
  /** Whether the volume was in use: entries of directories may be ahead of the MFT, or behind. */
  readonly dirty: boolean;
  /** One line each. */
  readonly warnings: readonly string[];
}

const LOG_RECORD = 2;
const VOLUME_RECORD = 3;
const UPCASE_RECORD = 10;

const MAX_LABEL_BYTES = 512;
const MAX_VOLUME_INFORMATION_BYTES = 512;
const DIRTY = 1;
const UPCASE_BYTES = 128 * KiB;
/** The page size of every log that Windows makes: another one has no restart page here that is whole. */
const LOG_PAGE = 4096;
const NO_CLIENT = 0xffff;
const LOG_IS_CLEAN = 2;

/** Reads what is worth a warning. Damage here hides no file, so it becomes a warning, too. */
export async function readVolumeState(mft: Mft): Promise<VolumeState> {
  const { name } = mft.source;
  const warnings: string[] = [];
  const attempt = async <T>(what: string, read: () => Promise<T>, otherwise: T): Promise<T> => {
    try {
      return await read();
    } catch (error) {
      if (!(error instanceof DriftmapError) || (error.kind !== 'malformed' && error.kind !== 'limit'))
        throw error;
      warnings.push(`${name}: ${what} cannot be read (${error.message.replace(`${name}: `, '')})`);
      return otherwise;
    }
  };
  const label = await attempt('the label of the volume', () => readLabel(mft), '');
  const flagged = await attempt('the dirty mark of the volume', () => isFlaggedDirty(mft), true);
  if (flagged && warnings.length === 0) {
    warnings.push(
      `${name}: the volume is marked dirty: its files may be wrong where they changed last; chkdsk repairs it`,
    );
  }
  const before = warnings.length;
  const clean = await attempt('the log of the volume', () => isLogClean(mft), false);
  if (!clean && warnings.length === before) {
    warnings.push(
      `${name}: the volume was in use and its log was not replayed: the newest changes of names, sizes and places may be missing`,
    );
  }
  return { label, dirty: flagged || !clean, warnings };
}

async function readLabel(mft: Mft): Promise<string> {
  const volume = await mft.metadata(VOLUME_RECORD);
  if ((await volume.first(AttributeType.volumeName, '')) === null) return '';
  const bytes = await volume.value(AttributeType.volumeName, '', MAX_LABEL_BYTES);
  // Control characters could drive a terminal.
  return readUtf16(bytes, 0, Math.floor(bytes.length / 2)).replace(/\p{Cc}/gu, '\ufffd');
}

async function isFlaggedDirty(mft: Mft): Promise<boolean> {
  const volume = await mft.metadata(VOLUME_RECORD);
  const bytes = await volume.value(AttributeType.volumeInformation, '', MAX_VOLUME_INFORMATION_BYTES);
  if (bytes.length < 12) {
    throw damage(volume.base.where, 0, `expected volume information of 12 bytes, got ${bytes.length}`);
  }
  return viewOf(bytes).getUint16(10, true) % 2 === DIRTY;
}

/**
 * Whether the log has nothing to replay: it is empty (all ones, as repair tools and ntfs-3g leave it), or its
 * newest restart page says that the volume was unmounted or that nobody used the log.
 */
async function isLogClean(mft: Mft): Promise<boolean> {
  const file = await mft.metadata(LOG_RECORD);
  const reader = await file.reader(AttributeType.data, '', 'log');
  const first = await reader.bytes(0, LOG_PAGE);
  if (first.every((byte) => byte === 0xff)) return true;
  let newest: { lsn: number; clean: boolean } | null = null;
  let reason: unknown = null;
  for (const at of [0, LOG_PAGE]) {
    try {
      const page = at === 0 ? first : await reader.bytes(at, LOG_PAGE);
      const state = readRestartPage(page, { path: mft.source.name, offset: reader.placeOf(at) });
      if (newest === null || state.lsn > newest.lsn) newest = state;
    } catch (error) {
      reason ??= error;
    }
  }
  if (newest === null) throw reason;
  return newest.clean;
}

/** A restart page with its restart area (layout.h, RESTART_PAGE_HEADER and RESTART_AREA). */
function readRestartPage(page: Uint8Array, where: { path: string; offset: number }) {
  undoFixups(page, 'RSTR', 'restart page of the log', where);
  const view = viewOf(page);
  const area = view.getUint16(24, true);
  if (area < 30 || area + 16 > 510) {
    throw damage(where, 24, `restart page of the log: expected a restart area within it, got offset ${area}`);
  }
  const unused = view.getUint16(area + 12, true) === NO_CLIENT;
  const unmounted = Math.floor(view.getUint16(area + 14, true) / LOG_IS_CLEAN) % 2 === 1;
  return { lsn: littleUint64(view, area), clean: unused || unmounted };
}

/**
 * The volume's own table of capital letters, one for each UTF-16 code unit.
 * @throws DriftmapError `malformed` where it has another size
 */
export async function readUpCase(mft: Mft): Promise<UpCase> {
  const file = await mft.metadata(UPCASE_RECORD);
  const bytes = await file.value(AttributeType.data, '', UPCASE_BYTES);
  if (bytes.length !== UPCASE_BYTES) {
    throw damage(
      file.base.where,
      0,
      `expected a table of ${UPCASE_BYTES} bytes of letters, got ${bytes.length}`,
    );
  }
  const view = viewOf(bytes);
  return (name) => {
    let folded = '';
    for (let i = 0; i < name.length; i++) {
      folded += String.fromCharCode(view.getUint16(2 * name.charCodeAt(i), true));
    }
    return folded;
  };
}
