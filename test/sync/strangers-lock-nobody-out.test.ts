import { connect, type Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { MAX_GREETINGS, MAX_SESSIONS } from '../../src/base/limits.ts';
import { connect as connectSite } from '../../src/sync/site-connection.ts';
import { sync } from '../../src/sync/sync.ts';
import { Lobby } from '../../src/wire/lobby.ts';
import { temporary } from '../tools.ts';
import { fileOf, KiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();

describe('a server', () => {
  it('serves while strangers hold more connections open than it has places', async () => {
    const site = await testServer();
    const strangers: Socket[] = [];
    let dropped = 0;
    for (let i = 0; i < 2 * MAX_GREETINGS; i++) {
      const socket = connect(site.server.port, '127.0.0.1');
      socket.on('error', () => undefined);
      socket.on('data', () => undefined);
      socket.on('close', () => dropped++);
      await new Promise((resolve) => socket.once('connect', resolve));
      strangers.push(socket);
    }
    const production = fileOf(folder, noise(300 * KiB, 1));
    const replica = fileOf(folder, noise(300 * KiB, 2));
    const to = site.grant('vm', { disk: replica });
    await sync({ production, replica: to, token: site.token, workers: 1 });
    expect(sameFiles(production, replica)).toBe(true);
    expect(dropped).toBeGreaterThanOrEqual(MAX_GREETINGS);
    for (const socket of strangers) socket.destroy();
  });

  it('tells a client for whom there is no place left, and has one again when another has gone', async () => {
    const site = await testServer();
    const address = `driftmap://127.0.0.1:${site.server.port}`;
    const held = await Promise.all(
      Array.from({ length: MAX_SESSIONS }, () => connectSite(address, { token: site.token })),
    );
    const production = fileOf(folder, noise(300 * KiB, 1));
    const replica = fileOf(folder, noise(300 * KiB, 2));
    const to = site.grant('vm', { disk: replica });
    const refused = sync({ production, replica: to, token: site.token, workers: 1 });
    await expect(refused).rejects.toMatchObject({ kind: 'limit' });
    await expect(refused).rejects.toThrow(`the other site says: ${MAX_SESSIONS} sessions are under way here`);
    await held[0]!.close();
    for (let i = 0; i < 100 && site.server.sessions === MAX_SESSIONS; i++)
      await new Promise((resolve) => setTimeout(resolve, 20));
    await sync({ production, replica: to, token: site.token, workers: 1 });
    expect(sameFiles(production, replica)).toBe(true);
    for (const one of held) await one.close();
  });
});

describe('a lobby that is full', () => {
  it('drops the oldest of the address that has the most', () => {
    const lobby = new Lobby(4);
    const dropped: string[] = [];
    const enter = (address: string, name: string) => lobby.enter(address, () => dropped.push(name));
    const first = enter('a', 'a1');
    enter('b', 'b1');
    enter('b', 'b2');
    enter('a', 'a2');
    first.leave();
    enter('c', 'c1');
    expect(dropped).toEqual([]);
    enter('c', 'c2');
    enter('c', 'c3');
    expect(dropped).toEqual(['b1', 'c1']);
    expect(lobby.size).toBe(4);
  });
});
