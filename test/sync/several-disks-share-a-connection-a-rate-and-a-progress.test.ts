import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { compareSites, verify } from '../../src/sync/compare-sites.ts';
import { connect } from '../../src/sync/site-connection.ts';
import { sync } from '../../src/sync/sync.ts';
import { type AllProgress, syncAll } from '../../src/sync/sync-all.ts';
import { parsePlace } from '../../src/wire/site.ts';
import { temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const { token, server } = site;
const BLOCK = 64 * KiB;
const bytes = noise(2 * MiB, 1);

function pair(blocks: readonly number[]) {
  const [production, replica] = [fileOf(folder, bytes), fileOf(folder, changed(bytes, blocks))];
  return { production, replica };
}

describe('a connection to another site', () => {
  it('carries sessions one after another: push, pull, scan and verify, by one greeting', async () => {
    const [a, b] = [pair([1]), pair([2, 3])];
    site.grant('a', { disk: a.replica });
    site.grant('b', { disk: b.production });
    const there = await connect(`driftmap://127.0.0.1:${server.port}`, { token });
    const running = server.sessions;
    const pushing = sync({ production: a.production, replica: there.disk('a'), workers: 1 });
    // Called before the first has ended: it waits.
    const pulling = sync({ production: there.disk('b'), replica: b.replica, workers: 1 });
    const pushed = await pushing;
    const pulled = await pulling;
    expect([pushed.dataBytes, pulled.dataBytes]).toEqual([BLOCK, 2 * BLOCK]);
    expect(server.sessions).toBe(running);
    expect(sameFiles(a.production, a.replica)).toBe(true);
    expect(sameFiles(b.production, b.replica)).toBe(true);
    const scanned = await compareSites({ production: a.production, replica: there.disk('a'), workers: 1 });
    const verified = await verify({ production: there.disk('b'), replica: b.replica, workers: 1 });
    expect([scanned.markedBlocks, verified.markedBlocks]).toEqual([0, 0]);
    // Each session tells of its own bytes.
    expect(scanned.sentBytes + scanned.receivedBytes).toBeLessThan(4 * KiB);
    await there.close();
    // The server counts a session when its last word is out.
    for (let tries = 0; server.sessions > 0 && tries < 100; tries++) await setTimeout(10);
    expect(server.metrics.text()).toMatch(/driftmap_sessions_ended_total 4\n/);
    await expect(sync({ production: a.production, replica: there.disk('a') })).rejects.toThrow(
      /connect again/,
    );
  });

  it('is made anew after a session that failed', async () => {
    const { production, replica } = pair([7]);
    site.grant('fine', { disk: replica });
    const there = await connect(`driftmap://127.0.0.1:${server.port}/`, { token });
    const refused = sync({ production, replica: there.disk('none'), workers: 1 });
    await expect(refused).rejects.toThrow(/no disk is granted under the name 'none'/);
    const stopped = sync({
      ...{ production, replica: there.disk('fine'), workers: 1, signal: AbortSignal.abort('now') },
    });
    await expect(stopped).rejects.toMatchObject({ kind: 'aborted' });
    expect((await sync({ production, replica: there.disk('fine'), workers: 1 })).consistent).toBe(true);
    expect(sameFiles(production, replica)).toBe(true);
    await there.close();
  });

  it('is refused at once where nobody listens, where the token is wrong, and where no site is named', async () => {
    const wrong = connect(`driftmap://127.0.0.1:${server.port}`, { token: new Uint8Array(32) });
    await expect(wrong).rejects.toMatchObject({ kind: 'permission' });
    await expect(connect('driftmap://127.0.0.1:1', { token })).rejects.toMatchObject({ kind: 'io' });
    await expect(connect('vm.raw')).rejects.toThrow(/expected ssh:\/\/host/);
    expect(parsePlace('ssh://me@host:22')).toEqual({ kind: 'ssh', user: 'me', host: 'host', port: 22 });
    expect(parsePlace('driftmaps://[::1]/')).toMatchObject({ tls: true, host: '[::1]', port: 7117 });
  });
});

describe('several pairs', () => {
  it('end equal, each told by itself; one that fails stops no other', async () => {
    const pairs = [pair([1]), pair([2, 3]), pair([4])];
    const seen: AllProgress[] = [];
    const results = await syncAll(
      [
        ...pairs.map((one) => ({ ...one, workers: 1 })),
        { production: join(folder, 'none'), replica: fileOf(folder, bytes) },
      ],
      { atOnce: 2, onProgress: (progress) => seen.push(progress) },
    );
    expect(results.map(({ result }) => result?.dataBytes)).toEqual([BLOCK, 2 * BLOCK, BLOCK, undefined]);
    expect(results[3]!.error).toMatchObject({ kind: 'not-found' });
    for (const { production, replica } of pairs) expect(sameFiles(production, replica)).toBe(true);
    expect(seen.at(-1)).toMatchObject({ endedPairs: 4, pairs: 4, sentBytes: 4 * BLOCK, phase: 'finished' });
  });

  it('stay within one rate together', async () => {
    const pairs = Array.from({ length: 3 }, (_, i) => {
      const one = {
        production: fileOf(folder, noise(MiB, 10 + i)),
        replica: fileOf(folder, new Uint8Array(MiB)),
      };
      const replica = site.grant(`rate${i}`, { disk: one.replica });
      return { production: one.production, replica, token, workers: 1 };
    });
    const began = performance.now();
    const results = await syncAll(pairs, { atOnce: 3, limit: 2 * MiB });
    const sent = results.reduce((sum, { result }) => sum + result!.sentBytes, 0);
    expect(sent).toBeGreaterThan(3 * MiB);
    // No promise of speed: of slowness. A burst and one message may be ahead.
    const seconds = (performance.now() - began) / 1000;
    expect(seconds).toBeGreaterThan((sent - 1.5 * MiB) / (2 * MiB));
  });

  it('that write one replica, or are none, are refused', async () => {
    const one = pair([1]);
    await expect(syncAll([one, one])).rejects.toThrow(/two pairs have one replica/);
    await expect(syncAll([one], { atOnce: 0 })).rejects.toThrow(/pairs at one time/);
    expect(await syncAll([])).toEqual([]);
  });
});
