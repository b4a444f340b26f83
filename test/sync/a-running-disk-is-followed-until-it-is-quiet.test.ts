import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { MAX_LIVE_PASSES } from '../../src/base/limits.ts';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { liveFromMarks } from '../../src/sync/live-marks.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { temporary } from '../tools.ts';
import { fileOf, KiB, MiB, noise, sameFiles, writeSparse } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const BLOCK = 64 * KiB;

/** A guest that writes while the session runs, and the splitter that marks each write when it has ended. */
class Guest {
  writes = 0;
  quiet = false;
  private marks: LiveMarks;
  private readonly path: string;
  private readonly size: number;

  constructor(path: string, size: number) {
    this.path = path;
    this.size = size;
    this.marks = LiveMarks.create(size, BLOCK);
  }

  write(blocks: number): void {
    if (this.quiet) return;
    const unit = openFileUnit(this.path, { write: true });
    for (let i = 0; i < blocks; i++) {
      const bytes = noise(700, ++this.writes);
      const offset = (this.writes * 7919 * 512) % (this.size - bytes.length);
      unit.write(offset, bytes);
      this.marks.markDirty(offset, bytes.length);
    }
    unit.close();
  }

  take() {
    const { marks } = this;
    this.marks = LiveMarks.create(this.size, BLOCK);
    return marks.snapshot();
  }

  async quiesce(): Promise<void> {
    // The last writes before it is quiet.
    this.write(3);
    this.quiet = true;
  }
}

describe('a production disk that is written to', () => {
  it.each(['here', 'far'])(
    'is followed in passes until little is left, then quiet, and equal: %s',
    async (where) => {
      const size = 8 * MiB;
      const production = fileOf(folder, noise(size, 1));
      const replica = fileOf(folder, noise(size, 2));
      const guest = new Guest(production, size);
      let phases = 0;
      const result = await sync({
        production,
        replica: where === 'far' ? site.grant('live', { disk: replica }) : replica,
        token: site.token,
        workers: 1,
        live: { take: () => guest.take(), quiesce: () => guest.quiesce(), threshold: 4 * BLOCK },
        onProgress: () => {
          // Fewer each time: a guest that never slows down has a last pass all the same.
          guest.write(Math.max(0, 20 - 3 * phases++));
        },
      });
      expect(guest.quiet).toBe(true);
      expect(guest.writes).toBeGreaterThan(20);
      expect(result.passes).toBeGreaterThanOrEqual(2);
      expect(result.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
      expect(loadState(statePath(replica))!.status).toBe('consistent');
    },
  );

  it.each([
    ['here', undefined],
    ['far', undefined],
    ['far', 4 * KiB],
  ])('is followed into what were holes when the session began: %s, pieces of %s', async (where, refine) => {
    // Larger than what is signed without threads, which keep what they know from pass to pass.
    const size = 48 * MiB;
    const bytes = new Uint8Array(size);
    bytes.set(noise(1 * MiB, 1));
    const production = writeSparse(join(folder, `holes-${where}-${refine}.raw`), bytes);
    const replica = writeSparse(
      `${production}.replica`,
      bytes.map((byte, i) => (i < 500_000 ? byte ^ 1 : byte)),
    );
    const marks = [LiveMarks.create(size, BLOCK)];
    const write = (offset: number, seed: number) => {
      const unit = openFileUnit(production, { write: true });
      unit.write(offset, noise(BLOCK, seed));
      unit.close();
      marks[0]!.markDirty(offset, BLOCK);
    };
    let passes = 0;
    const result = await sync({
      ...{ production, replica: where === 'far' ? site.grant('holes', { disk: replica }) : replica },
      ...{ token: site.token, workers: 1, refine },
      live: {
        take: () => {
          if (passes++ < 2) for (let i = 0; i < 8; i++) write((3 + 5 * i + passes) * MiB, 10 * passes + i);
          const taken = marks[0]!.snapshot();
          marks[0] = LiveMarks.create(size, BLOCK);
          return taken;
        },
        quiesce: async () => write(47 * MiB, 99),
        threshold: BLOCK,
      },
    });
    expect(passes).toBeGreaterThan(2);
    expect(result.consistent).toBe(true);
    expect(sameFiles(production, replica)).toBe(true);
  });

  it('is followed by marks that only grow: what is marked is compared again, and only what differs is sent', async () => {
    const size = 8 * MiB;
    const production = fileOf(folder, noise(size, 1));
    const replica = fileOf(folder, noise(size, 1));
    const marks = LiveMarks.create(size, BLOCK);
    const write = (offset: number) => {
      const unit = openFileUnit(production, { write: true });
      unit.write(offset, noise(512, offset + passes.length));
      unit.close();
      marks.markDirty(offset, 512);
    };
    const passes: number[] = [];
    let resumed = 0;
    const live = liveFromMarks(marks, {
      threshold: 3 * BLOCK,
      onPass: ({ markedBytes, quiet }) => {
        passes.push(markedBytes / BLOCK);
        // While the pass runs: six blocks.
        if (passes.length === 1) for (let i = 0; i < 6; i++) write(i * MiB);
        if (quiet) passes.push(-1);
      },
      quiesce: async () => {
        // Three of them again, which are marked already, and then none.
        for (let i = 0; i < 3; i++) write(i * MiB);
      },
      resume: async () => {
        resumed++;
        // Marked, and written after the last pass: not of this sync.
        write(7 * MiB);
      },
    });
    write(6 * MiB);
    const result = await sync({ production, replica, workers: 1, live });
    expect(result.consistent).toBe(true);
    expect(resumed).toBe(1);
    expect(passes.at(-1)).toBe(-1);
    expect(passes[0]).toBe(1);
    expect(Math.max(...passes)).toBe(7);
    // Every version of a block that was sent, once: 1 before, 6 while a pass ran, and 3 of these again.
    expect(result.dataBytes).toBeLessThanOrEqual(10 * BLOCK);
    const [a, b] = [readFileSync(production), readFileSync(replica)];
    expect(a.subarray(0, 7 * MiB).equals(b.subarray(0, 7 * MiB))).toBe(true);
    expect(a.subarray(7 * MiB).equals(b.subarray(7 * MiB))).toBe(false);
    // What was written since is seen: the replica is equal to production as it was.
    const next = await sync({ production, replica, workers: 1 });
    expect(next.dataBytes).toBe(BLOCK);
    expect(sameFiles(production, replica)).toBe(true);
  });

  it.each([
    ['marks that are taken', false, 7 * MiB],
    ['marks that only grow', true, 7 * MiB],
    ['the generation, where a block is marked already', true, 0],
  ])('is not called consistent when it was not quiet in its last pass: told by %s', async (_, keeps, at) => {
    const size = 8 * MiB;
    const production = fileOf(folder, noise(size, 1));
    const replica = fileOf(folder, noise(size, 2));
    let marks = LiveMarks.create(size, BLOCK);
    let wrote = false;
    const write = (offset: number) => {
      const unit = openFileUnit(production, { write: true });
      unit.write(offset, noise(512, offset + 5));
      unit.close();
      marks.markDirty(offset, 512);
    };
    write(0);
    const result = await sync({
      ...{ production, replica, workers: 1 },
      live: {
        ...{ keeps, threshold: size },
        take: () => {
          const taken = marks.snapshot();
          if (!keeps) marks = LiveMarks.create(size, BLOCK);
          return taken;
        },
        quiesce: async () => undefined,
        onPass: ({ quiet }) => {
          if (!quiet) return;
          wrote = true;
          write(at);
        },
      },
    });
    expect(wrote).toBe(true);
    expect(result.consistent).toBe(false);
    expect(result.warnings.join()).toContain('production was written to during the session');
    expect(loadState(statePath(replica))!.status).toBe('synchronizing');
  });

  it('takes a time for the rest in place of a size, and stops after so many passes', async () => {
    const size = MiB;
    const production = fileOf(folder, noise(size, 1));
    const replica = fileOf(folder, noise(size, 2));
    const passes: boolean[] = [];
    const marks = LiveMarks.create(size, BLOCK);
    const ending = {
      threshold: 0,
      onPass: ({ quiet }: { quiet: boolean }) => {
        passes.push(quiet);
        const unit = openFileUnit(production, { write: true });
        unit.write(0, noise(512, 100 + passes.length));
        unit.close();
        marks.markDirty(0, 512);
      },
      quiesce: async () => undefined,
    };
    marks.markDirty(0, 512);
    const never = await sync({ production, replica, workers: 1, live: liveFromMarks(marks, ending) });
    expect(never.passes).toBe(MAX_LIVE_PASSES + 1);
    expect(passes.filter((quiet) => quiet)).toHaveLength(1);
    const soon = liveFromMarks(marks, { ...ending, thresholdSeconds: 60 });
    expect((await sync({ production, replica, workers: 1, live: soon })).passes).toBe(3);
  });

  it.each([
    ['here', 1],
    ['here', 2],
    ['far', 1],
    ['far', 2],
  ])('is not followed any further when its marks are lost: %s, in phase %s', async (where, phase) => {
    const size = 12 * MiB;
    const production = fileOf(folder, noise(size, 1));
    const replica = fileOf(folder, noise(size, 2));
    const losing = new AbortController();
    const reason = new DriftmapError('io', 'nobody knows what was written');
    let taken = 0;
    let phases = 0;
    const running = sync({
      ...{ production, replica: where === 'far' ? site.grant('lost', { disk: replica }) : replica },
      ...{ token: site.token, workers: 1 },
      live: {
        lost: losing.signal,
        take: ({ size, blockSize }) => {
          taken++;
          return new PagedBits(Math.ceil(size / blockSize));
        },
        quiesce: async () => undefined,
        threshold: size,
      },
      onProgress: () => {
        if (++phases === phase) losing.abort(reason);
      },
    });
    await expect(running).rejects.toBe(reason);
    expect(taken).toBe(0);
    expect(sameFiles(production, replica)).toBe(false);
    if (where === 'far') return;
    // Nothing goes on: the same disks can be synchronized at once.
    expect((await sync({ production, replica, workers: 1 })).consistent).toBe(true);
  });
});
