/**
 * Where snapshots are kept: objects by key, as S3 and a folder both can. Nothing is asked of a store that not all of
 * them have: no conditional writes, no renames, no appending.
 */

import type { ByteCount } from '../base/units.ts';

export interface StoreOptions {
  /** Ends what is under way with an `aborted` error; what a put has stored by then is whole or not there. */
  readonly signal?: AbortSignal | undefined;
}

export interface RemoveOptions extends StoreOptions {
  /**
   * Asked right before each object is removed, or each request for many is sent, those that are tried again too: what
   * it throws ends the call, with nothing more removed than what was under way.
   */
  readonly check?: (() => Promise<undefined> | undefined) | undefined;
}

/** Of S3; a token only with temporary credentials. */
export interface StoreCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface OpenStoreOptions extends StoreOptions {
  /** Makes the folder (not those above it) where it is not there. Buckets are not made. */
  readonly create?: boolean | undefined;
  /** Absent: by the usual chain of S3's clients: environment, profile, the machine's role. */
  readonly credentials?: StoreCredentials | undefined;
  /** Of S3: for how many seconds a request that fails is tried again; 120 unless given, at most 10 of them to open. */
  readonly patience?: number | undefined;
  /** Of S3: seconds of silence after which a request has failed; 20 unless given. */
  readonly silence?: number | undefined;
  /** Of S3: requests under way at a time, the others wait; 64 unless given. */
  readonly connections?: number | undefined;
}

export interface StoredObject {
  readonly key: string;
  readonly bytes: ByteCount;
  /** When it was put, in milliseconds since 1970, by the store's clock. */
  readonly modified: number;
}

/**
 * Keys are ASCII: letters, digits, `-`, `_`, `.`, and `/` between parts; at most 512 bytes; no part begins with a dot or
 * is longer than 255. No key is also the folder of another (`a` and `a/b`): S3 could, a file system cannot.
 *
 * Any number of calls may be under way at once. Every error is a DriftmapError whose path is the object's:
 * `not-found` (the object, the bucket, the folder, the host), `permission`, `io` (a store that is full, failing or
 * silent, after all attempts), `argument` (a key that is none), `limit` (an object larger than
 * `STORE_MAX_OBJECT_BYTES`), `aborted`. None of them shows a credential.
 */
export interface ObjectStore {
  /** For people and errors: the address without anything secret. */
  readonly name: string;
  /**
   * Whole or not at all: nobody ever reads a part. Replaces what has the key. Durable when it returns. When it throws,
   * the object may have been stored all the same: an answer can be lost.
   * @param bytes must stay as they are until then; may be a view of shared memory
   */
  put(key: string, bytes: Uint8Array, options?: StoreOptions): Promise<undefined>;
  /** All of it, in memory of its own. @throws DriftmapError `not-found` */
  get(key: string, options?: StoreOptions): Promise<Uint8Array>;
  has(key: string, options?: StoreOptions): Promise<boolean>;
  /**
   * All objects whose keys begin so, in any order, each once; what is put or removed meanwhile may be told or not.
   * @param prefix the beginning of keys, which need not end at a `/`; empty: all
   */
  list(prefix: string, options?: StoreOptions): AsyncIterable<StoredObject>;
  /** Keys that are not there are fine. Durable when it returns; when it throws, some may be gone. */
  remove(keys: readonly string[], options?: RemoveOptions): Promise<undefined>;
  /** Lets go of connections. Nothing may be asked afterwards. */
  close(): Promise<undefined>;
}
