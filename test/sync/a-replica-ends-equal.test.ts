import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { contentsOf, pairSpec } from '../scan/pairs.ts';
import { describeWith, temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles, writeSparse } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const workers = 1;

describe('a replica', () => {
  it('ends equal, whatever both hold: here, pushed and pulled, placed by signature or not', async () => {
    let turn = 0;
    await fc.assert(
      fc.asyncProperty(
        pairSpec,
        fc.constantFrom(512, 4 * KiB, 64 * KiB, 1 * MiB),
        fc.constantFrom('here', 'push', 'pull'),
        fc.boolean(),
        async (spec, blockSize, way, bySignature) => {
          const contents = contentsOf(spec);
          const name = `p${turn++}`;
          const production = writeSparse(join(folder, `${name}-a.raw`), contents.production);
          const replica = fileOf(folder, contents.replica);
          const from = way === 'pull' ? site.grant(`${name}-a`, { disk: production }) : production;
          const to = way === 'push' ? site.grant(`${name}-b`, { disk: replica }) : replica;
          const flags = { resize: true, shrink: true, workers, bySignature, blockSize, token: site.token };
          const result = await sync({ production: from, replica: to, ...flags });
          expect(result.consistent).toBe(true);
          expect(sameFiles(production, replica)).toBe(true);
          const state = loadState(statePath(replica))!;
          expect(state.status).toBe('consistent');
          expect(state.bitmap.count).toBe(0);
        },
      ),
      { numRuns: 25 },
    );
  });

  it('that is a unit in memory is written where it lies', async () => {
    const bytes = noise(3 * MiB + 700, 1);
    const replica = createArrayImage({ size: bytes.length, bytes: changed(bytes, [0, 7, 40]) });
    const production = await openDisk(createArrayImage({ size: bytes.length, bytes }));
    const result = await sync({ production, replica, workers });
    expect(result.consistent).toBe(true);
    expect(result.dataBytes).toBe(3 * 64 * KiB);
    const after = new Uint8Array(bytes.length);
    replica.read(0, after);
    expect(Buffer.compare(after, bytes)).toBe(0);
  });

  it('of no bytes, or of one, is equal too', async () => {
    for (const length of [0, 1]) {
      for (const bySignature of [false, true]) {
        const production = fileOf(folder, new Uint8Array(length).fill(3));
        const replica = fileOf(folder, new Uint8Array(length));
        const to = site.grant(`tiny-${length}`, { disk: replica });
        const result = await sync({ production, replica: to, token: site.token, bySignature, workers });
        expect(result.consistent).toBe(true);
        expect(sameFiles(production, replica)).toBe(true);
        const here = await sync({ production, replica, bySignature, workers });
        expect(here.consistent).toBe(true);
      }
    }
  });

  it('stays thin: zeros are holes, known or read', async () => {
    const bytes = new Uint8Array(32 * MiB);
    bytes.set(noise(1 * MiB, 2), 3 * MiB);
    bytes.set(noise(4 * KiB, 3), 20 * MiB + 28 * KiB);
    const production = writeSparse(join(folder, 'thin.raw'), bytes);
    const replica = fileOf(folder, noise(bytes.length, 4));
    await sync({ production, replica, workers });
    expect(sameFiles(production, replica)).toBe(true);
    const [allocated, expected] = [statSync(replica).blocks, statSync(production).blocks];
    // Without the native door (fallocate) no hole can be punched.
    if (process.env.DRIFTMAP_NO_NATIVE) expect(allocated).toBeGreaterThan(0);
    else expect(allocated).toBeLessThanOrEqual(expected * 1.02 + 16);
  });

  it.each(['here', 'here, by signature', 'far', 'far, compressed'])(
    'stays thin between small pieces of data: %s',
    async (where) => {
      const bytes = new Uint8Array(16 * MiB);
      for (let at = 20 * KiB; at < bytes.length; at += 64 * KiB) bytes.set(noise(4 * KiB, at), at);
      const production = writeSparse(join(folder, `page of a block ${where}.raw`), bytes);
      for (const before of [new Uint8Array(bytes.length), noise(bytes.length, 4)]) {
        const replica = writeSparse(`${production}.${before[0]}`, before);
        const far = where.startsWith('far');
        await sync({
          production,
          replica: far ? site.grant(where, { disk: replica }) : replica,
          ...{ token: site.token, workers, bySignature: where.endsWith('signature') },
          compression: where.endsWith('compressed') ? 'always' : 'never',
        });
        expect(sameFiles(production, replica)).toBe(true);
        const [allocated, expected] = [statSync(replica).blocks, statSync(production).blocks];
        if (process.env.DRIFTMAP_NO_NATIVE) expect(allocated).toBeGreaterThan(0);
        else expect(allocated).toBeLessThanOrEqual(expected * 1.02);
      }
    },
  );

  it('grows only when asked, and is cut only when asked', async () => {
    const bytes = noise(1 * MiB, 5);
    const longer = fileOf(folder, noise(1 * MiB + 5000, 6));
    const production = fileOf(folder, bytes);
    const shorter = fileOf(folder, bytes.slice(0, 500_000));
    await expect(sync({ production, replica: shorter, workers })).rejects.toThrow('--resize');
    await expect(sync({ production, replica: longer, workers })).rejects.toThrow('--shrink');
    expect(statSync(shorter).size).toBe(500_000);
    expect(statSync(longer).size).toBe(1 * MiB + 5000);
    await sync({ production, replica: shorter, resize: true, workers });
    await sync({ production, replica: longer, shrink: true, workers });
    expect(sameFiles(production, shorter) && sameFiles(production, longer)).toBe(true);
  });

  it('is refused where it is production itself, or belongs to another disk', async () => {
    const bytes = noise(300_000, 7);
    const [a, b, c] = [fileOf(folder, bytes), fileOf(folder, noise(300_000, 8)), fileOf(folder, bytes)];
    await expect(sync({ production: a, replica: a, workers })).rejects.toThrow('the same disk');
    await sync({ production: a, replica: c, workers });
    await expect(sync({ production: b, replica: c, workers })).rejects.toThrow('--adopt');
    expect(sameFiles(a, c)).toBe(true);
    await sync({ production: b, replica: c, adopt: true, workers });
    expect(sameFiles(b, c)).toBe(true);
  });

  it('whose contents look like an image is not taken for one', async () => {
    const bytes = new Uint8Array(1 * MiB);
    bytes.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
    const production = fileOf(folder, bytes);
    const replica = fileOf(folder, new Uint8Array(1 * MiB));
    const formats = { productionFormat: 'raw', replicaFormat: 'raw' };
    await sync({ production, replica, ...formats, workers });
    expect(sameFiles(production, replica)).toBe(true);
    // The state knows that it is raw; without it nobody does.
    await sync({ production, replica, productionFormat: 'raw', workers });
    const stranger = fileOf(folder, bytes);
    await expect(sync({ production, replica: stranger, productionFormat: 'raw', workers })).rejects.toThrow();
    expect(readFileSync(stranger).subarray(0, 8)).toEqual(Buffer.from(bytes.subarray(0, 8)));
  });
});

describeWith(['qemu-img'], 'a qcow2 replica', () => {
  const image = (name: string, ...args: string[]) => {
    const path = join(folder, name);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...args, path, '4M']);
    return path;
  };

  it('is written where its clusters are', async () => {
    const bytes = noise(4 * MiB, 9);
    bytes.fill(0, 1 * MiB, 2 * MiB);
    const production = fileOf(folder, bytes);
    const replica = image('allocated.qcow2', '-o', 'preallocation=falloc');
    await sync({ production, replica, workers });
    execFileSync('qemu-img', ['check', '-q', replica]);
    execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', production, replica]);
  });

  it('is refused where it has no place, and left whole', async () => {
    const production = fileOf(folder, noise(4 * MiB, 10));
    const replica = image('empty.qcow2');
    await expect(sync({ production, replica, workers })).rejects.toThrow('use a raw replica');
    execFileSync('qemu-img', ['check', '-q', replica]);
    expect(loadState(statePath(replica))!.status).toBe('synchronizing');
  });

  it('with snapshots, or with a bitmap that would miss the writes, is refused', async () => {
    const production = fileOf(folder, noise(4 * MiB, 11));
    const snapped = image('snapped.qcow2', '-o', 'preallocation=falloc');
    execFileSync('qemu-img', ['snapshot', '-c', 's', snapped]);
    await expect(sync({ production, replica: snapped, workers })).rejects.toThrow('internal snapshots');
    const marked = image('marked.qcow2', '-o', 'preallocation=falloc');
    execFileSync('qemu-img', ['bitmap', '--add', marked, 'b']);
    await expect(sync({ production, replica: marked, workers })).rejects.toThrow('persistent bitmap');
  });

  it('of a format that is not written to is refused', async () => {
    const production = fileOf(folder, noise(4 * MiB, 12));
    const path = join(folder, 'disk.vdi');
    execFileSync('qemu-img', ['create', '-q', '-f', 'vdi', path, '4M']);
    await expect(sync({ production, replica: path, workers })).rejects.toThrow('does not write to vdi');
    writeFileSync(path, '');
  });
});
