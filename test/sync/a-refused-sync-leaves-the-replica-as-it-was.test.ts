import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { failover } from '../../src/sync/failover.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const workers = 1;
const bytes = noise(2 * MiB, 1);
let grants = 0;

/** A replica of a disk of 2 MiB, equal to it. */
async function replicated() {
  const production = fileOf(folder, bytes);
  const replica = fileOf(folder, changed(bytes, [3]));
  await sync({ production, replica, workers });
  return { production, replica };
}

/** Of a disk here, or of the same disk at another site. */
const places = [
  ['here', (path: string) => path],
  ['at another site', (path: string) => site.grant(`r${grants++}`, { disk: path })],
] as const;

describe.each(places)('a replica %s', (_, to) => {
  it.each([
    ['shorter', 1 * MiB],
    ['longer', 3 * MiB],
    ['of 8 TiB', 2 ** 43],
  ])('of another disk, which is %s, is not resized', async (_, size) => {
    const { replica } = await replicated();
    const [contents, state] = [readFileSync(replica), readFileSync(statePath(replica))];
    const other = `${replica}-other`;
    writeFileSync(other, noise(64 * KiB, 7));
    truncateSync(other, size);
    const options = { production: other, replica: to(replica), token: site.token, workers };
    await expect(sync({ ...options, resize: true, shrink: true })).rejects.toThrow('--adopt');
    expect(readFileSync(replica).equals(contents)).toBe(true);
    expect(readFileSync(statePath(replica)).equals(state)).toBe(true);
  });

  it('that was written to as well as its old replica is not resized: a split brain', async () => {
    const { production, replica } = await replicated();
    await failover({ replica });
    writeFileSync(replica, noise(3 * MiB, 8));
    writeFileSync(production, changed(bytes, [9]));
    const before = readFileSync(production);
    const back = { production: replica, replica: to(production), token: site.token, workers };
    await expect(sync({ ...back, resize: true })).rejects.toThrow('split brain');
    expect(readFileSync(production).equals(before)).toBe(true);
    expect(existsSync(statePath(production))).toBe(false);
    // The user has chosen.
    expect((await sync({ ...back, resize: true, discard: true })).consistent).toBe(true);
    expect(sameFiles(production, replica)).toBe(true);
  });

  it('that was failed over is not resized', async () => {
    const { replica } = await replicated();
    await failover({ replica });
    const production = fileOf(folder, noise(1 * MiB, 9));
    const over = { production, replica: to(replica), token: site.token, workers, shrink: true };
    await expect(sync(over)).rejects.toThrow('failed over');
    expect(statSync(replica).size).toBe(2 * MiB);
  });

  it('is not resized for a session whose options are refused', async () => {
    const production = fileOf(folder, noise(3 * MiB, 10));
    const replica = fileOf(folder, bytes);
    const options = { production, replica: to(replica), token: site.token, workers, resize: true };
    await expect(sync({ ...options, productionIndex: ['none.sig'] })).rejects.toThrow('none.sig');
    expect(statSync(replica).size).toBe(2 * MiB);
  });
});

describe('a replica that is resized', () => {
  it.each([1, 3])('to %s MiB is not called what it was from before it is touched', async (size) => {
    const { replica } = await replicated();
    const production = fileOf(folder, noise(size * MiB, 11));
    const stop = new AbortController();
    // Stopped while it compares: nothing was written yet, and yet it is no longer the consistent disk that it was.
    const options = { production, replica, adopt: true, resize: true, shrink: true, workers };
    const run = sync({
      ...options,
      signal: stop.signal,
      onProgress: ({ phase }) => phase === 'comparing' && stop.abort(),
    });
    await expect(run).rejects.toThrow();
    expect(statSync(replica).size).toBe(size * MiB);
    const { status, bitmap } = loadState(statePath(replica))!;
    expect(status).toBe('synchronizing');
    expect(bitmap.count).toBe(bitmap.blocks);
    expect(bitmap.size).toBe(size * MiB);
    expect((await sync({ production, replica, workers })).consistent).toBe(true);
    expect(sameFiles(production, replica)).toBe(true);
  });

  it('after its state was stored and before it was cut is cut by the next run', async () => {
    const { replica } = await replicated();
    const production = fileOf(folder, noise(1 * MiB, 12));
    const options = { production, replica, adopt: true, shrink: true, workers };
    const stop = new AbortController();
    const run = sync({ ...options, signal: stop.signal, onProgress: () => stop.abort() });
    await expect(run).rejects.toThrow();
    // As a crash between the two would have left it.
    writeFileSync(replica, bytes);
    expect((await sync(options)).consistent).toBe(true);
    expect(sameFiles(production, replica)).toBe(true);
  });
});
