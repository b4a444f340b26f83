/**
 * Stores that misbehave, as decorators of any other: what an upload, a prune or a restore must live with.
 * `wrapStore` passes everything through; the others change one thing.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { DriftmapError } from '../../src/base/errors.ts';
import type { ObjectStore, StoredObject, StoreOptions } from '../../src/store/object-store.ts';

export type StoreVerb = 'put' | 'get' | 'has' | 'list' | 'remove';

export interface StoreCall {
  readonly verb: StoreVerb;
  /** The key, the prefix, or the first of the keys. */
  readonly key: string;
}

/** Where a decorator may step in. */
export interface Steps {
  /** Before the store is asked; what it throws, the caller gets, and the store knows nothing of it. */
  before?(call: StoreCall, options: StoreOptions): Promise<undefined> | undefined;
  /** After the store has done it; what it throws, the caller gets all the same. */
  after?(call: StoreCall, options: StoreOptions): Promise<undefined> | undefined;
}

export function wrapStore(store: ObjectStore, { before, after }: Steps): ObjectStore {
  async function around<T>(call: StoreCall, options: StoreOptions, ask: () => Promise<T>): Promise<T> {
    await before?.(call, options);
    const answer = await ask();
    await after?.(call, options);
    return answer;
  }
  return {
    name: store.name,
    put: (key, bytes, options = {}) =>
      around({ verb: 'put', key }, options, () => store.put(key, bytes, options)),
    get: (key, options = {}) => around({ verb: 'get', key }, options, () => store.get(key, options)),
    has: (key, options = {}) => around({ verb: 'has', key }, options, () => store.has(key, options)),
    async *list(prefix: string, options: StoreOptions = {}): AsyncGenerator<StoredObject> {
      await before?.({ verb: 'list', key: prefix }, options);
      yield* store.list(prefix, options);
      await after?.({ verb: 'list', key: prefix }, options);
    },
    remove: (keys, options = {}) =>
      around({ verb: 'remove', key: keys[0] ?? '' }, options, () => store.remove(keys, options)),
    close: () => store.close(),
  };
}

export interface FailingStore extends ObjectStore {
  /** Puts that were asked for. */
  readonly puts: number;
}

export interface PutFailure {
  /** Which put fails, counted from 1; all from there on with `forever`, as after a kill. */
  readonly at: number;
  readonly forever?: boolean;
  /** `refused`: the store does not take it. `torn`: it does, and the answer is lost. */
  readonly manner: 'refused' | 'torn';
}

export function failPut(store: ObjectStore, { at, forever = false, manner }: PutFailure): FailingStore {
  let puts = 0;
  const hits = (n: number): boolean => n === at || (forever && n > at);
  const fail = ({ key }: StoreCall): never => {
    throw new DriftmapError('io', `put failed: the store was told to (${manner})`, { path: key });
  };
  // The count belongs to the call, not to the moment at which it comes back.
  const torn = new WeakSet<StoreCall>();
  const wrapped = wrapStore(store, {
    before(call) {
      if (call.verb !== 'put') return undefined;
      puts++;
      if (!hits(puts)) return undefined;
      if (manner === 'refused' || (forever && puts > at)) fail(call);
      torn.add(call);
      return undefined;
    },
    after: (call) => (torn.has(call) ? fail(call) : undefined),
  });
  return Object.defineProperty(wrapped, 'puts', { get: () => puts }) as FailingStore;
}

/** Every verb takes so long before it is done. */
export function slowStore(store: ObjectStore, milliseconds: number): ObjectStore {
  return wrapStore(store, {
    async before(_, { signal }) {
      await sleep(milliseconds, undefined, signal === undefined ? {} : { signal }).catch(stopped(signal));
    },
  });
}

export interface StoppableStore extends ObjectStore {
  /** Nothing is answered until `go`; only the caller's own signal ends the wait. */
  stop(): void;
  go(): void;
}

export function stoppableStore(store: ObjectStore): StoppableStore {
  let gate = deferred();
  gate.resolve();
  const wrapped = wrapStore(store, {
    async before(_, { signal }) {
      if (signal === undefined) return gate.promise;
      const stop = deferred();
      const end = () => stop.reject(signal.reason);
      if (signal.aborted) end();
      signal.addEventListener('abort', end, { once: true });
      try {
        await Promise.race([gate.promise, stop.promise.catch(stopped(signal))]);
      } finally {
        signal.removeEventListener('abort', end);
      }
      return undefined;
    },
  });
  return Object.assign(wrapped, {
    stop() {
      gate = deferred();
    },
    go: () => gate.resolve(),
  });
}

interface Deferred {
  readonly promise: Promise<undefined>;
  resolve(): void;
  reject(reason: unknown): void;
}

/** `Promise.withResolvers`, which Node 20 has not. */
function deferred(): Deferred {
  let resolve: Deferred['resolve'] = () => {};
  let reject: Deferred['reject'] = () => {};
  const promise = new Promise<undefined>((yes, no) => {
    resolve = () => yes(undefined);
    reject = no;
  });
  return { promise, resolve, reject };
}

function stopped(signal: AbortSignal | undefined) {
  return (): never => {
    throw new DriftmapError('aborted', 'was stopped', { cause: signal?.reason });
  };
}
