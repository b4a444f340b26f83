/**
 * An NBD export as a logical unit. Reads and writes are cut into pieces that are in flight together; what the server
 * wants in whole blocks is read in whole blocks, and written by reading what surrounds it first.
 *
 * A connection belongs to its thread, so a handle carries the address, and a unit that is attached in another thread
 * connects there when it is first used. The network code is loaded with the first connection.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NBD_CLIENT_PIECE, NBD_MAX_DIRTY_RUNS } from '../../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import { alignDown, alignUp, GiB } from '../../base/units.ts';
import type { ExtentKind, LogicalUnit, UnitExtent, UnitHandle } from '../logical-unit.ts';
import { checkRange } from '../ranges.ts';
import type { NbdConnection } from './connection.ts';
import { ALLOCATION, DIRTY, DIRTY_BITMAP, State, TransmissionFlag } from './protocol.ts';
import type { StatusRun } from './replies.ts';
import type { NbdTerms } from './terms.ts';
import { type NbdAddress, parseNbdUrl } from './url.ts';
import { WriteGate } from './write-gate.ts';

export interface NbdUnitOptions {
  /** Opens for reading and writing, where the server allows it; for reading only by default. */
  readonly write?: boolean | undefined;
}

/** One question about extents: any server answers for as much, and its length has 32 bits. */
const STATUS_BYTES = 1 * GiB;

/**
 * Connects to an export.
 * @param url `nbd://HOST[:PORT]/EXPORT`, `nbds://…`, `nbd+unix:///EXPORT?socket=PATH` (`url.ts`)
 * @throws DriftmapError `argument`, `not-found`, `permission`, `unsupported`, `malformed`, `limit`, `io`
 */
export async function openNbdUnit(url: string, { write = false }: NbdUnitOptions = {}): Promise<NbdUnit> {
  const address = parseNbdUrl(url);
  const connection = await connectTo(address, [ALLOCATION]);
  const { size, flags } = connection.terms;
  const canWrite = write && (flags & TransmissionFlag.readOnly) === 0;
  return new NbdUnit({ url, size, canWrite }, connection);
}

/** The same export in another thread, by a connection of its own, which it makes when it is first used. */
export function attachNbdUnit({ url, size, canWrite }: Extract<UnitHandle, { kind: 'nbd' }>): NbdUnit {
  return new NbdUnit({ url, size, canWrite }, null);
}

async function connectTo(address: NbdAddress, contexts: readonly string[]): Promise<NbdConnection> {
  const { openConnection } = await import('./connect.ts');
  return openConnection(address, contexts);
}

export class NbdUnit implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  /**
   * The address and the size: all that a server tells. Another disk of the same size that is served under the same
   * address later has the same identity, and one disk under two addresses has two.
   */
  readonly identity: string;
  readonly canWrite: boolean;
  private readonly url: string;
  private readonly address: NbdAddress;
  private readonly gate = new WriteGate();
  private connection: Promise<NbdConnection> | null;
  private closed = false;

  constructor(
    { url, size, canWrite }: { readonly url: string; readonly size: ByteCount; readonly canWrite: boolean },
    connection: NbdConnection | null,
  ) {
    this.url = url;
    this.address = parseNbdUrl(url);
    this.name = this.address.name;
    this.size = size;
    this.identity = `${this.name}:${size}`;
    this.canWrite = canWrite;
    this.connection = connection === null ? null : Promise.resolve(connection);
  }

  /** A server does not tell of writes. */
  generation(): string {
    this.checkOpen('generation');
    return 'live';
  }

  async read(offset: ByteOffset, target: Uint8Array): Promise<undefined> {
    this.check({ offset, length: target.length }, 'read');
    const connection = await this.connect();
    const whole = wholeBlocks({ offset, length: target.length }, connection.terms, this.size);
    if (whole.length === target.length) return this.readWhole(connection, offset, target);
    const around = new Uint8Array(whole.length);
    await this.readWhole(connection, whole.offset, around);
    target.set(around.subarray(offset - whole.offset, offset - whole.offset + target.length));
    return undefined;
  }

  async write(offset: ByteOffset, source: Uint8Array): Promise<undefined> {
    const range = { offset, length: source.length };
    this.checkWrite(range, 'write');
    const connection = await this.connect();
    const whole = wholeBlocks(range, connection.terms, this.size);
    if (whole.length === source.length) {
      return this.gate.shared(() => this.writeWhole(connection, offset, source));
    }
    return this.gate.alone(async () => {
      const around = new Uint8Array(whole.length);
      await this.readWhole(connection, whole.offset, around);
      around.set(source, offset - whole.offset);
      await this.writeWhole(connection, whole.offset, around);
      return undefined;
    });
  }

  async zero(range: ByteRange): Promise<undefined> {
    this.checkWrite(range, 'zero');
    const connection = await this.connect();
    const { flags, minimumBlock, maximumPayload } = connection.terms;
    const from = alignUp(range.offset, minimumBlock);
    const to = alignDown(range.offset + range.length, minimumBlock);
    if ((flags & TransmissionFlag.writeZeroes) === 0 || to <= from) return this.writeZeros(range);
    const middle = { offset: from, length: to - from };
    await this.gate.shared(() => inPieces(middle, maximumPayload, (piece) => connection.zero(piece)));
    await this.writeZeros({ offset: range.offset, length: from - range.offset });
    return this.writeZeros({ offset: to, length: range.offset + range.length - to });
  }

  /** Where the server knows no flush, what it has answered is as durable as it can make it. */
  async flush(): Promise<undefined> {
    this.checkOpen('flush');
    const connection = await this.connect();
    if ((connection.terms.flags & TransmissionFlag.flush) !== 0) await connection.flush();
    return undefined;
  }

  /** From `base:allocation`; everything is data where the server does not grant it. */
  async extents(range: ByteRange, limit = 64): Promise<readonly UnitExtent[]> {
    this.check(range, 'extents');
    if (range.length === 0) return [];
    const connection = await this.connect();
    const context = connection.terms.contexts.get(ALLOCATION);
    if (context === undefined) return [{ ...range, kind: 'data' }];
    const asked = wholeBlocks(
      { ...range, length: Math.min(range.length, STATUS_BYTES) },
      connection.terms,
      this.size,
    );
    const runs = await connection.status(asked, context);
    return extentsOf(runs, asked.offset, range, Math.max(limit, 1));
  }

  /** Dirty bitmaps that the export offers (QEMU's `qemu:dirty-bitmap:NAME`), by name. */
  async listDirtyBitmaps(): Promise<readonly string[]> {
    this.checkOpen('list bitmaps');
    const { listDirtyBitmaps } = await import('./connect.ts');
    return listDirtyBitmaps(this.address);
  }

  /**
   * The dirty runs of one of them, ascending and merged, by a connection of its own.
   * @throws DriftmapError `not-found`, `limit` past `NBD_MAX_DIRTY_RUNS`
   */
  async readDirtyBitmap(name: string): Promise<readonly ByteRange[]> {
    this.checkOpen('read bitmap');
    const context = `${DIRTY_BITMAP}${name}`;
    const connection = await connectTo(this.address, [context]);
    try {
      const id = connection.terms.contexts.get(context);
      if (id === undefined) {
        const reason = `the export offers no dirty bitmap '${name}' (qemu-nbd --bitmap=${name})`;
        throw new DriftmapError('not-found', reason, { path: this.name, operation: 'read bitmap' });
      }
      this.checkSize(connection);
      return await this.dirtyRuns(connection, id);
    } finally {
      await connection.close();
    }
  }

  handle(): UnitHandle {
    this.checkOpen('handle');
    const { url, size, canWrite } = this;
    return { kind: 'nbd', url, size, canWrite };
  }

  async close(): Promise<undefined> {
    if (this.closed) return undefined;
    this.closed = true;
    // One that could not be made is not to be ended.
    const connection = await this.connection?.catch(() => null);
    await connection?.close();
    return undefined;
  }

  private connect(): Promise<NbdConnection> {
    this.connection ??= connectTo(this.address, [ALLOCATION]).then((connection) => {
      this.checkSize(connection);
      return connection;
    });
    return this.connection;
  }

  private checkSize({ terms }: NbdConnection): void {
    if (terms.size === this.size) return;
    const reason = `expected the export of ${this.size} bytes that was opened, got one of ${terms.size}`;
    throw new DriftmapError('mismatch', reason, { path: this.name, operation: 'open' });
  }

  private async readWhole(
    connection: NbdConnection,
    offset: ByteOffset,
    target: Uint8Array,
  ): Promise<undefined> {
    const range = { offset, length: target.length };
    return inPieces(range, pieceOf(connection.terms), (piece) =>
      connection.read(
        piece.offset,
        target.subarray(piece.offset - offset, piece.offset - offset + piece.length),
      ),
    );
  }

  private async writeWhole(
    connection: NbdConnection,
    offset: ByteOffset,
    source: Uint8Array,
  ): Promise<undefined> {
    const range = { offset, length: source.length };
    return inPieces(range, pieceOf(connection.terms), (piece) =>
      connection.write(
        piece.offset,
        source.subarray(piece.offset - offset, piece.offset - offset + piece.length),
      ),
    );
  }

  private async writeZeros({ offset, length }: ByteRange): Promise<undefined> {
    const zeros = new Uint8Array(Math.min(length, NBD_CLIENT_PIECE));
    for (let done = 0; done < length; done += zeros.length) {
      await this.write(offset + done, zeros.subarray(0, Math.min(zeros.length, length - done)));
    }
    return undefined;
  }

  private async dirtyRuns(connection: NbdConnection, context: number): Promise<ByteRange[]> {
    const found: ByteRange[] = [];
    for (let at = 0; at < this.size; ) {
      const asked = { offset: at, length: Math.min(STATUS_BYTES, this.size - at) };
      for (const { length, flags } of await connection.status(asked, context)) {
        const end = Math.min(at + length, this.size);
        const last = found.at(-1);
        if ((flags & DIRTY) !== 0 && last && last.offset + last.length === at) {
          found[found.length - 1] = { offset: last.offset, length: end - last.offset };
        } else if ((flags & DIRTY) !== 0 && end > at) {
          found.push({ offset: at, length: end - at });
        }
        at = end;
      }
      if (found.length > NBD_MAX_DIRTY_RUNS) {
        const reason = `expected at most ${NBD_MAX_DIRTY_RUNS} runs in a dirty bitmap: make one of a coarser granularity`;
        throw new DriftmapError('limit', reason, { path: this.name, offset: at, operation: 'read bitmap' });
      }
    }
    return found;
  }

  private check(range: ByteRange, operation: string): void {
    checkRange(this, range, operation);
    this.checkOpen(operation);
  }

  private checkWrite(range: ByteRange, operation: string): void {
    this.check(range, operation);
    if (this.canWrite) return;
    throw new DriftmapError('permission', 'opened for reading only', {
      path: this.name,
      ...range,
      operation,
    });
  }

  private checkOpen(operation: string): void {
    if (this.closed)
      throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
  }
}

/** The range in whole blocks of the server's; the last one may be cut by the end of the export. */
function wholeBlocks({ offset, length }: ByteRange, { minimumBlock }: NbdTerms, size: ByteCount): ByteRange {
  const from = alignDown(offset, minimumBlock);
  const to = Math.min(alignUp(offset + length, minimumBlock), size);
  return { offset: from, length: to - from };
}

function pieceOf({ maximumPayload, minimumBlock }: NbdTerms): ByteCount {
  return Math.min(maximumPayload, alignUp(NBD_CLIENT_PIECE, minimumBlock));
}

/** All pieces at once; the connection bounds how many are in flight. The first error counts, once all have ended. */
async function inPieces(
  { offset, length }: ByteRange,
  pieceBytes: ByteCount,
  act: (piece: ByteRange) => Promise<void>,
): Promise<undefined> {
  const end = offset + length;
  const pieces: Promise<void>[] = [];
  for (let at = offset; at < end; at += pieceBytes) {
    pieces.push(act({ offset: at, length: Math.min(pieceBytes, end - at) }));
    if (pieces.length < PIECES_AT_ONCE) continue;
    await allOf(pieces.splice(0));
  }
  await allOf(pieces);
  return undefined;
}

/** Calls that may wait for the window: a zero of a petabyte is made bit by bit. */
const PIECES_AT_ONCE = 1024;

async function allOf(calls: readonly Promise<void>[]): Promise<void> {
  for (const result of await Promise.allSettled(calls)) if (result.status === 'rejected') throw result.reason;
}

/** What a hole holds is told apart: without the second flag it is not known to be zero, and must be read. */
function kindOf(flags: number): ExtentKind {
  if ((flags & State.zero) === 0) return 'data';
  return (flags & State.hole) === 0 ? 'zero' : 'unallocated';
}

/** @param at where the first run begins: at or before the range, as the server's blocks want it */
function extentsOf(
  runs: readonly StatusRun[],
  at: ByteOffset,
  range: ByteRange,
  limit: number,
): UnitExtent[] {
  const end = range.offset + range.length;
  const found: UnitExtent[] = [];
  let from = at;
  for (const { length, flags } of runs) {
    const to = Math.min(from + length, end);
    const offset = Math.max(from, range.offset);
    from += length;
    if (to <= offset) continue;
    const kind = kindOf(flags);
    const last = found.at(-1);
    if (last?.kind === kind) found[found.length - 1] = { ...last, length: to - last.offset };
    else if (found.length === limit) break;
    else found.push({ offset, length: to - offset, kind });
  }
  // An answer of one short run may end before the range begins: then all that is known is the rest of its block.
  return found.length > 0 ? found : [{ ...range, kind: 'data' }];
}
