// Measures extent maps: `node bench/mapping.mjs [EXTENTS | --smoke]`, ten million unless said. Needs a built dist/.
// Prints one line per figure: building, memory, lookups (random, and by a cursor), composing, overlaying.

import { compose } from '../dist/mapping/compose.js';
import { Cursor } from '../dist/mapping/cursor.js';
import { ExtentMap, ExtentMapBuilder, Kind } from '../dist/mapping/extent-map.js';
import { overlay } from '../dist/mapping/overlay.js';

const argument = process.argv[2] ?? '10000000';
const count = argument === '--smoke' ? 100_000 : Number(argument);
if (!Number.isSafeInteger(count) || count < 1) {
  console.error('usage: node bench/mapping.mjs [EXTENTS | --smoke]');
  process.exit(2);
}
const CLUSTER = 65536;
const LOOKUPS = 5_000_000;

/** A worst case: no cluster goes on from the one before it. `holes`: every how many clusters is unallocated. */
function scattered(clusters, holes = 0) {
  const builder = new ExtentMapBuilder(clusters);
  for (let index = 0; index < clusters; index++) {
    const hole = holes > 0 && index % holes === 0;
    // Multiplying by an odd constant modulo the count visits places far apart.
    const place = ((index * 7919) % clusters) * CLUSTER;
    builder.append({
      offset: index * CLUSTER,
      length: CLUSTER,
      kind: hole ? Kind.unallocated : Kind.data,
      unit: 0,
      place: hole ? -1 : place,
      depth: 0,
    });
  }
  return builder.finish();
}

function timed(work) {
  const from = process.hrtime.bigint();
  const value = work();
  return { value, seconds: Number(process.hrtime.bigint() - from) / 1e9 };
}

const mega = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
const report = (what, figure) => console.log(`${what.padEnd(52)} ${figure}`);
const nanoseconds = (seconds, times) => `${((seconds / times) * 1e9).toFixed(1)} ns each`;

const built = timed(() => scattered(count));
const map = built.value;
const { starts, places, tags, packed } = map.handle();
const arrays = [starts, places, tags, packed].reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
report(`build ${count} extents`, `${built.seconds.toFixed(2)} s, ${nanoseconds(built.seconds, count)}`);
report('arrays of the map', mega(arrays));
report('peak of the process while building', mega(process.resourceUsage().maxRSS * 1024));

// Offsets from a generator of Lehmer's, so that only the lookup is cold.
let state = 1;
const random = () => {
  state = (state * 48271) % 2147483647;
  return Math.floor((state / 2147483647) * map.size);
};
const empty = timed(() => {
  let sum = 0;
  for (let i = 0; i < LOOKUPS; i++) sum += random();
  return sum;
});
const lookups = timed(() => {
  let sum = 0;
  for (let i = 0; i < LOOKUPS; i++) sum += map.placeOf(map.indexAt(random()));
  return sum;
});
report('random lookup', nanoseconds(lookups.seconds - empty.seconds, LOOKUPS));

const walked = timed(() => {
  const cursor = new Cursor(map);
  let sum = 0;
  for (let offset = 0; offset < map.size; offset += CLUSTER) sum += map.placeOf(cursor.seek(offset));
  return sum;
});
report('cursor, block by block', nanoseconds(walked.seconds, count));

const runs = timed(() => {
  const cursor = new Cursor(map);
  let sum = 0;
  for (let offset = 0; offset < map.size; offset += CLUSTER) sum += cursor.dataUntil(offset);
  return sum;
});
report('dataUntil, block by block over one run', nanoseconds(runs.seconds, count));

const million = Math.min(count, 1_000_000);
const outer = scattered(million);
const inner = scattered(million);
const composed = timed(() => compose(outer, inner));
report(
  `compose ${million} scattered with ${million} scattered`,
  `${composed.seconds.toFixed(2)} s, ${composed.value.count} extents`,
);
const volume = timed(() => compose(outer, ExtentMap.identity(outer.size)));
report(`compose ${million} scattered with a whole unit`, `${volume.seconds.toFixed(2)} s`);
const laid = timed(() => overlay(scattered(million, 2), inner, { units: 1, depth: 1 }));
report(
  `build ${million} with holes and overlay it on ${million}`,
  `${laid.seconds.toFixed(2)} s, ${laid.value.count} extents`,
);
