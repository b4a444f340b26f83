import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { openFolderObjects } from '../../src/store/folder-objects.ts';
import { temporary, tool } from '../tools.ts';
import { conformance, failure, inTurns, listed, names, pattern } from './conformance.ts';
import { memoryObjects } from './memory-objects.ts';

const folder = temporary();
const fresh = () => mkdtempSync(join(folder, 'store-'));

describe('what every store promises', () => {
  conformance('a folder', () => openFolderObjects(fresh()));
  conformance('memory, the model', async () => memoryObjects());
});

describe('a folder', () => {
  it('must be there, and says what to do', async () => {
    const error = await failure(openFolderObjects(join(folder, 'none')), 'not-found');
    expect(error.message).toBe(
      `${join(folder, 'none')}: no such folder: make it with 'mkdir -p', or mount the disk that holds it`,
    );
    writeFileSync(join(folder, 'file'), '');
    await failure(openFolderObjects(join(folder, 'file')), 'argument');
    await failure(openFolderObjects(join(folder, 'file', 'below')), 'not-found');
  });

  it('is made where that is asked, but nothing above it', async () => {
    const store = await openFolderObjects(join(folder, 'made'), { create: true });
    await store.put('a', pattern(1, 1));
    expect(await (await openFolderObjects(join(folder, 'made'), { create: true })).has('a')).toBe(true);
    await failure(openFolderObjects(join(folder, 'not', 'made'), { create: true }), 'not-found');
  });

  it('lists and gives nothing but objects: other names, links to nowhere and folders are passed over', async () => {
    const place = fresh();
    const store = await openFolderObjects(place);
    await store.put('a/b', pattern(3, 1));
    mkdirSync(join(place, 'lost+found'));
    writeFileSync(join(place, 'lost+found', '#12'), 'x');
    writeFileSync(join(place, '.hidden'), 'x');
    writeFileSync(join(place, 'with space'), 'x');
    symlinkSync('/nowhere/at/all', join(place, 'dangling'));
    expect(names(await listed(store, ''))).toEqual(['a/b']);
    expect(await store.has('a')).toBe(false);
    await failure(store.get('a'), 'not-found');
  });

  it('says that a key cannot be the folder of another, and changes nothing', async () => {
    const store = await openFolderObjects(fresh());
    await store.put('a/b', pattern(3, 1));
    const below = await failure(store.put('a/b/c', pattern(1, 1)), 'argument');
    expect(below.message).toContain('cannot be the folder of another');
    await failure(store.put('a', pattern(1, 1)), 'argument');
    expect(await store.has('a/b/c')).toBe(false);
    expect(names(await listed(store, ''))).toEqual(['a/b']);
    expect(readdirSync(store.name, { recursive: true }).sort()).toEqual(['a', 'a/b']);
  });
});

describe('a put that is killed', () => {
  it('leaves nothing that is listed, and what it left is removed when it is an hour old', async () => {
    const place = fresh();
    const store = await openFolderObjects(place);
    await store.put('blocks/one', pattern(3, 1));
    const young = join(place, 'blocks', '.driftmap-0123456789abcdef.tmp');
    const old = join(place, 'blocks', '.driftmap-fedcba9876543210.tmp');
    for (const path of [young, old]) writeFileSync(path, 'half');
    const hours = Date.now() / 1000 - 3700;
    utimesSync(old, hours, hours);
    expect(names(await listed(store, ''))).toEqual(['blocks/one']);
    expect([existsSync(young), existsSync(old)]).toEqual([true, false]);
  });

  it('leaves whole objects only, wherever SIGKILL hits a process that puts', async () => {
    const dist = new URL('../../dist/store/folder-objects.js', import.meta.url);
    const script = `
      const { openFolderObjects } = await import(${JSON.stringify(dist.href)});
      const store = await openFolderObjects(process.argv[1]);
      for (let i = 0; ; i++) {
        await Promise.all(Array.from({ length: 8 }, (_, j) =>
          store.put('k/' + (i % 5) + '/' + j, new Uint8Array(50000 + i % 7).fill(i % 251))));
        if (i === 2) console.log('running');
      }`;
    for (let round = 0; round < 4; round++) {
      const place = fresh();
      const child = spawn(process.execPath, ['--input-type=module', '-e', script, place]);
      await once(child.stdout, 'data');
      await sleep(round * 37);
      child.kill('SIGKILL');
      await once(child, 'exit');
      const store = await openFolderObjects(place);
      const found = await listed(store, '');
      expect(found.length).toBeGreaterThan(0);
      for (const { key } of found) {
        const bytes = await store.get(key);
        expect(bytes.length).toBeGreaterThanOrEqual(50_000);
        expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
      }
    }
  });

  it('begins again when its file aside or its folder was taken away', async () => {
    const place = fresh();
    const store = await openFolderObjects(place);
    await store.put('a/b/one', pattern(3, 1));
    rmSync(join(place, 'a'), { recursive: true });
    await store.put('a/b/two', pattern(3, 2));
    expect(names(await listed(store, ''))).toEqual(['a/b/two']);
  });
});

describe('a folder that fails', () => {
  it('is an error for every verb when it is gone, and is not made anew', async () => {
    const place = fresh();
    const store = await openFolderObjects(place);
    await store.put('a/b', pattern(3, 1));
    renameSync(place, `${place}-away`);
    const verbs = [
      () => store.put('a/c', pattern(3, 1)),
      () => store.get('a/b'),
      () => store.has('a/b'),
      () => listed(store, ''),
      () => store.remove(['a/b']),
    ];
    for (const act of verbs) {
      const error = await failure(act(), 'not-found');
      expect(error.message).toBe(`${place}: the folder of the store is gone`);
    }
    expect(existsSync(place)).toBe(false);
    // As when a disk is unmounted: the mount point is there, and empty.
    mkdirSync(place);
    for (const act of verbs) {
      expect((await failure(act(), 'not-found')).message).toContain('was a disk mounted or unmounted there?');
    }
    expect(readdirSync(place)).toEqual([]);
  });

  it('says that it is full, keeps what it had, and takes puts again when there is room', async () => {
    const place = join(folder, 'small');
    mkdirSync(place);
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', place]).status === 0;
    if (!mounted) {
      process.stderr.write('\n*** SKIPPED for want of the right to mount a tmpfs: a full folder\n');
      return;
    }
    try {
      const store = await openFolderObjects(place);
      await store.put('old', pattern(400_000, 1));
      const error = await failure(store.put('old', pattern(900_000, 2)), 'io');
      expect(error.message).toBe(`${place}/old: the store is full [ENOSPC]`);
      expect(await store.get('old')).toEqual(pattern(400_000, 1));
      expect(readdirSync(place)).toEqual(['old']);
      await store.put('new', pattern(300_000, 3));
      await store.remove(['old']);
      await store.put('newer', pattern(600_000, 4));
      expect(names(await listed(store, ''))).toEqual(['new', 'newer']);
    } finally {
      spawnSync('umount', [place]);
    }
  });

  it('says who may not write or read there', () => {
    // Root may do everything, so the test is another user's.
    const setpriv = tool('setpriv');
    if (process.getuid?.() === 0 && setpriv === null) {
      process.stderr.write('\n*** SKIPPED for want of setpriv: a folder without permission\n');
      return;
    }
    const place = fresh();
    mkdirSync(join(place, 'closed'));
    chmodSync(join(place, 'closed'), 0o700);
    chmodSync(place, 0o755);
    chmodSync(folder, 0o755);
    const dist = new URL('../../dist/store/folder-objects.js', import.meta.url);
    const script = `
      const { openFolderObjects } = await import(${JSON.stringify(dist.href)});
      const store = await openFolderObjects(process.argv[1]);
      const told = async (act) => { try { await act(); return 'fine'; } catch (e) { return e.kind + ' ' + e.message; } };
      console.log(JSON.stringify([
        await told(() => store.put('a', new Uint8Array(1))),
        await told(() => store.put('closed/a', new Uint8Array(1))),
        await told(() => store.get('closed/a')),
        await told(async () => { for await (const _ of store.list('')); }),
      ]));`;
    const command = [process.execPath, '--input-type=module', '-e', script, place];
    const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups', ...command];
    const [first, ...rest] = process.getuid?.() === 0 ? [setpriv!, ...asNobody] : command;
    const { stdout, stderr } = spawnSync(first!, rest, { encoding: 'utf8' });
    expect(stderr).toBe('');
    const told = JSON.parse(stdout) as string[];
    for (const line of told) expect(line).toMatch(/^permission .*permission denied \[EACCES\]$/);
  });
});

describe('two processes', () => {
  it('put into one folder at once, the same keys too', async () => {
    const place = fresh();
    const stores = await Promise.all([openFolderObjects(place), openFolderObjects(place)]);
    const keys = Array.from({ length: 60 }, (_, i) => `x/${i % 4}/${i}`);
    await Promise.all(stores.map((store) => inTurns(keys, 16, (key) => store.put(key, pattern(2000, 7)))));
    expect(names(await listed(stores[0]!, ''))).toEqual([...keys].sort());
    expect(
      (await Promise.all(keys.map((key) => stores[1]!.get(key)))).every(
        (bytes) => Buffer.compare(bytes, pattern(2000, 7)) === 0,
      ),
    ).toBe(true);
  });
});
