/**
 * Writers go on through NBD while production, the replica or both are killed at random. What was acknowledged is in
 * the disk, always; what the replica lacks lies in regions that the file of intents names; and after a restart both
 * become equal.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import { placeOfRegion, readImage } from '../../../src/protect/splitter/intents-file.ts';
import { randomOf } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { differing, Protected } from './processes.ts';

const folder = temporary();
const shapes = [
  { name: 'system', size: 24 * MiB },
  { name: 'data', size: 12 * MiB },
];
const SLOT = 4 * KiB;

/** Writes the next number into slots of its own, until the server goes away. */
class Writer {
  /** By slot: what was acknowledged, and what was sent last. */
  readonly acknowledged = new Map<number, number>();
  readonly sent = new Map<number, number>();
  private stopped = false;

  async run(group: Protected, disk: string, random: (below: number) => number, slots: readonly number[]) {
    const unit = await group.client(disk);
    const bytes = Buffer.alloc(SLOT);
    try {
      while (!this.stopped) {
        const slot = slots[random(slots.length)]!;
        const value = (this.sent.get(slot) ?? 0) + 1;
        bytes.fill(value % 251);
        bytes.writeUInt32LE(value);
        this.sent.set(slot, value);
        await unit.write(slot * SLOT, bytes);
        this.acknowledged.set(slot, value);
        if (random(50) === 0) await unit.flush();
      }
    } catch {
      // It was killed.
    } finally {
      await unit.close();
    }
  }

  stop(): void {
    this.stopped = true;
  }
}

function checkDisk(group: Protected, disk: string, writers: readonly Writer[]): void {
  const bytes = readFileSync(group.disk(disk));
  for (const { acknowledged, sent } of writers) {
    for (const [slot, value] of sent) {
      const found = bytes.readUInt32LE(slot * SLOT);
      expect(found, `slot ${slot} of ${disk}`).toBeGreaterThanOrEqual(acknowledged.get(slot) ?? 0);
      expect(found).toBeLessThanOrEqual(value);
    }
  }
}

function unexplained(group: Protected, blocks: readonly { disk: number; offset: number }[]): string[] {
  const path = join(group.folder, 'state', 'intents');
  const { image } = readImage(new Uint8Array(readFileSync(path)), path);
  return blocks
    .filter(({ disk, offset }) => {
      const { byte, mask } = placeOfRegion(
        image.starts[disk]!,
        Math.floor(offset / image.table.disks[disk]!.region),
      );
      return (image.bytes[byte]! & mask) === 0;
    })
    .map(({ disk, offset }) => `${shapes[disk]!.name} at ${offset}`);
}

describe('a group whose processes are killed', () => {
  it('has what it acknowledged, knows what the replica lacks, and becomes equal', async () => {
    // Another seed is another run: DRIFTMAP_SEED=7 npx vitest run …
    const random = randomOf(Number(process.env.DRIFTMAP_SEED ?? 11));
    const group = new Protected(join(folder, 'kills'), shapes);
    const writers = new Map(shapes.map(({ name }) => [name, [] as Writer[]]));
    let lacked: number | null = null;
    for (const victim of ['production', 'replica', 'both', 'production', 'none']) {
      await group.start();
      // Until then the first time there is no journal to compare with.
      if (lacked === null || victim === 'both' || random(2) === 0) await group.streaming();
      const tasks: Promise<unknown>[] = [];
      const now: Writer[] = [];
      for (const { name, size } of shapes) {
        const slots = Array.from({ length: 40 }, () => random(size / SLOT));
        for (const half of [slots.slice(0, 20), slots.slice(20)]) {
          // Slots of their own: nobody else's, and no older round's.
          const taken = new Set([...writers.get(name)!].flatMap(({ sent }) => [...sent.keys()]));
          const own = half.filter((slot, i) => !taken.has(slot) && half.indexOf(slot) === i);
          if (own.length === 0) continue;
          const writer = new Writer();
          now.push(writer);
          writers.get(name)!.push(writer);
          for (const slot of own) writer.sent.set(slot, 0);
          tasks.push(writer.run(group, name, random, own));
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 300 + random(500)));
      const replica = group.replicaPid();
      if (victim === 'both' && replica !== null) {
        // So that something is certainly on its way when they die.
        process.kill(replica, 'SIGSTOP');
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      if ((victim === 'replica' || victim === 'both') && replica !== null) process.kill(replica, 'SIGKILL');
      if (victim === 'replica') {
        await new Promise((resolve) => setTimeout(resolve, 300));
        for (const writer of now) writer.stop();
        await Promise.all(tasks);
        await group.streaming();
        expect(group.child!.exitCode).toBe(null);
        expect(await group.end('SIGTERM')).toBe(0);
      } else if (victim === 'none') {
        for (const writer of now) writer.stop();
        await Promise.all(tasks);
        await group.streaming();
        expect(await group.end('SIGTERM')).toBe(0);
      } else {
        await group.end('SIGKILL');
        await Promise.all(tasks);
      }
      for (const { name } of shapes) checkDisk(group, name, writers.get(name)!);
      const blocks = await differing(group);
      lacked = (lacked ?? 0) + blocks.length;
      if (victim === 'replica' || victim === 'none') expect(blocks).toEqual([]);
      else expect(unexplained(group, blocks)).toEqual([]);
    }
    // Else nothing was proved.
    expect(lacked).toBeGreaterThan(0);
  });
});
