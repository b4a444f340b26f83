/** One side's part in the comparisons of a session: threads, keys and trees around `Comparison`. */

import { WINDOW_BLOCKS } from '../base/limits.ts';
import type { BlockCount, ByteCount } from '../base/units.ts';
import { blockCount } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { SideIndexes } from '../scan/scan-indexes.ts';
import type { SignatureAlgorithm } from '../signature/algorithm.ts';
import type { Connection } from '../wire/connection.ts';
import { BlockSigner } from './block-signer.ts';
import { Comparison } from './comparison.ts';
import { emptyLooked, type Looked } from './comparison-notes.ts';
import { TreeBuilder } from './digest-tree.ts';
import { SignPool } from './sign-pool.ts';
import { WindowSigner } from './window-signer.ts';

export interface ComparerOptions {
  readonly connection: Connection;
  readonly disk: VirtualDisk;
  /** Bytes that the session is about; the disk reads as zeros past its own end. */
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly workers: number;
  /** Signature indexes of the disk. */
  readonly indexes?: SideIndexes | null | undefined;
}

export interface CompareCall {
  readonly leads: boolean;
  readonly algorithm: SignatureAlgorithm;
  readonly key: Uint8Array | null;
  readonly nodeKey: Uint8Array;
  /** Blocks to look at; null for all. */
  readonly todo: PagedBits | null;
  /** Indexes may be used: nobody has written to the disk since they were made. */
  readonly indexed?: boolean | undefined;
  readonly onSignatures?: ((window: number, signatures: Uint8Array) => void) | undefined;
  readonly onProgress: (bytes: ByteCount) => void;
  /** Kept up to date: what is known when the comparison fails. */
  readonly looked?: Looked | undefined;
}

/** A link that answers within this is a local network. */
const NEAR_SECONDS = 0.002;
const NEAR_RATE = 1e9;
const FAR_RATE = 2e7;

export class Comparer {
  readonly blocks: BlockCount;
  private readonly options: ComparerOptions;
  private pool: SignPool | null = null;

  constructor(options: ComparerOptions) {
    this.options = options;
    this.blocks = blockCount(options.size, options.blockSize);
  }

  /** The threads: for comparing, and for the signatures by which blocks are placed. */
  get threads(): SignPool {
    this.pool ??= new SignPool(this.options);
    return this.pool;
  }

  /** Resolves with the blocks that differ. */
  async compare(call: CompareCall): Promise<PagedBits> {
    const { connection, disk, size, blockSize } = this.options;
    const { algorithm, key, nodeKey, todo, leads, onSignatures, onProgress } = call;
    const indexed = call.indexed === true && algorithm.name === 'blake3';
    const pass = { algorithm: algorithm.name, key, nodeKey, indexed };
    const pool = this.threads;
    pool.begin(pass);
    const own = new BlockSigner({ disk, size, blockSize });
    await own.begin(pass);
    const zeroLeaf = own.leafOfZeros;
    own.close();
    const builder = await TreeBuilder.create(nodeKey);
    const signatureBytes = onSignatures === undefined ? 0 : algorithm.digestLength;
    const signer = new WindowSigner({
      disk,
      pool,
      builder,
      size,
      blockSize,
      todo,
      zeroLeaf,
      signatureBytes,
      onSignatures,
      isCheap: indexed && (this.options.indexes ?? null) !== null,
      onProgress,
    });
    const { found, settled } = call.looked ?? emptyLooked(this.blocks);
    const comparison = new Comparison({
      connection,
      signer,
      blocks: this.blocks,
      todo,
      leads,
      link: () => {
        const roundTrip = connection.roundTrip ?? NEAR_SECONDS;
        return { roundTrip, bytesPerSecond: roundTrip < NEAR_SECONDS ? NEAR_RATE : FAR_RATE };
      },
      onDiffer: (block) => found.set(block),
      onSettled: (first, end) =>
        settled.setRun({
          start: first * WINDOW_BLOCKS,
          end: Math.min(end * WINDOW_BLOCKS, this.blocks),
        }),
    });
    // While the threads sign, this one is idle, and so is the peer's: what is measured now is the link.
    connection.ping();
    await comparison.run();
    connection.ping();
    return found;
  }

  async close(): Promise<void> {
    await this.pool?.close();
    this.pool = null;
  }
}
