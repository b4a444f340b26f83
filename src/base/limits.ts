/** Every cap of the program, each with its reason. A cap that is reached is a `limit` error, never a crash. */

import { GiB, KiB, MiB, TiB } from './units.ts';

/** Smallest block: the sector, below which no disk changes. */
export const MIN_BLOCK_SIZE = 512;
/** Largest block: above it one mark is too coarse to be worth sending, and worker slots grow. */
export const MAX_BLOCK_SIZE = 16 * MiB;
export const DEFAULT_BLOCK_SIZE = 64 * KiB;

/** Largest offset: JavaScript's exact integers. */
export const MAX_DISK_SIZE = Number.MAX_SAFE_INTEGER;

/** Worker threads of one scanner: more than any machine's useful memory bandwidth needs. */
export const MAX_WORKERS = 64;

/** wasm32 addresses: one memory holds at most 4 GiB. */
export const MAX_MEMORY_BYTES = 4 * GiB;
export const WASM_PAGE = 64 * KiB;
/** Banks of one array image: each reserves some 10 GiB of the 128 TiB that a process can address; this is 16 TiB of data. */
export const MAX_BANKS = 4096;

/** What a worker reads at a time: the system reads a large piece a third faster than 512 KiB, and this still stays in the L3 cache. */
export const READ_PIECE = 2 * MiB;

/** What reads past the page cache are aligned to: no sector is larger. Memory of a `WebAssembly.Memory` begins at a page. */
export const PAGE_BYTES = 4096;

/** Longest signature of any algorithm. */
export const MAX_DIGEST_BYTES = 32;
/** Room for the signatures of one piece, in the smallest blocks. */
export const PIECE_DIGEST_BYTES = (READ_PIECE / MIN_BLOCK_SIZE) * MAX_DIGEST_BYTES;

/** Backing files behind one image. Real chains have tens; QEMU breaks down long before this. */
export const MAX_CHAIN_DEPTH = 64;
/** Extents of one map: ten million take 200 MB; five times that is a map nobody could use. */
export const MAX_EXTENTS = 50_000_000;

/** One slot of kernel scratch: nh128 over one 16 MiB block needs 640 KiB of it; the rest is room to change. */
export const KERNEL_SCRATCH_BYTES = 1 * MiB;

/** L1 table of a qcow2 image: QEMU's cap (QCOW_MAX_L1_SIZE); it reaches 2 PiB with 64 KiB clusters. */
export const QCOW2_MAX_L1_BYTES = 32 * MiB;
/** Refcount table of a qcow2 image: QEMU's cap (QCOW_MAX_REFTABLE_SIZE). */
export const QCOW2_MAX_REFCOUNT_TABLE_BYTES = 8 * MiB;
/** Internal snapshots of a qcow2 image: QEMU's cap (QCOW_MAX_SNAPSHOTS). */
export const QCOW2_MAX_SNAPSHOTS = 65536;
/** Backing file name of a qcow2 image: the specification's cap. */
export const QCOW2_MAX_BACKING_NAME = 1023;
/** Data file name of a qcow2 image: no path that Linux opens is longer. */
export const QCOW2_MAX_DATA_FILE_NAME = 4095;
/** L2 tables read at a time: one read for a run of adjoining tables, and never less than the largest table (2 MiB). */
export const QCOW2_L2_READ = 2 * MiB;

/** One MessagePack structure: headers and messages are kilobytes; bulk data never goes this way. */
export const MAX_CONTROL_BYTES = 1 * MiB;
/** One string or binary in it: a path, a name, a key. A structure with longer ones says so when it is decoded. */
export const MAX_CONTROL_TEXT_BYTES = 64 * KiB;
/** Elements of one array or map in it: as many as a disk has units. */
export const MAX_CONTROL_ENTRIES = 4096;
/** Nesting in it: ours has three levels. */
export const MAX_CONTROL_DEPTH = 8;
/** One system call of reading or writing: Linux stops at 2 GiB less one page, and Node throws at 2 GiB. */
export const MAX_IO_BYTES = 1 * GiB;

/** Memory of one set of bits: every second block of 1 PiB in blocks of 64 KiB, the worst there is, takes about this. */
export const MAX_BITS_BYTES = 3 * GiB;
/** A sync bitmap file: half a billion scattered marks; beyond it a larger block size says the same in less. */
export const MAX_DRIFT_BYTES = 1 * GiB;
/** Its header: two identities, two generations, and numbers. */
export const MAX_DRIFT_HEADER_BYTES = 1 * MiB;
/** One identity or generation: 4096 units at 50 bytes; four such texts fit into the header. */
export const MAX_IDENTITY_BYTES = 200 * KiB;
/** Shared memory of the marks of a running scan: a hundred thousand scattered writes; pages cost memory when first used. */
export const LIVE_MARKS_BYTES = 64 * MiB;
/** The least of it: room for the top of the tree. */
export const MIN_LIVE_MARKS_BYTES = 64 * KiB;
/** The most of it: places in it are 31-bit numbers of words, and this holds every mark that matters. */
export const MAX_LIVE_MARKS_BYTES = 4 * GiB;

/**
 * What a reader asks a unit about its holes: at most this many extents while it passes through one window of
 * the disk; the rest of that window counts as data. Asking about finer holes costs more than reading them.
 */
export const HOLE_EXTENTS_PER_WINDOW = 64;
export const HOLE_WINDOW = 32 * MiB;

/** Memories whose kernels a worker keeps: both sides of a few pairs of array images; each holds address space. */
export const MAX_CACHED_KERNELS = 16;

/** Entries of a GUID partition table: 128 entries take 16 KiB, and nobody has made a table of this size. */
export const GPT_MAX_TABLE_BYTES = 1 * MiB;
/** Logical partitions of an MBR: Linux names at most 256 partitions of a disk. */
export const MBR_MAX_LOGICAL = 256;

/** Text of one LVM2 metadata copy: groups of ten thousand volumes take 8 MiB; the areas themselves are 1 MiB by default. */
export const LVM_MAX_METADATA_BYTES = 16 * MiB;
/** Values and sections in it: more than those ten thousand volumes have; each costs up to 300 bytes of memory. */
export const LVM_MAX_METADATA_NODES = 300_000;
/** Nesting in it: LVM's own has five levels. */
export const LVM_MAX_METADATA_DEPTH = 16;
/** Metadata areas of one physical volume: LVM makes and reads two at most, one at either end. */
export const LVM_MAX_AREAS = 2;
/** Distinct metadata texts among the units of one listing: each is parsed. */
export const LVM_MAX_METADATA_COPIES = 64;
/** Volumes that lie on volumes: a thin volume with an external origin on a pool has four levels. */
export const LVM_MAX_VOLUME_DEPTH = 16;
/** Levels of one B-tree of a thin pool: a tree over 2^64 keys whose nodes are a third full has ten. */
export const THIN_MAX_TREE_DEPTH = 16;

/** Steps of an address: a partition in a volume in a partition in an image is four. */
export const MAX_ADDRESS_STEPS = 16;

/** Blocks of one scan: granules of 32 blocks are counted in 32 bits. 8 PiB in blocks of 64 KiB, 64 TiB in blocks of 512 bytes. */
export const MAX_PLAN_BLOCKS = 2 ** 37 - 32;

/** A dynamic VHD: its table counts sectors of the file in 32 bits, and Microsoft's own stop at 2040 GiB. */
export const VHD_MAX_DYNAMIC_SIZE = 2 * TiB;
/** Its block allocation table: 2 TiB in blocks of 512 KiB, the smallest that Virtual PC makes. */
export const VHD_MAX_TABLE_BYTES = 16 * MiB;
/** A parent's name in a VHD: Windows paths have at most 32767 characters of two bytes. */
export const VHD_MAX_LOCATOR_BYTES = 64 * KiB;
/** A VHDX: the specification's cap ([MS-VHDX] 2.6.2.2). */
export const VHDX_MAX_SIZE = 64 * TiB;
/** Its log, when it must be replayed, is held in memory: Hyper-V and QEMU make logs of 1 MiB. */
export const VHDX_MAX_LOG_BYTES = 32 * MiB;
/** Regions and metadata items of a VHDX: the specification's cap on either table ([MS-VHDX] 2.2.3, 2.6.1). */
export const VHDX_MAX_TABLE_ENTRIES = 2047;
/** One metadata item of a VHDX: the specification's cap ([MS-VHDX] 2.6.1.2). */
export const VHDX_MAX_ITEM_BYTES = 1 * MiB;
/** The block map of a VDI: 16 TiB in blocks of 1 MiB, the only size that VirtualBox makes. */
export const VDI_MAX_MAP_BYTES = 64 * MiB;
/** Tables of VHD and VDI images read at a time. */
export const BLOCK_TABLE_READ = 1 * MiB;

/** L2 tables of a qcow2 image: 32 TiB wholly mapped in clusters of 64 KiB. A file of holes may claim any number of them. */
export const QCOW2_MAX_L2_BYTES = 4 * GiB;

/** A file of bench results: every sample of a hundred cases in a long run is a few megabytes. */
export const MAX_BENCH_FILE_BYTES = 256 * MiB;

/** A VMDK's descriptor: QEMU's cap; four thousand extents take 300 KiB. */
export const VMDK_MAX_DESCRIPTOR_BYTES = 1 * MiB;
/** Extents of a VMDK: with the descriptor, as many units as a map can number; 8 TiB in pieces of 2 GiB. */
export const VMDK_MAX_EXTENTS = 4095;
/** Grain directory of one extent: 64 TiB in seSparse, 256 TiB in grains of 64 KiB; more than either format reaches. */
export const VMDK_MAX_DIRECTORY_BYTES = 32 * MiB;
/** Grain tables of one image: 64 TiB wholly mapped in grains of 64 KiB. A file of holes may claim any number of them. */
export const VMDK_MAX_TABLE_BYTES = 4 * GiB;
/** A grain: QEMU's cap. Everybody writes 64 KiB, ESX also 512 bytes and 4 KiB. */
export const VMDK_MAX_GRAIN_BYTES = 1 * GiB;
/** A compressed grain: it is unpacked whole into memory. */
export const VMDK_MAX_PACKED_GRAIN_BYTES = 16 * MiB;

// File systems: XFS
/** Pieces of metadata kept, of 64 KiB each: 16 MiB hold the inodes of 32,768 files, which a listing goes back and forth between. */
export const XFS_CACHED_PIECES = 256;
/** Levels of an extent tree: the Linux driver's cap (XFS_BTREE_MAXLEVELS); a thousand million extents take five. */
export const XFS_MAX_TREE_DEPTH = 9;
/** Directories in one another: a path of 4095 bytes, the longest that Linux takes, goes through 2047. */
export const XFS_MAX_DIRECTORY_DEPTH = 2048;
/** Symbolic links on one path: Linux's cap. */
export const XFS_MAX_SYMLINKS = 40;
/** Target of a symbolic link: XFS's own cap (XFS_SYMLINK_MAXLEN). */
export const XFS_MAX_SYMLINK_BYTES = 1024;
/** Directories of one listing: each is remembered, so that a loop is found. */
export const XFS_MAX_DIRECTORIES = 10_000_000;

// NTFS
/** Clusters of an NTFS volume: Windows makes up to 2 MiB. */
export const NTFS_MAX_CLUSTER_BYTES = 2 * MiB;
/** One MFT record or index block: Windows makes 1 KiB or 4 KiB of either; GRUB and Linux read no more than this. */
export const NTFS_MAX_RECORD_BYTES = 64 * KiB;
/** One attribute list: Windows' own cap; eight thousand extension records, a million runs. */
export const NTFS_MAX_ATTRIBUTE_LIST_BYTES = 256 * KiB;
/** Levels of one directory's B+ tree: with two entries a block, a tree over 2^32 files has as many. */
export const NTFS_MAX_INDEX_DEPTH = 32;
/** Characters of one path: Windows' own cap. It also ends directories that lead on and on. */
export const NTFS_MAX_PATH = 32767;
/** Metadata is read in pieces of this size, and so many of the last ones are kept of a stream: a folder of 100,000 files. */
export const NTFS_PIECE_BYTES = 64 * KiB;
export const NTFS_PIECES_KEPT = 256;
/** Entries of a directory whose MFT records are read in one sweep: sweeping reads the MFT in its own order. */
export const NTFS_LISTING_BATCH = 8192;

// The finder
/** Files of one file system that are looked at as images: their entries and what is told of them take some 500 MB. */
export const MAX_FOUND_FILES = 1_000_000;

// disk: VMFS
/** Physical extents of a VMFS volume: 64 TiB, the largest that ESXi makes, in extents of 256 MiB. */
export const VMFS_MAX_PHYSICAL_EXTENTS = 262_144;
/** One directory of VMFS: 130,690 files, as many as VMFS 5 holds in all, take 18 MiB. */
export const VMFS_MAX_DIRECTORY_BYTES = 64 * MiB;
/** Directory entries of one listing of VMFS: twice those files; damaged directories may show the same entries again. */
export const VMFS_MAX_LISTED = 262_144;
/** Directories in directories of VMFS: ESXi keeps a virtual machine one level down, and its paths in 2048 characters. */
export const VMFS_MAX_DEPTH = 128;
/** Symbolic links followed for one path: as many as Linux follows. */
export const VMFS_MAX_LINKS = 40;
/** The target of a symbolic link of VMFS: no path that Linux or ESXi opens is longer. */
export const VMFS_MAX_LINK_BYTES = 4095;
/** A file of the file system's own: the largest, .fbb.sf of 64 TiB in blocks of 1 MiB, has 336 blocks of 1 MiB. */
export const VMFS_MAX_SYSTEM_BLOCKS = 65_536;

// ext4
/** Blocks of metadata that are kept: a directory, a tree and a block of descriptors of a walk, with room. */
export const EXT4_CACHE_BYTES = 4 * MiB;
/** Inode tables and directories read at a time. */
export const EXT4_TABLE_READ = 128 * KiB;
/** Metadata of one file's map: 4 TiB of ext3 in blocks of 4 KiB, the most it can hold, takes this. */
export const EXT4_MAX_MAP_BYTES = 4 * GiB;
/** Blocks that a journal brings: 8 GiB in blocks of 4 KiB, and mke2fs makes journals of 1 GiB at most by itself. */
export const EXT4_MAX_REPLAYED_BLOCKS = 2 ** 21;
/** Revoked blocks of a journal: a block of the journal names 500 to 16,000 of them. */
export const EXT4_MAX_REVOKED_BLOCKS = 2 ** 22;
/** Directories in directories: Linux opens no path with more than 2048 parts. */
export const EXT4_MAX_DIRECTORY_DEPTH = 2048;
/** Symbolic links followed on the way to one file: as in Linux (MAXSYMLINKS). */
export const EXT4_MAX_SYMLINKS = 40;
/** Target of a symbolic link: Linux's PATH_MAX. */
export const EXT4_MAX_SYMLINK_BYTES = 4096;
/** Directories of one listing: some sixty million files, a list that nobody reads. */
export const EXT4_MAX_LISTED_BYTES = 4 * GiB;

/** Transactions of an XFS log that are read and not committed yet: Linux commits at an eighth of the log and at 64 MiB. */
export const XFS_MAX_PENDING_LOG_BYTES = 256 * MiB;
/** One region of one of its items: a directory block has 64 KiB, the value of an attribute as much. */
export const XFS_MAX_LOG_REGION_BYTES = 256 * KiB;
/** Metadata that a replay of it changes: the largest log has 2 GiB, a part of which is replayed, and most of that is one block again and again. */
export const XFS_MAX_PATCHED_BYTES = 1 * GiB;
/** Names of one listing: without checksums (version 4) many directories can claim one block, and a small unit billions of names. */
export const XFS_MAX_NAMES = 100_000_000;

// Signature indexes.
/** The header of an index: one identity, one generation, and numbers. */
export const MAX_INDEX_HEADER_BYTES = 512 * KiB;
/** Pages of an index that hold signatures: 1 PiB of data in blocks of 64 KiB; their directory takes 400 MB of memory. */
export const MAX_INDEX_PAGES = 2 ** 24;
/** Pages of indexes that one thread keeps of one side: 2 MiB, which is 4 GiB of a disk in blocks of 64 KiB. */
export const INDEX_PAGES_KEPT = 64;
/** Indexes of one side of a scan: one for each unit that a disk has. */
export const MAX_SIDE_INDEXES = 4096;
/** Pages that signing threads may be ahead of the one that is written next: 8 MiB that wait in memory. */
export const INDEX_PAGES_AHEAD = 256;

// Persistent bitmaps of qcow2 images.
/** Bitmaps of one image: QEMU's cap (QCOW2_MAX_BITMAPS). */
export const QCOW2_MAX_BITMAPS = 65535;
/** Their directory: QEMU's cap (QCOW2_MAX_BITMAP_DIRECTORY_SIZE). */
export const QCOW2_MAX_BITMAP_DIRECTORY_BYTES = 1024 * 65535;
/** A bitmap's name: QEMU's cap (BME_MAX_NAME_SIZE). */
export const QCOW2_MAX_BITMAP_NAME = 1023;
/** The data of one bitmap: QEMU's cap (BME_MAX_PHYS_SIZE); 256 TiB at a granularity of 64 KiB. */
export const QCOW2_MAX_BITMAP_BYTES = 512 * MiB;
/** A bitmap's table read at a time. */
export const QCOW2_BITMAP_TABLE_READ = 64 * KiB;
// wire, sync, store
/** Payload of one frame: a megabyte of data and its head. Larger frames gain nothing and hold up what comes behind them. */
export const MAX_FRAME_BYTES = 1 * MiB + 64 * KiB;
/** Payload of a frame from a peer that has not proved who it is. */
export const MAX_GREETING_BYTES = 64 * KiB;
/** Bytes that a peer may send before we have worked on them: 10 Gbit/s over 12 ms, 1 Gbit/s over 120 ms. */
export const WIRE_CREDIT_BYTES = 16 * MiB;
/** Text of a message's field: a path of Linux; and what an error says. */
export const MAX_WIRE_TEXT_BYTES = 4 * KiB;
/** Bytes of pongs and errors waiting for a peer that reads nothing; then the peer is given up. */
export const MAX_UNREAD_ANSWERS_BYTES = 256 * KiB;
/** Plain bytes of one data message: large enough to compress well, small enough to report progress. */
export const MAX_DATA_BYTES = 1 * MiB;
/** Blocks of one digest tree, 16^4: the signatures of 4 GiB in blocks of 64 KiB take 1 MiB. */
export const WINDOW_BLOCKS = 65_536;
/** Trees that production keeps while it waits for answers: 70 MiB. */
export const MAX_OPEN_WINDOWS = 64;
/** Windows in which both sides descend at one time: their messages fit into the credit even when every block differs. */
export const MAX_DESCENTS = 8;
/** Blocks whose copying is planned together: 16 GiB in blocks of 64 KiB; their signatures take 8 MiB. */
export const MAX_PLACING_BLOCKS = 262_144;
/** Data of blocks that wait in memory for their places, when copies go in a circle. */
export const MAX_HELD_BYTES = 64 * MiB;
/** Entries of a table of signatures: 8 million take 144 MiB; a block beyond it is sent as data. */
export const MAX_TABLE_ENTRIES = 8_388_608;
/** Written data between two flushes of a replica: what is sent again after a crash is at most twice this. */
export const CHECKPOINT_BYTES = 32 * MiB;
/** The same where both disks are here: what is written again after a crash costs no network. */
export const LOCAL_CHECKPOINT_BYTES = 256 * MiB;
/** Checkpoints that production does not wait for. */
export const MAX_OPEN_CHECKPOINTS = 2;
/** Sessions that one server holds at a time; each takes up to 300 MB. */
export const MAX_SESSIONS = 16;
/** Disks that one server grants. */
export const MAX_GRANTS = 4096;
/** Header of a state file: two identities and two generations as in a bitmap's, times and numbers. */
export const MAX_STATE_HEADER_BYTES = 1 * MiB;
/** A token file: 16 … 4096 bytes; shorter ones can be guessed. */
export const MIN_TOKEN_BYTES = 16;
export const MAX_TOKEN_BYTES = 4 * KiB;

// VDI
/** Files of one folder among which a parent is looked for by its UUID: a header of each is read, 0.4 ms of CPU apiece. */
export const VDI_MAX_CANDIDATES = 10_000;
// NBD
/** Data of one read or write: the specification's default ("Size constraints"), which every client may use unasked. */
export const NBD_MAX_PAYLOAD = 32 * MiB;
/** One option of the handshake: a name of 4096 bytes, and contexts by the hundred. */
export const NBD_MAX_OPTION_BYTES = 64 * KiB;
/** A string of the protocol: the specification's cap ("Conventions"). */
export const NBD_MAX_TEXT_BYTES = 4096;
/** A handshake, from the first byte to the choice of an export: what QEMU grants since strangers held its server up (CVE-2024-7409). */
export const NBD_HANDSHAKE_SECONDS = 10;
/** Clients of one server at a time: QEMU's cap; each may hold what the next two lines allow. */
export const NBD_MAX_CONNECTIONS = 100;
/** Requests of one connection that are read and not answered yet: fio and the Linux kernel go to 128. */
export const NBD_REQUESTS_IN_FLIGHT = 256;
/** Data of those, written or to be read: two of the largest requests; past it no further request is read. */
export const NBD_BYTES_IN_FLIGHT = 64 * MiB;
/** Memory that a connection keeps for its next large requests: what eight of 2 MiB in flight need. */
export const NBD_KEPT_SLAB_BYTES = 16 * MiB;
/** Extents of one answer to a client: at a microsecond or two each to find, other clients wait no longer than a disk takes. */
export const NBD_EXTENTS_PER_ANSWER = 4096;
/** Extents of one answer of a server: the specification's cap (`NBD_REPLY_TYPE_BLOCK_STATUS`). */
export const NBD_MAX_ANSWER_EXTENTS = 2 ** 20;
/** Zeros written, or bytes brought into a cache, before other clients have their turn. */
export const NBD_TURN_BYTES = 4 * MiB;
/** A read or write by the client is sent in pieces of this size, so that the server can work on several. */
export const NBD_CLIENT_PIECE = 256 * KiB;
/** Pieces that the client has in flight: 8 MiB, more than a fast network holds on its way. */
export const NBD_CLIENT_IN_FLIGHT = 32;
/** Silence of a server that owes an answer: no disk takes as long, and a server that is stopped must not hold a scan for ever. */
export const NBD_SILENCE_SECONDS = 120;
/** Replies to one option that the client takes: a server may list as many exports, or bitmaps. */
export const NBD_MAX_OPTION_REPLIES = 10_000;
/** Runs of a dirty bitmap that is read: ten million take a gigabyte; a coarser granularity says the same in fewer. */
export const NBD_MAX_DIRTY_RUNS = 10_000_000;
/** A file of TLS keys: certificates of a long chain, or thousands of pre-shared keys. */
export const NBD_MAX_KEY_FILE_BYTES = 1 * MiB;
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
export const JOURNAL_FLUSH_BYTES = 64 * MiB;
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
/** Regions of one disk's write intents: a bit and eight bytes of memory each. */
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
/** A file aside is a killed put's after this: no living put takes an hour for one object. */
export const STORE_LEFTOVER_SECONDS = 3600;
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
