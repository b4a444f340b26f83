import { describe, expect, it } from 'vitest';
import { failure, listed, names, pattern } from './conformance.ts';
import { failPut, slowStore, stoppableStore } from './filters.ts';
import { memoryObjects } from './memory-objects.ts';

describe('a store whose n-th put fails', () => {
  it('refuses that one and takes those beside it', async () => {
    const store = failPut(memoryObjects(), { at: 2, manner: 'refused' });
    await store.put('a', pattern(1, 1));
    await failure(store.put('b', pattern(1, 1)), 'io');
    await store.put('c', pattern(1, 1));
    expect(names(await listed(store, ''))).toEqual(['a', 'c']);
    expect(store.puts).toBe(3);
  });

  it('refuses all from there on, as after a kill', async () => {
    const store = failPut(memoryObjects(), { at: 2, forever: true, manner: 'refused' });
    await store.put('a', pattern(1, 1));
    for (const key of ['b', 'c']) await failure(store.put(key, pattern(1, 1)), 'io');
    expect(names(await listed(store, ''))).toEqual(['a']);
  });

  it('takes it when it is torn, and nothing after it when that is for ever', async () => {
    const store = failPut(memoryObjects(), { at: 2, forever: true, manner: 'torn' });
    await store.put('a', pattern(1, 1));
    for (const key of ['b', 'c']) await failure(store.put(key, pattern(1, 1)), 'io');
    expect(names(await listed(store, ''))).toEqual(['a', 'b']);
  });
});

it('a slow store does it later, and a signal ends the wait', async () => {
  const memory = memoryObjects();
  const store = slowStore(memory, 30);
  const put = store.put('a', pattern(1, 1));
  expect(memory.objects.size).toBe(0);
  await put;
  expect(memory.objects.size).toBe(1);
  const signal = AbortSignal.timeout(1);
  await failure(slowStore(memory, 60_000).get('a', { signal }), 'aborted');
});

it('a stopped store answers when it goes on, and not before', async () => {
  const store = stoppableStore(memoryObjects());
  await store.put('a', pattern(1, 1));
  store.stop();
  let answered = false;
  const get = store.get('a').then(() => {
    answered = true;
  });
  await failure(store.has('a', { signal: AbortSignal.timeout(20) }), 'aborted');
  expect(answered).toBe(false);
  store.go();
  await get;
  expect(await store.has('a')).toBe(true);
});
