/**
 * A tree over the signatures of one window of 65,536 blocks. Every leaf is 16 bytes; every node above is the
 * nh128 signature, under the session's node key, of its sixteen children. Equal tops mean equal windows; where
 * tops differ, both sides descend only below nodes that differ.
 *
 *   level 4   1 node     the top
 *   level 3   16         …
 *   level 0   65,536     leaves: the blocks' signatures
 *
 * The node key is drawn apart from the key of the blocks' signatures, so what a node signs was chosen without
 * knowledge of its key, and nh128's bound holds at every level (docs/SECURITY.md).
 */

import { KERNEL_SCRATCH_BYTES, WINDOW_BLOCKS } from '../base/limits.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { Kernels } from '../signature/kernels.ts';
import type { Signer } from '../signature/signer.ts';
import { DIGEST_BYTES, digestsBelow, FANOUT, type Nodes, nodesAt, TOP_LEVEL } from '../wire/messages.ts';

export class DigestTree {
  /** Digests of each level, from the leaves up. */
  private readonly levels: readonly Uint8Array[];

  constructor(levels: readonly Uint8Array[]) {
    this.levels = levels;
  }

  get top(): Uint8Array {
    return this.levels[TOP_LEVEL]!;
  }

  get hasLeaves(): boolean {
    return this.levels[0]!.length > 0;
  }

  /** The same tree in a sixteenth of the memory. */
  withoutLeaves(): DigestTree {
    return new DigestTree([new Uint8Array(0), ...this.levels.slice(1)]);
  }

  leaf(index: number): Uint8Array {
    return this.levels[0]!.subarray(index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES);
  }

  /**
   * Digests at `level` of the descendants of some nodes at `parentLevel`, one parent after another.
   * @param leaves how many of the window's blocks there are
   */
  digestsBelow(parentLevel: number, parents: readonly number[], level: number, leaves: number): Uint8Array {
    const each = FANOUT ** (parentLevel - level) * DIGEST_BYTES;
    const end = nodesAt(level, leaves) * DIGEST_BYTES;
    const digests = new Uint8Array(digestsBelow(parentLevel, parents, level, leaves) * DIGEST_BYTES);
    const own = this.levels[level]!;
    for (const [i, parent] of parents.entries())
      digests.set(own.subarray(parent * each, Math.min((parent + 1) * each, end)), i * each);
    return digests;
  }

  /** Positions, at `nodes.level`, of the nodes whose digests differ from this tree's: ascending. */
  differing({ level, parentLevel, parents, digests }: Omit<Nodes, 'window'>): number[] {
    const children = FANOUT ** (parentLevel - level);
    const own = this.levels[level]!;
    const found: number[] = [];
    for (const [i, parent] of parents.entries()) {
      for (let child = 0; child < children; child++) {
        const theirs = (i * children + child) * DIGEST_BYTES;
        if (theirs === digests.length) break;
        const node = parent * children + child;
        if (!sameDigest(own, node * DIGEST_BYTES, digests, theirs)) found.push(node);
      }
    }
    return found;
  }
}

/** Sixteen bytes at two places; both tables are ours or public, so time tells nothing. */
function sameDigest(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number): boolean {
  for (let i = 0; i < DIGEST_BYTES; i++) if (a[aAt + i] !== b[bAt + i]) return false;
  return true;
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

/** Builds trees under one node key. */
export class TreeBuilder {
  private readonly signer: Signer;
  private readonly bytes: Uint8Array;
  private readonly at: number;

  private constructor(signer: Signer, bytes: Uint8Array, at: number) {
    this.signer = signer;
    this.bytes = bytes;
    this.at = at;
  }

  /** @param nodeKey 32 bytes */
  static async create(nodeKey: Uint8Array): Promise<TreeBuilder> {
    arena ??= new SlotArena(1, KERNEL_SCRATCH_BYTES + 2 * WINDOW_BLOCKS * DIGEST_BYTES);
    const { memory, pointer } = arena.slot(0);
    const kernels = new Kernels(loadKernels(), memory, pointer);
    const signer = await kernels.signer(algorithmByName('nh128'), nodeKey);
    return new TreeBuilder(signer, new Uint8Array(memory.buffer), pointer + KERNEL_SCRATCH_BYTES);
  }

  /** @param leaves 65,536 digests; the tree keeps them */
  build(leaves: Uint8Array): DigestTree {
    const levels = [leaves];
    let from = this.at;
    this.bytes.set(leaves, from);
    for (let level = 1; level <= TOP_LEVEL; level++) {
      const count = nodesAt(level);
      const to = from + nodesAt(level - 1) * DIGEST_BYTES;
      this.signer.sign(from, FANOUT * DIGEST_BYTES, count, to);
      levels.push(this.bytes.slice(to, to + count * DIGEST_BYTES));
      from = to;
    }
    return new DigestTree(levels);
  }

  /** The tree of a window all of whose leaves are this one. */
  background(leaf: Uint8Array): DigestTree {
    return this.build(leavesOf(leaf));
  }
}

/** One memory for all builders of this process: building never waits, so no two are at work at one time. */
let arena: SlotArena | null = null;

/** A window's leaves, all the same. */
export function leavesOf(
  leaf: Uint8Array,
  leaves: Uint8Array = new Uint8Array(WINDOW_BLOCKS * DIGEST_BYTES),
): Uint8Array {
  leaves.set(leaf);
  for (let filled = DIGEST_BYTES; filled < leaves.length; filled *= 2)
    leaves.copyWithin(filled, 0, Math.min(filled, leaves.length - filled));
  return leaves;
}
