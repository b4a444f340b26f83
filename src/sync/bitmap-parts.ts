/** A bitmap over the wire: the bytes of a `.drift` file, in parts. */

import { DriftmapError } from '../base/errors.ts';
import { MAX_DATA_BYTES, MAX_DRIFT_BYTES } from '../base/limits.ts';
import { decodeBitmap, encodeBitmap } from '../bitmap/drift-file.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { Connection } from '../wire/connection.ts';
import type { Frame } from '../wire/frame.ts';
import { MessageType } from '../wire/message-types.ts';
import { decodeBitmapPart, encodeBitmapPart } from '../wire/messages.ts';

export async function sendBitmap(connection: Connection, bitmap: SyncBitmap): Promise<void> {
  const bytes = encodeBitmap(bitmap);
  for (let offset = 0; offset < bytes.length; offset += MAX_DATA_BYTES) {
    const part = bytes.subarray(offset, offset + MAX_DATA_BYTES);
    await connection.send(
      MessageType.bitmap,
      ...encodeBitmapPart({ total: bytes.length, offset, bytes: part }),
    );
  }
}

/** Puts the parts together. */
export class BitmapInbox {
  private readonly peer: string;
  private readonly most: number;
  private bytes: Uint8Array | null = null;
  private filled = 0;

  /** @param blocks of the disk: both sets of bits, uncompressed, are the most that an encoding takes */
  constructor(peer: string, blocks: number) {
    this.peer = peer;
    this.most = Math.min(MAX_DRIFT_BYTES, 1024 * 1024 + Math.ceil(blocks / 2));
  }

  /** Returns the bitmap when the last part has come. */
  take({ payload }: Frame): SyncBitmap | null {
    const { total, offset, bytes } = decodeBitmapPart(payload);
    if (total > this.most)
      throw new DriftmapError('limit', `expected a bitmap of at most ${this.most} bytes, got ${total}`, {
        path: this.peer,
      });
    this.bytes ??= new Uint8Array(total);
    if (this.bytes.length !== total || offset !== this.filled)
      throw new DriftmapError('malformed', `expected part ${this.filled} of a bitmap, got ${offset}`, {
        path: this.peer,
      });
    this.bytes.set(bytes, offset);
    this.filled += bytes.length;
    if (this.filled < total) return null;
    const whole = this.bytes;
    this.bytes = null;
    this.filled = 0;
    return decodeBitmap(whole, this.peer);
  }
}

export async function receiveBitmap(connection: Connection, blocks: number): Promise<SyncBitmap> {
  const inbox = new BitmapInbox(connection.peer, blocks);
  for (;;) {
    const frame = await connection.receive();
    if (frame.type !== MessageType.bitmap) throw connection.unexpected(frame, 'bitmap');
    const bitmap = inbox.take(frame);
    if (bitmap !== null) return bitmap;
  }
}
