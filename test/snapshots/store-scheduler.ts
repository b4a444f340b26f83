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
      remove: (keys, options) => wait('remove', keys[0] ?? '', () => objects.remove(keys, free(options))),
      close: async () => undefined,
    };
  }

  kill(user: number): void {
    this.killed.add(user);
  }

  /** Lets one call through; false when none waits. */
  async step(): Promise<{ verb: string; key: string } | null> {
    await settle();
    if (this.waiting.length === 0) return null;
    const [call] = this.waiting.splice(Math.floor(this.random() * this.waiting.length), 1);
    this.monotonic += Math.floor(this.random() * 4000);
    if (this.random() < 0.05) this.off = Math.floor((this.random() - 0.5) * 20 * 60_000);
    const { user, verb, key, act, answer, fail } = call!;
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
