/**
 * As what a granted disk is opened. Who may write to a disk, its guest or a peer, can make it look like an image that
 * names any file beside it: so neither a peer nor the contents choose the format, only whoever granted the disk.
 *
 *   format=F of the grant     is F, and its references are followed within its folder
 *   else the file's own name  .qcow2, .vhd, .vhdx, .vdi, .vmdk: that format, if the contents are of it; any other: raw
 *
 * A client that says another format is refused. Contents that look like another one are refused too, rather than taken
 * for a raw disk, which is rarely what was meant: the grant must say which it is.
 */

import { statSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import { parseAddress } from '../disk/address.ts';
import { namedFormat, statedFormat } from '../disk/policy.ts';
import { canonical } from './target.ts';

/** What a grant says of its disk's format. */
interface GrantedDisk {
  readonly disk: string;
  readonly format?: string | undefined;
  readonly anyFormat?: boolean | undefined;
}

export interface GrantedFormat {
  /** What it is opened as; undefined asks the contents, which must be what `mustBe` says. */
  readonly format: string | undefined;
  readonly mustBe: string | undefined;
}

/**
 * @param asked what the client says
 * @param name of the grant, which the client knows
 * @throws DriftmapError `permission` when the client says another format than the grant, `argument` for none at all
 */
export function grantedFormat(grant: GrantedDisk, asked: string | null, name: string): GrantedFormat {
  if (grant.anyFormat) return { format: asked ?? grant.format, mustBe: undefined };
  const wanted = asked === null ? null : statedFormat(asked, name).format;
  const stated = grant.format === undefined ? null : statedFormat(grant.format, name).format;
  const own = stated ?? formatOfName(grant.disk);
  if (wanted !== null && wanted !== own) {
    const why = stated === null ? 'as its name says; who grants it can say another (format=)' : 'only';
    throw new DriftmapError('permission', `'${name}' is granted as ${own} ${why}: got ${wanted}`);
  }
  if (stated !== null) return { format: stated, mustBe: undefined };
  // What a raw disk holds is not asked. An image is one only where name and contents agree.
  return { format: wanted === 'raw' ? 'raw' : undefined, mustBe: own };
}

/** Only a file's name tells: that of a device, a volume or an export is no word about its contents. */
function formatOfName(disk: string): string {
  const address = parseAddress(disk);
  if (address !== null) {
    const last = address.steps.at(-1);
    return (last?.kind === 'file' ? namedFormat(last.path) : null) ?? 'raw';
  }
  const path = canonical(disk);
  return (statSync(path, { throwIfNoEntry: false })?.isFile() ? namedFormat(path) : null) ?? 'raw';
}
