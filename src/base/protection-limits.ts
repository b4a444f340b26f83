/** Caps of continuous protection, each with its reason; `limits.ts` has all others. */

import { GiB, KiB, MiB } from './units.ts';

// The journal
/** Data or zeros of one record: a larger write becomes several, so that nothing larger is ever held in memory. */
export const JOURNAL_MAX_RECORD_BYTES = 8 * MiB;
/** A mark's name or reason: a line that people read. */
export const JOURNAL_MAX_TEXT_BYTES = 256;
/** Data of one segment, after which the next begins: what retention removes at a time. */
export const JOURNAL_SEGMENT_BYTES = 128 * MiB;
/** The least of it: a journal of files that hold a few writes each; tests use it. */
export const JOURNAL_MIN_SEGMENT_BYTES = 4 * KiB;
/** The most of it: a segment is the unit of retention, and more is too coarse. */
export const JOURNAL_MAX_SEGMENT_BYTES = 4 * GiB;
/** Records of one segment: their columns in memory take 2.5 MB, the map of one 4 MB at worst. */
export const JOURNAL_SEGMENT_RECORDS = 65_536;
/** Metadata of one segment before its seal: those records, with texts. */
export const JOURNAL_SEGMENT_META_BYTES = 8 * MiB;
/** A metadata file with its seal: the records, the marks again, and a map in which every record was split. */
export const JOURNAL_MAX_META_FILE_BYTES = 64 * MiB;
/** Steps of the clock that one segment remembers; a clock that goes back more often is no clock. */
export const JOURNAL_MAX_STEPS = 1024;
/** Going back by less is what clocks of several processors do. */
export const JOURNAL_CLOCK_STEP = 1000;
/** Data that waits to be made durable: two seconds of a disk at 32 MB/s; beyond it the splitter marks instead. */
export const JOURNAL_MAX_STAGED_BYTES = 64 * MiB;
/** Data applied in one round: held in memory with what it overwrites. */
export const JOURNAL_BATCH_BYTES = 16 * MiB;
/** Records applied in one round. */
export const JOURNAL_BATCH_RECORDS = 8192;
/** What is written to the disks between two flushes of them, which is what a crash makes to be written again. */
export const JOURNAL_FLUSH_BYTES = 128 * MiB;
/** Maps and tables of segments kept in memory: those of thirty gigabytes of small writes. */
export const JOURNAL_CACHE_BYTES = 256 * MiB;
/** Disks of one consistency group: as many as a virtual machine can have, for some hundred machines. */
export const JOURNAL_MAX_DISKS = 1024;
/** Segments of one stream: at the default size 128 TiB. */
export const JOURNAL_MAX_SEGMENTS = 1_048_576;
/** The file that describes a group: names and identities of its disks. */
export const JOURNAL_MAX_GROUP_BYTES = 1 * MiB;
// The splitter and its stream
/** Writes of one message of the stream: with their entries it still fits a frame, and the replica appends it in a millisecond. */
export const STREAM_MAX_WRITES = 2048;
/** Data of one message of the stream: a frame's, less its entries. A larger write becomes several. */
export const STREAM_MAX_DATA_BYTES = 1 * MiB;
/** Zeros of one write of the stream. */
export const STREAM_MAX_ZERO_BYTES = 1 * GiB;
/** Messages that wait to be sent or acknowledged: 64 MiB of data, half a second of a fast disk; then writes are marked. */
export const STREAM_QUEUE_MESSAGES = 64;
/** What resynchronization puts into the queue at a time: the rest of it is the guest's. */
export const STREAM_COPY_MESSAGES = 16;
/** What is marked at least: a page. A coarser mark makes of a small write that was missed a large one that is sent. */
export const MARK_BYTES = 4 * KiB;
/** What one signature of a probe covers: a run of writes is told from none by it, for a two-thousandth of its bytes. */
export const STREAM_PROBE_BYTES = 64 * KiB;
/** What is copied in one turn: a fifth of a millisecond. Then it is the guest's turn. */
export const STREAM_COPY_TURN_BYTES = 512 * KiB;
/** Pieces of that: each costs a system call or two. */
export const STREAM_COPY_TURN_PIECES = 32;
/** Blocks of one probe: half a millisecond of hashing in blocks of 64 KiB, which is what a guest may wait behind it. */
export const STREAM_PROBE_BLOCKS = 8;
/** Blocks of one probe for zeros, which are looked up rather than read: a gigabyte in blocks of 64 KiB. */
export const STREAM_PROBE_ZERO_BLOCKS = 16_384;
/** Probes that wait for answers. */
export const STREAM_MAX_PROBES = 16;
/** Data that the replica has appended and that is not durable: past it the stream is not read. */
export const STREAM_MAX_STAGED_BYTES = 32 * MiB;
/** What describes a virtual machine, in the first message of a stream: libvirt's take a few kilobytes. */
export const STREAM_MAX_CONFIGURATION_BYTES = 60 * KiB;
/** Probes that the replica works on at a time: they share the wait for their journal, and each has memory to hash in. */
export const STREAM_PROBES_AT_ONCE = 4;
/** A question that production passes on to the replica, and its answer: lists of points and snapshots. */
export const STREAM_MAX_ANSWER_BYTES = 512 * KiB;
/** Regions of one disk's write intents: a bit and sixteen bytes of memory each. */
export const INTENT_MAX_REGIONS = 1_048_576;
/** The least region: what is compared after a crash for each place that was being written to. */
export const INTENT_MIN_REGION_BYTES = 4 * MiB;
/** The table of disks in a file of write intents: names and identities. */
export const INTENT_MAX_TABLE_BYTES = 1 * MiB;
// protect/group, protect/replica
/** A group's file: a thousand disks with long paths. */
export const GROUP_MAX_FILE_BYTES = 1 * MiB;
/** What a replica knows of itself: a generation of each of a thousand disks. */
export const REPLICA_STATE_BYTES = 1 * MiB;
/** Appended bytes that the disks have not taken: then the stream is read no further until they have taken some. */
export const REPLICA_MAX_LAG_BYTES = 4 * GiB;
/** Lag from which the disks follow at once; less waits for company, so that what is overwritten again is written once. */
export const REPLICA_APPLY_BYTES = 32 * MiB;
/** Free space of the journal's storage from which it is tried again after it was full. */
export const REPLICA_MIN_FREE_BYTES = 64 * MiB;
/** Blocks of one probe: 128 MiB in blocks of 64 KiB, a tenth of a second of signing. */
export const REPLICA_PROBE_BLOCKS = 2048;
/** What is saved of a disk, at a time, before somebody writes to it. */
export const UNDO_LOG_BLOCK = 64 * KiB;
/** A control request: a name, a time, an address. */
export const CONTROL_MAX_BODY_BYTES = 64 * KiB;
/** A control answer that a command reads: the points of a journal with a hundred thousand bookmarks. */
export const CONTROL_MAX_ANSWER_BYTES = 64 * MiB;
/** Control requests at a time: accesses and rolls hold theirs for long. */
export const CONTROL_MAX_CONNECTIONS = 64;
/** A control request must have come whole within this. */
export const CONTROL_REQUEST_MS = 10_000;
// Snapshots in an object store
/**
 * Blocks of a repository, unless its maker says otherwise. A store asks the same price for every request: 1 TiB in
 * blocks of 256 KiB takes four million, of 64 KiB sixteen; and a database's scattered pages of 8 KiB make so much be
 * sent for each, with blocks of 1 MiB four times as much.
 */
export const DEFAULT_SNAPSHOT_BLOCK_SIZE = 256 * KiB;
/** Below it, names take a hundredth of what they name. */
export const MIN_SNAPSHOT_BLOCK_SIZE = 4 * KiB;
/** What a virtual machine is made of, as its hypervisor describes it: kilobytes; it is kept in every manifest. */
export const SNAPSHOT_MAX_CONFIGURATION_BYTES = 1 * MiB;
/** One manifest: the configuration, and a thousand disks. */
export const SNAPSHOT_MAX_MANIFEST_BYTES = 8 * MiB;
/** Names that begin a disk's tree: 16 PiB in blocks of 256 KiB. */
export const SNAPSHOT_MAX_ROOTS = 65_536;
/** Names of objects that one run of taking a snapshot remembers: 64 MiB; of others the store is asked. */
export const SNAPSHOT_KNOWN_NAMES = 3_000_000;
/** Names of objects that pruning and verifying hold in memory: a gigabyte; 12 TiB of different blocks of 256 KiB. */
export const SNAPSHOT_MAX_NAMES = 48_000_000;
/** Data of blocks on their way to or from a store: 16 connections with 1 MiB each, four times over. */
export const SNAPSHOT_BYTES_IN_FLIGHT = 64 * MiB;
/** Connections to a store, at most: more than any store answers faster with. */
export const SNAPSHOT_MAX_CONNECTIONS = 256;
/** Questions to a store, one by one, whether it has an object; then all names are listed, a thousand an answer. */
export const SNAPSHOT_LOOKUPS = 512;
/** Names of one list of garbage: 2 MiB. */
export const SNAPSHOT_LIST_NAMES = 65_536;
/** Pages of names that a snapshot's disk keeps: 8 MiB, the names of 64 GiB in blocks of 256 KiB. */
export const SNAPSHOT_PAGES_KEPT = 256;
/** A draft of an upload that nobody renewed for so long is of one that died; uploads renew theirs every hour. */
export const SNAPSHOT_DRAFT_DAYS = 7;
/** Lists of garbage that one run of pruning sweeps: 67 million objects. */
export const SNAPSHOT_MAX_LISTS = 1024;
// Object stores
/** A key: half of what S3 allows, so that a prefix fits before it, and below every file system's path. */
export const STORE_MAX_KEY_BYTES = 512;
/** An object: it is held in memory whole. A block and its head take 17 MiB at most; lists of names may take more. */
export const STORE_MAX_OBJECT_BYTES = 256 * MiB;
/** Files whose sizes are asked at a time: more do not make it faster on four threads of file operations. */
export const STORE_STATS_AT_ONCE = 64;
/** Files being removed at a time: who asks before each is to have few on their way. */
export const STORE_REMOVALS_AT_ONCE = 4;
/** A file aside is a killed put's after this: no living put takes an hour for one object. */
export const STORE_LEFTOVER_SECONDS = 3600;
/** Between two sessions of one connection: a client that has proved who it is may think for so long, and no longer, because it takes a place. */
export const SESSION_IDLE_MS = 600_000;
/** Pairs of disks that one command synchronizes: a machine's worth of lines in a file. */
export const MAX_PAIRS = 4096;
/** Pairs at one time: each takes up to 300 MB on either side. */
export const MAX_PAIRS_AT_ONCE = 16;
/** What an interrupted comparison loses at most: so much work is done again after a crash, and a note costs milliseconds. */
export const COMPARISON_NOTE_MS = 10_000;
/** Requests of one store under way: what a hundred milliseconds of distance and objects of 256 KiB need for 160 MB/s. */
export const STORE_CONNECTIONS = 64;
/** The most that may be asked for: each may hold an object. */
export const STORE_MAX_CONNECTIONS = 1024;
/** Silence of a store before a request is given up and tried again: no store thinks as long, and one that is stopped answers never. */
export const STORE_SILENCE_SECONDS = 20;
/** The slowest line on which a request may still be sent; below it, it is given up though bytes trickle. */
export const STORE_SLOWEST_BYTES = 16 * KiB;
/** For how long a request that fails is tried again: the restart of a gateway, the election of a monitor. */
export const STORE_PATIENCE_SECONDS = 120;
/** The same when a store is opened: a mistyped address is told soon. */
export const STORE_OPEN_PATIENCE_SECONDS = 10;
/** The first wait before another attempt, and the longest; each is drawn from the upper half. */
export const STORE_FIRST_WAIT_SECONDS = 0.1;
export const STORE_LONGEST_WAIT_SECONDS = 8;
/** Keys of one request that removes: what S3 takes. */
export const STORE_REMOVED_AT_ONCE = 1000;
/** What a store says about a failure, as far as it is shown. */
export const STORE_MAX_SAID = 200;
// protect/splitter: watches
/** Marks of one watch: exact for 8 TiB in blocks of 64 KiB, whatever is written; beyond it more is marked than was written. */
export const WATCH_BYTES = 16 * MiB;
/** Blocks of one watch: a disk that has more is marked in larger ones. What is all marked is then told in a megabyte. */
export const WATCH_MAX_BLOCKS = 2 ** 32;
/** Watches of one disk: each costs every write a fifth of a microsecond or so. */
export const WATCHES_PER_DISK = 4;
/** Watches of one splitter: each keeps a connection of its control socket, and half of them are for others. */
export const MAX_WATCHES = CONTROL_MAX_CONNECTIONS / 2;
/** Blocks whose marks are told at a time: a guest waits less than a millisecond behind them; lines of 44 KB at most. */
export const WATCH_PART_BLOCKS = 2 ** 18;
