/** One damaged record of a segment that is not sealed: who only reads gets every point that does not need it, exactly. */

import { describe, expect, it } from 'vitest';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { Model, randomOf, randomWrite } from './disks.ts';
import { SimDisk, SimFolder } from './sim-folder.ts';

const shapes = [
  { name: 'system', size: 5000 },
  { name: 'data', size: 4000 },
];
const WRITES = 30;

/** @param applied after which of the writes the disks were brought up to them */
async function make(applied: number) {
  const random = randomOf(31);
  const folder = new SimFolder();
  const disks = new Map(shapes.map(({ name, size }) => [name, new SimDisk(name, size)]));
  const model = new Model(shapes);
  const options = { disks, clock: () => 5000 };
  const journal = await createJournal(folder, { group: 'vm', disks: shapes }, options);
  for (let i = 1; i <= WRITES; i++) {
    const write = randomWrite(random, shapes, 600);
    model.write(write);
    await journal.append([write]).durable;
    if (i === applied) await journal.apply();
  }
  await journal.close();
  return { folder, disks, model };
}

async function pointsWithout(
  made: Awaited<ReturnType<typeof make>>,
  name: string,
  at: number,
): Promise<number[]> {
  const copy = made.folder.copy();
  const bytes = made.folder.get(name).slice();
  bytes[at]! ^= 1;
  copy.put(name, bytes);
  const disks = made.disks;
  await expect(openJournal(copy, { disks })).rejects.toMatchObject({ kind: 'malformed' });
  await expect(openJournal(copy, { disks, access: 'read' })).rejects.toMatchObject({ kind: 'malformed' });
  const journal = await openJournal(copy, { disks, access: 'read', damage: 'pass' });
  expect(journal.warnings.join()).toMatch(/record \d+, which was durable: .*not used/);
  const reached: number[] = [];
  for (const { from, to } of journal.points().ranges) {
    for (let sequence = from.sequence; sequence <= to.sequence; sequence++) {
      for (const { name: disk, size } of shapes) {
        const got = new Uint8Array(size);
        await journal.view(disk, { sequence }).read(0, got);
        expect(Buffer.compare(got, made.model.at(sequence, disk))).toBe(0);
      }
      reached.push(sequence);
    }
  }
  await journal.close();
  // Nothing was changed by it.
  expect(Buffer.compare(copy.get(name), bytes)).toBe(0);
  return reached;
}

describe('a journal whose last segment is damaged', () => {
  const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

  it('of overwritten data, has the present state of the disks and what is newer', async () => {
    for (const applied of [WRITES, 20]) {
      const made = await make(applied);
      const name = made.folder.list().find((one) => one.startsWith('undo.meta'))!;
      const size = made.folder.get(name).length;
      // Each record has one slot of 64 bytes, after a header of so many.
      for (let at = 64 + 8; at < size; at += 64) {
        expect(await pointsWithout(made, name, at)).toEqual(numbers(applied, WRITES));
      }
    }
  });

  it('of new data, has the present state of the disks and what is older, and what comes before the damage', async () => {
    for (const applied of [WRITES, 20]) {
      const made = await make(applied);
      const name = made.folder.list().find((one) => one.startsWith('do.meta'))!;
      for (let k = 1; k <= WRITES; k++) {
        const to = Math.max(applied, k - 1);
        expect(await pointsWithout(made, name, 64 + (k - 1) * 64 + 8)).toEqual(numbers(0, to));
      }
    }
  });
});
