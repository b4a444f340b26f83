import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal } from '../../src/journal/open.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { lawful } from '../lu/conformance.ts';
import { temporary } from '../tools.ts';
import { Model, memoryDisks, randomOf, randomWrite } from './disks.ts';
import { SimDisk, SimFolder } from './sim-folder.ts';

const shapes = [
  { name: 'system', size: 30_000 },
  { name: 'data', size: 9000 },
];

interface Made {
  readonly journal: Journal;
  readonly model: Model;
  readonly random: (below: number) => number;
  grow(count: number): Promise<void>;
}

async function make(seed: number, segmentBytes = 16_384): Promise<Made> {
  const disks = new Map(shapes.map(({ name, size }) => [name, new SimDisk(name, size)]));
  const model = new Model(shapes);
  const random = randomOf(seed);
  const journal = await createJournal(
    new SimFolder(),
    { group: 'vm', disks: shapes, segmentBytes },
    { disks },
  );
  const grow = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const write = randomWrite(random, shapes, 1500);
      model.write(write);
      journal.append([write]);
    }
    await journal.commit();
  };
  await grow(60);
  return { journal, model, random, grow };
}

async function wholeOf(view: LogicalUnit): Promise<Uint8Array> {
  const bytes = new Uint8Array(view.size);
  await view.read(0, bytes);
  return bytes;
}

describe('views', () => {
  it.each([1, 2, 3, 4])(
    'stay at their point while the disks roll and the journal grows (history %i)',
    async (seed) => {
      const { journal, model, random, grow } = await make(seed);
      const open: { view: LogicalUnit; sequence: number; disk: string }[] = [];
      const look = (disk: string, sequence: number) =>
        open.push({ view: journal.view(disk, { sequence }), sequence, disk });
      for (const { name } of shapes) for (const sequence of [0, 20, 59, 60]) look(name, sequence);
      let wrong = 0;
      let reads = 0;
      let moving = true;
      const readers = Array.from({ length: 4 }, async () => {
        while (moving) {
          const { view, sequence, disk } = open[random(open.length)]!;
          const offset = random(view.size);
          const bytes = new Uint8Array(1 + random(Math.min(4000, view.size - offset)));
          await view.read(offset, bytes);
          const expected = model.at(sequence, disk).subarray(offset, offset + bytes.length);
          if (Buffer.compare(bytes, expected) !== 0) wrong++;
          reads++;
          // The simulated disks wait no longer than this either.
          for (let turn = random(20); turn >= 0; turn--) await Promise.resolve();
        }
      });
      for (let step = 0; step < 12; step++) {
        if (step % 3 === 0) await grow(15);
        await journal.rollTo({ sequence: random(model.last + 1) });
        if (step % 4 === 1) await journal.apply();
        if (step === 6) await journal.retain({ bytes: 0 });
        look('system', random(model.last + 1));
      }
      moving = false;
      await Promise.all(readers);
      expect(wrong).toBe(0);
      expect(reads).toBeGreaterThan(50);
      for (const { view, sequence, disk } of open) {
        expect(Buffer.compare(await wholeOf(view), model.at(sequence, disk))).toBe(0);
        await view.close();
      }
      await journal.close();
    },
  );

  it('tell what they are, cannot be written, and end when they are closed', async () => {
    const { journal } = await make(9);
    const view = journal.view('data', { sequence: 7 });
    expect(view).toMatchObject({ name: '<vm/data as of 7>', size: 9000, canWrite: false });
    expect(view.identity).toBe(journal.view('data', { sequence: 7 }).identity);
    expect(view.identity).not.toBe(journal.view('data', { sequence: 8 }).identity);
    expect(view.generation()).toBe('point 7');
    expect(() => view.write(0, new Uint8Array(1))).toThrow(expect.objectContaining({ kind: 'permission' }));
    expect(() => view.zero({ offset: 0, length: 1 })).toThrow(
      expect.objectContaining({ kind: 'permission' }),
    );
    expect(() => view.handle()).toThrow(expect.objectContaining({ kind: 'unsupported' }));
    for (const [offset, length] of [
      [-1, 1],
      [9000, 1],
      [0, 9001],
    ] as const) {
      expect(() => view.read(offset, new Uint8Array(length))).toThrow(
        expect.objectContaining({ kind: 'argument' }),
      );
    }
    expect(() => journal.view('none', 'latest')).toThrow(/got 'none'/);
    view.close();
    view.close();
    expect(() => view.read(0, new Uint8Array(1))).toThrow(/after close/);
    await journal.close();
    expect(() => journal.view('data', 'latest')).toThrow(/after close/);
  });

  it('tell extents that are zeros where they say so', async () => {
    const { journal, model, random } = await make(12);
    await journal.apply(30);
    let zeros = 0;
    for (let i = 0; i < 60; i++) {
      const sequence = random(model.last + 1);
      const { name, size } = shapes[random(2)]!;
      const view = journal.view(name, { sequence });
      const range = { offset: random(size), length: 0 };
      range.length = 1 + random(size - range.offset);
      const limit = [1, 3, 1000][random(3)]!;
      const extents = await view.extents(range, limit);
      lawful(extents, range, limit);
      for (const { offset, length, kind } of extents) {
        if (kind === 'data') continue;
        zeros += length;
        expect(
          model
            .at(sequence, name)
            .subarray(offset, offset + length)
            .every((byte) => byte === 0),
        ).toBe(true);
      }
      expect(await view.extents({ offset: 5, length: 0 })).toEqual([]);
      await view.close();
    }
    expect(zeros).toBeGreaterThan(1000);
    await journal.close();
  });
});

describe('an overlay', () => {
  it('takes writes and zeros over a view, leaves the point alone, and is gone when it is closed', async () => {
    const { journal, model, random } = await make(21);
    const folder = temporary();
    const sequence = 33;
    const view = journal.view('system', { sequence }, { overlay: folder });
    expect(view).toMatchObject({ canWrite: true, size: 30_000 });
    const expected = model.at(sequence, 'system').slice();
    for (let i = 0; i < 80; i++) {
      const write = randomWrite(random, [shapes[0]!], 2500);
      const before = view.generation();
      if ('bytes' in write) {
        await view.write(write.offset, write.bytes);
        expected.set(write.bytes, write.offset);
      } else {
        await view.zero({ offset: write.offset, length: write.zeros });
        expected.fill(0, write.offset, write.offset + write.zeros);
      }
      expect(view.generation()).not.toBe(before);
      if (i === 40) await journal.apply();
      const offset = random(30_000);
      const bytes = new Uint8Array(random(30_000 - offset));
      await view.read(offset, bytes);
      expect(Buffer.compare(bytes, expected.subarray(offset, offset + bytes.length))).toBe(0);
      const range = { offset, length: bytes.length };
      if (bytes.length > 0) {
        const extents = await view.extents(range);
        lawful(extents, range, Number.POSITIVE_INFINITY);
        for (const extent of extents.filter(({ kind }) => kind !== 'data')) {
          const run = expected.subarray(extent.offset, extent.offset + extent.length);
          expect(run.every((byte) => byte === 0)).toBe(true);
        }
      }
    }
    await view.flush();
    const plain = journal.view('system', { sequence });
    expect(Buffer.compare(await wholeOf(plain), model.at(sequence, 'system'))).toBe(0);
    // It has no name while it lives: nothing is left when the process dies.
    expect(readdirSync(folder)).toEqual([]);
    await view.close();
    await view.close();
    expect(() => view.read(0, new Uint8Array(1))).toThrow(/after close/);
    expect(() => view.write(0, new Uint8Array(1))).toThrow(/after close/);
    await journal.close();
  });

  it('that cannot be made leaves no view behind', async () => {
    const { journal } = await make(22);
    await journal.apply();
    expect(() => journal.view('system', { sequence: 3 }, { overlay: '/no/such/folder' })).toThrow(
      expect.objectContaining({ kind: 'not-found' }),
    );
    expect((await journal.retain({ bytes: 0 })).held).toMatch(/being written/);
    await journal.close();
  });
});

describe('far views', () => {
  it('are exact over many small segments', async () => {
    const sizes = [{ name: 'disk', size: 20_000 }];
    const model = new Model(sizes);
    const disks = memoryDisks(sizes);
    const random = randomOf(77);
    const journal = await createJournal(
      new SimFolder(),
      { group: 'vm', disks: sizes, segmentBytes: 4096 },
      { disks },
    );
    for (let i = 0; i < 600; i++) {
      const write = randomWrite(random, sizes, 400);
      model.write(write);
      journal.append([write]);
    }
    await journal.commit();
    await journal.apply(300);
    for (let i = 0; i <= 600; i += 25) {
      const view = journal.view('disk', { sequence: i });
      expect(Buffer.compare(await wholeOf(view), model.at(i, 'disk'))).toBe(0);
      await view.close();
    }
    await journal.close();
  });
});
