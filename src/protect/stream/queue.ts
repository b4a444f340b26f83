/**
 * Writes on their way to the replica: from the moment they are in the disk until the journal has them. What waits is
 * kept as the messages in which it travels, so a write is copied once, into the message that carries it. A message
 * stays here until it is acknowledged; then its memory is used again (what was acknowledged has been received whole).
 *
 * The queue is bounded by the number of its messages. Whoever finds it full marks instead.
 */

import {
  STREAM_MAX_DATA_BYTES,
  STREAM_MAX_WRITES,
  STREAM_MAX_ZERO_BYTES,
  STREAM_QUEUE_MESSAGES,
} from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import {
  getU64,
  type Mark,
  type Order,
  putU64,
  WRITE_ENTRY_BYTES,
  WRITES_HEAD_BYTES,
  WriteKind,
} from './messages.ts';

/** Told of each write of the queue that is given up. */
export type OnDropped = (disk: number, offset: ByteOffset, length: ByteCount) => void;

/** A message of writes that is being filled, waits, or is on its way. */
export class Slab {
  first: Order = 0;
  count = 0;
  bytes: ByteCount = 0;
  private began = 0;
  private readonly head = new Uint8Array(WRITES_HEAD_BYTES + STREAM_MAX_WRITES * WRITE_ENTRY_BYTES);
  private readonly view = new DataView(this.head.buffer);
  private readonly data = Buffer.allocUnsafeSlow(STREAM_MAX_DATA_BYTES);

  begin(first: Order, now: number): void {
    this.first = first;
    this.count = 0;
    this.bytes = 0;
    this.began = now;
  }

  get last(): Order {
    return this.first + this.count - 1;
  }

  isFullFor(bytes: ByteCount): boolean {
    return this.count === STREAM_MAX_WRITES || this.bytes + bytes > STREAM_MAX_DATA_BYTES;
  }

  add(disk: number, offset: ByteOffset, source: Uint8Array, now: number): void {
    this.data.set(source, this.bytes);
    this.bytes += source.length;
    this.enter(disk, offset, source.length, WriteKind.data, now);
  }

  addZeros(disk: number, offset: ByteOffset, length: ByteCount, now: number): void {
    this.enter(disk, offset, length, WriteKind.zeros, now);
  }

  private enter(disk: number, offset: ByteOffset, length: ByteCount, kind: number, now: number): void {
    const { view } = this;
    const at = WRITES_HEAD_BYTES + this.count * WRITE_ENTRY_BYTES;
    // The disk, the kind, and a zero byte.
    view.setUint32(at, disk + kind * 0x10000, true);
    view.setUint32(at + 4, length, true);
    view.setUint32(at + 8, offset % 2 ** 32, true);
    view.setUint32(at + 12, Math.floor(offset / 2 ** 32), true);
    // A clock that goes back within a message shows in the next one.
    view.setUint32(at + 16, now > this.began ? now - this.began : 0, true);
    this.count++;
  }

  /** The message, to be sent as it is. */
  parts(): Uint8Array[] {
    putU64(this.view, 0, this.first);
    putU64(this.view, 8, this.began);
    this.view.setUint32(16, this.count, true);
    const head = this.head.subarray(0, WRITES_HEAD_BYTES + this.count * WRITE_ENTRY_BYTES);
    return [head, this.data.subarray(0, this.bytes)];
  }

  forEach(each: OnDropped): void {
    for (let i = 0; i < this.count; i++) {
      const at = WRITES_HEAD_BYTES + i * WRITE_ENTRY_BYTES;
      each(this.view.getUint16(at, true), getU64(this.view, at + 8), this.view.getUint32(at + 4, true));
    }
  }
}

/** What is sent at a time. */
export type Item =
  | { readonly kind: 'writes'; readonly slab: Slab }
  | { readonly kind: 'mark'; readonly mark: Mark };

export class StreamQueue {
  /** Number that the next write or mark gets. */
  next: Order = 1;
  /** All up to here is durable in the journal. */
  acknowledged: Order = 0;
  /** When something was acknowledged last, or came into the empty queue: milliseconds of `performance.now()`. */
  movedAt = 0;
  private readonly now: () => number;
  private readonly capacity: number;
  private items: Item[] = [];
  /** So many items at the front are sent. */
  private sent = 0;
  /** The last slab of `items`, while writes may be added to it. */
  private open: Slab | null = null;
  private slabs = 0;
  private readonly spare: Slab[] = [];

  constructor(now: () => number = Date.now, capacity = STREAM_QUEUE_MESSAGES) {
    this.now = now;
    this.capacity = capacity;
  }

  /** Messages of writes that wait to be sent or acknowledged. */
  get messages(): number {
    return this.slabs;
  }
  /** Their data. */
  get bytes(): ByteCount {
    return this.items.reduce((sum, item) => sum + (item.kind === 'writes' ? item.slab.bytes : 0), 0);
  }
  get isEmpty(): boolean {
    return this.items.length === 0;
  }
  get hasUnsent(): boolean {
    return this.items.length > this.sent;
  }
  /** Whether a whole message waits to be sent. */
  get hasWholeUnsent(): boolean {
    const unsent = this.items.length - this.sent;
    return unsent > 1 || (unsent === 1 && this.open === null);
  }
  /** Messages that were sent and are not acknowledged. */
  get inFlight(): number {
    return this.sent;
  }

  /** Copies a write into the queue. False when there is no room: then some of it may be there, and all must be marked. */
  add(disk: number, offset: ByteOffset, source: Uint8Array): boolean {
    const now = this.now();
    if (source.length <= STREAM_MAX_DATA_BYTES) {
      const slab = this.slabFor(source.length, now);
      if (slab === null) return false;
      slab.add(disk, offset, source, now);
      this.next++;
      return true;
    }
    for (let done = 0; done < source.length; done += STREAM_MAX_DATA_BYTES) {
      const piece = source.subarray(done, done + STREAM_MAX_DATA_BYTES);
      if (!this.add(disk, offset + done, piece)) return false;
    }
    return true;
  }

  /** As `add`. */
  addZeros(disk: number, offset: ByteOffset, length: ByteCount): boolean {
    const now = this.now();
    for (let done = 0; done < length; ) {
      const piece = Math.min(length - done, STREAM_MAX_ZERO_BYTES);
      const slab = this.slabFor(0, now);
      if (slab === null) return false;
      slab.addZeros(disk, offset + done, piece, now);
      this.next++;
      done += piece;
    }
    return true;
  }

  /** Marks always find room: there are never more than a few. */
  addMark(mark: Omit<Mark, 'order'>): Order {
    this.open = null;
    const order = this.next++;
    if (this.isEmpty) this.movedAt = performance.now();
    this.items.push({ kind: 'mark', mark: { ...mark, order } });
    return order;
  }

  private slabFor(bytes: ByteCount, now: number): Slab | null {
    const { open } = this;
    if (open !== null && !open.isFullFor(bytes)) return open;
    if (this.slabs >= this.capacity) return null;
    const slab = this.spare.pop() ?? new Slab();
    slab.begin(this.next, now);
    this.slabs++;
    if (this.isEmpty) this.movedAt = performance.now();
    this.items.push({ kind: 'writes', slab });
    this.open = slab;
    return slab;
  }

  /** The next message; it counts as sent. Null when all are. */
  take(): Item | null {
    const item = this.items[this.sent];
    if (item === undefined) return null;
    this.sent++;
    if (item.kind === 'writes' && item.slab === this.open) this.open = null;
    return item;
  }

  /** Seconds for which nothing has moved, though something waits. */
  get stuckFor(): number {
    return this.isEmpty ? 0 : (performance.now() - this.movedAt) / 1000;
  }

  /** The last order number that was sent. */
  get lastSent(): Order {
    const item = this.items[this.sent - 1];
    if (item === undefined) return this.acknowledged;
    return item.kind === 'writes' ? item.slab.last : item.mark.order;
  }

  /** Everything up to `order` is durable. */
  acknowledge(order: Order): void {
    this.acknowledged = Math.max(this.acknowledged, order);
    let done = 0;
    while (done < this.sent) {
      const item = this.items[done]!;
      if ((item.kind === 'writes' ? item.slab.last : item.mark.order) > order) break;
      if (item.kind === 'writes') this.recycle(item.slab);
      done++;
    }
    if (done === 0) return;
    this.movedAt = performance.now();
    this.items.splice(0, done);
    this.sent -= done;
  }

  /** Gives up what was not sent; its numbers are given again. @returns the marks among it */
  dropUnsent(each: OnDropped): Mark[] {
    return this.drop(this.sent, each);
  }

  /** Gives up everything that is not acknowledged. Their numbers stay used. @returns the marks among it */
  dropAll(each: OnDropped): Mark[] {
    const { next } = this;
    const marks = this.drop(0, each);
    this.sent = 0;
    this.next = next;
    this.acknowledged = next - 1;
    return marks;
  }

  private drop(from: number, each: OnDropped): Mark[] {
    const dropped = this.items.splice(from);
    const [first] = dropped;
    if (first !== undefined) this.next = first.kind === 'writes' ? first.slab.first : first.mark.order;
    this.open = null;
    const marks: Mark[] = [];
    for (const item of dropped) {
      if (item.kind === 'mark') {
        marks.push(item.mark);
        continue;
      }
      item.slab.forEach(each);
      // One that was sent may still be read by the system.
      if (from > 0 || this.sent === 0) this.recycle(item.slab);
      else this.slabs--;
    }
    return marks;
  }

  private recycle(slab: Slab): void {
    this.slabs--;
    this.spare.push(slab);
  }
}
