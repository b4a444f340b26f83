/**
 * A repository of snapshots in an object store. `docs/FORMATS.md` says how it lies there:
 *
 *   config                what it is: id, size of blocks, compression, encryption
 *   blocks/ab/abcd…       blocks of disks, named by their contents
 *   pages/ab/abcd…        pages of names (`page.ts`), named by theirs
 *   snapshots/abcd…       manifests (`manifest.ts`); what has one is a snapshot
 *   drafts/…              what uploads under way refer to (`draft.ts`)
 *   garbage/… sweeps/…    what pruning is about to remove, and removes (`sweep.ts`)
 *
 * Contents are told by their signature, BLAKE3; an object's name is that signature or, with a key, keyed BLAKE3 of it.
 * Nothing that comes from the store is used before its signature was computed again.
 */

import { randomBytes } from 'node:crypto';
import { DriftmapError } from '../base/errors.ts';
import { DEFAULT_SNAPSHOT_BLOCK_SIZE, SNAPSHOT_MAX_MANIFEST_BYTES } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import type { ObjectStore, StoreOptions } from '../store/object-store.ts';
import { hasher } from './hasher.ts';
import { RepositoryKeys } from './keys.ts';
import { decodeManifest, isBlockSize, type SnapshotInfo } from './manifest.ts';
import {
  bestCompression,
  type Compression,
  decodeObject,
  encodeInPlace,
  encodeObject,
  knowsCompression,
  ObjectKind,
  plainAt,
} from './object-format.ts';
import { MAX_PAGE_BYTES, Page } from './page.ts';

export interface OpenRepositoryOptions {
  /** 32 bytes; `readKeyFile` reads a file of them. */
  readonly key?: Uint8Array | null | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface CreateRepositoryOptions extends OpenRepositoryOptions {
  /** A power of two from 4 KiB to 16 MiB; 256 KiB when absent. */
  readonly blockSize?: ByteCount | undefined;
  /** What this Node does best, when absent. */
  readonly compression?: Compression | undefined;
}

/** Where an object's bytes come from, when not straight from the store. */
export type Fetch = (key: string, options: StoreOptions) => Promise<Uint8Array>;

export interface GetOptions extends StoreOptions {
  readonly fetch?: Fetch | undefined;
  /** Asked when what `fetch` brought is damaged: whether it came from elsewhere than the store, and is gone from there. */
  readonly forget?: ((key: string) => Promise<boolean>) | undefined;
}

/** An object's plain bytes at `plainAt` in a buffer of `objectBuffer`, which may be shared memory. */
export interface FilledBuffer {
  readonly buffer: Uint8Array;
  readonly length: ByteCount;
  /** CRC-32 of the plain bytes; null where nobody computed it. */
  readonly checksum: number | null;
  /** Of the plain bytes (`trials.ts`); null where nobody looked. */
  readonly looksRandom: boolean | null;
}

interface Config {
  readonly id: string;
  readonly blockSize: ByteCount;
  readonly compression: Compression;
}

export const CONFIG_KEY = 'config';
const CONFIG_NAME = new Uint8Array(32);
const MAX_CONFIG_BYTES = 4096;

const folders: Readonly<Record<ObjectKind, string>> = {
  [ObjectKind.config]: '',
  [ObjectKind.block]: 'blocks/',
  [ObjectKind.page]: 'pages/',
  [ObjectKind.snapshot]: 'snapshots/',
  [ObjectKind.draft]: 'drafts/',
  [ObjectKind.garbage]: 'garbage/',
  [ObjectKind.sweep]: 'sweeps/',
  [ObjectKind.end]: 'ends/',
};

/** What all objects of a kind have keys below. */
export function folderOf(kind: ObjectKind): string {
  return folders[kind];
}

/** Blocks and pages are many, so they are spread. */
export function keyOf(kind: ObjectKind, name: Uint8Array): string {
  const hex = Buffer.from(name).toString('hex');
  const spread = kind === ObjectKind.block || kind === ObjectKind.page ? `${hex.slice(0, 2)}/` : '';
  return `${folders[kind]}${spread}${hex}`;
}

/** The name in a key of `keyOf`; null for whatever else lies there. */
export function nameOfKey(key: string): Uint8Array | null {
  const hex = key.slice(key.lastIndexOf('/') + 1);
  return /^[0-9a-f]{64}$/.test(hex) ? new Uint8Array(Buffer.from(hex, 'hex')) : null;
}

export class Repository {
  readonly store: ObjectStore;
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly blockSize: ByteCount;
  readonly compression: Compression;
  private readonly keys: RepositoryKeys | null;

  constructor(store: ObjectStore, { id, blockSize, compression }: Config, keys: RepositoryKeys | null) {
    this.store = store;
    this.id = id;
    this.blockSize = blockSize;
    this.compression = compression;
    this.keys = keys;
  }

  get isEncrypted(): boolean {
    return this.keys !== null;
  }

  /** The name of the object with contents of this signature. */
  nameOf(signature: Uint8Array): Uint8Array {
    return this.keys === null ? signature : hasher().keyed(this.keys.names, signature);
  }

  pathOf(kind: ObjectKind, name: Uint8Array): string {
    return pathIn(this.store, keyOf(kind, name));
  }

  /** Where the plain bytes of an object lie in a buffer of `objectBuffer`, before it is encoded there. */
  get plainAt(): ByteOffset {
    return plainAt(this.keys);
  }

  /**
   * An object ready to be put, in the buffer where its plain bytes lie.
   * @param isWorth whether to try compressing it
   */
  encodeInPlace(
    kind: ObjectKind,
    name: Uint8Array,
    { buffer, length, checksum: plainChecksum }: Omit<FilledBuffer, 'looksRandom'>,
    isWorth: boolean,
  ): Promise<Uint8Array> {
    const { keys } = this;
    const compression = isWorth ? this.compression : 'none';
    return encodeInPlace(kind, name, buffer, length, { compression, keys, plainChecksum });
  }

  /** Puts an object; returns how many bytes were sent. @throws DriftmapError what the store throws */
  async put(
    kind: ObjectKind,
    name: Uint8Array,
    plain: Uint8Array,
    options: StoreOptions = {},
  ): Promise<ByteCount> {
    const { compression, keys } = this;
    const bytes = await encodeObject(kind, name, plain, { compression, keys });
    await this.store.put(keyOf(kind, name), bytes, options);
    return bytes.length;
  }

  /**
   * What was put, unpacked; its contents are not looked at.
   * @param most bytes unpacked
   * @throws DriftmapError `not-found`, and as `decodeObject`
   */
  async get(
    kind: ObjectKind,
    name: Uint8Array,
    most: ByteCount,
    { fetch, signal }: GetOptions = {},
  ): Promise<Uint8Array> {
    const key = keyOf(kind, name);
    const path = pathIn(this.store, key);
    const bytes = await (fetch ?? this.store.get.bind(this.store))(key, { signal });
    return decodeObject(kind, name, bytes, { keys: this.keys, most, path });
  }

  /** The block of so many bytes with this signature. @throws DriftmapError as `get`; `malformed` for another one */
  async block(signature: Uint8Array, length: ByteCount, options: GetOptions = {}): Promise<Uint8Array> {
    const bytes = await this.signed(ObjectKind.block, signature, length, options);
    if (bytes.length === length) return bytes;
    const path = this.pathOf(ObjectKind.block, this.nameOf(signature));
    throw new DriftmapError('malformed', `expected a block of ${length} bytes, got ${bytes.length}`, {
      path,
    });
  }

  /** A page by its signature. @param places of it that lie on the disk @throws as `block` */
  async page(signature: Uint8Array, places: number, options: GetOptions = {}): Promise<Page> {
    const bytes = await this.signed(ObjectKind.page, signature, MAX_PAGE_BYTES, options);
    return Page.decode(bytes, places, this.pathOf(ObjectKind.page, this.nameOf(signature)));
  }

  /** Contents that have this signature. */
  private async signed(
    kind: ObjectKind,
    signature: Uint8Array,
    most: ByteCount,
    options: GetOptions,
  ): Promise<Uint8Array> {
    const name = this.nameOf(signature);
    const look = async () => {
      const bytes = await this.get(kind, name, most, options);
      if (Buffer.compare(hasher().sign(bytes), signature) === 0) return bytes;
      const path = this.pathOf(kind, name);
      throw new DriftmapError('malformed', 'has other contents than its name says', { path });
    };
    try {
      return await look();
    } catch (error) {
      const isDamage = error instanceof DriftmapError && ['malformed', 'mismatch'].includes(error.kind);
      if (!isDamage || !(await options.forget?.(keyOf(kind, name)))) throw error;
      return look();
    }
  }

  /** @throws DriftmapError `not-found`, `mismatch` (another repository's), and as `get` */
  async snapshot(id: string, options: GetOptions = {}): Promise<SnapshotInfo> {
    const name = new Uint8Array(Buffer.from(id, 'hex'));
    const path = this.pathOf(ObjectKind.snapshot, name);
    const bytes = await this.get(ObjectKind.snapshot, name, SNAPSHOT_MAX_MANIFEST_BYTES, options);
    if (Buffer.compare(this.nameOf(hasher().sign(bytes)), name) !== 0)
      throw new DriftmapError('malformed', 'the manifest has other contents than its name says', { path });
    const info = decodeManifest(bytes, id, path);
    if (info.repository !== this.id || info.blockSize !== this.blockSize) {
      const reason = `belongs to the repository ${info.repository}, and this is ${this.id}`;
      throw new DriftmapError('mismatch', reason, { path });
    }
    return info;
  }

  close(): Promise<undefined> {
    return this.store.close();
  }
}

/** A new name for what is not named by its contents. */
export function randomName(): Uint8Array {
  return new Uint8Array(randomBytes(32));
}

/** @throws DriftmapError `policy` when there is one already; `argument`; what the store throws */
export async function createRepository(
  store: ObjectStore,
  options: CreateRepositoryOptions = {},
): Promise<Repository> {
  const { blockSize = DEFAULT_SNAPSHOT_BLOCK_SIZE, compression = bestCompression(), key, signal } = options;
  const path = pathIn(store, CONFIG_KEY);
  if (!isBlockSize(blockSize))
    throw new DriftmapError('argument', `expected blocks of a power of two from 4K to 16M, got ${blockSize}`);
  if (!knowsCompression(compression))
    throw new DriftmapError(
      'unsupported',
      `Node ${process.versions.node} has no ${compression}: use deflate`,
    );
  if (await store.has(CONFIG_KEY, { signal })) {
    const reason = 'there is a repository already: it is not made anew; choose another place';
    throw new DriftmapError('policy', reason, { path });
  }
  const id = randomBytes(16).toString('hex');
  const keys = key == null ? null : new RepositoryKeys(key, id);
  const fixed = {
    repository: id,
    blockSize,
    compression,
    encryption: keys === null ? 'none' : 'aes-256-gcm',
  };
  const proof = keys === null ? null : keys.proofOf(encodeControl(fixed));
  const none = { compression: 'none', keys: null } as const;
  const bytes = await encodeObject(ObjectKind.config, CONFIG_NAME, encodeControl({ ...fixed, proof }), none);
  await store.put(CONFIG_KEY, bytes, { signal });
  // Two who make one at the same time find out here.
  const made = await openRepository(store, options);
  if (made.id === id) return made;
  throw new DriftmapError('policy', 'somebody else made a repository there at the same time', { path });
}

/** @throws DriftmapError `not-found` (no repository), `mismatch` (wrong key, or none), `unsupported`, `malformed` */
export async function openRepository(
  store: ObjectStore,
  { key, signal }: OpenRepositoryOptions = {},
): Promise<Repository> {
  const path = pathIn(store, CONFIG_KEY);
  const bytes = await store.get(CONFIG_KEY, { signal }).catch((cause: unknown) => {
    if (!(cause instanceof DriftmapError) || cause.kind !== 'not-found') throw cause;
    const reason = `there is no repository of snapshots: make one with 'driftmap snapshots init'`;
    throw new DriftmapError('not-found', reason, { path: store.name, cause });
  });
  const plain = await decodeObject(ObjectKind.config, CONFIG_NAME, bytes, {
    keys: null,
    most: MAX_CONFIG_BYTES,
    path,
  });
  const { proof, ...fixed } = decodeConfig(plain, path);
  const { repository: id, blockSize, compression, encryption } = fixed;
  const isEncrypted = encryption !== 'none';
  if (isEncrypted && key == null)
    throw new DriftmapError('mismatch', 'the repository is encrypted: give its key (--key FILE)', { path });
  if (!isEncrypted && key != null)
    throw new DriftmapError(
      'mismatch',
      'the repository is not encrypted, and a key was given: it may be another one',
      {
        path,
      },
    );
  const keys = key == null ? null : new RepositoryKeys(key, id);
  if (keys !== null && !keys.proves(encodeControl(fixed), proof!))
    throw new DriftmapError(
      'mismatch',
      `this is not the repository's key, or its configuration was changed`,
      {
        path,
      },
    );
  return new Repository(store, { id, blockSize, compression }, keys);
}

interface RawConfig {
  readonly repository: string;
  readonly blockSize: ByteCount;
  readonly compression: Compression;
  readonly encryption: 'none' | 'aes-256-gcm';
  readonly proof: Uint8Array | null;
}

function decodeConfig(bytes: Uint8Array, path: string): RawConfig {
  const value = decodeControl(bytes, 'the configuration', { bytes: MAX_CONFIG_BYTES }, { path });
  const config = (typeof value === 'object' && value !== null ? value : {}) as unknown as RawConfig;
  const { repository, blockSize, compression, encryption, proof } = config;
  const isRight =
    Object.keys(config).length === 5 &&
    typeof repository === 'string' &&
    /^[0-9a-f]{32}$/.test(repository) &&
    isBlockSize(blockSize) &&
    ['none', 'deflate', 'zstd'].includes(compression) &&
    ['none', 'aes-256-gcm'].includes(encryption) &&
    (encryption === 'none' ? proof === null : proof instanceof Uint8Array);
  if (!isRight)
    throw new DriftmapError('malformed', 'the configuration is not one of a repository', { path });
  return config;
}

function pathIn(store: ObjectStore, key: string): string {
  return store.name.endsWith('/') ? `${store.name}${key}` : `${store.name}/${key}`;
}
