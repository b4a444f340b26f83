/**
 * Signs the windows of one disk in ascending order, a few ahead of who asks for them, and leaves out those that
 * need no signing: known to be zero throughout, or without a block to look at. Such a window's tree is the
 * background: every leaf is that of a block of zeros, or, where only some blocks are looked at, sixteen zero bytes.
 */

import { WINDOW_BLOCKS } from '../base/limits.ts';
import { type BlockCount, type ByteCount, blockCount, MiB } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { Side } from '../scan/side.ts';
import { DIGEST_BYTES } from '../wire/messages.ts';
import { type DigestTree, leavesOf, type TreeBuilder } from './digest-tree.ts';
import type { SignPool } from './sign-pool.ts';

/** What a thread signs at a time. */
const SEGMENT_BYTES = 16 * MiB;
/** Windows that are signed before they are asked for. */
const AHEAD = 3;

export interface WindowSignerOptions {
  readonly disk: VirtualDisk;
  readonly pool: SignPool;
  readonly builder: TreeBuilder;
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Blocks to look at; null for all. */
  readonly todo: PagedBits | null;
  readonly zeroLeaf: Uint8Array;
  /** Bytes of one signature, where signatures are wanted besides leaves; 0 where not. */
  readonly signatureBytes: ByteCount;
  /** Receives a window's signatures; those of windows and segments that are not signed are zero bytes. */
  readonly onSignatures?: ((window: number, signatures: Uint8Array) => void) | undefined;
  /** Whether an index has the signatures, so that a window may as well be signed again. */
  readonly isCheap?: boolean | undefined;
  /** Called with bytes of the disk that need no more work. */
  readonly onProgress?: ((bytes: ByteCount) => void) | undefined;
}

export interface SignedWindow {
  readonly window: number;
  readonly tree: DigestTree;
  /** The tree is not looked at any more: its memory is used again. */
  release(): void;
}

export class WindowSigner {
  /** The leaf of blocks that nobody looks at, or that are zero; and the tree of it alone. */
  readonly backgroundLeaf: Uint8Array;
  readonly background: DigestTree;
  private readonly options: WindowSignerOptions;
  private readonly side: Side;
  private readonly blocks: BlockCount;
  private readonly ready: Promise<SignedWindow>[] = [];
  private from = 0;
  private ids = 0;
  /**
   * Tables of windows that are done with. A thread that was handed a table holds it until its own garbage is
   * collected, which may be never: a table for each window would fill the memory.
   */
  private readonly idleLeaves: Uint8Array[] = [];
  private readonly idleSignatures: Uint8Array[] = [];

  constructor(options: WindowSignerOptions) {
    this.options = options;
    this.side = new Side(options.disk);
    this.blocks = blockCount(options.size, options.blockSize);
    this.backgroundLeaf = options.todo === null ? options.zeroLeaf : new Uint8Array(DIGEST_BYTES);
    this.background = options.builder.background(this.backgroundLeaf);
  }

  /** The next window that is not background; null after the last one. */
  async next(): Promise<SignedWindow | null> {
    await this.fill();
    const first = this.ready.shift();
    if (first === undefined) return null;
    const signed = await first;
    // Keeps the threads busy while the caller works on this one.
    await this.fill();
    return signed;
  }

  get isCheap(): boolean {
    return this.options.isCheap === true;
  }

  /** A window that was given before. */
  again(window: number): Promise<SignedWindow> {
    return this.signWindow(window, { onSignatures: undefined, onProgress: undefined });
  }

  private async fill(): Promise<void> {
    while (this.ready.length < AHEAD) {
      const window = await this.nextWindow();
      if (window === null) return;
      const signed = this.signWindow(window);
      // It is awaited in its turn; until then a failure must not count as nobody's.
      signed.catch(() => undefined);
      this.ready.push(signed);
    }
  }

  private async nextWindow(): Promise<number | null> {
    const { todo, size, blockSize, onProgress } = this.options;
    const begin = this.from * WINDOW_BLOCKS;
    if (begin >= this.blocks) return null;
    let block: number;
    if (todo !== null) block = todo.nextSet(begin);
    else {
      const zeroEnd = await this.side.zeroUntil(begin * blockSize, size);
      block =
        zeroEnd < size
          ? Math.floor(zeroEnd / blockSize)
          : size % blockSize === 0
            ? this.blocks
            : this.blocks - 1;
    }
    const window = Math.floor(block / WINDOW_BLOCKS);
    if (todo === null) {
      const upTo = block >= this.blocks ? size : window * WINDOW_BLOCKS * blockSize;
      onProgress?.(Math.max(0, upTo - begin * blockSize));
    }
    if (block >= this.blocks) {
      this.from = Math.ceil(this.blocks / WINDOW_BLOCKS);
      return null;
    }
    this.from = window + 1;
    return window;
  }

  private async signWindow(
    window: number,
    { onSignatures, onProgress }: Pick<WindowSignerOptions, 'onSignatures' | 'onProgress'> = this.options,
  ): Promise<SignedWindow> {
    const { builder, blockSize, todo, signatureBytes, pool } = this.options;
    const leaves = leavesOf(
      this.backgroundLeaf,
      this.idleLeaves.pop() ?? new Uint8Array(new SharedArrayBuffer(WINDOW_BLOCKS * DIGEST_BYTES)),
    );
    const signatures = signatureBytes > 0 ? this.signatureTable(signatureBytes) : null;
    const first = window * WINDOW_BLOCKS;
    const end = Math.min(first + WINDOW_BLOCKS, this.blocks);
    const step = Math.max(1, Math.min(WINDOW_BLOCKS, SEGMENT_BYTES / blockSize));
    const signing: Promise<void>[] = [];
    for (let start = first; start < end; start += step) {
      const to = Math.min(start + step, end);
      const chosen = todo === null ? null : chosenOf(todo, start, to);
      const bytes =
        chosen === null
          ? Math.min(to * blockSize, this.options.size) - start * blockSize
          : chosen.count * blockSize;
      if (chosen === null ? await this.isZero(start, to) : chosen.count === 0) {
        onProgress?.(bytes);
        continue;
      }
      const segment = {
        id: this.ids++,
        start,
        end: to,
        todo: chosen?.bits ?? null,
        leaves: leaves.subarray((start - first) * DIGEST_BYTES, (to - first) * DIGEST_BYTES),
        signatures:
          signatures?.subarray((start - first) * signatureBytes, (to - first) * signatureBytes) ?? null,
      };
      const signed = pool.sign(segment).then(() => onProgress?.(bytes));
      signed.catch(() => undefined);
      signing.push(signed);
    }
    await Promise.all(signing);
    if (signatures !== null) {
      onSignatures?.(window, signatures);
      this.idleSignatures.push(signatures);
    }
    return { window, tree: builder.build(leaves), release: () => this.idleLeaves.push(leaves) };
  }

  private signatureTable(signatureBytes: ByteCount): Uint8Array {
    const idle = this.idleSignatures.pop();
    return idle?.fill(0) ?? new Uint8Array(new SharedArrayBuffer(WINDOW_BLOCKS * signatureBytes));
  }

  /** Whether whole blocks are known to be zero; a short last block never is. */
  private async isZero(start: number, end: number): Promise<boolean> {
    const { blockSize, size } = this.options;
    if (end * blockSize > size) return false;
    return (await this.side.zeroUntil(start * blockSize, end * blockSize)) === end * blockSize;
  }
}

/** Which blocks of `[start, end)` are set: one byte a block. */
function chosenOf(bits: PagedBits, start: number, end: number): { bits: Uint8Array; count: number } {
  const chosen = new Uint8Array(end - start);
  let count = 0;
  for (let block = bits.nextSet(start); block < end; ) {
    const to = Math.min(bits.nextClear(block), end);
    chosen.fill(1, block - start, to - start);
    count += to - block;
    block = bits.nextSet(to);
  }
  return { bits: chosen, count };
}
