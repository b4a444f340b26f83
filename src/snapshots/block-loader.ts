/**
 * Blocks of a repository as they are asked for: many on their way at a time, those that somebody waits for before
 * those that are fetched ahead, and the ones last used in memory. Every block is verified before anybody sees it.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { DEFAULT_CONNECTIONS } from './crew.ts';
import type { ObjectCache } from './object-cache.ts';
import type { Fetch, GetOptions, Repository } from './repository.ts';

export interface BlockLoaderOptions {
  readonly connections?: number | undefined;
  /** Blocks kept in memory; at least as many as are on their way. */
  readonly memoryBytes: ByteCount;
  readonly cache: ObjectCache | null;
}

export class BlockLoader {
  /** Objects that came from the store, not from the cache or from memory. */
  fetched = 0;
  /** How objects are had: from the cache where it has them. */
  readonly options: GetOptions;
  private readonly repository: Repository;
  private readonly connections: number;
  private readonly memoryBytes: ByteCount;
  private readonly stop = new AbortController();
  private readonly kept = new Map<
    string,
    { readonly bytes: Promise<Uint8Array>; readonly length: ByteCount }
  >();
  private held: ByteCount = 0;
  private active = 0;
  private readonly waiting: { readonly now: (() => void)[]; readonly ahead: (() => void)[] } = {
    now: [],
    ahead: [],
  };

  constructor(repository: Repository, { connections, memoryBytes, cache }: BlockLoaderOptions) {
    this.repository = repository;
    this.connections = connections ?? DEFAULT_CONNECTIONS;
    this.memoryBytes = memoryBytes;
    const { store } = repository;
    const get: Fetch = (key, options) => {
      this.fetched++;
      return store.get(key, options);
    };
    const fetch: Fetch = cache === null ? get : (key, options) => cache.fetch(key, get, options);
    const forget = cache === null ? undefined : (key: string) => cache.drop(key);
    this.options = { fetch, forget, signal: this.stop.signal };
  }

  /** The bytes of a block, not to be written to. */
  load(signature: Uint8Array, length: ByteCount, isAhead = false): Promise<Uint8Array> {
    const name = Buffer.from(signature).toString('latin1');
    const found = this.kept.get(name);
    if (found !== undefined) {
      this.kept.delete(name);
      this.kept.set(name, found);
      return found.bytes;
    }
    const bytes = this.bring(signature, length, isAhead);
    const entry = { bytes, length };
    this.kept.set(name, entry);
    this.held += length;
    bytes.catch(() => {
      if (this.kept.get(name) === entry) this.forget(name);
    });
    for (const oldest of this.kept.keys()) {
      if (this.held <= this.memoryBytes || oldest === name) break;
      this.forget(oldest);
    }
    return bytes;
  }

  /** Whether more may be fetched ahead without others having to wait long. */
  get isIdle(): boolean {
    return this.waiting.now.length === 0 && this.waiting.ahead.length < this.connections;
  }

  /** What is on its way ends with an error. */
  close(): void {
    this.stop.abort(new DriftmapError('aborted', 'closed', { path: this.repository.store.name }));
    this.kept.clear();
    this.held = 0;
  }

  private forget(name: string): void {
    this.held -= this.kept.get(name)?.length ?? 0;
    this.kept.delete(name);
  }

  private async bring(signature: Uint8Array, length: ByteCount, isAhead: boolean): Promise<Uint8Array> {
    if (this.active >= this.connections) {
      const queue = isAhead ? this.waiting.ahead : this.waiting.now;
      await new Promise<void>((resolve) => queue.push(resolve));
    } else {
      this.active++;
    }
    try {
      return await this.repository.block(signature, length, this.options);
    } finally {
      const next = this.waiting.now.shift() ?? this.waiting.ahead.shift();
      if (next !== undefined) next();
      else this.active--;
    }
  }
}
