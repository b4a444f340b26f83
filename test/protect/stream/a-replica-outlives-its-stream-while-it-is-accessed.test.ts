import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../../src/base/errors.ts';
import { KiB, MiB } from '../../../src/base/units.ts';
import { reachChild } from '../../../src/protect/stream/reach.ts';
import { Connection } from '../../../src/wire/connection.ts';
import { memoryPair } from '../../../src/wire/transport.ts';
import { temporary } from '../../tools.ts';
import { startAccess } from '../replica/commands.ts';
import { differing, gone, Protected } from '../splitter/processes.ts';

const folder = temporary();
const children: number[] = [];
afterAll(() => {
  for (const pid of children) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It ended.
    }
  }
});

describe('a replica with an open access', () => {
  it('lives on when protect is stopped, takes the next stream, and ends when nobody needs it', async () => {
    const group = new Protected(join(folder, 'a'), [{ name: 'disk', size: 8 * MiB }]);
    const write = async (value: number) => {
      const unit = await group.client('disk');
      await unit.write(0, Buffer.alloc(64 * KiB, value));
      await group.streaming();
      await unit.close();
    };
    await group.start();
    await group.streaming();
    await write(1);
    const replica = group.replicaPid()!;
    children.push(replica);
    const sockets = join(folder, 'look');
    mkdirSync(sockets);
    const access = await startAccess(group.file, '--at', 'latest', '-U', sockets);
    const ended = new Promise<number | null>((resolve) => group.child!.once('exit', resolve));
    group.child!.kill('SIGTERM');
    expect(await ended).toBe(0);
    group.child = null;
    expect(() => process.kill(replica, 0)).not.toThrow();
    expect(access.child.exitCode).toBe(null);
    // Its journal is open there: a new stream gets it all the same.
    await group.start();
    await group.streaming();
    await write(2);
    expect(group.err).toBe('');
    access.child.kill('SIGINT');
    expect(await access.ended).toMatchObject({ status: 0 });
    expect(await group.end('SIGTERM')).toBe(0);
    await gone(replica);
    expect(await differing(group)).toEqual([]);
  });
});

describe("a replica's last word", () => {
  it('is told rather than its exit status alone', async () => {
    const script = join(folder, 'dies.mjs');
    writeFileSync(script, "console.error('first'); console.error('the store burnt down'); process.exit(2);");
    await expect(reachChild({ command: [process.execPath, script] })).rejects.toThrow(
      /the store burnt down \(the replica's process ended with status 2\)/,
    );
  });

  it('wins over the pipe that broke when it left', async () => {
    const [near, far] = memoryPair();
    const connection = new Connection(near);
    const replica = new Connection(far);
    near.readable.pause();
    void replica.abandon(new DriftmapError('io', 'no space is left'));
    near.writable.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    await new Promise((resolve) => setImmediate(resolve));
    near.readable.resume();
    await expect(connection.receive()).rejects.toThrow(/no space is left/);
    expect(connection.ending).toBe('said');
  });
});
