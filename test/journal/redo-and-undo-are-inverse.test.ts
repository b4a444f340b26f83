import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { temporary } from '../tools.ts';
import { difference, Model, memoryDisks, randomOf, randomWrite, viewDifference } from './disks.ts';

const folder = temporary();
const shapes = [
  { name: 'system', size: 20_000 },
  { name: 'data', size: 33_333 },
];

describe('a journal on real files', () => {
  it.each([1, 2, 3, 4, 5, 6])('rolls to any point and back, as the model says (history %i)', async (seed) => {
    const random = randomOf(seed);
    const disks = memoryDisks(shapes);
    const model = new Model(shapes);
    const path = join(folder, `rolls-${seed}`);
    let journal = await createJournal(path, { group: 'vm', disks: shapes, segmentBytes: 16384 }, { disks });
    for (let step = 0; step < 60; step++) {
      const what = random(10);
      if (what < 5) {
        const writes = Array.from({ length: 1 + random(8) }, () => randomWrite(random, shapes));
        const { last, durable } = journal.append(writes, 1000 * step);
        for (const write of writes) model.write(write);
        expect(last).toBe(model.last);
        await durable;
      } else if (what < 6) {
        expect(await journal.bookmark(`mark ${step}`)).toMatchObject({ sequence: model.last + 1 });
        model.mark();
      } else if (what < 9) {
        const sequence = random(model.last + 1);
        expect(await journal.rollTo({ sequence })).toMatchObject({ sequence });
        expect(difference(disks, model, sequence)).toBeNull();
      } else {
        await journal.close();
        journal = await openJournal(path, { disks });
        expect(journal.warnings).toEqual([]);
      }
      for (let i = 0; i < 3; i++) {
        expect(await viewDifference(journal, model, random(model.last + 1))).toBeNull();
      }
    }
    for (let sequence = 0; sequence <= model.last; sequence++) {
      expect(await viewDifference(journal, model, sequence)).toBeNull();
    }
    for (const sequence of [model.last, 0, model.last]) {
      await journal.rollTo({ sequence });
      expect(difference(disks, model, sequence)).toBeNull();
    }
    await journal.close();
  });
});
