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
export {
  type ImportBitmapOptions,
  type ImportedBitmap,
  importBitmap,
  listBitmaps,
  type PersistentBitmap,
} from './disk/persistent-bitmaps.ts';
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
export { readServerCredentials, type ServerCredentials } from './lu/nbd/credentials.ts';
export { type NbdUnit, type NbdUnitOptions, openNbdUnit } from './lu/nbd/nbd-unit.ts';
export { openUnit } from './lu/open-unit.ts';
export { snapshotFile } from './lu/snapshot.ts';
export { compose } from './mapping/compose.ts';
export { type Extent, ExtentMap, ExtentMapBuilder, Kind } from './mapping/extent-map.ts';
export {
  type GroupFile,
  type ProductionDisk,
  type ProductionSide,
  type ReplicaAddress,
  type ReplicaDiskPlace,
  type ReplicaSide,
  readGroupFile,
  type SnapshotKeep,
  type SnapshotSchedule,
} from './protect/group/group-file.ts';
export type { DirtyRun, NbdBitmap, NbdExport, ZeroManner } from './protect/nbd/nbd-export.ts';
export { type NbdListen, type NbdServer, type ServeNbdOptions, serveNbd } from './protect/nbd/server.ts';
export { diskExport, syncBitmapExport, unitExport } from './protect/nbd/unit-export.ts';
export { type Access, type AccessOptions, type AccessPlace, startAccess } from './protect/replica/access.ts';
export {
  type FailedBack,
  type FailedOverTo,
  type FailoverOptions as GroupFailoverOptions,
  failBack as failBackGroup,
  failOver as failOverGroup,
} from './protect/replica/failover.ts';
export { askReplica, type HostOptions, hostReplica, type ReplicaHost } from './protect/replica/host.ts';
export { type OpenReplicaOptions, openReplicaGroup } from './protect/replica/open-replica.ts';
export type {
  AccessState,
  Ending,
  Follower,
  Probe,
  ReplicaGroup,
  ReplicaGroupState,
} from './protect/replica/replica-group.ts';
export {
  type RestoredPoint,
  type RestoreOptions as GroupRestoreOptions,
  restoreFromJournal,
} from './protect/replica/restore.ts';
export { type RollGroupOptions, type RollProgress, rollGroup } from './protect/replica/roll.ts';
export type { Snapshots, SnapshotsState } from './protect/replica/snapshots.ts';
export { liveFromSplitter, type SplitterOfDisk } from './protect/splitter/live-splitter.ts';
export {
  openSplitter,
  type SplitDiskState,
  type Splitter,
  type SplitterOptions,
  type SplitterState,
} from './protect/splitter/splitter.ts';
export type { Watch, WatchState } from './protect/splitter/watches.ts';
export { type ChildOptions, reachChild, reachSite } from './protect/stream/reach.ts';
export { replicaTarget } from './protect/stream/replica-target.ts';
export { type StreamServed, type StreamTarget, serveStream } from './protect/stream/session.ts';
export {
  type BuildIndexOptions,
  buildIndex,
  type IndexResult,
  type RefreshIndexOptions,
  refreshIndex,
} from './scan/index-build.ts';
export type { ScanProgress } from './scan/progress.ts';
export { createScanner, type Scanner, scan } from './scan/scan.ts';
export type { IndexOptions } from './scan/scan-indexes.ts';
export type { ScanOptions, ScanResult } from './scan/scan-options.ts';
export { type BlockSignature, type SignaturesOptions, signatures } from './scan/signatures.ts';
export type { CompareMethod } from './scan/task.ts';
export { type AlgorithmName, algorithms, type SignatureAlgorithm } from './signature/algorithm.ts';
export { openIndex, type SignatureIndex } from './signature/index-file.ts';
export type { IndexHeader, IndexSubject } from './signature/index-table.ts';
export {
  findSnapshot,
  type ListOptions,
  listSnapshots,
  type SnapshotTarget,
} from './snapshots/catalog.ts';
export type { SnapshotDiskSource } from './snapshots/disk-taker.ts';
export { diskUnit } from './snapshots/disk-unit.ts';
export { holdSnapshot } from './snapshots/draft.ts';
export { readKeyFile } from './snapshots/keys.ts';
export type { SnapshotCounts, SnapshotDisk, SnapshotInfo, SnapshotPoint } from './snapshots/manifest.ts';
export { ObjectCache } from './snapshots/object-cache.ts';
export type { Compression } from './snapshots/object-format.ts';
export { type Pruned, type PruneOptions, type PruneProgress, pruneRepository } from './snapshots/prune.ts';
export {
  type CreateRepositoryOptions,
  createRepository,
  type OpenRepositoryOptions,
  openRepository,
  type Repository,
} from './snapshots/repository.ts';
export {
  type Restored,
  type RestoreOptions,
  type RestoreProgress,
  type RestoreTarget,
  restoreSnapshot,
} from './snapshots/restore.ts';
export { type FileTarget, type RestoreFilesOptions, restoreFiles } from './snapshots/restore-files.ts';
export { chooseKept, type RetentionChoice, type RetentionRules } from './snapshots/retention.ts';
export {
  openSnapshotDisk,
  type SnapshotDiskOptions,
  type SnapshotUnit,
} from './snapshots/snapshot-unit.ts';
export {
  type SnapshotProgress,
  type TakenSnapshot,
  type TakeOptions,
  type TakeRequest,
  takeSnapshot,
} from './snapshots/take.ts';
export {
  type DamagedObject,
  type Verified,
  type VerifyOptions,
  type VerifyProgress,
  verifyRepository,
} from './snapshots/verify.ts';
export type {
  ObjectStore,
  OpenStoreOptions,
  StoreCredentials,
  StoredObject,
  StoreOptions,
} from './store/object-store.ts';
export { openObjectStore } from './store/open-object-store.ts';
export { type CompareOptions, type CompareResult, compareSites, verify } from './sync/compare-sites.ts';
export { type FailoverOptions, failover, openMarked } from './sync/failover.ts';
export type { LiveGeometry, LivePass, LiveProduction } from './sync/live.ts';
export {
  type LiveEnding,
  liveFromBitmap,
  liveFromMarks,
  liveFromQemu,
  type OpenLive,
} from './sync/live-marks.ts';
export type { SyncProgress } from './sync/progress.ts';
export { type DriftmapServer, type ListenServerOptions, serve } from './sync/serve.ts';
export { type Grant, type ServeOptions, serveSession } from './sync/server.ts';
export { connect, SiteConnection, SiteDisk } from './sync/site-connection.ts';
export { loadState, type ReplicaState, statePath } from './sync/state-file.ts';
export { type SyncOptions, type SyncResult, sync } from './sync/sync.ts';
export { type AllProgress, type PairResult, type SyncAllOptions, syncAll } from './sync/sync-all.ts';
export { RateLimiter } from './wire/limiter.ts';
export type { Transport } from './wire/transport.ts';
