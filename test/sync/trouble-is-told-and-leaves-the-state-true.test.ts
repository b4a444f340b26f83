import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { faultUnit } from '../../src/lu/filters.ts';
import { lock } from '../../src/sync/lock.ts';
import { decodeState, encodeState, loadState, saveState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { describeWith, root, temporary, thrown } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const BLOCK = 64 * KiB;
const folder = temporary();
const site = await testServer();
const workers = 1;
const bytes300 = noise(300_000, 14);

async function failure(promise: Promise<unknown>): Promise<DriftmapError> {
  const error = await promise.then(
    () => null,
    (cause) => cause,
  );
  expect(error).toBeInstanceOf(DriftmapError);
  return error as DriftmapError;
}

function expectTrue(bitmap: SyncBitmap, replica: string, production: Uint8Array): void {
  const contents = readFileSync(replica);
  for (let block = 0; block < bitmap.blocks; block++) {
    const [from, to] = [block * BLOCK, (block + 1) * BLOCK];
    if (Buffer.compare(contents.subarray(from, to), production.subarray(from, to)) !== 0)
      expect(bitmap.test(block), `block ${block}`).toBe(true);
  }
}

describe('a replica that', () => {
  const bytes = noise(2 * MiB, 1);
  const drift = Array.from({ length: 20 }, (_, i) => i);

  it('fails at the n-th write, or tears it, keeps its marks; the next run ends equal', async () => {
    for (const how of ['error', 'tear'] as const) {
      const production = fileOf(folder, bytes);
      const replica = fileOf(folder, changed(bytes, drift));
      const state = `${replica}.state`;
      const unit = openFileUnit(replica, { write: true });
      const broken = faultUnit(unit, [{ on: 'write', after: 2, how }]);
      const error = await failure(
        sync({ production, replica: broken, replicaFormat: 'raw', state, workers }),
      );
      expect(error.kind).toBe('io');
      unit.close();
      const left = loadState(state)!;
      expect(left.status).toBe('synchronizing');
      expectTrue(left.bitmap, replica, bytes);
      const result = await sync({ production, replica, state, workers });
      expect(result.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
    }
  });

  it('cannot be flushed clears nothing', async () => {
    const production = fileOf(folder, bytes);
    const replica = fileOf(folder, changed(bytes, drift));
    const state = `${replica}.state`;
    const unit = openFileUnit(replica, { write: true });
    const broken = faultUnit(unit, [{ on: 'flush' }]);
    await failure(sync({ production, replica: broken, replicaFormat: 'raw', state, workers }));
    unit.close();
    expect(loadState(state)!.bitmap.count).toBe(20);
  });

  it('becomes shorter in the middle is an error, here and at another site', async () => {
    const production = fileOf(folder, noise(40 * MiB, 2));
    for (const far of [false, true]) {
      const replica = fileOf(folder, noise(40 * MiB, 3));
      const to = far ? site.grant('shrinks', { disk: replica }) : replica;
      let cut = false;
      const error = await failure(
        sync({
          ...{ production, replica: to, token: site.token, bySignature: false, workers: 1 },
          onProgress: ({ phase }) => {
            if (phase !== 'sending' || cut) return;
            cut = true;
            truncateSync(replica, 20 * MiB);
          },
        }),
      );
      expect(error.message).toContain('20971520 bytes now');
      expect(['io', 'mismatch']).toContain(error.kind);
      expect(cut).toBe(true);
    }
  });

  it('may only be read is refused before anything is compared', async () => {
    const production = fileOf(folder, bytes);
    const replica = fileOf(folder, changed(bytes, drift));
    const granted = site.grant('readonly', { disk: replica, readOnly: true });
    const error = await failure(sync({ production, replica: granted, token: site.token, workers }));
    expect(error.kind).toBe('permission');
    expect(error.message).toContain('granted for reading only');
    expect(error.message).not.toContain(replica);
    if (process.getuid?.() !== 0) {
      chmodSync(replica, 0o444);
      expect((await failure(sync({ production, replica, workers }))).kind).toBe('permission');
    }
    expect(loadState(statePath(replica))).toBeNull();
  });

  it('is not granted, or not there, is one clear error', async () => {
    const production = fileOf(folder, bytes);
    const nobody = await failure(
      sync({ production, replica: site.address('nobody'), token: site.token, workers }),
    );
    expect(nobody.message).toContain("no disk is granted under the name 'nobody'");
    const gone = site.grant('gone', { disk: join(folder, 'gone.raw') });
    const missing = await failure(sync({ production, replica: gone, token: site.token, workers }));
    expect(missing.kind).toBe('not-found');
    // A peer knows the name, not the path behind it.
    expect(missing.message).toContain('gone: ');
    expect(missing.message).not.toContain(folder);
  });

  it('is written by another session is left to it', async () => {
    const production = fileOf(folder, bytes);
    const replica = fileOf(folder, changed(bytes, drift));
    const release = lock(`${statePath(replica)}.lock`);
    expect((await failure(sync({ production, replica, workers }))).message).toContain('is being written by');
    release();
    await sync({ production, replica, workers });
    expect(sameFiles(production, replica)).toBe(true);
  });

  it('was left locked by a process that is gone is taken over', async () => {
    const production = fileOf(folder, bytes);
    const replica = fileOf(folder, changed(bytes, drift));
    const gone = spawnSync(process.execPath, ['-e', 'process.stdout.write(String(process.pid))'], {
      encoding: 'utf8',
    });
    const { hostname } = await import('node:os');
    writeFileSync(`${statePath(replica)}.lock`, `${gone.stdout} 12345 ${hostname()}\n`);
    await sync({ production, replica, workers });
    expect(sameFiles(production, replica)).toBe(true);
    // The number of a living process, which began at another time: not the one that left the lock.
    writeFileSync(`${statePath(replica)}.lock`, `${process.ppid} 12345 ${hostname()}\n`);
    await sync({ production, replica, workers });
  });

  it('lies where nothing can be written is told as that, and not as a failed lock', () => {
    // Nobody makes files there, not even root.
    const error = thrown(() => lock('/sys/kernel/x.driftstate.lock')) as DriftmapError;
    expect(error.kind).toBe('permission');
    expect(error.message).toMatch(/the replica, or the folder that it lies in, can only be read/);
  });

  it('has something else where its state belongs is not touched', async () => {
    const production = fileOf(folder, bytes);
    const replica = fileOf(folder, changed(bytes, drift));
    const other = fileOf(folder, noise(1000, 9));
    const error = await failure(sync({ production, replica, state: other, workers }));
    expect(error.kind).toBe('policy');
    expect(readFileSync(other)).toEqual(Buffer.from(noise(1000, 9)));
  });
});

describe('production that', () => {
  it.each([
    ['comparing', undefined],
    ['comparing', 4 * KiB],
    ['sending', undefined],
    ['sending', 4 * KiB],
  ])(
    'is written to while %s (pieces: %s) leaves a replica that is not called consistent',
    async (during, refine) => {
      const bytes = noise(4 * MiB, 4);
      const production = fileOf(folder, bytes);
      const replica = fileOf(folder, noise(4 * MiB, 5));
      let wrote = false;
      const result = await sync({
        ...{ production, replica, workers: 1, refine },
        onProgress: ({ phase }) => {
          if (phase !== during || wrote) return;
          wrote = true;
          const unit = openFileUnit(production, { write: true });
          unit.write(100, Uint8Array.of(1, 2, 3));
          unit.close();
        },
      });
      expect(wrote).toBe(true);
      expect(result.consistent).toBe(false);
      expect(result.warnings.join()).toContain('synchronize again');
      expect(loadState(statePath(replica))!.status).toBe('synchronizing');
      const again = await sync({ production, replica, workers });
      expect(again.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
    },
  );

  it('cannot be read in the middle is an error at both ends, and the marks stay', async () => {
    const bytes = noise(2 * MiB, 6);
    const path = fileOf(folder, bytes);
    const { openDisk } = await import('../../src/disk/open.ts');
    const unit = openFileUnit(path);
    const range = { offset: 1 * MiB, length: 1 };
    const broken = await openDisk(faultUnit(unit, [{ on: 'read', range, after: 2 }]), { format: 'raw' });
    const replica = fileOf(folder, noise(2 * MiB, 7));
    await failure(sync({ production: broken, replica, workers }));
    unit.close();
    const state = loadState(statePath(replica));
    if (state !== null) expectTrue(state.bitmap, replica, bytes);
    await sync({ production: path, replica, adopt: true, workers });
    expect(sameFiles(path, replica)).toBe(true);
  });
});

describe('a session that is stopped', () => {
  it('ends with our error, here and over a network, and the next one goes on', async () => {
    const production = fileOf(folder, noise(24 * MiB, 8));
    for (const far of [false, true]) {
      const replica = fileOf(folder, noise(24 * MiB, 9));
      const to = far ? site.grant('stopped', { disk: replica }) : replica;
      const stop = new AbortController();
      const options = { production, replica: to, token: site.token, bySignature: false, workers: 1 };
      const error = await failure(
        sync({
          ...options,
          signal: stop.signal,
          onProgress: ({ phase }) => phase === 'sending' && stop.abort(),
        }),
      );
      expect(error.kind).toBe('aborted');
      // The server lets go of the replica when it hears of it.
      for (let i = 0; i < 50 && site.server.sessions > 0; i++) await new Promise((r) => setTimeout(r, 20));
      await sync(options);
      expect(sameFiles(production, replica)).toBe(true);
    }
  });
});

describe('a state file', () => {
  it('with any damaged byte is refused, and whole it says what it said', async () => {
    const production = fileOf(folder, noise(300_000, 10));
    const replica = fileOf(folder, noise(300_000, 11));
    await sync({ production, replica, workers });
    const path = statePath(replica);
    const state = loadState(path)!;
    const bytes = encodeState(state);
    expect(decodeState(bytes).since).toBe(state.since);
    expect(statSync(path).size).toBe(bytes.length);
    for (let at = 0; at < bytes.length; at++) {
      const damaged = bytes.slice();
      damaged[at]! ^= 0x41;
      const error = thrown(() => decodeState(damaged, 'x'));
      expect(error, `byte ${at}`).toBeInstanceOf(DriftmapError);
    }
    for (let length = 0; length < bytes.length; length += 7)
      expect(
        thrown(() => decodeState(bytes.subarray(0, length))),
        `length ${length}`,
      ).toBeInstanceOf(DriftmapError);
    saveState(state, path);
    expect(loadState(path)!.bitmap.equals(state.bitmap)).toBe(true);
  });
});

describe('a disk on tmpfs', () => {
  const shared = '/dev/shm';
  const there =
    statSync(shared, { throwIfNoEntry: false })?.isDirectory() && statfsSync(shared).type === 0x01021994;
  it.skipIf(!there)(
    'cannot tell of all writes: a sync says so, of either side and of another site',
    async () => {
      const on = mkdtempSync(join(shared, 'driftmap-test-'));
      try {
        const production = join(on, 'p.raw');
        const replica = join(on, 'r.raw');
        for (const path of [production, replica]) writeFileSync(path, bytes300);
        for (const to of [replica, site.grant('tmpfs', { disk: replica })]) {
          const { warnings } = await sync({ production, replica: to, token: site.token, workers });
          const told = warnings.filter((line) => line.includes('lies on tmpfs'));
          expect(told).toHaveLength(2);
        }
        const from = site.grant('tmpfs-production', { disk: production, readOnly: true });
        const { warnings } = await sync({
          production: from,
          replica,
          adopt: true,
          token: site.token,
          workers,
        });
        expect(warnings.filter((line) => line.includes('lies on tmpfs'))).toHaveLength(2);
      } finally {
        rmSync(on, { recursive: true });
      }
    },
  );
});

describeWith(['strace'], 'a file system that', () => {
  it('has no space left fails the session with these words; nothing that was marked is lost', async () => {
    const production = fileOf(folder, noise(48 * MiB, 12));
    const replica = fileOf(folder, noise(48 * MiB, 13));
    const command = join(root, 'dist', 'cli', 'main.js');
    const inject = 'inject=pwrite64:error=ENOSPC:when=20+';
    const traced = ['-f', '-qq', '-o', '/dev/null', '-e', 'trace=pwrite64', '-e', inject];
    const args = [...traced, process.execPath, command, 'sync', production, replica, '-q', '-j', '1'];
    const { status, stderr } = spawnSync('strace', args, { encoding: 'utf8' });
    expect(status).toBe(2);
    expect(stderr).toContain('no space left on device');
    const state = loadState(statePath(replica))!;
    expect(state.status).toBe('synchronizing');
    expectTrue(state.bitmap, replica, readFileSync(production));
    await sync({ production, replica, workers });
    expect(sameFiles(production, replica)).toBe(true);
  });
});
