import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { failover, openMarked } from '../../src/sync/failover.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { RateLimiter } from '../../src/wire/limiter.ts';
import { loopDevices } from '../lu/files.ts';
import { describeWith, root, temporary } from '../tools.ts';
import { fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const words = Buffer.from('a token that is text '.repeat(3));
/** It leaves time for a signal. */
const slow = await testServer({ token: words, limiter: new RateLimiter(60 * MiB) });
const workers = 1;
const BLOCK = 64 * KiB;
const SIZE = 80 * MiB;

function write(path: string, offset: number, bytes: Uint8Array): void {
  const unit = openFileUnit(path, { write: true });
  unit.write(offset, bytes);
  unit.flush();
  unit.close();
}

/** Bytes that are marked in the state of a replica that is being synchronized; more than all of it before. */
function marked(replica: string): number {
  const state = loadState(statePath(replica));
  return state?.status === 'synchronizing' ? state.bitmap.markedBytes : Number.POSITIVE_INFINITY;
}

/** A sync that is stopped once a checkpoint has cleared some marks. @returns bytes that are marked then */
async function interrupted(ends: { production: string; replica: string }, replica: string): Promise<number> {
  const stop = new AbortController();
  const run = sync({
    ...{ ...ends, token: site.token, workers, bySignature: false },
    signal: stop.signal,
    onProgress: () => marked(replica) < SIZE && stop.abort(),
  });
  await expect(run).rejects.toThrow();
  for (let i = 0; i < 250 && site.server.sessions > 0; i++) await pause(20);
  const left = marked(replica);
  expect(left).toBeLessThan(SIZE);
  return left;
}

const granted = (path: string) => site.grant(path, { disk: path });

describe.each([
  ['pulled', (production: string, replica: string) => ({ production: granted(production), replica })],
  ['pushed', (production: string, replica: string) => ({ production, replica: granted(replica) })],
])('an interrupted replica that is %s', (_, endsOf) => {
  it('and that nobody wrote to goes on with what is marked', async () => {
    const production = fileOf(folder, noise(SIZE, 1));
    const replica = fileOf(folder, new Uint8Array(SIZE).fill(1));
    const left = await interrupted(endsOf(production, replica), replica);
    const result = await sync({ production, replica, workers });
    expect(result.comparedBytes).toBe(left);
    expect(result.warnings).toEqual([]);
    expect(sameFiles(production, replica)).toBe(true);
  });

  it('and that somebody wrote to is compared whole', async () => {
    const production = fileOf(folder, noise(SIZE, 1));
    const replica = fileOf(folder, new Uint8Array(SIZE).fill(1));
    const ends = endsOf(production, replica);
    await interrupted(ends, replica);
    const done = loadState(statePath(replica))!.bitmap.marks.nextClear(0);
    write(replica, done * BLOCK, noise(BLOCK, 3));
    const result = await sync({ ...ends, token: site.token, workers });
    expect(result.consistent).toBe(true);
    expect(result.comparedBytes).toBe(SIZE);
    expect(result.warnings.join()).toContain('by somebody else');
    expect(sameFiles(production, replica)).toBe(true);
  });
});

describe.each(['SIGINT', 'SIGKILL'] as const)('a replica whose sync was ended by %s', (signal) => {
  it('and that somebody wrote to is compared whole, and the user is told', async () => {
    const production = fileOf(folder, noise(SIZE, 4));
    const replica = fileOf(folder, new Uint8Array(SIZE).fill(1));
    const command = join(root, 'dist', 'cli', 'main.js');
    const secret = join(folder, `token-${signal}`);
    writeFileSync(secret, words, { mode: 0o600 });
    const from = slow.grant(signal, { disk: production });
    const args = ['sync', from, replica, '--token-file', secret, '-q'];
    const child = spawn(process.execPath, [command, ...args], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.on('close', resolve));
    for (let i = 0; i < 2000 && marked(replica) >= SIZE && child.exitCode === null; i++) await pause(5);
    child.kill(signal);
    await ended;
    const state = loadState(statePath(replica))!;
    expect(state.status).toBe('synchronizing');
    // Right after a kill nobody can tell whose write it was.
    if (signal === 'SIGKILL') await pause(2600);
    write(replica, state.bitmap.marks.nextClear(0) * BLOCK, noise(BLOCK, 5));
    const result = await sync({ production, replica, workers });
    expect(result.comparedBytes).toBe(SIZE);
    expect(result.warnings.join()).toContain('by somebody else');
    expect(readFileSync(replica).equals(readFileSync(production))).toBe(true);
  });
});

describeWith(['loop devices'], 'a block device', () => {
  const attach = loopDevices();
  it('that was production is compared whole on the way back, since it tells of no writes', async () => {
    const device = attach(fileOf(folder, noise(8 * MiB, 6)));
    const replica = fileOf(folder, noise(8 * MiB, 7));
    await sync({ production: device, replica, workers });
    // The old production writes on after the failover, unseen by any generation.
    write(device, 2 * MiB, noise(4 * BLOCK, 8));
    await failover({ replica });
    const disk = await openMarked(replica);
    await disk.write(6 * MiB, noise(100, 9));
    await disk.close();
    for (const to of [device, site.grant('device', { disk: device, state: join(folder, 'device-far') })]) {
      write(device, 2 * MiB, noise(4 * BLOCK, 8));
      const state = to === device ? join(folder, 'device-state') : undefined;
      const back = await sync({ production: replica, replica: to, state, token: site.token, workers });
      expect(back.consistent).toBe(true);
      expect(back.comparedBytes).toBe(8 * MiB);
      expect(sameFiles(replica, device)).toBe(true);
    }
  });
});
