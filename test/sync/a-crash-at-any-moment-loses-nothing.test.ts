import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openDisk } from '../../src/disk/open.ts';
import { commonCodec } from '../../src/sync/packer.ts';
import { ProductionSession } from '../../src/sync/production-session.ts';
import { SyncTotals } from '../../src/sync/progress.ts';
import { infoOf, ReplicaSession } from '../../src/sync/replica-session.ts';
import { loadState } from '../../src/sync/state-file.ts';
import { openTarget } from '../../src/sync/target.ts';
import { Connection } from '../../src/wire/connection.ts';
import { temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise } from './disks.ts';
import { randomOf, simulatedPair, VolatileUnit } from './simulated.ts';

const folder = temporary();
const BLOCK = 16 * KiB;

/** Runs one session to its end, or until whatever is planned for it ends it. */
async function attempt(
  production: string,
  unit: VolatileUnit,
  state: string,
  bytes: number,
  random: () => number,
) {
  const [there, here] = simulatedPair(random, bytes).map((transport) => new Connection(transport)) as [
    Connection,
    Connection,
  ];
  there.trust();
  here.trust();
  const disk = await openDisk(production, { format: 'raw' });
  const bySignature = random() < 0.5;
  const open = {
    blockSize: BLOCK,
    signature: bySignature ? 'blake3' : 'nh128',
    bySignature,
    job: 'sync',
    refine: random() < 0.5 ? [1, 4][Math.floor(random() * 2)]! * KiB : null,
  } as const;
  const totals = () => new SyncTotals(() => 0, undefined);
  const { blockSize, signature } = open;
  const target = await openTarget(
    { replica: unit, format: 'raw', state, blockSize, signature },
    infoOf(disk),
  );
  const lead = new ProductionSession({
    ...{ connection: there, disk, open, workers: 1, totals: totals() },
    codec: random() < 0.5 ? commonCodec(['deflate']) : null,
    compression: 'always',
    // Small, so that a small disk goes through many checkpoints, questions and plans, and their answers cross.
    checkpointBytes: [1, 4, 64][Math.floor(random() * 3)]! * BLOCK,
    refinedPieces: 1 + Math.floor(random() * 64),
    placingBlocks: 1 + Math.floor(random() * 40),
  });
  const { size, compare } = target;
  const follow = new ReplicaSession({
    ...{ connection: here, disk: target.disk, production: infoOf(disk), size, open, workers: 1 },
    ...{ compare, target, totals: totals(), warnings: [] },
  });
  const end = (connection: Connection) => (cause: unknown) => {
    connection.fail(cause instanceof DriftmapError ? cause : new DriftmapError('io', String(cause)));
    return cause;
  };
  const results = await Promise.all([
    lead.run().then(() => null, end(there)),
    follow.run().then(() => null, end(here)),
  ]);
  await target.close();
  await disk.close();
  await Promise.all([there.close(), here.close()]);
  return {
    failures: results.filter((result) => result !== null),
    compared: compare.what,
    consistent: follow.consistent,
  };
}

/** No block that the state calls equal may differ: from production as it is, or as it was when both were equal. */
function checkState(state: string, contents: Uint8Array, now: Uint8Array, before: Uint8Array | null): void {
  if (!existsSync(state)) return;
  const { status, bitmap } = loadState(state)!;
  const production = status === 'consistent' ? before! : now;
  expect(bitmap.complete).toBe(true);
  for (let block = 0; block < bitmap.blocks; block++) {
    const [from, to] = [block * BLOCK, (block + 1) * BLOCK];
    if (bitmap.test(block)) continue;
    if (Buffer.compare(contents.subarray(from, to), production.subarray(from, to)) === 0) continue;
    throw new Error(`block ${block} differs and is not marked (${status})`);
  }
}

/** From drift to equality, through as many crashes as it takes, and again after production has changed. */
async function story(seed: number): Promise<number> {
  const random = randomOf(seed);
  const size = 1 * MiB + Math.floor(random() * 3000);
  const drift = () => Array.from({ length: 40 }, () => Math.floor(random() * Math.floor(size / BLOCK)));
  const first = noise(size, seed);
  first.fill(0, 200_000, 400_000);
  const second = changed(first, drift(), BLOCK);
  // Something that moved, so that placing has to do.
  second.copyWithin(500_000, 5 * BLOCK, 9 * BLOCK);
  const production = fileOf(folder, first);
  const state = join(folder, `story-${seed}.driftstate`);
  const one = await reach(production, first, null, changed(first, drift(), BLOCK), state, random);
  writeFileSync(production, second);
  const two = await reach(production, second, first, first, state, random);
  rmSync(state);
  return one + two;
}

/** Returns how many crashes it took. */
async function reach(
  production: string,
  bytes: Uint8Array,
  before: Uint8Array | null,
  replica: Uint8Array,
  state: string,
  random: () => number,
): Promise<number> {
  let contents = replica;
  for (let crashes = 0; ; crashes++) {
    const unit = new VolatileUnit(contents);
    const calm = crashes > 12;
    if (!calm && random() < 0.4) unit.powerLeft = Math.floor(random() * 60);
    const budget = calm || random() < 0.2 ? Number.POSITIVE_INFINITY : Math.floor(random() ** 2 * 1_000_000);
    const { failures, consistent } = await attempt(production, unit, state, budget, random);
    if (failures.length === 0) {
      expect(consistent).toBe(true);
      expect(Buffer.compare(unit.contents(), bytes)).toBe(0);
      // The power fails right after the last word: everything was flushed.
      expect(Buffer.compare(unit.afterPowerLoss(random), bytes)).toBe(0);
      expect(loadState(state)!.status).toBe('consistent');
      return crashes;
    }
    // Honest sites never find one another wrong, and nothing goes wrong that was not planned.
    const planned = unit.powerLeft !== Number.POSITIVE_INFINITY || budget !== Number.POSITIVE_INFINITY;
    const wrong = failures.find((failure) => failure instanceof DriftmapError && failure.kind !== 'io');
    if (!planned || wrong !== undefined) throw wrong ?? failures[0];
    contents = unit.afterPowerLoss(random);
    checkState(state, contents, bytes, before);
  }
}

describe('a crash at any moment', () => {
  const seeds = process.env.DRIFTMAP_SEED
    ? [Number(process.env.DRIFTMAP_SEED)]
    : Array.from({ length: 20 }, (_, i) => i + 1);
  it('leaves a state that is true, and the next run ends equal (DRIFTMAP_SEED=n replays one story)', async () => {
    let crashes = 0;
    const latest = performance.now() + 12_000;
    for (const seed of seeds) {
      crashes += await story(seed).catch((error) => {
        throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : error}`, { cause: error });
      });
      if (performance.now() > latest) break;
    }
    if (seeds.length > 1) expect(crashes).toBeGreaterThan(3);
  });
});
