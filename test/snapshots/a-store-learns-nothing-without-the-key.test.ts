import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hasher } from '../../src/snapshots/hasher.ts';
import { readKeyFile } from '../../src/snapshots/keys.ts';
import { createRepository, openRepository } from '../../src/snapshots/repository.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { temporary, thrown } from '../tools.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const key = noise(32, 1);
const other = noise(32, 2);
const text = new TextEncoder().encode('the quick brown fox '.repeat(BLOCK));

async function sealed() {
  const store = memoryObjects();
  const repository = await makeRepository(store, { key });
  const info = await take(repository, [source('secret-name', new MemoryUnit(text))]);
  return { store, repository, info };
}

describe('a sealed repository', () => {
  it('holds no contents, no names of disks, and no name that its contents give', async () => {
    const { store } = await sealed();
    const all = Buffer.concat([...store.objects.values()].map(({ bytes }) => bytes)).toString('latin1');
    for (const word of ['quick brown', 'secret-name', 'web']) expect(all.includes(word)).toBe(false);
    const names = [...store.objects.keys()].map((name) => name.slice(name.lastIndexOf('/') + 1));
    for (let at = 0; at < text.length; at += BLOCK) {
      const block = text.subarray(at, at + BLOCK);
      expect(names).not.toContain(Buffer.from(hasher().sign(block)).toString('hex'));
      expect(names).not.toContain(createHash('sha256').update(block).digest('hex'));
    }
  });

  it('names the same contents otherwise under another key or in another repository', async () => {
    const [one, two] = [await sealed(), await sealed()];
    const blocks = (store: typeof one.store) =>
      [...store.objects.keys()].filter((name) => name.startsWith('blocks/'));
    for (const name of blocks(one.store)) expect(blocks(two.store)).not.toContain(name);
  });

  it('opens with its key alone, and says so', async () => {
    const { store } = await sealed();
    await expect(openRepository(store)).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/give its key/),
    });
    await expect(openRepository(store, { key: other })).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/not the repository's key/),
    });
    const plain = memoryObjects();
    await makeRepository(plain);
    await expect(openRepository(plain, { key })).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/not encrypted/),
    });
  });

  it('does not open an object under the name, or as the kind, of another', async () => {
    const { store, repository, info } = await sealed();
    const [first, second] = [...store.objects.keys()].filter((name) => name.startsWith('blocks/'));
    store.objects.set(first!, store.objects.get(second!)!);
    await expect(bytesOf(repository, info, 'secret-name')).rejects.toMatchObject({ kind: 'mismatch' });
    const page = [...store.objects.keys()].find((name) => name.startsWith('pages/'))!;
    store.objects.set(first!, store.objects.get(page)!);
    await expect(bytesOf(repository, info, 'secret-name')).rejects.toMatchObject({ kind: 'malformed' });
  });

  it('seals the same bytes differently each time', async () => {
    const { store, repository, info } = await sealed();
    const [name] = [...store.objects.keys()].filter((one) => one.startsWith('blocks/'));
    const before = store.objects.get(name!)!.bytes;
    store.objects.delete(name!);
    await take(repository, [source('secret-name', new MemoryUnit(text))], { parent: null, time: 9 });
    expect(Buffer.compare(store.objects.get(name!)!.bytes, before)).not.toBe(0);
    expect(Buffer.compare(await bytesOf(repository, info, 'secret-name'), text)).toBe(0);
  });
});

describe('another repository', () => {
  it('is told by its manifests, and by its parent', async () => {
    const [one, two] = [memoryObjects(), memoryObjects()];
    const [here, there] = [await makeRepository(one), await makeRepository(two)];
    const info = await take(here, [source('a', new MemoryUnit(text))]);
    const name = `snapshots/${info.id}`;
    two.objects.set(name, one.objects.get(name)!);
    await expect(there.snapshot(info.id)).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/belongs to/),
    });
    await expect(take(there, [source('a', new MemoryUnit(text))], { parent: info })).rejects.toMatchObject({
      kind: 'mismatch',
    });
  });

  it('is not made where there is one', async () => {
    const store = memoryObjects();
    await expect(openRepository(store)).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/snapshots init/),
    });
    await createRepository(store);
    await expect(createRepository(store)).rejects.toMatchObject({ kind: 'policy' });
  });
});

describe('a key file', () => {
  it('has 32 bytes or 64 digits', () => {
    const folder = temporary();
    const file = (name: string, bytes: Uint8Array | string) => {
      writeFileSync(join(folder, name), bytes);
      return join(folder, name);
    };
    expect(readKeyFile(file('raw', key))).toEqual(key);
    expect(readKeyFile(file('hex', `${Buffer.from(key).toString('hex')}\n`))).toEqual(key);
    for (const wrong of [
      '',
      'secret',
      Buffer.from(key).toString('hex').slice(1),
      noise(33, 1),
      noise(2000, 1),
    ])
      expect(thrown(() => readKeyFile(file('wrong', wrong)))).toHaveProperty(
        'kind',
        expect.stringMatching(/argument|limit/),
      );
  });
});
