/**
 * Transactions out of the records of an XFS log (XFS Algorithms & Data Structures, section "Log Operations").
 *
 * A record is a row of operations, each with a header of 12 bytes: a transaction begins, regions of bytes
 * follow, it commits. Transactions interleave, and a region that does not fit into a record goes on in the next.
 * Regions make up items: the first region of an item says how many it has. What never commits never happened.
 */

import { DriftmapError } from '../../base/errors.ts';
import { XFS_MAX_LOG_REGION_BYTES, XFS_MAX_PENDING_LOG_BYTES } from '../../base/limits.ts';
import { viewOf } from '../formats/byte-source.ts';
import { type ActiveLog, after, LOG_BLOCK, type LogRecord, type XfsLog } from './xfs-log.ts';

/** When a transaction began: its record's cycle and block. Later ones are larger. */
export interface LogSequence {
  readonly cycle: number;
  readonly block: number;
}

export interface LogItem {
  /** `ITEM_…` of `xfs-replay.ts`. */
  readonly type: number;
  readonly regions: readonly Uint8Array[];
}

export type CommitVisitor = (items: readonly LogItem[], sequence: LogSequence) => void | Promise<void>;

const OPERATION_HEADER = 12;
const TRANSACTION = 0x69;
const LOG_CLIENT = 0xaa;
const START = 0x01;
const COMMIT = 0x02;
const CONTINUE = 0x04;
const WAS_CONTINUED = 0x08;
const END = 0x10;
const UNMOUNT = 0x20;
/** "TRAN", and the header that begins with it. */
const TRANSACTION_MAGIC = 0x5452414e;
const TRANSACTION_HEADER = 16;

interface Pending {
  readonly sequence: LogSequence;
  /** Bytes of the transaction header that were seen. */
  header: number;
  bytes: number;
  /** Regions by item; the last item may want more. */
  readonly items: { readonly wanted: number; readonly regions: Uint8Array[] }[];
}

/**
 * Visits committed transactions in the order of their commits.
 * @throws DriftmapError `malformed`, `limit`
 */
export async function visitTransactions(log: XfsLog, active: ActiveLog, visit: CommitVisitor): Promise<void> {
  const reader = new TransactionReader(log, visit);
  const total = (active.head - active.tail + log.blocks) % log.blocks;
  let cycle = active.tailCycle;
  for (let done = 0, at = active.tail; done < total; ) {
    const record = await log.readHeader(at);
    if (record.cycle !== cycle) {
      throw log.fault(at, `expected a record of cycle ${cycle}, got one of cycle ${record.cycle}`);
    }
    const blocks = record.headerBlocks + Math.ceil(record.length / LOG_BLOCK);
    if (done + blocks > total)
      throw log.fault(at, 'expected a record that ends at the head of the log or before');
    const data = await log.readData(record);
    if (data === null) throw log.fault(at, 'a record is damaged: its checksum does not fit');
    await reader.read(record, data);
    done += blocks;
    const next = after(log, record);
    if (next < at) cycle = nextCycle(cycle);
    at = next;
  }
}

/** The word of a record's magic is no cycle. */
function nextCycle(cycle: number): number {
  return cycle + 1 === 0xfeedbabe ? cycle + 2 : cycle + 1;
}

class TransactionReader {
  private readonly log: XfsLog;
  private readonly visit: CommitVisitor;
  private readonly pending = new Map<number, Pending>();
  private pendingBytes = 0;

  constructor(log: XfsLog, visit: CommitVisitor) {
    this.log = log;
    this.visit = visit;
  }

  async read(record: LogRecord, data: Uint8Array): Promise<void> {
    const view = viewOf(data);
    let at = 0;
    for (let i = 0; i < record.operations; i++) {
      if (at + OPERATION_HEADER > data.length)
        throw this.fault(record, `expected ${record.operations} operations, got ${i}`);
      const length = view.getUint32(at + 4);
      const client = view.getUint8(at + 8);
      const end = at + OPERATION_HEADER + length;
      if (end > data.length)
        throw this.fault(record, `expected an operation within its record, got ${length} bytes`);
      if (client !== TRANSACTION && client !== LOG_CLIENT) {
        throw this.fault(record, `expected an operation of a transaction, got client ${client}`);
      }
      const id = view.getUint32(at);
      await this.operation(record, id, view.getUint8(at + 9), data.subarray(at + OPERATION_HEADER, end));
      at = end;
    }
  }

  private async operation(record: LogRecord, id: number, flags: number, bytes: Uint8Array): Promise<void> {
    const transaction = this.pending.get(id);
    if (transaction === undefined) {
      // Others began before the tail: all of theirs is in its place.
      if ((flags & START) !== 0) {
        const sequence = { cycle: record.cycle, block: record.at };
        this.pending.set(id, { sequence, header: 0, bytes: 0, items: [] });
      }
      return;
    }
    let kind = flags & ~END;
    if ((kind & WAS_CONTINUED) !== 0) kind &= ~CONTINUE;
    if (kind === 0 || kind === CONTINUE) this.addRegion(record, transaction, bytes);
    else if (kind === WAS_CONTINUED) this.goOn(record, transaction, bytes);
    else if (kind === COMMIT) await this.commit(record, id, transaction);
    else if (kind === UNMOUNT) this.forget(id, transaction);
    else throw this.fault(record, `expected an operation that is known, got flags ${flags}`);
  }

  private addRegion(record: LogRecord, transaction: Pending, bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    if (transaction.header < TRANSACTION_HEADER) {
      this.addHeader(record, transaction, bytes);
      return;
    }
    this.count(record, transaction, bytes.length);
    const last = transaction.items.at(-1);
    if (last !== undefined && last.regions.length < last.wanted) {
      last.regions.push(bytes);
      return;
    }
    const wanted = bytes.length < 4 ? 0 : viewOf(bytes).getUint16(2, true);
    if (wanted === 0)
      throw this.fault(record, 'expected an item that says how many regions it has, got none');
    transaction.items.push({ wanted, regions: [bytes] });
  }

  /** The transaction's own header says nothing that is needed, and may come in two parts. */
  private addHeader(record: LogRecord, transaction: Pending, bytes: Uint8Array): void {
    const isBegin = transaction.header === 0;
    const begins = !isBegin || (bytes.length >= 4 && viewOf(bytes).getUint32(0, true) === TRANSACTION_MAGIC);
    if (!begins || transaction.header + bytes.length > TRANSACTION_HEADER) {
      throw this.fault(record, 'expected the header of a transaction');
    }
    transaction.header += bytes.length;
  }

  /** The rest of the region that the record before broke off. */
  private goOn(record: LogRecord, transaction: Pending, bytes: Uint8Array): void {
    if (transaction.header < TRANSACTION_HEADER) {
      this.addHeader(record, transaction, bytes);
      return;
    }
    const regions = transaction.items.at(-1)?.regions;
    if (regions === undefined) throw this.fault(record, 'expected a region to go on with, got none');
    const before = regions.pop()!;
    this.count(record, transaction, bytes.length);
    if (before.length + bytes.length > XFS_MAX_LOG_REGION_BYTES) {
      throw this.fault(record, `expected regions of at most ${XFS_MAX_LOG_REGION_BYTES} bytes`);
    }
    const joined = new Uint8Array(before.length + bytes.length);
    joined.set(before);
    joined.set(bytes, before.length);
    regions.push(joined);
  }

  private async commit(record: LogRecord, id: number, transaction: Pending): Promise<void> {
    this.forget(id, transaction);
    const items: LogItem[] = [];
    for (const { wanted, regions } of transaction.items) {
      if (regions.length !== wanted) {
        throw this.fault(
          record,
          `expected an item of ${wanted} regions, the transaction commits with ${regions.length}`,
        );
      }
      if (regions[0]!.length < 4) throw this.fault(record, 'expected an item with a type');
      items.push({ type: viewOf(regions[0]!).getUint16(0, true), regions });
    }
    await this.visit(items, transaction.sequence);
  }

  private forget(id: number, transaction: Pending): void {
    this.pending.delete(id);
    this.pendingBytes -= transaction.bytes;
  }

  private count({ at }: LogRecord, transaction: Pending, bytes: number): void {
    transaction.bytes += bytes;
    this.pendingBytes += bytes;
    if (this.pendingBytes <= XFS_MAX_PENDING_LOG_BYTES) return;
    const reason = `expected transactions of at most ${XFS_MAX_PENDING_LOG_BYTES} bytes in the XFS log; mount and unmount the file system instead`;
    throw new DriftmapError('limit', reason, {
      path: this.log.path,
      offset: this.log.offset + at * LOG_BLOCK,
    });
  }

  private fault(record: LogRecord, reason: string): DriftmapError {
    return this.log.fault(record.at, reason);
  }
}

/** Negative where the structure was written before, positive after; 0 and −1 say nothing. */
export function compareSequence(view: DataView, at: number, { cycle, block }: LogSequence): number {
  const wasCycle = view.getUint32(at);
  const wasBlock = view.getUint32(at + 4);
  const isNone = (wasCycle === 0 && wasBlock === 0) || (wasCycle === 0xffffffff && wasBlock === 0xffffffff);
  if (isNone) return -1;
  return wasCycle === cycle ? wasBlock - block : wasCycle - cycle;
}
