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

/** What a worker reads at a time: small enough to stay in the L2 cache between read and hash. */
export const READ_PIECE = 512 * KiB;

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
