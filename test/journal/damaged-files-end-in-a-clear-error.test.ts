/**
 * Files that somebody wrote who means harm, or a disk that returns other bytes: whatever is in them, opening and
 * reading ends soon, in points that are as good as their checksums, or in one of our errors.
 */

import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { checksum } from '../../src/codec/checksum.ts';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { saltOf } from '../../src/journal/record.ts';
import { contents, Model, randomOf, randomWrite } from './disks.ts';
import { SimDisk, SimFolder } from './sim-folder.ts';

const shapes = [
  { name: 'system', size: 5000 },
  { name: 'data', size: 4000 },
];

interface Made {
  readonly folder: SimFolder;
  readonly disks: Map<string, SimDisk>;
  readonly model: Model;
}

async function make(): Promise<Made> {
  const random = randomOf(31);
  const folder = new SimFolder();
  const disks = new Map(shapes.map(({ name, size }) => [name, new SimDisk(name, size)]));
  const model = new Model(shapes);
  const options = { disks, clock: () => 5000 };
  const journal = await createJournal(folder, { group: 'vm', disks: shapes, segmentBytes: 4096 }, options);
  for (let i = 0; i < 60; i++) {
    if (i === 20) {
      await journal.bookmark('middle');
      model.mark();
    }
    const write = randomWrite(random, shapes, 600);
    model.write(write);
    await journal.append([write]).durable;
    if (i === 50) await journal.apply();
  }
  await journal.close();
  return { folder, disks, model };
}

/** Does everything that reads; throws nothing but our errors. @returns what it threw */
async function exercise(folder: SimFolder, { disks, model }: Made): Promise<string> {
  const copies = new Map([...disks].map(([name, disk]) => [name, disk.crashed(() => 1)]));
  let journal: Journal;
  try {
    journal = await openJournal(folder, { disks: copies });
  } catch (error) {
    return ours(error);
  }
  let outcome = 'opened';
  try {
    const { ranges } = journal.points();
    for (const { from, to } of ranges) {
      for (const sequence of [from.sequence, to.sequence, Math.floor((from.sequence + to.sequence) / 2)]) {
        const state = model.states[sequence];
        for (const { name, size } of shapes) {
          const bytes = new Uint8Array(size);
          await journal.view(name, { sequence }).read(0, bytes);
          // A silent wrong answer would be the worst.
          if (state !== undefined) expect(Buffer.compare(bytes, state.get(name)!)).toBe(0);
        }
        await journal.rollTo({ sequence });
        if (state !== undefined) {
          for (const [name, disk] of copies) expect(Buffer.compare(contents(disk), state.get(name)!)).toBe(0);
        }
        journal.find({ time: 10_000 + sequence });
      }
    }
  } catch (error) {
    outcome = ours(error);
  }
  await journal.close().catch(ours);
  return outcome;
}

function ours(error: unknown): string {
  if (!(error instanceof DriftmapError) || error.kind === 'internal') throw error;
  return error.kind;
}

describe('a journal with one damaged byte', () => {
  it('opens, or not, and never shows wrong bytes', async () => {
    const made = await make();
    const random = randomOf(99);
    const outcomes = new Map<string, number>();
    for (const name of made.folder.list()) {
      const bytes = made.folder.get(name);
      for (let i = 0; i < (name.includes('.data') ? 12 : 30); i++) {
        const copy = made.folder.copy();
        const damaged = bytes.slice();
        damaged[random(bytes.length)]! ^= 1 + random(255);
        copy.put(name, damaged);
        const outcome = await exercise(copy, made);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }
    }
    expect(outcomes.get('malformed')).toBeGreaterThan(100);
    // Data that is not read in these points, and what was not known to be durable.
    expect(outcomes.get('opened') ?? 0).toBeGreaterThan(0);
  });
});

describe('records with good checksums and impossible contents', () => {
  const u64 = (value: number) => {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, value % 2 ** 32, true);
    view.setUint32(4, Math.floor(value / 2 ** 32), true);
    return bytes;
  };
  const ones = new Uint8Array(8).fill(255);

  it.each([
    ['kind', 0, new Uint8Array([77])],
    ['a mark with a range', 0, new Uint8Array([3])],
    ['disk', 2, new Uint8Array([9, 0])],
    ['text', 4, new Uint8Array([255, 255, 255, 255])],
    ['sequence', 8, u64(99)],
    ['time', 16, ones],
    ['offset', 24, u64(4999)],
    ['a huge offset', 24, ones],
    ['length', 32, u64(2 ** 40)],
    ['no length', 32, u64(0)],
    ['position', 40, u64(2 ** 50)],
    ['an early position', 40, u64(1)],
    ['committed', 48, ones],
  ] as const)('%s: end in a clear error where others follow', async (_title, at, bytes) => {
    const made = await make();
    const name = made.folder
      .list()
      .filter((one) => one.startsWith('undo.meta'))
      .sort()[0]!;
    const copy = made.folder.copy();
    const file = made.folder.get(name).slice();
    const slot = 64 + 64;
    file.set(bytes, slot + at);
    const view = new DataView(file.buffer);
    view.setUint32(slot + 60, checksum(file.subarray(slot, slot + 60), saltOf(file)), true);
    copy.put(name, file);
    // A sealed segment is taken at its seal's word, until its records are read.
    expect(['malformed', 'opened']).toContain(await exercise(copy, made));
    // Without its seal, and as the last one, it is read at once.
    const alone = made.folder.copy();
    for (const other of alone.list().filter((one) => /^undo\./.test(one) && !one.endsWith(name.slice(-16)))) {
      alone.remove(other);
    }
    alone.put(name, file.subarray(0, 64 * 8));
    expect(await exercise(alone, made)).toBe('malformed');
  });

  it('a file of garbage, of zeros, or of a gigabyte of holes is refused soon', async () => {
    const made = await make();
    for (const name of ['do.meta.0000000000000001', 'group', 'position', 'undo.data.0000000000000001']) {
      for (const garbage of [new Uint8Array(100_000).fill(0x41), new Uint8Array(100_000)]) {
        const copy = made.folder.copy();
        if (!copy.list().includes(name)) continue;
        copy.put(name, garbage);
        expect(['malformed', 'limit']).toContain(await exercise(copy, made));
      }
    }
  });

  it('a segment that is missing is told by the sequence that it begins with', async () => {
    const made = await make();
    const metas = made.folder
      .list()
      .filter((one) => one.startsWith('undo.meta'))
      .sort();
    expect(metas.length).toBeGreaterThan(2);
    const copy = made.folder.copy();
    const missing = metas[1]!;
    copy.remove(missing);
    copy.remove(missing.replace('meta', 'data'));
    await expect(openJournal(copy)).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringContaining(`from sequence ${Number(missing.slice(-16))}: one is missing`),
    });
    const torn = made.folder.copy();
    torn.remove(missing.replace('meta', 'data'));
    await expect(openJournal(torn)).rejects.toMatchObject({
      kind: 'malformed',
      path: `<sim>/${missing}`,
      message: expect.stringContaining('data file is missing'),
    });
  });
});
