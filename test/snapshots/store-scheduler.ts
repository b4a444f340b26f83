/**
 * A store in memory whose users take turns: every call waits until a driver lets it through, one at a time, in an
 * order drawn from a seed. Users can be killed: the call that waits is done or not, and nothing of theirs is answered
 * any more. The store's clock goes on with every call, and jumps.
 */

import type { ObjectStore, StoredObject, StoreOptions } from '../../src/store/object-store.ts';
import { type MemoryObjects, memoryObjects } from '../store/memory-objects.ts';

interface Waiting {
  readonly user: number;
  readonly verb: string;
  readonly key: string;
  readonly act: () => Promise<unknown>;
  readonly answer: (value: unknown) => void;
  readonly fail: (error: unknown) => void;
}

/** Numbers in [0, 1), the same for one seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class StoreScheduler {
  readonly random: () => number;
  readonly objects: MemoryObjects;
  /** Milliseconds that only go on. */
  monotonic = 1_000_000_000;
  /** How far the store's clock is off: it jumps by minutes. */
  private off = 0;
  private readonly waiting: Waiting[] = [];
  private readonly killed = new Set<number>();
  /** Who stands still, until when; and how long each has stood still until now, unseen by one of its clocks or by both. */
  private readonly still = new Map<number, number>();
  private readonly slept = new Map<number, { seen: number; unseen: number }>();

  constructor(seed: number) {
    this.random = randomOf(seed);
    this.objects = memoryObjects(() => this.monotonic + this.off);
  }

  store(user: number): ObjectStore {
    const { objects } = this;
    const wait = <T>(verb: string, key: string, act: () => Promise<T>): Promise<T> =>
      new Promise<T>((resolve, reject) => {
        if (this.killed.has(user)) return;
        this.waiting.push({
          user,
          verb,
          key,
          act,
          answer: resolve as (value: unknown) => void,
          fail: reject,
        });
      });
    // A signal may have been given while the call waited; a store that is asked then does not care.
    const free = (_?: StoreOptions) => ({});
    return {
      name: 'memory',
      put: (key, bytes, options) => wait('put', key, () => objects.put(key, bytes, free(options))),
      get: (key, options) => wait('get', key, () => objects.get(key, free(options))),
      has: (key, options) => wait('has', key, () => objects.has(key, free(options))),
      async *list(prefix, options): AsyncGenerator<StoredObject> {
        const all = await wait('list', prefix, async () => {
          const found: StoredObject[] = [];
          for await (const object of objects.list(prefix, free(options))) found.push(object);
          return found;
        });
        yield* all;
      },
      // One by one, as a folder does; who asks before each is asked when it is its turn, right before it is done.
      remove: async (keys, options) => {
        for (const key of keys) {
          for (let done = false; !done; ) {
            let check: Promise<undefined> | undefined;
            done = await wait('remove', key, async () => {
              check = options?.check?.();
              if (check) return false;
              await objects.remove([key]);
              return true;
            });
            if (check) await check;
          }
        }
        return undefined;
      },
      close: async () => undefined,
    };
  }

  kill(user: number): void {
    this.killed.add(user);
  }

  /**
   * What a user's two clocks tell: the first stands still while its machine sleeps, the other goes on, unless the
   * machine was paused as if no time had passed.
   */
  clocksOf(user: number): readonly (() => number)[] {
    const slept = () => this.slept.get(user) ?? { seen: 0, unseen: 0 };
    return [
      () => this.monotonic - slept().seen - slept().unseen,
      () => this.monotonic - slept().unseen + 7_000_000,
    ];
  }

  /** Nothing of this user's is let through for half an hour and more. */
  stop(user: number): void {
    if (this.still.has(user)) return;
    const ms = 1_860_000 + Math.floor(this.random() * 2_000_000);
    // In the middle of removals only what its clocks see can be told.
    const isRemoving = this.waiting.some((call) => call.user === user && call.verb === 'remove');
    const isSeen = isRemoving || this.random() < 0.5;
    const before = this.slept.get(user) ?? { seen: 0, unseen: 0 };
    this.slept.set(user, {
      seen: before.seen + (isSeen ? ms : 0),
      unseen: before.unseen + (isSeen ? 0 : ms),
    });
    this.still.set(user, this.monotonic + ms);
  }

  /** Lets one call through; false when none waits. */
  async step(): Promise<{ verb: string; key: string } | null> {
    await settle();
    if (this.waiting.length === 0) return null;
    for (const [user, until] of this.still) if (until <= this.monotonic) this.still.delete(user);
    const able = this.waiting.filter(({ user }) => !this.still.has(user));
    if (able.length === 0) {
      // All stand still: until the first goes on.
      this.monotonic = Math.max(this.monotonic, Math.min(...this.still.values()));
      return this.step();
    }
    const call = able[Math.floor(this.random() * able.length)]!;
    this.waiting.splice(this.waiting.indexOf(call), 1);
    this.monotonic += Math.floor(this.random() * 4000);
    if (this.random() < 0.05) this.off = Math.floor((this.random() - 0.5) * 20 * 60_000);
    const { user, verb, key, act, answer, fail } = call;
    if (this.killed.has(user)) {
      if (this.random() < 0.5) await act().catch(() => undefined);
      return { verb, key };
    }
    await act().then(answer, fail);
    return { verb, key };
  }
}

/** Until everybody has come to their next call. */
async function settle(): Promise<void> {
  for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve));
}
