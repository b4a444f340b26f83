/**
 * driftmap as a library. Offsets, lengths and sizes are bytes; blocks are counted from the start of a
 * disk; ranges are half-open. Every error is a `DriftmapError` with a `kind` to branch on.
 */

export { DriftmapError, type ErrorContext, type ErrorKind } from './base/errors.ts';
export type { BlockCount, BlockIndex, BlockRun, ByteCount, ByteOffset, ByteRange } from './base/units.ts';
export { loadBitmap, saveBitmap } from './bitmap/drift-file.ts';
export { LiveMarks, type LiveMarksHandle } from './bitmap/live-marks.ts';
export { type BitmapHeader, type DiskStamp, SyncBitmap } from './bitmap/sync-bitmap.ts';
export { type BlockStatus, blockStatus } from './disk/block-status.ts';
export { type ExplainedLayer, explain } from './disk/explain.ts';
export { type Finding, type FoundDisk, findDisks, type SearchOptions } from './disk/finder.ts';
export { type LocatedRun, locate } from './disk/locate.ts';
export { type OpenDiskOptions, openDisk } from './disk/open.ts';
export type { VirtualDisk } from './disk/virtual-disk.ts';
export type { JournalFolder } from './journal/folder.ts';
export type {
  Appended,
  Journal,
  JournalState,
  JournalWrite,
  ViewOptions,
} from './journal/journal.ts';
export { createJournal, type JournalOptions, type NewJournal, openJournal } from './journal/open.ts';
export type {
  Bookmark,
  ClockStep,
  Found,
  Point,
  PointRange,
  Points,
  Suspension,
  Target,
} from './journal/points.ts';
export type { Sequence, Time } from './journal/record.ts';
export type { Retained, RetentionPolicy } from './journal/retention.ts';
export type { RollOptions } from './journal/roll.ts';
export type { JournalDisk } from './journal/state.ts';
export { type ArrayImage, type ArrayImageOptions, createArrayImage } from './lu/array-image.ts';
export { openFileUnit } from './lu/file-unit.ts';
export { type Delay, delayUnit, type Fault, faultUnit, type LogEntry, logUnit } from './lu/filters.ts';
export type { ExtentKind, LogicalUnit, UnitExtent } from './lu/logical-unit.ts';
export { snapshotFile } from './lu/snapshot.ts';
export { compose } from './mapping/compose.ts';
export { type Extent, ExtentMap, ExtentMapBuilder, Kind } from './mapping/extent-map.ts';
export type { ScanProgress } from './scan/progress.ts';
export {
  type CompareMethod,
  createScanner,
  type Scanner,
  type ScanOptions,
  type ScanResult,
  scan,
} from './scan/scan.ts';
export { type BlockSignature, type SignaturesOptions, signatures } from './scan/signatures.ts';
export { type AlgorithmName, algorithms, type SignatureAlgorithm } from './signature/algorithm.ts';
