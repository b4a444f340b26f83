// A replica that is killed: appends writes whose sequence says what they are, while the disks follow, are rolled, and
// are worked on. Prints the last sequence that was acknowledged, one a line; `rolled` to standard error while disks are
// worked on.   node victim.mjs GROUPFILE SEED

import { writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { readGroupFile } from '../../../dist/protect/group/group-file.js';
import { startAccess } from '../../../dist/protect/replica/access.js';
import { openReplicaGroup } from '../../../dist/protect/replica/open-replica.js';
import { rollGroup } from '../../../dist/protect/replica/roll.js';
import { randomOf, shapes, writeOf } from '../../journal/sequence-writes.mjs';

const [path, seed] = process.argv.slice(2);
const random = randomOf(Number(seed));
const group = await openReplicaGroup(readGroupFile(path));

async function moveDisks() {
  for (;;) {
    const { from, to } = group.points().ranges[0];
    const at = String(Math.max(from.sequence, to.sequence - random(200)));
    const what = random(3);
    if (what === 0) await rollGroup(group, { to: at });
    if (what === 1) await rollGroup(group, { to: 'latest' });
    if (what === 2) {
      const kind = random(3) === 0 ? 'virtual' : 'rolled';
      const access = await startAccess(group, { at, kind, place: { socketFolder: dirname(path) } });
      for (let i = random(20); i >= 0; i--) {
        const { name, size } = shapes[random(2)];
        const offset = random(size - 1000);
        await access.units.get(name).write(offset, Buffer.alloc(1 + random(1000), 1 + random(255)));
      }
      if (kind === 'rolled') writeSync(2, 'rolled\n');
      await new Promise((resolve) => setTimeout(resolve, random(20)));
      await access.end('discard');
    }
    await new Promise((resolve) => setTimeout(resolve, random(20)));
  }
}

void moveDisks();
for (;;) {
  const sequence = group.journal.state().last + 1;
  if (sequence % 17 === 0) await group.bookmark(`at ${sequence}`);
  else {
    const count = Math.min(1 + random(20), 17 - (sequence % 17));
    await group.append(Array.from({ length: count }, (_, k) => writeOf(sequence + k))).durable;
  }
  writeSync(1, `${group.journal.state().last}\n`);
  if (random(30) === 0) await group.retain();
}
