/**
 * Two sites find the blocks that differ, without sending what does not.
 *
 * Both cut the disk into windows of 65,536 blocks and make a tree of each window's signatures (`digest-tree.ts`).
 * Production sends the tops, in order, as fast as it signs; the replica answers for each window either that it is
 * equal or with digests further down its own tree. From then on the two take turns, each answering below the
 * nodes that differ, until leaves have been sent: who receives those knows the blocks that differ, and tells.
 *
 *   production   tops ─────────────►
 *                ◄───────── equal, or nodes (level 2, say)
 *                nodes (level 0) ──►
 *                ◄────────── differ
 *
 * Many windows are under way at one time, so that the link is never idle while an answer travels. Windows that
 * are background on both sides come as runs: an empty petabyte is one message.
 *
 * What bounds it: tops are ascending and each window comes once; levels only fall, so a window takes four
 * messages at most; at most `MAX_DESCENTS` windows descend at a time, whose messages fit into the credit, so
 * neither side ever waits for the other with a full inbox.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_DESCENTS, MAX_LIGHT_WINDOWS, MAX_OPEN_WINDOWS, WINDOW_BLOCKS } from '../base/limits.ts';
import type { BlockCount } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import type { Connection } from '../wire/connection.ts';
import type { Frame } from '../wire/frame.ts';
import { MessageType } from '../wire/message-types.ts';
import {
  decodeDiffer,
  decodeEqual,
  decodeNodes,
  decodeTops,
  encodeDiffer,
  encodeEqual,
  encodeNodes,
  encodeTops,
  leavesOfWindow,
  type Nodes,
  TOP_LEVEL,
  type TopRun,
} from '../wire/messages.ts';
import { type Link, nextLevel } from './descent.ts';
import { type DigestTree, sameBytes } from './digest-tree.ts';
import { Gate } from './gate.ts';
import type { SignedWindow, WindowSigner } from './window-signer.ts';

export interface ComparisonOptions {
  readonly connection: Connection;
  readonly signer: WindowSigner;
  readonly blocks: BlockCount;
  /** The blocks that are looked at; null for all. */
  readonly todo: PagedBits | null;
  /** Production leads. */
  readonly leads: boolean;
  /** As it is measured by now. */
  readonly link: () => Omit<Link, 'drift' | 'leaves' | 'together'>;
  /** Called once for each block found to differ. */
  readonly onDiffer: (block: number) => void;
  /** Called once for each run of windows, `[first, end)`, about which all is known. */
  readonly onSettled: (first: number, end: number) => void;
}

/** A window that is neither known to be equal nor known where it differs. */
interface OpenWindow {
  tree: DigestTree;
  /** Gives the tree's memory back; nothing for a background tree. */
  release: () => void;
  /** Of the digests that we sent last; the answer must be below it. */
  level: number;
}

/** Honest production sends tops of few windows that are not answered, with or without an index. */
const MAX_WAITING_TOPS = 2 * MAX_LIGHT_WINDOWS + 64;

const NOTHING = () => undefined;

export class Comparison {
  private readonly options: ComparisonOptions;
  private readonly windows: number;
  private readonly open = new Map<number, OpenWindow>();
  private settled = 0;
  private differing = 0;
  private looked = 0;
  /** Production: windows signed and not settled. Replica: windows that descend. */
  private readonly gate: Gate;
  /** Signing a window again costs nothing to speak of: its leaves are not kept meanwhile. */
  private readonly light: boolean;
  private readonly tops: TopRun[] = [];
  private topsCame: (() => void) | null = null;
  /** Windows below this have had their tops, sent or received. */
  private topped = 0;
  private failure: unknown;
  /** Production: background windows below which the replica descends. */
  private readonly backgrounds = new Set<number>();
  /** Windows that are settled, as ascending disjoint runs: nobody may settle one twice. */
  private readonly done: { first: number; end: number }[] = [];

  constructor(options: ComparisonOptions) {
    this.options = options;
    this.windows = Math.ceil(options.blocks / WINDOW_BLOCKS);
    this.light = options.leads && options.signer.isCheap;
    const most = this.light ? MAX_LIGHT_WINDOWS : MAX_OPEN_WINDOWS;
    this.gate = new Gate(options.leads ? most : MAX_DESCENTS);
  }

  /** Resolves when every window is settled, on this side. */
  async run(): Promise<void> {
    const own = (this.options.leads ? this.sendTops() : this.answerTops()).catch((cause) => {
      this.failure = cause;
      throw cause;
    });
    await Promise.all([own, this.listen()]);
  }

  private async listen(): Promise<void> {
    const { connection, leads } = this.options;
    try {
      while (!leads || this.settled < this.windows) {
        const frame = await connection.receive();
        if (frame.type === MessageType.compared && !leads && this.settled === this.windows) return;
        if (frame.type === MessageType.tops && !leads) this.takeTops(frame);
        else if (frame.type === MessageType.equal && leads) this.takeEqual(frame);
        else if (frame.type === MessageType.nodes) await this.takeNodes(frame);
        else if (frame.type === MessageType.differ) this.takeDiffer(frame);
        else throw connection.unexpected(frame, 'nodes');
      }
      // Production settles windows only when it hears of them, so this is the last message on either side.
      await connection.send(MessageType.compared);
    } catch (cause) {
      // Whoever waits for an answer that will not come must wake up.
      this.failure ??= cause;
      this.topsCame?.();
      this.gate.fail(cause);
      throw cause;
    }
  }

  // Production

  private async sendTops(): Promise<void> {
    const { signer } = this.options;
    for (let signed = await signer.next(); ; signed = await signer.next()) {
      const window = signed?.window ?? this.windows;
      const runs: TopRun[] = [];
      if (window > this.topped) runs.push({ first: this.topped, end: window, digest: signer.background.top });
      if (signed !== null) {
        runs.push({ first: window, end: window + 1, digest: signed.tree.top });
        await this.gate.enter();
        const open = this.light ? lightened(signed) : signed;
        this.open.set(window, { tree: open.tree, release: open.release, level: TOP_LEVEL });
      }
      this.topped = signed === null ? this.windows : window + 1;
      if (runs.length > 0) await this.options.connection.send(MessageType.tops, encodeTops(runs));
      if (signed === null) return;
    }
  }

  private takeEqual({ payload }: Frame): void {
    for (const { first, end } of decodeEqual(payload, this.topped)) {
      for (const [window, { level, release }] of this.open) {
        if (window < first || window >= end) continue;
        if (level !== TOP_LEVEL) throw malformed(`window ${window} is not equal any more`);
        this.open.delete(window);
        release();
        this.gate.leave();
      }
      this.settle(first, end);
    }
  }

  // Replica

  private takeTops({ payload }: Frame): void {
    for (const run of decodeTops(payload, this.windows)) {
      if (run.first !== this.topped)
        throw malformed(`expected the top of window ${this.topped}, got that of ${run.first}`);
      this.topped = run.end;
      this.tops.push(run);
    }
    if (this.tops.length > MAX_WAITING_TOPS)
      throw new DriftmapError('limit', `expected at most ${MAX_WAITING_TOPS} tops without an answer`);
    this.topsCame?.();
  }

  private async answerTops(): Promise<void> {
    const { signer } = this.options;
    let own = await signer.next();
    for (let answered = 0; answered < this.windows; ) {
      const run = this.tops.shift();
      if (run === undefined) {
        if (this.failure !== undefined) return;
        await new Promise<void>((resolve) => {
          this.topsCame = resolve;
        });
        continue;
      }
      for (let window = run.first; window < run.end; ) {
        const mine: SignedWindow | null = own !== null && own.window === window ? own : null;
        // Up to our next window all trees are the background.
        const end = mine === null ? Math.min(run.end, own?.window ?? run.end) : window + 1;
        const tree = mine?.tree ?? signer.background;
        const release = mine?.release ?? NOTHING;
        if (sameBytes(tree.top, run.digest)) {
          await this.sayEqual(window, end);
          release();
        } else for (let next = window; next < end; next++) await this.descend(next, tree, release);
        if (mine !== null) own = await signer.next();
        window = end;
      }
      answered = run.end;
    }
  }

  private async sayEqual(first: number, end: number): Promise<void> {
    await this.options.connection.send(MessageType.equal, encodeEqual([{ first, end }]));
    this.settle(first, end);
  }

  private async descend(window: number, tree: DigestTree, release: () => void): Promise<void> {
    await this.gate.enter();
    const open: OpenWindow = { tree, release, level: TOP_LEVEL };
    this.open.set(window, open);
    await this.sendNodes(window, open, TOP_LEVEL, [0]);
  }

  // Both

  private async sendNodes(
    window: number,
    open: OpenWindow,
    parentLevel: number,
    parents: readonly number[],
  ): Promise<void> {
    const leaves = leavesOfWindow(window, this.options.blocks);
    const drift = Math.max(1e-5, this.looked === 0 ? 1e-3 : this.differing / this.looked);
    const level = nextLevel(parentLevel, {
      ...this.options.link(),
      drift,
      leaves,
      together: MAX_DESCENTS / 2,
    });
    if (level === 0) await this.restoreLeaves(window, open);
    const digests = open.tree.digestsBelow(parentLevel, parents, level, leaves);
    open.level = level;
    const nodes: Nodes = { window, level, parentLevel, parents, digests };
    await this.options.connection.send(MessageType.nodes, ...encodeNodes(nodes));
  }

  private async restoreLeaves(window: number, open: OpenWindow): Promise<void> {
    if (open.tree.hasLeaves) return;
    const { tree, release } = await this.options.signer.again(window);
    open.tree = tree;
    open.release = release;
  }

  private async takeNodes({ payload }: Frame): Promise<void> {
    const nodes = decodeNodes(payload, this.topped, this.options.blocks);
    const { window, level, parentLevel } = nodes;
    const open = this.open.get(window) ?? this.openBackground(window);
    if (parentLevel !== open.level || parentLevel === 0)
      throw malformed(`expected nodes of window ${window} below level ${open.level}, got ${parentLevel}`);
    if (level === 0) await this.restoreLeaves(window, open);
    const differing = open.tree.differing(nodes);
    if (level > 0 && differing.length > 0) {
      await this.sendNodes(window, open, level, differing);
      return;
    }
    await this.options.connection.send(MessageType.differ, encodeDiffer(window, differing));
    this.settleOpen(window, differing);
  }

  /** Production keeps no trees of background windows. */
  private openBackground(window: number): OpenWindow {
    if (!this.options.leads || this.isSettled(window)) throw malformed(`window ${window} is settled already`);
    if (this.backgrounds.size === MAX_DESCENTS) throw malformed(`more than ${MAX_DESCENTS} windows descend`);
    const open: OpenWindow = { tree: this.options.signer.background, release: NOTHING, level: TOP_LEVEL };
    this.open.set(window, open);
    this.backgrounds.add(window);
    return open;
  }

  private takeDiffer({ payload }: Frame): void {
    const { window, leaves } = decodeDiffer(payload, this.topped);
    const open = this.open.get(window);
    if (open === undefined || open.level !== 0) throw malformed(`window ${window} was not asked about`);
    this.settleOpen(window, leaves);
  }

  private settleOpen(window: number, leaves: readonly number[]): void {
    const { blocks, todo, onDiffer } = this.options;
    const open = this.open.get(window);
    this.open.delete(window);
    open?.release();
    if (!this.backgrounds.delete(window)) this.gate.leave();
    this.differing += leaves.length;
    for (const leaf of leaves) {
      const block = window * WINDOW_BLOCKS + leaf;
      if (block >= blocks || (todo !== null && !todo.test(block)))
        throw malformed(`block ${block} was not looked at`);
      onDiffer(block);
    }
    this.settle(window, window + 1);
  }

  private isSettled(window: number): boolean {
    const at = this.place(window);
    const run = this.done[at];
    return run !== undefined && run.first <= window;
  }

  /** Index of the first run that ends after `window`. */
  private place(window: number): number {
    let low = 0;
    let high = this.done.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.done[middle]!.end > window) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private settle(first: number, end: number): void {
    const at = this.place(first);
    const after = this.done[at];
    if (after !== undefined && after.first < end) throw malformed(`window ${after.first} is settled already`);
    const before = this.done[at - 1];
    const joinsBefore = before?.end === first;
    const joinsAfter = after?.first === end;
    if (joinsBefore && joinsAfter) {
      before.end = after.end;
      this.done.splice(at, 1);
    } else if (joinsBefore) before.end = end;
    else if (joinsAfter) after.first = first;
    else this.done.splice(at, 0, { first, end });
    this.settled += end - first;
    this.looked += (end - first) * WINDOW_BLOCKS;
    this.options.onSettled(first, end);
  }
}

/** Without its leaves, whose memory is used again at once. */
function lightened({ tree, release }: SignedWindow): Pick<OpenWindow, 'tree' | 'release'> {
  release();
  return { tree: tree.withoutLeaves(), release: NOTHING };
}

function malformed(reason: string): DriftmapError {
  return new DriftmapError('malformed', `the comparison: ${reason}`);
}
