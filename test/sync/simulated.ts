/**
 * A session in which everything may go wrong, and goes wrong the same way for one seed: the network is cut at any
 * byte, chunks come in any size and order of events, and the replica's storage forgets what was not flushed, as
 * at a loss of power: of the writes since the last flush any subset is there afterwards, down to single sectors.
 */

import { Duplex } from 'node:stream';
import type { ByteCount, ByteOffset, ByteRange } from '../../src/base/units.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../../src/lu/logical-unit.ts';
import type { Transport } from '../../src/wire/transport.ts';

/** mulberry32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const SECTOR = 512;

export class VolatileUnit implements LogicalUnit {
  readonly name = '<volatile>';
  readonly size: ByteCount;
  readonly identity = 'volatile';
  readonly canWrite = true;
  /** Calls of write, zero and flush until the power goes; none by default. */
  powerLeft = Number.POSITIVE_INFINITY;
  private readonly image;
  private readonly durable: Uint8Array;
  private readonly dirty = new Set<number>();

  constructor(bytes: Uint8Array) {
    this.size = bytes.length;
    this.image = createArrayImage({ size: bytes.length, bytes });
    this.durable = bytes.slice();
  }

  contents(): Uint8Array {
    const bytes = new Uint8Array(this.size);
    this.image.read(0, bytes);
    return bytes;
  }

  /** What is there after the power came back. */
  afterPowerLoss(random: () => number): Uint8Array {
    const now = this.contents();
    const after = this.durable.slice();
    for (const sector of this.dirty) {
      const at = sector * SECTOR;
      if (random() < 0.5) after.set(now.subarray(at, at + SECTOR), at);
    }
    return after;
  }

  generation(): string {
    return 'live';
  }
  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.image.read(offset, target);
  }
  write(offset: ByteOffset, source: Uint8Array): Completion {
    this.spend();
    this.touch(offset, source.length);
    return this.image.write(offset, source);
  }
  zero(range: ByteRange): Completion {
    this.spend();
    this.touch(range.offset, range.length);
    return this.image.zero(range);
  }
  flush(): Completion {
    this.spend();
    const now = this.contents();
    for (const sector of this.dirty) {
      const at = sector * SECTOR;
      this.durable.set(now.subarray(at, at + SECTOR), at);
    }
    this.dirty.clear();
    return undefined;
  }
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    return this.image.extents(range, limit);
  }
  handle(): UnitHandle {
    return this.image.handle();
  }
  close(): Completion {
    return undefined;
  }

  private touch(offset: ByteOffset, length: ByteCount): void {
    const end = Math.ceil((offset + length) / SECTOR);
    for (let sector = Math.floor(offset / SECTOR); sector < end; sector++) this.dirty.add(sector);
  }

  private spend(): void {
    if (this.powerLeft-- <= 0) throw new Error('the power is gone');
  }
}

/** One end of a network that hands on chunks of any size, a little later, and is cut after so many bytes. */
class Wire extends Duplex {
  other: Wire | null = null;
  private readonly random: () => number;
  private readonly budget: { bytes: number };

  constructor(random: () => number, budget: { bytes: number }) {
    super({ highWaterMark: 256 * 1024 });
    this.random = random;
    this.budget = budget;
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    const cut = this.budget.bytes < chunk.length;
    // A copy, as a socket makes: who wrote the chunk may use its memory again.
    const passed = Buffer.from(cut ? chunk.subarray(0, this.budget.bytes) : chunk);
    this.budget.bytes -= passed.length;
    for (let at = 0; at < passed.length; ) {
      const count = this.random() < 0.2 ? 1 + Math.floor(this.random() * 40) : 65_536;
      this.other?.push(passed.subarray(at, at + count));
      at += count;
    }
    if (cut) {
      this.lose();
      this.other?.lose();
    }
    if (this.random() < 0.3) setTimeout(done, Math.floor(this.random() * 3));
    else setImmediate(done);
  }

  override _final(done: () => void): void {
    this.other?.push(null);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const { other } = this;
    if (other !== null && !other.destroyed && !other.readableEnded) other.push(null);
    done(error);
  }

  lose(): void {
    if (this.destroyed) return;
    if (!this.readableEnded) this.push(null);
    setImmediate(() => this.destroy());
  }
}

/** @param bytes both ways together, until the network is cut */
export function simulatedPair(random: () => number, bytes: number): [Transport, Transport] {
  const budget = { bytes };
  const ends = [new Wire(random, budget), new Wire(random, budget)] as const;
  ends[0].other = ends[1];
  ends[1].other = ends[0];
  return ends.map(
    (wire, i): Transport => ({
      name: `<end ${i}>`,
      readable: wire,
      writable: wire,
      secure: true,
      binding: null,
      copies: true,
      destroy: () => wire.destroy(),
    }),
  ) as [Transport, Transport];
}
