/** Objects in memory: the model that real stores are compared with, and the store of tests that need none. */

import { DriftmapError } from '../../src/base/errors.ts';
import { checkAborted, checkKey, checkObjectBytes, checkPrefix } from '../../src/store/object-keys.ts';
import type { ObjectStore, RemoveOptions, StoredObject, StoreOptions } from '../../src/store/object-store.ts';

export interface MemoryObjects extends ObjectStore {
  readonly objects: Map<string, { bytes: Uint8Array; modified: number }>;
}

/** @param now the store's clock */
export function memoryObjects(now: () => number = Date.now): MemoryObjects {
  const name = 'memory:/';
  const objects: MemoryObjects['objects'] = new Map();
  return {
    name,
    objects,
    async put(key: string, bytes: Uint8Array, { signal }: StoreOptions = {}) {
      checkKey(key, name);
      checkObjectBytes(bytes.length, `${name}${key}`);
      checkAborted(signal, `${name}${key}`);
      objects.set(key, { bytes: bytes.slice(), modified: now() });
      return undefined;
    },
    async get(key: string, { signal }: StoreOptions = {}) {
      checkKey(key, name);
      checkAborted(signal, `${name}${key}`);
      const found = objects.get(key);
      if (found === undefined)
        throw new DriftmapError('not-found', 'no such object', { path: `${name}${key}` });
      return found.bytes.slice();
    },
    async has(key: string, { signal }: StoreOptions = {}) {
      checkKey(key, name);
      checkAborted(signal, `${name}${key}`);
      return objects.has(key);
    },
    async *list(prefix: string, { signal }: StoreOptions = {}): AsyncGenerator<StoredObject> {
      checkPrefix(prefix, name);
      for (const [key, { bytes, modified }] of [...objects]) {
        checkAborted(signal, name);
        if (key.startsWith(prefix)) yield { key, bytes: bytes.length, modified };
      }
    },
    async remove(keys: readonly string[], { signal, check }: RemoveOptions = {}) {
      for (const key of keys) checkKey(key, name);
      checkAborted(signal, name);
      for (const key of keys) {
        await check?.();
        objects.delete(key);
      }
      return undefined;
    },
    async close() {
      return undefined;
    },
  };
}
