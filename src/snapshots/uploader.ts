/**
 * Sends what a store does not have. Every block and page comes by once; what was seen in this run, or is in the
 * store, is not sent. The store is asked object by object at first; when the questions become many, all its names are
 * listed, which takes one request for a thousand.
 */

import { SNAPSHOT_BYTES_IN_FLIGHT, SNAPSHOT_KNOWN_NAMES, SNAPSHOT_LOOKUPS } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import type { RateLimiter } from '../wire/limiter.ts';
import { Crew } from './crew.ts';
import { NameSet } from './name-set.ts';
import { ObjectKind } from './object-format.ts';
import { folderOf, keyOf, nameOfKey, type Repository } from './repository.ts';

export interface UploaderOptions {
  readonly connections?: number | undefined;
  readonly limiter?: RateLimiter | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** After a block that did not give way, twice as many as the last time are not tried. */
const FIRST_PAUSE = 2;
const LONGEST_PAUSE = 32;

type Named = typeof ObjectKind.block | typeof ObjectKind.page;

export class Uploader {
  blocksSent = 0;
  /** Blocks that came by and were there, or had been sent. */
  blocksKnown = 0;
  pagesSent = 0;
  bytesSent: ByteCount = 0;
  private readonly repository: Repository;
  private readonly limiter: RateLimiter | undefined;
  private readonly crew: Crew;
  private readonly there: Record<Named, StoredNames>;
  private readonly seen: Record<Named, NameSet>;
  private pause = FIRST_PAUSE;
  private skip = 0;
  private tried = 0;

  constructor(repository: Repository, { connections, limiter, signal }: UploaderOptions) {
    this.repository = repository;
    this.limiter = limiter;
    this.crew = new Crew({ connections, bytes: SNAPSHOT_BYTES_IN_FLIGHT, signal });
    const names = (kind: Named) => new StoredNames(repository, kind, this.crew.signal);
    this.there = { [ObjectKind.block]: names(ObjectKind.block), [ObjectKind.page]: names(ObjectKind.page) };
    const seen = () => new NameSet(SNAPSHOT_KNOWN_NAMES / 3);
    this.seen = { [ObjectKind.block]: seen(), [ObjectKind.page]: seen() };
  }

  /**
   * Sees to it that the store has these contents, by the time of `done`. Waits while too much is under way.
   * @param signature is copied, as are the bytes
   * @throws what an earlier one threw
   */
  async send(kind: Named, signature: Uint8Array, bytes: Uint8Array): Promise<undefined> {
    // Not `slice`: that of a Buffer copies nothing.
    const name = new Uint8Array(this.repository.nameOf(signature));
    const seen = this.seen[kind];
    if (seen.has(name)) {
      if (kind === ObjectKind.block) this.blocksKnown++;
      return undefined;
    }
    if (!seen.isFull) seen.add(name);
    const plain = new Uint8Array(bytes);
    return this.crew.add(plain.length, () => this.sendOne(kind, name, plain));
  }

  done(): Promise<undefined> {
    return this.crew.done();
  }

  abandon(error: unknown): Promise<undefined> {
    return this.crew.abandon(error);
  }

  private async sendOne(kind: Named, name: Uint8Array, plain: Uint8Array): Promise<void> {
    const { repository, crew } = this;
    if (await this.there[kind].has(name)) {
      if (kind === ObjectKind.block) this.blocksKnown++;
      return;
    }
    crew.check();
    const bytes = await this.encode(kind, name, plain);
    const wait = this.limiter?.take(bytes.length);
    if (wait) await wait;
    crew.check();
    await repository.store.put(keyOf(kind, name), bytes, { signal: crew.signal });
    this.bytesSent += bytes.length;
    if (kind === ObjectKind.block) this.blocksSent++;
    else this.pagesSent++;
  }

  /** Blocks that do not give way come in runs: after one, some are not tried. */
  private async encode(kind: Named, name: Uint8Array, plain: Uint8Array): Promise<Uint8Array> {
    // Of many at a time one tells; all are tried as long as they give way.
    const isTried = this.skip === 0 && (this.pause === FIRST_PAUSE || this.tried === 0);
    if (!isTried) {
      this.skip = Math.max(0, this.skip - 1);
      return this.repository.encode(kind, name, plain, false);
    }
    this.tried++;
    const bytes = await this.repository.encode(kind, name, plain).finally(() => this.tried--);
    const gaveWay = bytes.length < plain.length;
    this.pause = gaveWay ? FIRST_PAUSE : Math.min(2 * this.pause, LONGEST_PAUSE);
    if (!gaveWay) this.skip = this.pause;
    return bytes;
  }
}

/** Which objects of a kind a store has. */
class StoredNames {
  private readonly repository: Repository;
  private readonly kind: Named;
  private readonly signal: AbortSignal;
  private lookups = 0;
  /** What was listed; null before. */
  private listing: Promise<Listed> | null = null;

  constructor(repository: Repository, kind: Named, signal: AbortSignal) {
    this.repository = repository;
    this.kind = kind;
    this.signal = signal;
  }

  async has(name: Uint8Array): Promise<boolean> {
    const { repository, kind, signal } = this;
    if (this.listing === null && this.lookups >= SNAPSHOT_LOOKUPS) this.listing = this.list();
    if (this.listing !== null) {
      const { names, isWhole } = await this.listing;
      if (names.has(name)) return true;
      if (isWhole) return false;
    }
    this.lookups++;
    return repository.store.has(keyOf(kind, name), { signal });
  }

  private async list(): Promise<Listed> {
    const { repository, kind, signal } = this;
    const names = new NameSet(SNAPSHOT_KNOWN_NAMES / 2);
    for await (const { key } of repository.store.list(folderOf(kind), { signal })) {
      const name = nameOfKey(key);
      if (name !== null) names.add(name);
      if (names.isFull) return { names, isWhole: false };
    }
    return { names, isWhole: true };
  }
}

interface Listed {
  readonly names: NameSet;
  readonly isWhole: boolean;
}
