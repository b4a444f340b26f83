/**
 * Where snapshots are kept: objects by key, as S3 and a folder both can. Nothing is asked of a store that not all of
 * them have: no conditional writes, no renames, no appending.
 */

import type { ByteCount } from '../base/units.ts';

export interface StoreOptions {
  /** Ends what is under way with an `aborted` error. */
  readonly signal?: AbortSignal | undefined;
}

export interface StoredObject {
  readonly key: string;
  readonly bytes: ByteCount;
  /** When it was put, in milliseconds since 1970, by the store's clock. */
  readonly modified: number;
}

/** Keys are ASCII: letters, digits, `-`, `_`, `.`, and `/` between parts; at most 512 bytes; no part begins with a dot. */
export interface ObjectStore {
  /** For people and errors. */
  readonly name: string;
  /** Whole or not at all: nobody ever reads a part. Replaces what has the key. Durable when it returns. */
  put(key: string, bytes: Uint8Array, options?: StoreOptions): Promise<undefined>;
  /** @throws DriftmapError `not-found` */
  get(key: string, options?: StoreOptions): Promise<Uint8Array>;
  has(key: string, options?: StoreOptions): Promise<boolean>;
  /** All objects whose keys begin so, in any order, each once; what is put or removed meanwhile may be told or not. */
  list(prefix: string, options?: StoreOptions): AsyncIterable<StoredObject>;
  /** Keys that are not there are fine. */
  remove(keys: readonly string[], options?: StoreOptions): Promise<undefined>;
  close(): Promise<undefined>;
}
