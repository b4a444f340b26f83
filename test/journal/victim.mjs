// A replica that is killed: opens the journal in FOLDER over the disk files in it, then appends, applies and rolls for
// ever. Sequence s always brings the same write, so that whoever opens the journal next knows what must be there.
// Prints the last sequence that was acknowledged, one a line.   node victim.mjs FOLDER SEED

import { writeSync } from 'node:fs';
import { join } from 'node:path';
import { openJournal } from '../../dist/journal/open.js';
import { openFileUnit } from '../../dist/lu/file-unit.js';
import { randomOf, writeOf } from './sequence-writes.mjs';

const [folder, seed] = process.argv.slice(2);
const random = randomOf(Number(seed));
const disks = new Map(
  ['system', 'data'].map((name) => [name, openFileUnit(join(folder, `${name}.img`), { write: true })]),
);
const journal = await openJournal(join(folder, 'journal'), { disks });
for (;;) {
  for (let i = random(8); i >= 0; i--) {
    const sequence = journal.state().last + 1;
    if (sequence % 17 === 0) await journal.bookmark(`at ${sequence}`);
    else {
      const count = Math.min(1 + random(20), 17 - (sequence % 17));
      const writes = Array.from({ length: count }, (_, k) => writeOf(sequence + k));
      const { durable } = journal.append(writes);
      await durable;
    }
    writeSync(1, `${journal.state().last}\n`);
  }
  const { from, to } = journal.points().ranges[0];
  const what = random(6);
  if (what < 4) await journal.apply();
  else await journal.rollTo({ sequence: Math.max(from.sequence, to.sequence - random(300)) });
  if (random(10) === 0) await journal.retain({ bytes: 1_500_000, bookmarks: 'drop' });
}
