import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createJournal } from '../../src/journal/open.ts';
import { temporary } from '../tools.ts';
import { memoryDisks, names } from './disks.ts';

const KIB = 1024;
const shapes = names.map((name) => ({ name, size: 300 * KIB }));

it('at every moment the changes between two durable points are those that were written', async () => {
  const journal = await createJournal(
    join(temporary(), 'journal'),
    // Segments end often: one is begun while the one before is on its way.
    { group: 'web', disks: shapes, segmentBytes: 16 * KIB },
    { disks: memoryDisks(shapes) },
  );
  const written: { disk: string; offset: number; length: number }[] = [];
  let seed = 1;
  const next = (below: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const write = () => {
    const disk = names[next(2)]!;
    const [offset, length] = [next(290 * KIB), 1 + next(6 * KIB)];
    const isZero = next(3) === 0;
    journal.append([
      isZero
        ? { disk, offset, zeros: length }
        : { disk, offset, bytes: new Uint8Array(length).fill(next(256)) },
    ]);
    written.push({ disk, offset, length });
  };
  let [isLive, asked] = [true, 0];
  const watching = (async () => {
    while (isLive) {
      const to = journal.state().last;
      const from = Math.max(0, to - 30);
      for (const disk of names) {
        const changes = [...journal.changes(disk, { from, to })].map((range) => ({ disk, ...range }));
        expect(changes).toEqual(written.slice(from, to).filter((one) => one.disk === disk));
        asked++;
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  watching.catch(() => undefined);
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < 12; i++) write();
    await journal.commit();
    await journal.apply();
  }
  isLive = false;
  await watching;
  expect(asked).toBeGreaterThan(500);
  await journal.close();
});
