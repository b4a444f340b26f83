/** What every image format gives, and what it may ask for while it is opened. Parsers have no policy of their own. */

import type { ByteCount } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { ExtentMap } from '../../mapping/extent-map.ts';

export interface ImageHost {
  /** The image file. */
  readonly unit: LogicalUnit;
  /** For messages: the path it was opened by. */
  readonly path: string;
  /** One line for the user. */
  warn(message: string): void;
  /** Opens another file that the image names (an extent of a VMDK), under the policy of `references.ts`. */
  open(what: string, name: string): Promise<LogicalUnit>;
}

export interface LoadedImage {
  /** Over `units`; `unallocated` is what a parent, if there is one, shows through. */
  readonly map: ExtentMap;
  readonly units: readonly LogicalUnit[];
  /** The parent that the image names; null where it stands alone. */
  readonly backing: BackingImage | null;
}

export interface BackingImage {
  /** A file name; of a parent that is sought, what it is known by, for messages. */
  readonly name: string;
  /** Null where the image does not say. */
  readonly format: string | null;
  /** Called with the opened parent: throws where it is not the one that was meant (a CID, a UUID). */
  check?(parent: LogicalUnit): void | Promise<void>;
  /** Where the image does not name a file (VDI): how its parent is told among the files beside it. */
  readonly sought?: SoughtImage;
}

export interface SoughtImage {
  /** Of the files that are looked at: `.vdi`. */
  readonly extension: string;
  /** How much of each is read. */
  readonly headBytes: ByteCount;
  /**
   * @param head the first `headBytes` of a file, or all of a shorter one
   * @returns `changed` for the image that is meant in a state that is not: it is found, and `check` refuses it
   */
  match(head: Uint8Array): 'yes' | 'changed' | 'no';
}
