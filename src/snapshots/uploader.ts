/**
 * Sends what a store does not have. Every block and page comes by once; what was seen in this run, or is in the
 * store, is not sent. The store is asked object by object at first. After a few questions it is asked for all its names,
 * which settles it where they are few, as in a fresh repository; when the questions become many, they are listed
 * however many they are, a thousand a request.
 */

import {
  SNAPSHOT_BYTES_IN_FLIGHT,
  SNAPSHOT_KNOWN_NAMES,
  SNAPSHOT_LOOKUPS,
} from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import type { RateLimiter } from '../wire/limiter.ts';
import { Crew } from './crew.ts';
import { NameSet } from './name-set.ts';
import { ObjectKind, objectBuffer } from './object-format.ts';
import { MAX_PAGE_BYTES } from './page.ts';
import type { HeldBlock } from './pieces.ts';
import { type FilledBuffer, folderOf, keyOf, nameOfKey, type Repository } from './repository.ts';
import { looksRandom, Trials } from './trials.ts';

export interface UploaderOptions {
  readonly connections?: number | undefined;
  readonly limiter?: RateLimiter | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Names that a store has at most, for it to be asked for all of them after a few questions: one page of a listing. */
const FEW_NAMES = 1000;
/** Questions before that. */
const FIRST_LOOKUPS = 8;

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
  private readonly trials = new Trials();
  /** For pages; nobody uses them now. */
  private readonly buffers: Uint8Array[] = [];

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
   * Sees to it that the store has this block, by the time of `done`. Waits while too much is under way.
   * @param signature is copied
   * @param block is released when it was sent or need not be; when all has failed, nobody uses its memory again
   * @throws what an earlier one threw
   */
  async sendBlock(signature: Uint8Array, block: HeldBlock): Promise<undefined> {
    const name = this.newName(ObjectKind.block, signature);
    if (name === null) {
      block.release();
      return undefined;
    }
    return this.crew.add(block.length, async () => {
      // A failure ends all: a store that gave up on a put may still hold its memory.
      await this.sendOne(ObjectKind.block, name, block);
      block.release();
    });
  }

  /** The same of a page. @param bytes are copied */
  async sendPage(signature: Uint8Array, bytes: Uint8Array): Promise<undefined> {
    const name = this.newName(ObjectKind.page, signature);
    if (name === null) return undefined;
    // They are copied when there is room, before this returns.
    return this.crew.add(bytes.length, async () => {
      const buffer = this.buffers.pop() ?? objectBuffer(MAX_PAGE_BYTES);
      buffer.set(bytes, this.repository.plainAt);
      await this.sendOne(ObjectKind.page, name, {
        buffer,
        length: bytes.length,
        checksum: null,
        looksRandom: null,
      });
      this.buffers.push(buffer);
    });
  }

  done(): Promise<undefined> {
    return this.crew.done();
  }

  abandon(error: unknown): Promise<undefined> {
    return this.crew.abandon(error);
  }

  /** Null where it came by in this run. */
  private newName(kind: Named, signature: Uint8Array): Uint8Array | null {
    // Not `slice`: that of a Buffer copies nothing.
    const name = new Uint8Array(this.repository.nameOf(signature));
    const seen = this.seen[kind];
    if (seen.has(name)) {
      if (kind === ObjectKind.block) this.blocksKnown++;
      return null;
    }
    if (!seen.isFull) seen.add(name);
    return name;
  }

  private async sendOne(kind: Named, name: Uint8Array, filled: FilledBuffer): Promise<void> {
    const { repository, crew } = this;
    if (await this.there[kind].has(name)) {
      if (kind === ObjectKind.block) this.blocksKnown++;
      return;
    }
    crew.check();
    const bytes = await this.encode(kind, name, filled);
    const wait = this.limiter?.take(bytes.length);
    if (wait) await wait;
    crew.check();
    await repository.store.put(keyOf(kind, name), bytes, { signal: crew.signal });
    this.bytesSent += bytes.length;
    if (kind === ObjectKind.block) this.blocksSent++;
    else this.pagesSent++;
  }

  private async encode(kind: Named, name: Uint8Array, filled: FilledBuffer): Promise<Uint8Array> {
    const { repository, trials } = this;
    const { buffer, length } = filled;
    const at = repository.plainAt;
    const isFlat = () => filled.looksRandom ?? looksRandom(buffer.subarray(at, at + length));
    const trial = repository.compression === 'none' ? null : trials.begin(isFlat());
    const bytes = await repository.encodeInPlace(kind, name, filled, trial !== null);
    if (trial !== null) trials.end(trial, bytes.length < length);
    return bytes;
  }
}

/** Which objects of a kind a store has. */
class StoredNames {
  private readonly repository: Repository;
  private readonly kind: Named;
  private readonly signal: AbortSignal;
  private lookups = 0;
  /** Whether the store has few names: then they are listed at once. */
  private few: Promise<Listed> | null = null;
  /** What was listed; null before. */
  private listing: Promise<Listed> | null = null;

  constructor(repository: Repository, kind: Named, signal: AbortSignal) {
    this.repository = repository;
    this.kind = kind;
    this.signal = signal;
  }

  async has(name: Uint8Array): Promise<boolean> {
    const { repository, kind, signal } = this;
    if (this.lookups >= FIRST_LOOKUPS) this.few ??= this.list(FEW_NAMES);
    if (this.lookups >= SNAPSHOT_LOOKUPS) this.listing ??= this.list(SNAPSHOT_KNOWN_NAMES / 2);
    for (const listing of [this.few, this.listing]) {
      if (listing === null) continue;
      const { names, isWhole } = await listing;
      if (names.has(name)) return true;
      if (isWhole) return false;
    }
    this.lookups++;
    return repository.store.has(keyOf(kind, name), { signal });
  }

  private async list(most: number): Promise<Listed> {
    const { repository, kind, signal } = this;
    const names = new NameSet(most);
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
