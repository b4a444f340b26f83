/** The file systems that are read, in one list. */

import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { FileSystem } from './container.ts';
import { isExt4, openExt4 } from './ext4.ts';
import { isNtfs, openNtfs } from './ntfs.ts';
import { isVmfs, openVmfs } from './vmfs.ts';
import { isXfs, openXfs } from './xfs.ts';

export interface FileSystemType {
  /** As `FileSystem.kind` and as in addresses. */
  readonly kind: 'ext4' | 'xfs' | 'vmfs' | 'ntfs';
  /** A cheap look at the magic; false also for a unit that is too small. */
  is(unit: LogicalUnit): Promise<boolean>;
  /** @throws DriftmapError `malformed`, `unsupported`, and what reading throws */
  open(unit: LogicalUnit): Promise<FileSystem>;
}

export const fileSystemTypes: readonly FileSystemType[] = [
  { kind: 'ext4', is: isExt4, open: openExt4 },
  { kind: 'xfs', is: isXfs, open: openXfs },
  { kind: 'vmfs', is: isVmfs, open: openVmfs },
  { kind: 'ntfs', is: isNtfs, open: openNtfs },
];
