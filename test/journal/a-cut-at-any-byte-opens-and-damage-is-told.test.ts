import { describe, expect, it } from 'vitest';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { difference, Model, randomOf, randomWrite, viewDifference } from './disks.ts';
import { SimDisk, SimFolder } from './sim-folder.ts';

const shapes = [
  { name: 'system', size: 4000 },
  { name: 'data', size: 3000 },
];

interface Made {
  readonly folder: SimFolder;
  readonly disks: Map<string, SimDisk>;
  readonly model: Model;
}

type Where = 'at the newest point' | 'behind the newest writes' | 'rolled back' | 'between two points';

/** A journal of a few segments, whose disks stand somewhere; closed, or as a killed writer leaves it. */
async function make(where: Where, closed: boolean): Promise<Made> {
  const random = randomOf(where.length * 2 + (closed ? 1 : 0));
  const folder = new SimFolder();
  const disks = new Map(shapes.map(({ name, size }) => [name, new SimDisk(name, size)]));
  const model = new Model(shapes);
  const options = { disks, clock: () => 5000 };
  const journal = await createJournal(folder, { group: 'vm', disks: shapes, segmentBytes: 4096 }, options);
  const write = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const one = randomWrite(random, shapes, 700);
      model.write(one);
      await journal.append([one], 1000 * model.last).durable;
    }
  };
  await write(30);
  await journal.bookmark('thirty');
  model.mark();
  await journal.apply();
  await write(5);
  if (where !== 'behind the newest writes') await journal.apply();
  if (where === 'rolled back') await journal.rollBack(model.last - 3);
  if (where === 'between two points') {
    // The disks fail in the middle of a roll.
    const disk = disks.get('data')!;
    let calls = 0;
    disk.step = () => {
      if (calls++ > 0) throw new Error('planted');
    };
    await expect(journal.rollTo({ sequence: 3 })).rejects.toThrow('planted');
    disk.step = () => {};
  }
  if (closed) await journal.close();
  return { folder, disks, model };
}

function copyOf({ folder, disks, model }: Made): Made {
  const random = () => 1;
  return {
    folder: folder.copy(),
    disks: new Map([...disks].map(([name, disk]) => [name, disk.crashed(random)])),
    model,
  };
}

async function checkPoints(journal: Journal, model: Model): Promise<number> {
  let count = 0;
  for (const { from, to } of journal.points().ranges) {
    for (let { sequence } = from; sequence <= to.sequence; sequence++) {
      count++;
      // A third of them, others each time.
      if ((sequence + journal.state().last) % 3 > 0) continue;
      expect(await viewDifference(journal, model, sequence)).toBeNull();
    }
  }
  return count;
}

/** Opens it, looks at every point, goes to one, and goes on writing. @returns how many points were left */
async function useIt({ folder, disks, model }: Made): Promise<number> {
  const journal = await openJournal(folder, { disks, clock: () => 9_000_000 });
  const count = await checkPoints(journal, model);
  const range = journal.points().ranges.at(-1);
  if (range === undefined) {
    expect(journal.warnings.join()).toMatch(/synchronize the replica anew/);
    await journal.close();
    return 0;
  }
  for (const { sequence } of [range.from, range.to]) {
    await journal.rollTo({ sequence });
    expect(difference(disks, model, sequence)).toBeNull();
  }
  const after = new Model(shapes);
  after.states.length = 0;
  after.states.push(...model.states.slice(0, journal.state().last + 1));
  const write = { disk: 'data', offset: 7, bytes: new Uint8Array([1, 2, 3]) };
  after.write(write);
  await journal.append([write]).durable;
  await journal.close();
  const again = await openJournal(folder, { disks });
  await again.apply();
  expect(difference(disks, after, after.last)).toBeNull();
  expect(again.warnings).toEqual([]);
  await again.close();
  return count;
}

const files = ['do.meta', 'do.data', 'undo.meta', 'undo.data'] as const;

function segmentsOf(folder: SimFolder, stream: string): string[] {
  return folder
    .list()
    .filter((name) => name.startsWith(`${stream}.`))
    .sort();
}

/** Lengths at and near records' edges. */
function lengthsOf(name: string, bytes: Uint8Array): number[] {
  const lengths: number[] = [];
  for (let at = 0, i = 0; at <= bytes.length; at += name.includes('meta') ? 64 : 307, i++) {
    const length = at + [0, -1, 1][i % 3]!;
    if (length >= 0 && length < bytes.length) lengths.push(length);
  }
  return lengths;
}

const wheres: readonly Where[] = [
  'at the newest point',
  'behind the newest writes',
  'rolled back',
  'between two points',
];

describe.each(wheres)('a journal with disks %s', (where) => {
  it.each([true, false])('opens when its newest files are cut at any byte (closed: %s)', async (closed) => {
    const made = await make(where, closed);
    const whole = await useIt(copyOf(made));
    expect(whole).toBeGreaterThan(30);
    for (const stream of files) {
      const name = segmentsOf(made.folder, stream).at(-1)!;
      const bytes = made.folder.get(name);
      for (const length of lengthsOf(name, bytes)) {
        const copy = copyOf(made);
        copy.folder.put(name, bytes.subarray(0, length));
        try {
          expect(await useIt(copy)).toBeLessThanOrEqual(whole);
        } catch (error) {
          throw new Error(`${name} cut at ${length} of ${bytes.length}: ${(error as Error).message}`, {
            cause: error,
          });
        }
      }
    }
  });
});

describe('damage', () => {
  it('of a file that others follow, or of a small file, is an error with its path', async () => {
    const made = await make('at the newest point', true);
    const names = [
      'group',
      'position',
      ...files.flatMap((stream) => segmentsOf(made.folder, stream).slice(0, 1)),
    ];
    for (const name of names) {
      const bytes = made.folder.get(name);
      for (const length of [0, 1, 31, 63, 64, bytes.length - 65, bytes.length - 1]) {
        const copy = copyOf(made);
        copy.folder.put(name, bytes.subarray(0, Math.min(Math.max(length, 0), bytes.length - 1)));
        await expect(openJournal(copy.folder), `${name} cut at ${length}`).rejects.toMatchObject({
          name: 'DriftmapError',
          kind: 'malformed',
          path: expect.stringContaining(name),
        });
      }
    }
  });

  it('in the middle of what was durable is an error with path and offset, not a torn tail', async () => {
    const made = await make('behind the newest writes', true);
    const name = segmentsOf(made.folder, 'do.meta').at(-1)!;
    const bytes = made.folder.get(name).slice();
    // The second record of the segment: others follow it.
    bytes[64 + 64 + 9]! ^= 1;
    const copy = copyOf(made);
    copy.folder.put(name, bytes);
    await expect(openJournal(copy.folder)).rejects.toMatchObject({
      kind: 'malformed',
      path: `<sim>/${name}`,
      offset: 128,
    });
  });

  it('of data is found when it is read, by a view and by a roll', async () => {
    const made = await make('at the newest point', true);
    const name = segmentsOf(made.folder, 'undo.data')[0]!;
    const bytes = made.folder.get(name).slice();
    bytes[64 + 32]! ^= 1;
    const copy = copyOf(made);
    copy.folder.put(name, bytes);
    const journal = await openJournal(copy.folder, { disks: copy.disks });
    const errors: unknown[] = [];
    await viewDifference(journal, copy.model, 0).catch((error) => errors.push(error));
    await journal.rollTo({ sequence: 0 }).catch((error) => errors.push(error));
    for (const error of errors) {
      expect(error).toMatchObject({ kind: 'malformed', path: `<sim>/${name}`, offset: 64 });
    }
    expect(errors).toHaveLength(2);
    // Points on this side of it are as good as ever.
    await journal.rollTo('latest');
    expect(difference(copy.disks, copy.model, copy.model.last)).toBeNull();
    await journal.close();
  });

  it('a file of another journal is refused', async () => {
    const [one, other] = [await make('at the newest point', true), await make('at the newest point', true)];
    const name = segmentsOf(one.folder, 'undo.meta')[0]!;
    one.folder.put(name, other.folder.get(name));
    await expect(openJournal(one.folder)).rejects.toMatchObject({ kind: 'mismatch', path: `<sim>/${name}` });
  });
});
