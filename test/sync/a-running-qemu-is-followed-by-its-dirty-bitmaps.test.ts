import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { QmpClient } from '../../src/lu/qemu/qmp.ts';
import { type LiveEnding, liveFromBitmap, liveFromQemu } from '../../src/sync/live-marks.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { describeWith, temporary } from '../tools.ts';
import { fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { guestWrites, RunningGuest, type RunningQemu, rawOf, runQemu } from './qsd.ts';
import { testServer } from './server.ts';

const SIZE = 24 * MiB;

describeWith(['qemu-storage-daemon', 'qemu-img', 'qemu-io'], 'a disk of a running QEMU', () => {
  const folder = temporary();
  let images = 0;

  function image(): string {
    const path = join(folder, `vm-${images++}.qcow2`);
    const raw = fileOf(folder, noise(SIZE, images));
    const made = spawnSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, path]);
    expect(made.status).toBe(0);
    return path;
  }

  function addBitmap(path: string, name: string): void {
    const added = spawnSync('qemu-img', ['bitmap', '--add', '--granularity', '64K', path, name]);
    expect(String(added.stderr)).toBe('');
  }

  /** Follows a guest to the end; returns what the state said at each pass. */
  async function follow(
    path: string,
    qemu: RunningQemu,
    open: (ending: LiveEnding) => ReturnType<typeof liveFromQemu>,
    replica: { readonly path: string; readonly address: string; readonly token?: Uint8Array },
  ) {
    const guest = new RunningGuest(qemu.url, SIZE);
    const seen: string[] = [];
    const live = await open({
      threshold: 2 * MiB,
      quiesce: () => guest.stop(),
      onPass: () => {
        seen.push(loadState(statePath(replica.path))!.status);
      },
    });
    const { address, token } = replica;
    const result = await sync({ production: qemu.url, replica: address, token, workers: 1, live });
    await live.close();
    const state = loadState(statePath(replica.path))!;
    await qemu.stop();
    const equal = sameFiles(rawOf(path, 'qcow2', `${path}.raw`), replica.path);
    return { result, seen, state, guest, equal };
  }

  it.each(['bitmap', 'monitor'])('ends equal while a guest writes, by its %s', async (way) => {
    const path = image();
    if (way === 'bitmap') addBitmap(path, 'all');
    const qemu = await runQemu(folder, path, way === 'bitmap' ? 'all' : undefined);
    const replica = fileOf(folder, new Uint8Array(SIZE));
    const open = (ending: LiveEnding) =>
      way === 'bitmap'
        ? liveFromBitmap(qemu.url, 'all', ending)
        : liveFromQemu({ monitor: qemu.monitor, url: qemu.url }, ending);
    const { result, seen, state, guest, equal } = await follow(path, qemu, open, {
      path: replica,
      address: replica,
    });
    expect(guest.writes).toBeGreaterThan(0);
    expect(equal).toBe(true);
    expect(result.consistent).toBe(true);
    expect(result.passes).toBeGreaterThanOrEqual(2);
    expect(new Set(seen)).toEqual(new Set(['synchronizing']));
    expect(state.status).toBe('consistent');
  });

  it('ends equal over a network too, and sends what did not change once', async () => {
    const site = await testServer();
    const path = image();
    addBitmap(path, 'all');
    const qemu = await runQemu(folder, path, 'all');
    const replica = fileOf(folder, new Uint8Array(SIZE));
    const { result, guest, equal } = await follow(
      path,
      qemu,
      (ending) => liveFromBitmap(qemu.url, 'all', ending),
      {
        path: replica,
        address: site.grant('vm', { disk: replica }),
        token: site.token,
      },
    );
    expect(equal).toBe(true);
    expect(result.consistent).toBe(true);
    // A bitmap that only grows is compared again in each pass; no more than what was written anew is sent.
    expect(result.dataBytes + result.placedBytes).toBeLessThanOrEqual(SIZE + guest.writes * 64 * KiB);
  });

  it('forgets what it was asked for when it was taken, and is as before in the end', async () => {
    const path = image();
    const qemu = await runQemu(folder, path);
    const geometry = { size: SIZE, blockSize: 64 * KiB };
    const live = await liveFromQemu({ monitor: qemu.monitor, url: qemu.url, node: 'vm' }, { threshold: 0 });
    guestWrites(qemu.url, ['write -q 1M 4k', `write -q ${SIZE - 512} 512`]);
    expect([...(await live.take(geometry)).runs()]).toEqual([
      { start: 16, end: 17 },
      { start: SIZE / 65536 - 1, end: SIZE / 65536 },
    ]);
    guestWrites(qemu.url, ['write -q 2M 64k']);
    expect([...(await live.take(geometry)).runs()]).toEqual([{ start: 32, end: 33 }]);
    expect((await live.take(geometry)).isEmpty).toBe(true);
    await live.close();
    const qmp = await QmpClient.connect(qemu.monitor);
    const nodes = (await qmp.execute('query-named-block-nodes', { flat: true })) as Record<string, unknown>[];
    const vm = nodes.find((node) => node['node-name'] === 'vm')!;
    expect(vm['dirty-bitmaps'] ?? []).toEqual([]);
    expect(await qmp.execute('query-block-exports')).toHaveLength(1);
    await expect(qmp.execute('no-such-thing')).rejects.toThrow(/QEMU refused 'no-such-thing'/);
    qmp.close();
    await qemu.stop();
  });

  it('is not made quiet by itself: then the replica stays synchronizing, and it says so', async () => {
    const path = image();
    addBitmap(path, 'all');
    const qemu = await runQemu(folder, path, 'all');
    const replica = fileOf(folder, new Uint8Array(SIZE));
    const live = await liveFromBitmap(qemu.url, 'all', { threshold: MiB });
    const result = await sync({ production: qemu.url, replica, workers: 1, live });
    expect(result.consistent).toBe(false);
    expect(result.warnings.join()).toMatch(/--quiesce/);
    expect(loadState(statePath(replica))!.status).toBe('synchronizing');
    await live.close();
    await qemu.stop();
  });

  it('lets production go on when the last pass fails', async () => {
    const path = image();
    const qemu = await runQemu(folder, path);
    const replica = fileOf(folder, new Uint8Array(SIZE));
    const told: string[] = [];
    const stop = new AbortController();
    const live = await liveFromQemu(
      { monitor: qemu.monitor, url: qemu.url },
      {
        threshold: MiB,
        quiesce: async () => {
          told.push('quiet');
          guestWrites(qemu.url, ['write -q 0 8M']);
          stop.abort('enough');
        },
        resume: async () => {
          told.push('on');
        },
      },
    );
    const running = sync({ production: qemu.url, replica, workers: 1, live, signal: stop.signal });
    await expect(running).rejects.toThrow(/stopped/);
    expect(told).toEqual(['quiet', 'on']);
    await live.close();
    await qemu.stop();
  });

  it('has an image whose bitmap is in use: it is refused, and what to do is said', async () => {
    const path = image();
    addBitmap(path, 'all');
    const qemu = await runQemu(folder, path);
    guestWrites(qemu.url, ['write -q 0 64k']);
    const refusal = await liveFromBitmap(path, 'all', { threshold: 0 }).catch((error) => error);
    expect(refusal).toBeInstanceOf(DriftmapError);
    expect(refusal.message).toMatch(/--qmp/);
    await qemu.stop();
    const live = await liveFromBitmap(path, 'all', { threshold: 0 });
    const marks = await live.take({ size: SIZE, blockSize: 64 * KiB });
    expect([...marks.runs()]).toEqual([{ start: 0, end: 1 }]);
  });

  it('is no monitor, no such bitmap, or of another size: told before anything is compared', async () => {
    const path = image();
    const qemu = await runQemu(folder, path);
    const monitor = join(folder, 'nobody.qmp');
    const ending = { threshold: 0 };
    await expect(liveFromQemu({ monitor, url: qemu.url }, ending)).rejects.toThrow(/no such file|ENOENT/);
    await expect(liveFromQemu({ monitor: qemu.monitor, url: qemu.url, node: 'no' }, ending)).rejects.toThrow(
      /QEMU refused 'block-dirty-bitmap-add'/,
    );
    await expect(liveFromBitmap(qemu.url, 'none', ending)).rejects.toThrow(/no dirty bitmap 'none'/);
    await qemu.stop();
  });
});
