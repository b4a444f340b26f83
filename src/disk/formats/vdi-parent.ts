/**
 * The UUIDs of a VDI, and its parent (VirtualBox src/VBox/Storage/VDICore.h, `VDIHEADER1`).
 *
 * An image has a UUID for itself and one that changes when it is written. A differencing image records both of its
 * parent, and no name: VirtualBox finds the file in its registry of media. We look for it beside the image. The
 * second UUID tells whether the parent was written since, and then the child's blocks lie over something else.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { guidAt } from '../guid.ts';
import { viewOf } from './byte-source.ts';
import type { BackingImage, ImageHost } from './image.ts';

export const VDI_HEADER_BYTES = 512;
export const VDI_SIGNATURE = 0xbeda107f;
export const VDI_VERSION = 0x00010001;

/** Where the UUIDs are: `uuidCreate`, `uuidModify`, `uuidLinkage`, `uuidParentModify`. */
const OWN = 392;
const OWN_STATE = 408;
const PARENT = 424;
const PARENT_STATE = 440;
const NONE = '00000000-0000-0000-0000-000000000000';

export interface VdiParent {
  /** As VirtualBox prints it. */
  readonly uuid: string;
  /** The UUID of its last modification; null where the image does not say. */
  readonly state: string | null;
}

/** The parent that a header records; null where it records no UUID. */
export function vdiParent(header: DataView): VdiParent | null {
  const [uuid, state] = [uuidAt(header, PARENT), uuidAt(header, PARENT_STATE)];
  return uuid === null ? null : { uuid, state };
}

/** Whether a header records anything of a parent. */
export function namesParent(header: DataView): boolean {
  return uuidAt(header, PARENT) !== null || uuidAt(header, PARENT_STATE) !== null;
}

/** A UUID as VirtualBox prints it (include/iprt/types.h, `RTUUID`); null for zeros. */
function uuidAt(view: DataView, at: number): string | null {
  const uuid = guidAt(view, at).toLowerCase();
  return uuid === NONE ? null : uuid;
}

/** The parent, as something to look for among the `.vdi` files beside the image. */
export function parentOfVdi(host: ImageHost, wanted: VdiParent): BackingImage {
  return {
    name: wanted.uuid,
    format: 'vdi',
    sought: {
      extension: '.vdi',
      headBytes: VDI_HEADER_BYTES,
      match: (head) => {
        const found = identityOf(head);
        if (found === null || found.uuid !== wanted.uuid) return 'no';
        return wanted.state === null || found.state === wanted.state ? 'yes' : 'changed';
      },
    },
    check: (unit) => checkParent(host, wanted, unit),
  };
}

/** Who a file says it is; null for what is no VDI that could be read. */
function identityOf(head: Uint8Array): VdiParent | null {
  if (head.length < VDI_HEADER_BYTES) return null;
  const view = viewOf(head);
  if (view.getUint32(64, true) !== VDI_SIGNATURE || view.getUint32(68, true) !== VDI_VERSION) return null;
  const uuid = uuidAt(view, OWN);
  return uuid === null ? null : { uuid, state: uuidAt(view, OWN_STATE) };
}

/** @throws DriftmapError `mismatch` where the unit is not the parent that was meant, naming both */
async function checkParent(host: ImageHost, wanted: VdiParent, unit: LogicalUnit): Promise<void> {
  const head = new Uint8Array(Math.min(VDI_HEADER_BYTES, unit.size));
  const pending = unit.read(0, head);
  if (pending) await pending;
  const found = identityOf(head);
  if (found?.uuid !== wanted.uuid) {
    const got = found === null ? 'which is no VDI' : `with ${found.uuid}`;
    const reason = `expected the parent with the UUID ${wanted.uuid}, got ${unit.name} ${got}: it is another disk`;
    throw new DriftmapError('mismatch', reason, { path: host.path });
  }
  if (wanted.state === null) {
    host.warn(
      `${host.path}: does not record the modification UUID of its parent ${unit.name}: if the parent was written since, the contents are wrong`,
    );
  } else if (found.state !== wanted.state) {
    const reason = `expected the parent with the modification UUID ${wanted.state}, got ${unit.name} with ${found.state ?? NONE}: it was written since`;
    throw new DriftmapError('mismatch', reason, { path: host.path });
  }
}
