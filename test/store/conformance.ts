/**
 * What every object store promises, as one suite: `conformance(name, open)` within a `describe`. Each test works
 * below a prefix of its own, so one store serves them all.
 */

import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DriftmapError, type ErrorKind } from '../../src/base/errors.ts';
import type { ObjectStore, StoredObject } from '../../src/store/object-store.ts';
import { memoryObjects } from './memory-objects.ts';

export interface ConformanceOptions {
  /** Steps of random runs against the model: fewer where a step costs a network. */
  readonly runs?: number;
  /** Objects of a listing that takes several answers. */
  readonly many?: number;
}

export function conformance(
  name: string,
  open: () => Promise<ObjectStore>,
  { runs = 12, many = 1000 }: ConformanceOptions = {},
): void {
  describe(`${name} keeps the promises of an object store`, () => {
    let store: ObjectStore;
    beforeAll(async () => {
      store = await open();
    });
    afterAll(async () => {
      await store?.close();
    });
    contents(() => store);
    listings(() => store, many);
    refusals(() => store);
    model(() => store, runs);
  });
}

type Given = () => ObjectStore;

function contents(store: Given): void {
  it('gives back what was put, of every length around the edges', async () => {
    for (const length of [0, 1, 7, 4095, 4096, 65_536, 1_048_577, 9_000_001]) {
      const bytes = pattern(length, length);
      await store().put(`lengths/${length}`, bytes);
      expect(Buffer.compare(await store().get(`lengths/${length}`), bytes)).toBe(0);
      expect(await store().has(`lengths/${length}`)).toBe(true);
    }
  });

  it('takes a view into a larger buffer, shared memory too, and gives back memory of its own', async () => {
    const whole = pattern(5000, 1);
    await store().put('views/part', whole.subarray(100, 1100));
    const got = await store().get('views/part');
    expect(Buffer.compare(got, whole.subarray(100, 1100))).toBe(0);
    got.fill(0);
    expect(Buffer.compare(await store().get('views/part'), whole.subarray(100, 1100))).toBe(0);
    const shared = new Uint8Array(new SharedArrayBuffer(3000));
    shared.set(whole.subarray(0, 3000));
    await store().put('views/shared', shared.subarray(500));
    expect(Buffer.compare(await store().get('views/shared'), whole.subarray(500, 3000))).toBe(0);
  });

  it('replaces, also by less, and tells the new length', async () => {
    await store().put('again/one', pattern(10_000, 2));
    await store().put('again/one', pattern(3, 3));
    expect(await store().get('again/one')).toEqual(pattern(3, 3));
    expect(await listed(store(), 'again/')).toMatchObject([{ key: 'again/one', bytes: 3 }]);
  });

  it('shows to readers beside replacing puts the one or the other, never a mixture or nothing', async () => {
    const [a, b] = [new Uint8Array(300_000).fill(1), new Uint8Array(200_000).fill(2)];
    await store().put('beside/one', a);
    let over = false;
    const writing = (async () => {
      for (let i = 0; i < 12; i++) await store().put('beside/one', i % 2 ? a : b);
      over = true;
    })();
    let reads = 0;
    while (!over) {
      const got = await store().get('beside/one');
      const expected = got[0] === 1 ? a : b;
      expect(Buffer.compare(got, expected)).toBe(0);
      reads++;
    }
    await writing;
    expect(reads).toBeGreaterThan(0);
  });

  it('takes a hundred puts at once, in folders that are not there yet', async () => {
    const keys = Array.from({ length: 100 }, (_, i) => `at-once/${i % 7}/${i % 3}/${i}`);
    await Promise.all(keys.map((key, i) => store().put(key, pattern(1000 + i, i))));
    const all = await Promise.all(keys.map((key) => store().get(key)));
    expect(all.every((bytes, i) => Buffer.compare(bytes, pattern(1000 + i, i)) === 0)).toBe(true);
  });

  it('takes keys of all letters and of the greatest length', async () => {
    const long = ['k', 'L'.repeat(255), '0_-.9', 'm'.repeat(248)].join('/');
    expect(long).toHaveLength(512);
    for (const key of ['A-Z_a-z.0-9/x..y/-/_', long]) {
      await store().put(key, pattern(10, 4));
      expect(await store().get(key)).toEqual(pattern(10, 4));
      expect(await listed(store(), key)).toMatchObject([{ key, bytes: 10 }]);
      await store().remove([key]);
      expect(await store().has(key)).toBe(false);
    }
  });
}

function listings(store: Given, many: number): void {
  it('lists by prefix: within a folder, within a name, and nothing beside it', async () => {
    const keys = ['l/ab', 'l/abc', 'l/b/1', 'l/b/2', 'l/bc/1', 'la'];
    const before = Date.now();
    for (const key of keys) await store().put(key, pattern(key.length, 5));
    expect(names(await listed(store(), 'l/'))).toEqual(keys.slice(0, 5));
    expect(names(await listed(store(), 'l'))).toEqual(
      expect.arrayContaining(keys) as unknown as readonly string[],
    );
    expect(names(await listed(store(), 'l/ab'))).toEqual(['l/ab', 'l/abc']);
    expect(names(await listed(store(), 'l/b'))).toEqual(['l/b/1', 'l/b/2', 'l/bc/1']);
    expect(names(await listed(store(), 'l/b/'))).toEqual(['l/b/1', 'l/b/2']);
    expect(names(await listed(store(), 'l/b/1'))).toEqual(['l/b/1']);
    expect(await listed(store(), 'l/x')).toEqual([]);
    expect(await listed(store(), 'nothing/here/')).toEqual([]);
    expect(names(await listed(store(), ''))).toEqual(expect.arrayContaining(keys));
    for (const { key, bytes, modified } of await listed(store(), 'l/')) {
      expect(bytes).toBe(key.length);
      // Whole seconds are told by some; and its clock is this machine's here.
      expect(Math.abs(modified - before)).toBeLessThan(60_000);
    }
  });

  it(`lists ${many} objects, each once, also while others come and go, and removes them together`, async () => {
    const keys = Array.from({ length: many }, (_, i) => `many/${String(i % 16)}/${i}`);
    await inTurns(keys, 48, (key) => store().put(key, pattern(i8(key), 6)));
    const found: string[] = [];
    for await (const { key } of store().list('many/')) {
      found.push(key);
      if (found.length % 500 === 0) {
        await store().put(`many/0/later-${found.length}`, pattern(1, 1));
        await store().remove([`many/0/later-${found.length - 500}`]);
      }
    }
    expect(new Set(found).size).toBe(found.length);
    expect(found.filter((key) => !key.includes('later')).sort()).toEqual([...keys].sort());
    await store().remove([...keys, 'many/never-there', ...keys.slice(0, 3)]);
    expect(names(await listed(store(), 'many/')).filter((key) => !key.includes('later'))).toEqual([]);
  });

  it('stops in the middle of a listing without a fault', async () => {
    for (let i = 0; i < 5; i++) await store().put(`stop/${i}`, pattern(1, i));
    for await (const { key } of store().list('stop/')) {
      expect(key).toMatch(/^stop\//);
      break;
    }
    expect(await listed(store(), 'stop/')).toHaveLength(5);
  });

  it('asks before what it removes, and removes nothing when the answer is an error', async () => {
    const keys = Array.from({ length: 20 }, (_, i) => `asked/${i}`);
    for (const key of keys) await store().put(key, pattern(1, 1));
    let asked = 0;
    const never = async () => {
      asked++;
      throw new DriftmapError('aborted', 'not any more');
    };
    await failure(store().remove(keys, { check: never }), 'aborted');
    expect(asked).toBeGreaterThan(0);
    expect(names(await listed(store(), 'asked/'))).toHaveLength(20);
    await store().remove(keys, { check: () => undefined });
    expect(await listed(store(), 'asked/')).toEqual([]);
  });

  it('removes what is there and does not mind what is not', async () => {
    await store().put('gone/a', pattern(1, 1));
    await store().put('gone/b', pattern(1, 1));
    await store().remove([]);
    await store().remove(['gone/a', 'gone/never', 'never/gone/at-all']);
    expect(await store().has('gone/a')).toBe(false);
    expect(names(await listed(store(), 'gone/'))).toEqual(['gone/b']);
    await store().put('gone/a', pattern(2, 2));
    expect(await store().get('gone/a')).toEqual(pattern(2, 2));
  });
}

function refusals(store: Given): void {
  it('says which object is not there', async () => {
    expect(await store().has('absent/one')).toBe(false);
    const error = await failure(store().get('absent/one'), 'not-found');
    expect(error.path).toBe(`${store().name.replace(/\/$/, '')}/absent/one`);
    expect(error.message).toContain('no such object');
    expect(error.message).not.toContain('\n');
  });

  it('refuses what is no key, before anything is asked', async () => {
    const wrong = [
      '',
      '/a',
      'a/',
      'a//b',
      '.',
      '..',
      '../a',
      'a/../b',
      'a/.b',
      '.a',
      'a b',
      'ä',
      'a\\b',
      'a?b',
      'a%41',
      'a\nb',
      'x'.repeat(256),
      `${'x/'.repeat(256)}x`,
    ];
    for (const key of wrong) {
      await failure(store().put(key, pattern(1, 1)), 'argument');
      await failure(store().get(key), 'argument');
      await failure(store().has(key), 'argument');
      await failure(store().remove(['fine', key]), 'argument');
    }
    for (const prefix of ['/', 'a//', '../', 'a/../', '.', 'a/.', 'a b', 'x'.repeat(256)]) {
      await failure(listed(store(), prefix), 'argument');
    }
  });

  it('does nothing for a caller that has stopped', async () => {
    await store().put('stopped/there', pattern(1, 1));
    const options = { signal: AbortSignal.abort(new Error('enough')) };
    await failure(store().put('stopped/new', pattern(1, 1), options), 'aborted');
    await failure(store().get('stopped/there', options), 'aborted');
    await failure(store().has('stopped/there', options), 'aborted');
    await failure(listed(store(), 'stopped/', options), 'aborted');
    await failure(store().remove(['stopped/there'], options), 'aborted');
    expect(names(await listed(store(), 'stopped/'))).toEqual(['stopped/there']);
  });

  it('stops puts in the middle: each object is whole or not there', async () => {
    const bytes = pattern(2_000_000, 9);
    const stop = new AbortController();
    const puts = Array.from({ length: 24 }, (_, i) =>
      store()
        .put(`middle/${i}`, bytes, { signal: stop.signal })
        .then(
          () => 'done' as const,
          (error: unknown) => error,
        ),
    );
    await Promise.race(puts);
    stop.abort();
    const ends = await Promise.all(puts);
    for (const [i, end] of ends.entries()) {
      if (end !== 'done') expect(end).toMatchObject({ kind: 'aborted' });
      else expect(await store().has(`middle/${i}`)).toBe(true);
    }
    for (const { key } of await listed(store(), 'middle/')) {
      expect(Buffer.compare(await store().get(key), bytes)).toBe(0);
    }
  });
}

function model(store: Given, runs: number): void {
  const key = fc.constantFrom('a', 'b/1', 'b/2', 'c/d/e', 'c/d/f').map((text) => `model/${text}`);
  const step = fc.oneof(
    fc.record({ verb: fc.constant('put' as const), key, bytes: fc.uint8Array({ maxLength: 300 }) }),
    fc.record({ verb: fc.constant('remove' as const), keys: fc.array(key, { maxLength: 4 }) }),
    fc.record({
      verb: fc.constant('list' as const),
      prefix: fc.constantFrom('model/', 'model/b', 'model/c/d/'),
    }),
    fc.record({ verb: fc.constant('get' as const), key }),
  );
  it('behaves as a map of keys, whatever is asked in whatever order', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
        const expected = memoryObjects();
        await store().remove(names(await listed(store(), 'model/')));
        for (const now of steps) {
          if (now.verb === 'put') {
            await Promise.all([store().put(now.key, now.bytes), expected.put(now.key, now.bytes)]);
          } else if (now.verb === 'remove') {
            await Promise.all([store().remove(now.keys), expected.remove(now.keys)]);
          } else if (now.verb === 'list') {
            const [got, want] = [await listed(store(), now.prefix), await listed(expected, now.prefix)];
            expect(got.map(({ key, bytes }) => [key, bytes])).toEqual(
              want.map(({ key, bytes }) => [key, bytes]),
            );
          } else {
            expect(await store().has(now.key)).toBe(await expected.has(now.key));
            if (await expected.has(now.key))
              expect(await store().get(now.key)).toEqual(await expected.get(now.key));
            else await failure(store().get(now.key), 'not-found');
          }
        }
      }),
      { numRuns: runs },
    );
  });
}

/** Sorted by key. */
export async function listed(
  store: ObjectStore,
  prefix: string,
  options = {},
): Promise<readonly StoredObject[]> {
  const found: StoredObject[] = [];
  for await (const object of store.list(prefix, options)) found.push(object);
  return found.sort((a, b) => (a.key < b.key ? -1 : 1));
}

export function names(objects: readonly StoredObject[]): readonly string[] {
  return objects.map(({ key }) => key);
}

/** The DriftmapError that it ends with. */
export async function failure(act: Promise<unknown>, kind: ErrorKind): Promise<DriftmapError> {
  const error = await act.then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(DriftmapError);
  expect(`${(error as DriftmapError).kind}: ${(error as DriftmapError).message}`).toMatch(
    new RegExp(`^${kind}: `),
  );
  return error as DriftmapError;
}

/** Bytes that differ everywhere, by seed. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (seed + 1) * 2_654_435_761;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

const i8 = (text: string): number => text.length % 8;

export async function inTurns<T>(all: readonly T[], width: number, act: (one: T) => Promise<unknown>) {
  const rest = all.values();
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (const one of rest) await act(one);
    }),
  );
}
