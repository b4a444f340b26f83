/** A thread that measures the machine's limits: waits to be asked, works, says that it is done. */

import { parentPort, workerData } from 'node:worker_threads';
import { LimitCells, type LimitSetup, limitWork } from './limit-work.ts';

const setup = workerData as LimitSetup;
const { cells } = setup;
const work = limitWork(setup);
// Before the first work can be asked for.
let asked = Atomics.load(cells, LimitCells.asked);
parentPort!.postMessage('ready');

for (;;) {
  Atomics.wait(cells, LimitCells.asked, asked);
  if (Atomics.load(cells, LimitCells.asked) === asked) continue;
  asked++;
  const turn = work[Atomics.load(cells, LimitCells.limit)]!;
  let found = 0;
  for (let i = Atomics.load(cells, LimitCells.turns); i > 0; i--) found = turn();
  Atomics.store(cells, LimitCells.found, found);
  Atomics.add(cells, LimitCells.done, 1);
  Atomics.notify(cells, LimitCells.done);
}
