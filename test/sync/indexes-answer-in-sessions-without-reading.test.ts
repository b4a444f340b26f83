import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { buildIndex } from '../../src/scan/index-build.ts';
import { type CompareResult, compareSites, verify } from '../../src/sync/compare-sites.ts';
import { ProductionSession } from '../../src/sync/production-session.ts';
import { SyncTotals } from '../../src/sync/progress.ts';
import { infoOf, ReplicaSession } from '../../src/sync/replica-session.ts';
import { openIndexes } from '../../src/sync/session-indexes.ts';
import { sync } from '../../src/sync/sync.ts';
import { Connection } from '../../src/wire/connection.ts';
import type { Transport } from '../../src/wire/transport.ts';
import { temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const { token } = site;
const BLOCK = 64 * KiB;
const TiB = 1024 * 1024 * MiB;
let made = 0;

async function indexOf(path: string, blockSize = BLOCK): Promise<string> {
  const disk = await openDisk(path, { format: 'raw' });
  const file = join(folder, `${made++}.sig`);
  await buildIndex({ of: disk, path: file, blockSize, workers: 1 });
  await disk.close();
  return file;
}

/** A thin disk with some data in many of its windows of 4 GiB. */
function sparse(size: number, seeds: readonly number[]): string {
  const path = join(folder, `sparse-${made++}.raw`);
  const file = openSync(path, 'w');
  ftruncateSync(file, size);
  for (const [i, seed] of seeds.entries())
    writeSync(file, noise(4 * KiB, seed), 0, 4 * KiB, i * 4096 * MiB + BLOCK);
  closeSync(file);
  return path;
}

describe('two equal disks of 1 TiB', () => {
  const seeds = Array.from({ length: 200 }, (_, i) => i + 1);

  it('that are thin agree in less than 64 KiB, and so do indexed ones with data in 200 windows', async () => {
    const [a, b] = [sparse(TiB, seeds), sparse(TiB, seeds)];
    const [ia, ib] = [await indexOf(a), await indexOf(b)];
    const address = site.grant('tib', { disk: b, indexes: [ib] });
    const common = { production: a, replica: address, token, workers: 1 } as const;
    const result = await compareSites({ ...common, productionIndex: [ia] });
    expect(result.signature).toBe('blake3');
    expect(result.markedBlocks).toBe(0);
    expect(result.warnings).toEqual([]);
    expect(result.sentBytes + result.receivedBytes).toBeLessThan(64 * KiB);
    // One block differs: found, and told as by a scan, though no leaves were kept.
    const c = sparse(
      TiB,
      seeds.map((seed, i) => (i === 150 ? 999 : seed)),
    );
    const far = site.grant('tib2', { disk: c, indexes: [await indexOf(c)] });
    const other = await compareSites({ ...common, replica: far, productionIndex: [ia] });
    expect([...other.bitmap.runs()]).toEqual([{ start: 150 * 65536 + 1, end: 150 * 65536 + 2 }]);
    expect(other.sentBytes + other.receivedBytes).toBeLessThan(96 * KiB);
  });
});

/** Two ends whose bytes cross only when neither has said anything for a while; counts the crossings. */
function stepped() {
  const count = { crossings: 0 };
  const ends = [new PassThrough(), new PassThrough()] as const;
  const staged: [Buffer[], Buffer[]] = [[], []];
  let last = performance.now();
  const timer = setInterval(() => {
    if (performance.now() - last < 400 || staged[0].length + staged[1].length === 0) return;
    count.crossings++;
    for (const [i, end] of ends.entries()) for (const bytes of staged[i]!.splice(0)) end.write(bytes);
  }, 20);
  const transport = (mine: 0 | 1): Transport => {
    const writable = new Writable({
      write(chunk, _, done) {
        last = performance.now();
        staged[mine].push(Buffer.from(chunk));
        done();
      },
    });
    const readable = ends[mine === 0 ? 1 : 0];
    const destroy = () => {
      clearInterval(timer);
      readable.end();
    };
    return { name: '<stepped>', readable, writable, secure: true, binding: null, destroy };
  };
  return { count, transports: [transport(0), transport(1)] as const };
}

describe('a far site', () => {
  it('is agreed with in one round trip, however many windows there are', async () => {
    const seeds = Array.from({ length: 200 }, (_, i) => i + 1);
    const paths = [sparse(TiB, seeds), sparse(TiB, seeds)];
    const [a, b] = await Promise.all(paths.map((path) => openDisk(path, { format: 'raw' })));
    const session = { blockSize: BLOCK, signature: 'blake3' } as const;
    const indexes = [
      await openIndexes([await indexOf(paths[0]!)], a!, session),
      await openIndexes([await indexOf(paths[1]!)], b!, session),
    ];
    const { count, transports } = stepped();
    const [there, here] = transports.map((transport) => new Connection(transport)) as [
      Connection,
      Connection,
    ];
    const open = { ...session, job: 'scan', bySignature: false } as const;
    const totals = () => new SyncTotals(() => 0, undefined);
    const production = new ProductionSession({
      ...{ connection: there, disk: a!, open, codec: null, compression: 'never', workers: 0 },
      ...{ totals: totals(), indexes: indexes[0]!.side },
    });
    const compare = { what: 'all' } as const;
    const replica = new ReplicaSession({
      ...{ connection: here, disk: b!, production: infoOf(a!), size: TiB, open, workers: 0, compare },
      ...{ totals: totals(), warnings: [], indexes: indexes[1]!.side },
    });
    there.trust();
    here.trust();
    await Promise.all([production.run(), replica.run()]);
    expect(production.bitmap!.count).toBe(0);
    // ready; compare and all tops; equal: they agree. Then compared and finish; finished.
    expect(count.crossings).toBeLessThanOrEqual(5);
    await Promise.all([there.close(), here.close()]);
    for (const index of indexes) index.close();
    await Promise.all([a!.close(), b!.close()]);
  });
});

describe('a side with an index', () => {
  it.each(['production', 'replica'])('does not read its disk: %s', async (which) => {
    const bytes = noise(8 * MiB, 1);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, changed(bytes, [3, 77]))];
    const [ia, ib] = [await indexOf(a), await indexOf(b)];
    const here = which === 'production' ? a : b;
    const unit = openFileUnit(here);
    let reads = 0;
    const counting = new Proxy(unit, {
      get(target, name) {
        if (name === 'read') {
          return (offset: number, into: Uint8Array) => {
            reads += into.length;
            return target.read(offset, into);
          };
        }
        const value = Reflect.get(target, name, target) as unknown;
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const disk = await openDisk(counting, { format: 'raw' });
    const before = reads;
    const there = site.grant(`side-${which}`, {
      disk: which === 'production' ? b : a,
      indexes: [which === 'production' ? ib : ia],
    });
    const result: CompareResult = await (which === 'production'
      ? compareSites({ production: disk, replica: there, productionIndex: [ia], token, workers: 0 })
      : verify({ production: there, replica: disk, replicaIndex: [ib], token, workers: 0 }));
    expect([...result.bitmap.runs()].map(({ start }) => start)).toEqual([3, 77]);
    // Looking again at two blocks that differ, twice, reads them.
    expect(reads - before).toBeLessThanOrEqual(which === 'production' ? 0 : 4 * BLOCK);
    await disk.close();
  });

  it('is synchronized by it: the replica ends equal, and its index is stale then', async () => {
    const bytes = noise(6 * MiB, 2);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, changed(bytes, [1, 2, 50]))];
    const [ia, ib] = [await indexOf(a), await indexOf(b)];
    const replica = site.grant('indexed', { disk: b, indexes: [ib] });
    const result = await sync({ production: a, replica, productionIndex: [ia], token, workers: 1 });
    expect([result.consistent, result.dataBytes, result.warnings]).toEqual([true, 3 * BLOCK, []]);
    expect(sameFiles(a, b)).toBe(true);
    const again = await sync({ production: a, replica, productionIndex: [ia], token, workers: 1 });
    expect(again.warnings.join()).toMatch(/an index is not used, and the disk is read: .*stale/);
    // Paths behind a grant are nobody's business.
    expect(again.warnings.join()).not.toContain(folder);
    expect(again.dataBytes).toBe(0);
  });

  it('is synchronized by it where both disks are here', async () => {
    const bytes = noise(6 * MiB, 3);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, changed(bytes, [9]))];
    const options = { productionIndex: [await indexOf(a)], replicaIndex: [await indexOf(b)], workers: 1 };
    const result = await sync({ production: a, replica: b, ...options });
    expect([result.signature, result.consistent, result.dataBytes]).toEqual(['blake3', true, BLOCK]);
    expect(sameFiles(a, b)).toBe(true);
    await expect(sync({ production: a, replica: b, ...options })).rejects.toThrow(/stale/);
  });

  it('takes the blocks of the index, and refuses what does not fit', async () => {
    const bytes = noise(2 * MiB, 4);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, changed(bytes, [9]))];
    const fine = await indexOf(a, 16 * KiB);
    const replica = site.grant('fit', { disk: b });
    const common = { production: a, replica, token, workers: 1 } as const;
    expect((await compareSites({ ...common, productionIndex: [fine] })).blockSize).toBe(16 * KiB);
    const foreign = await indexOf(b);
    await expect(compareSites({ ...common, productionIndex: [foreign] })).rejects.toThrow(/foreign/);
    await expect(compareSites({ ...common, productionIndex: [fine], signature: 'nh128' })).rejects.toThrow(
      /use the signature blake3/,
    );
    await expect(compareSites({ ...common, replicaIndex: [foreign] })).rejects.toThrow(/index=FILE/);
    const live = { take: () => null as never, threshold: 0 };
    await expect(sync({ ...common, productionIndex: [fine], live })).rejects.toThrow(/nobody writes to/);
    // Of other blocks than the session's: said, and not used.
    const coarse = site.grant('coarse', { disk: b, indexes: [await indexOf(b, 32 * KiB)] });
    const result = await compareSites({ ...common, replica: coarse, signature: 'blake3' });
    expect(result.warnings.join()).toMatch(/not used.*blocks of 32K/);
    expect(result.markedBlocks).toBe(1);
  });
});
