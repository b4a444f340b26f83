/** A byte stream in both directions, whatever carries it; and the one that stays within this process. */

import { PassThrough, type Readable, type Writable } from 'node:stream';
import type { DriftmapError } from '../base/errors.ts';
import { LAST_WORDS_MS } from '../base/limits.ts';
import { MiB } from '../base/units.ts';
import type { LobbyPlace } from './lobby.ts';

export interface Transport {
  /** For messages: `ssh://host`, `127.0.0.1:7117`. */
  readonly name: string;
  readonly readable: Readable;
  readonly writable: Writable;
  /**
   * Whether nobody on the way can read or change what passes: TLS, ssh, this process. Without it a greeting by
   * token still proves who the peer is, once.
   */
  readonly secure: boolean;
  /** Bytes that both ends of a secure channel know and nobody else: ties a proof to it. */
  readonly binding: Uint8Array | null;
  /** Whether a chunk may be changed once its write has called back: not where the other end is handed the chunk itself. */
  readonly copies?: boolean | undefined;
  /** Where it waits until the peer has proved who it is. */
  readonly lobby?: LobbyPlace | undefined;
  /** What an error of its streams means; null where the system's words must do. */
  readonly meaningOf?: ((cause: unknown) => DriftmapError | null) | undefined;
  /** Ends it at once. Idempotent. */
  destroy(): void;
}

/**
 * Ends our way of it, and lets the peer send until it has read what came last and hangs up: closed before, a socket with
 * unread bytes is reset, and a pipe is broken under who writes to it, before they look at what was sent to them.
 */
export async function hearOut({ readable, writable }: Transport): Promise<void> {
  if (readable.readableEnded || readable.destroyed) return;
  const heard = new Promise<void>((resolve) => {
    for (const event of ['end', 'close', 'error']) readable.once(event, () => resolve());
  });
  writable.end();
  await atMost(LAST_WORDS_MS, heard);
}

/** Two ends of one stream. What is written to the one is read from the other. */
export function memoryPair(): [Transport, Transport] {
  const options = { highWaterMark: 4 * MiB };
  const there = new PassThrough(options);
  const back = new PassThrough(options);
  const destroy = () => {
    // Ended, not torn: whoever reads takes what was written before, as over a socket that is closed.
    there.end();
    back.end();
  };
  const end = (name: string, readable: PassThrough, writable: PassThrough): Transport => ({
    name,
    readable,
    writable,
    secure: true,
    binding: null,
    destroy,
  });
  return [end('<this process>', back, there), end('<this process>', there, back)];
}

/**
 * Waits, and no longer than that. It holds the process meanwhile: with nothing else under way Node would end in the
 * middle of it, without a word.
 */
export async function atMost(milliseconds: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

/** Ends our way of it; resolves when the system has taken all that was written. */
export function endOf({ writable }: Transport): Promise<void> {
  if (writable.writableEnded || writable.destroyed) return Promise.resolve();
  return new Promise((resolve) => writable.end(() => resolve()));
}
