/**
 * A logical unit held in shared memory, which kernels hash in place.
 *
 * wasm32 sees at most 4 GiB of one memory, so an array image is one or more banks, each a memory of its own:
 *
 *   bank   [ 64 bytes unused | data, at most `bankBytes` | gap | one scratch slot per worker ]
 *
 * A bank's data is a multiple of the largest block, so no aligned block crosses a bank's edge. The scratch
 * lies in the bank because a kernel works within one memory; untouched pages of it cost address space only.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import {
  KERNEL_SCRATCH_BYTES,
  MAX_BANKS,
  MAX_BLOCK_SIZE,
  MAX_DISK_SIZE,
  MAX_MEMORY_BYTES,
  MAX_WORKERS,
  PIECE_DIGEST_BYTES,
} from '../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { alignDown, alignUp, KiB } from '../base/units.ts';
import { createSharedMemory } from '../memory/shared-memory.ts';
import type { LogicalUnit, UnitExtent, UnitHandle } from './logical-unit.ts';
import { checkRange } from './ranges.ts';

/** Data begins here: aligned for vectors, and never at address 0. */
const DATA_AT = 64;
/** Room for vector loads past an end. */
const GAP = 8 * KiB;
const SLOT_BYTES = KERNEL_SCRATCH_BYTES + PIECE_DIGEST_BYTES + GAP;
const SCRATCH_BYTES = MAX_WORKERS * SLOT_BYTES;
/** Banks begin where pages of a file would. */
const BANK_GRANULE = 4 * KiB;
/** Data of one bank. */
export const BANK_BYTES: ByteCount = alignDown(
  MAX_MEMORY_BYTES - SCRATCH_BYTES - GAP - DATA_AT,
  MAX_BLOCK_SIZE,
);

export interface ArrayImageOptions {
  readonly size: ByteCount;
  /** For messages. */
  readonly name?: string;
  /** First contents, from offset 0; zeros elsewhere. */
  readonly bytes?: Uint8Array;
  /** Data of one bank, a multiple of 4 KiB; blocks that cross a bank's edge are gathered. For tests of many banks. */
  readonly bankBytes?: ByteCount;
}

/** Where a byte lies: which bank, at which address, and how many bytes follow in the bank. */
export interface BankPlace {
  readonly bank: number;
  readonly pointer: number;
  readonly room: ByteCount;
}

/** @throws DriftmapError `argument`, or `limit` when there is no address space left */
export function createArrayImage({
  size,
  name,
  bytes,
  bankBytes = BANK_BYTES,
}: ArrayImageOptions): ArrayImage {
  if (!Number.isSafeInteger(size) || size < 0 || size > MAX_DISK_SIZE) {
    throw new DriftmapError('argument', `expected a size in bytes, got ${size}`);
  }
  if (!(bankBytes > 0 && bankBytes <= BANK_BYTES && bankBytes % BANK_GRANULE === 0)) {
    const reason = `expected banks of a multiple of ${BANK_GRANULE} bytes up to ${BANK_BYTES}, got ${bankBytes}`;
    throw new DriftmapError('argument', reason);
  }
  const label = name === undefined ? '<array image>' : name;
  const count = Math.max(1, Math.ceil(size / bankBytes));
  if (count > MAX_BANKS) {
    const reason = `expected at most ${MAX_BANKS} banks of ${bankBytes} bytes, got ${count}: use a file`;
    throw new DriftmapError('limit', reason, { path: label, length: size });
  }
  const banks = Array.from({ length: count }, (_, bank) => {
    const data = Math.min(bankBytes, size - bank * bankBytes);
    return createSharedMemory(scratchAt(data) + SCRATCH_BYTES, `array image ${label}`);
  });
  const image = new ArrayImage({
    name: label,
    size,
    identity: `array:${crypto.randomUUID()}`,
    banks,
    bankBytes,
  });
  if (bytes) image.write(0, bytes);
  return image;
}

/** The same bytes in another thread. */
export function attachArrayImage(handle: Extract<UnitHandle, { kind: 'array' }>): ArrayImage {
  return new ArrayImage(handle);
}

function scratchAt(dataBytes: ByteCount): number {
  return alignUp(DATA_AT + dataBytes + GAP, 64);
}

export class ArrayImage implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly canWrite = true;
  readonly banks: readonly WebAssembly.Memory[];
  readonly bankBytes: ByteCount;
  private closed = false;

  constructor({
    name,
    size,
    identity,
    banks,
    bankBytes,
  }: Pick<ArrayImage, 'name' | 'size' | 'identity' | 'banks' | 'bankBytes'>) {
    this.name = name;
    this.size = size;
    this.identity = identity;
    this.banks = banks;
    this.bankBytes = bankBytes;
  }

  /** Any thread may write the memory at any time, unseen: always `live`. */
  generation(): string {
    this.checkOpen('generation');
    return 'live';
  }

  locate(offset: ByteOffset): BankPlace {
    const bank = Math.min(Math.floor(offset / this.bankBytes), this.banks.length - 1);
    const within = offset - bank * this.bankBytes;
    const data = Math.min(this.bankBytes, this.size - bank * this.bankBytes);
    return { bank, pointer: DATA_AT + within, room: data - within };
  }

  /** Addresses in a bank that are one worker's own: for `Kernels`, and for the digests of a piece. */
  scratchOf(bank: number, worker: number): { readonly kernels: number; readonly digests: number } {
    assert(worker >= 0 && worker < MAX_WORKERS, `worker ${worker} of ${MAX_WORKERS}`);
    assert(bank >= 0 && bank < this.banks.length, `bank ${bank} of ${this.banks.length}`);
    const data = Math.min(this.bankBytes, this.size - bank * this.bankBytes);
    const kernels = scratchAt(data) + worker * SLOT_BYTES;
    return { kernels, digests: kernels + KERNEL_SCRATCH_BYTES };
  }

  /** The bytes themselves, without a copy; the range must lie within one bank. */
  view({ offset, length }: ByteRange): Uint8Array {
    this.check({ offset, length }, 'view');
    const { bank, pointer, room } = this.locate(offset);
    if (length > room) {
      throw new DriftmapError('argument', `expected a range within one bank of ${this.bankBytes} bytes`, {
        path: this.name,
        offset,
        length,
      });
    }
    return new Uint8Array(this.banks[bank]!.buffer, pointer, length);
  }

  read(offset: ByteOffset, target: Uint8Array): undefined {
    this.check({ offset, length: target.length }, 'read');
    for (let done = 0; done < target.length; ) {
      const piece = this.view({
        offset: offset + done,
        length: this.room(offset + done, target.length - done),
      });
      target.set(piece, done);
      done += piece.length;
    }
  }

  write(offset: ByteOffset, source: Uint8Array): undefined {
    this.check({ offset, length: source.length }, 'write');
    for (let done = 0; done < source.length; ) {
      const length = this.room(offset + done, source.length - done);
      this.view({ offset: offset + done, length }).set(source.subarray(done, done + length));
      done += length;
    }
  }

  zero({ offset, length }: ByteRange): undefined {
    this.check({ offset, length }, 'zero');
    for (let done = 0; done < length; ) {
      const piece = this.view({ offset: offset + done, length: this.room(offset + done, length - done) });
      piece.fill(0);
      done += piece.length;
    }
  }

  /** Memory is as durable as it will get. */
  flush(): undefined {
    this.checkOpen('flush');
  }

  /** Nothing is known of memory without looking at it. */
  extents(range: ByteRange, _limit?: number): readonly UnitExtent[] {
    this.check(range, 'extents');
    return range.length === 0 ? [] : [{ ...range, kind: 'data' }];
  }

  handle(): UnitHandle {
    this.checkOpen('handle');
    const { name, size, identity, banks, bankBytes } = this;
    return { kind: 'array', name, size, identity, banks, bankBytes };
  }

  /** The memory goes when nothing refers to it any more. */
  close(): undefined {
    this.closed = true;
  }

  private room(offset: ByteOffset, wanted: ByteCount): ByteCount {
    return Math.min(wanted, this.locate(offset).room);
  }

  private check(range: ByteRange, operation: string): void {
    checkRange(this, range, operation);
    this.checkOpen(operation);
  }

  private checkOpen(operation: string): void {
    if (this.closed)
      throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
  }
}
