/** The least owner of a journal that a stream can end in: no background work, no retention. */

import { createHash } from 'node:crypto';
import { DriftmapError } from '../../../src/base/errors.ts';
import type { Journal } from '../../../src/journal/journal.ts';
import type { LogicalUnit } from '../../../src/lu/logical-unit.ts';
import type { Follow } from '../../../src/protect/stream/messages.ts';
import { checkFollow, type Streaming, type StreamTarget } from '../../../src/protect/stream/session.ts';
import { BlockHasher } from '../../../src/sync/block-hasher.ts';

export class JournalTarget implements StreamTarget {
  readonly journal: Journal;
  private readonly units: ReadonlyMap<string, LogicalUnit>;
  private current: { stop: (reason: DriftmapError) => void } | null = null;
  private hasher: Promise<BlockHasher> | null = null;

  constructor(journal: Journal, units: ReadonlyMap<string, LogicalUnit>) {
    this.journal = journal;
    this.units = units;
  }

  async follow(follow: Follow, _peer: string, stop: (reason: DriftmapError) => void): Promise<Streaming> {
    const { journal } = this;
    checkFollow(follow, journal);
    this.current?.stop(new DriftmapError('policy', 'another stream has begun'));
    const mine = { stop };
    this.current = mine;
    if (journal.state().failure !== null) await journal.recover();
    await journal.commit();
    const { last, suspended } = journal.state();
    const check = () => {
      if (this.current !== mine) throw new DriftmapError('policy', 'this stream has ended');
    };
    return {
      journal: createHash('md5').update(journal.path).digest('hex'),
      last,
      suspended,
      append: (writes, time) => {
        check();
        return journal.append(writes, time);
      },
      get staged() {
        return journal.state().staged;
      },
      ready: async () => undefined,
      mark: (kind, text, consistency) => {
        check();
        if (kind === 'bookmark') return journal.bookmark(text, consistency);
        return kind === 'suspend' ? journal.suspend(text) : journal.resume(text);
      },
      probe: (range) => this.probe(range),
      ask: async (what) => ({ asked: what, last: journal.state().last }),
      end: () => {
        if (this.current === mine) this.current = null;
      },
    };
  }

  /** The disks follow, and are read. */
  private async probe({
    disk,
    offset,
    length,
    blockSize,
    signatures,
  }: Parameters<Streaming['probe']>[0]): Promise<Uint8Array> {
    await this.journal.commit();
    await this.journal.apply();
    const unit = this.units.get(disk)!;
    this.hasher ??= BlockHasher.create();
    const hasher = await this.hasher;
    const differs = new Uint8Array(Math.ceil(length / blockSize));
    for (let i = 0; i < differs.length; i++) {
      const bytes = hasher.buffer(Math.min(blockSize, length - i * blockSize));
      const pending = unit.read(offset + i * blockSize, bytes);
      if (pending) await pending;
      const isEqual =
        signatures === null
          ? bytes.every((byte) => byte === 0)
          : hasher.matches(bytes.length, signatures.subarray(32 * i, 32 * i + 32));
      differs[i] = isEqual ? 0 : 1;
    }
    return differs;
  }
}
