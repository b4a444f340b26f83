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
/** Written data between two flushes of a replica: what is sent again after a crash is at most twice this (`MAX_OPEN_CHECKPOINTS`). */
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
// Live sync
/** One line of QEMU's monitor: a description of all block nodes of a machine with a thousand disks. */
export const QMP_MAX_LINE_BYTES = 16 * MiB;
/** Silence of a monitor that owes an answer: a transaction waits for requests in flight, and a dead disk for its timeout. */
export const QMP_SILENCE_SECONDS = 120;
/** Passes over what became dirty: a guest that writes faster than the link carries never ends by itself. */
export const MAX_LIVE_PASSES = 16;
/** Trees without leaves that production keeps while it waits for answers, where an index makes the leaves again: 70 MiB; 4 TiB in blocks of 64 KiB. */
export const MAX_LIGHT_WINDOWS = 1024;
// Strangers
/** Connections that have not proved yet who is there: of 64 KiB each; with one more, the oldest of the busiest address is dropped. */
export const MAX_GREETINGS = 64;
/** For a handshake of TLS, and for a greeting after it: two or three round trips, over any link. */
export const GREETING_MS = 10_000;
// The end of a connection
/** How long, and for how many bytes, a peer is listened to that cannot be told anything more, or that still sends after it was told why: a credit's worth, over a slow link. */
export const LAST_WORDS_MS = 2000;
export const LAST_WORDS_BYTES = WIRE_CREDIT_BYTES;
