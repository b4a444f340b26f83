import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import { describeWith, temporary } from '../../tools.ts';
import { must } from '../nbd-peers.ts';
import { differing, Protected } from './processes.ts';

const folder = temporary();

function memoryOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) * KiB;
}

describe('a replica that is stopped', () => {
  it('makes writes be marked, in bounded memory, and is made equal when it goes on', async () => {
    const group = new Protected(join(folder, 'frozen'), [{ name: 'disk', size: 256 * MiB }]);
    await group.start('--patience', '1');
    await group.streaming();
    const unit = await group.client('disk');
    const piece = Buffer.alloc(1 * MiB, 7);
    await unit.write(0, piece);
    await group.streaming();
    const replica = group.replicaPid()!;
    process.kill(replica, 'SIGSTOP');
    try {
      // One write, and silence: the replica is given up after its second of patience.
      await unit.write(1 * MiB, piece);
      const silent = await group.until((state) => state.state === 'marking', 'marking');
      expect(silent.why).toMatch(/acknowledged nothing for/);
      // Far more than the queue holds.
      const before = memoryOf(group.child!.pid!);
      for (let at = 2; at < 200; at++) await unit.write(at * MiB, piece);
      await unit.flush();
      expect(memoryOf(group.child!.pid!) - before).toBeLessThan(100 * MiB);
      const { markedBytes, state } = await group.state();
      expect(state).toBe('marking');
      expect(markedBytes).toBeGreaterThanOrEqual(198 * MiB);
    } finally {
      process.kill(replica, 'SIGCONT');
    }
    await group.streaming();
    expect(group.replicaPid()).toBe(replica);
    await unit.close();
    expect(await group.end('SIGTERM')).toBe(0);
    expect(await differing(group)).toEqual([]);
  });

  it('is given up by a queue that is full, too', async () => {
    const group = new Protected(join(folder, 'full'), [{ name: 'disk', size: 128 * MiB }]);
    await group.start('--patience', '600');
    await group.streaming();
    const unit = await group.client('disk');
    const replica = group.replicaPid()!;
    process.kill(replica, 'SIGSTOP');
    try {
      const piece = Buffer.alloc(1 * MiB, 3);
      for (let at = 0; at < 127; at++) await unit.write(at * MiB, piece);
      const { state, why, queuedBytes } = await group.state();
      expect({ state, why }).toEqual({
        state: 'marking',
        why: 'the replica takes writes more slowly than they come',
      });
      expect(queuedBytes).toBeLessThanOrEqual(64 * MiB);
    } finally {
      process.kill(replica, 'SIGKILL');
    }
    await group.streaming();
    expect(group.replicaPid()).not.toBe(replica);
    await unit.close();
    expect(await group.end('SIGTERM')).toBe(0);
    expect(await differing(group)).toEqual([]);
  });
});

describeWith(['fio', 'qemu-io', 'nbdcopy', 'nbdinfo'], 'clients of others', () => {
  it('write through a splitter, and read what they wrote; the replica has the same', async () => {
    const group = new Protected(join(folder, 'clients'), [
      { name: 'system', size: 48 * MiB },
      { name: 'data', size: 16 * MiB },
    ]);
    await group.start();
    await group.streaming();
    const job = (name: string, size: string) => [
      `--name=${name}`,
      '--ioengine=nbd',
      `--uri=${group.url(name)}`,
      `--size=${size}`,
      '--rw=randwrite',
      '--bs=512-64k',
      '--iodepth=16',
      '--verify=crc32c',
      '--verify_fatal=1',
      '--verify_state_save=0',
      '--randrepeat=0',
    ];
    await Promise.all([must('fio', job('system', '48M')), must('fio', job('data', '16M'))]);
    const url = group.url('data');
    await must('qemu-io', [
      '-f',
      'raw',
      '-c',
      'write -z -u 1M 2M',
      '-c',
      'write -P 5 3M 64k',
      '-c',
      'flush',
      url,
    ]);
    await must('qemu-io', ['-f', 'raw', '-c', 'write -f -P 6 4M 4k', '-c', 'discard 8M 1M', url]);
    await must('qemu-io', [
      '-f',
      'raw',
      '-c',
      'read -P 0 1M 2M',
      '-c',
      'read -P 5 3M 64k',
      '-c',
      'read -P 0 8M 1M',
      url,
    ]);
    const info = JSON.parse(await must('nbdinfo', ['--json', url])) as {
      exports: {
        can_write_zeroes?: boolean;
        can_multi_conn: boolean;
        is_read_only: boolean;
        can_fua: boolean;
      }[];
    };
    expect(info.exports[0]).toMatchObject({ is_read_only: false, can_multi_conn: true, can_fua: true });
    await must('nbdcopy', [url, join(folder, 'copy')]);
    await group.streaming();
    expect(await group.end('SIGTERM')).toBe(0);
    expect(spawnSync('cmp', [group.disk('data'), join(folder, 'copy')]).status).toBe(0);
    expect(await differing(group)).toEqual([]);
  });
});
