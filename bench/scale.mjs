// From 1 GiB to 1 PiB: what opening a map and planning a scan cost, by size, for disks that are mostly empty,
// as real ones are. Extents grow with the disk, to ten million for the petabyte. No data is read: what a scan
// costs beyond this is the bytes of its data, at one rate whatever the size.
//   node bench/scale.mjs [--smoke] [--json FILE] [--svg FILE]      (after npm run build)
// Every size runs in a process of its own, so that its peak of memory is its own.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ExtentMapBuilder, Kind } from '../dist/mapping/extent-map.js';
import { planScan } from '../dist/scan/plan.js';

const { values } = parseArgs({
  options: {
    smoke: { type: 'boolean', default: false },
    json: { type: 'string' },
    svg: { type: 'string' },
    one: { type: 'string' },
  },
});
const GiB = 2 ** 30;
const CLUSTER = 65536;
const sizes = [
  { name: '1 GiB', size: GiB, extents: 2_000 },
  { name: '32 GiB', size: 32 * GiB, extents: 20_000 },
  { name: '1 TiB', size: 1024 * GiB, extents: 200_000 },
  { name: '32 TiB', size: 32 * 1024 * GiB, extents: 2_000_000 },
  { name: '1 PiB', size: 1024 * 1024 * GiB, extents: 10_000_000 },
];
const LIMIT = { seconds: 5, bytes: 500e6 };

if (values.one !== undefined) console.log(JSON.stringify(measure(JSON.parse(values.one))));
else report();

/** A cluster of data, then a hole, to the end: no two pieces of data adjoin. */
function sparseMap(size, extents) {
  const builder = new ExtentMapBuilder(extents);
  const pairs = Math.floor(extents / 2);
  const stride = Math.floor(size / pairs / CLUSTER) * CLUSTER;
  for (let i = 0; i < pairs; i++) {
    const offset = i * stride;
    const end = i === pairs - 1 ? size : offset + stride;
    builder.append({ offset, length: CLUSTER, kind: Kind.data, unit: 0, place: i * CLUSTER, depth: 0 });
    const hole = offset + CLUSTER;
    // One shape of object, as in the parsers: others are built several times slower.
    builder.append({
      offset: hole,
      length: end - hole,
      kind: Kind.unallocated,
      unit: 0,
      place: -1,
      depth: 0,
    });
  }
  return builder.finish();
}

function measure({ name, size, extents }) {
  const before = process.resourceUsage().maxRSS;
  const started = performance.now();
  const map = sparseMap(size, extents);
  const built = performance.now();
  // Until the code is compiled: what is told is the cost of size, not of starting.
  const plans = [];
  let peakBytes = 0;
  while (plans.length < 3 || performance.now() - built < 300) {
    const from = performance.now();
    const plan = planScan({ size, blockSize: CLUSTER, production: map, replica: map, workers: 2 });
    plans.push({ seconds: (performance.now() - from) / 1000, ranges: plan.starts.length });
    if (plans.length === 1) peakBytes = (process.resourceUsage().maxRSS - before) * 1024;
  }
  plans.sort((a, b) => a.seconds - b.seconds);
  const { seconds: planSeconds, ranges } = plans[plans.length >> 1];
  const data = Math.floor(extents / 2) * CLUSTER;
  return {
    name,
    size,
    extents: map.count,
    dataBytes: data,
    buildSeconds: (built - started) / 1000,
    planSeconds,
    ranges,
    planNanosecondsPerExtent: (planSeconds * 1e9) / map.count,
    mapBytes: 20 * map.count,
    peakBytes,
  };
}

function report() {
  const rows = sizes.map(({ name, size, extents }) => {
    const wanted = { name, size, extents: values.smoke ? Math.min(extents, 20_000) : extents };
    const file = fileURLToPath(import.meta.url);
    const { status, stdout, stderr } = spawnSync(process.execPath, [file, '--one', JSON.stringify(wanted)], {
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(stderr);
    return JSON.parse(stdout);
  });
  console.log(`Node ${process.version}; maps of clusters of 64 KiB, every second extent a hole\n`);
  console.log('disk      extents     data GB   build s   plan s   plan ns/extent   plan us/GB   peak MB');
  for (const row of rows) console.log(line(row));
  const { name, planSeconds, peakBytes } = rows.at(-1);
  const held = planSeconds < LIMIT.seconds && peakBytes < LIMIT.bytes;
  console.log(
    `\n${name} is planned in ${planSeconds.toFixed(2)} s and ${(peakBytes / 1e6).toFixed(0)} MB with its map; wanted: under ${LIMIT.seconds} s and ${LIMIT.bytes / 1e6} MB: ${held ? 'reached' : 'MISSED'}`,
  );
  if (values.json) writeFileSync(values.json, `${JSON.stringify(rows, null, 2)}\n`);
  if (values.svg) writeFileSync(values.svg, plot(rows));
}

function line(row) {
  return [
    row.name.padEnd(7),
    String(row.extents).padStart(9),
    (row.dataBytes / 1e9).toFixed(2).padStart(11),
    row.buildSeconds.toFixed(3).padStart(9),
    row.planSeconds.toFixed(3).padStart(8),
    row.planNanosecondsPerExtent.toFixed(0).padStart(16),
    ((row.planSeconds * 1e6) / (row.dataBytes / 1e9)).toFixed(0).padStart(12),
    (row.peakBytes / 1e6).toFixed(0).padStart(9),
  ].join(' ');
}

/** Planning time per gigabyte of data against the disk's size, both logarithmic: flat is the claim. */
function plot(rows) {
  const [left, top, width, height] = [70, 30, 520, 220];
  const x = (size) => left + (width * Math.log2(size / GiB)) / 20;
  const y = (cost) => top + height - (height * Math.log10(Math.max(cost, 1))) / 6;
  const cost = (row) => (row.planSeconds * 1e6) / (row.dataBytes / 1e9);
  const points = rows.map((row) => `${x(row.size).toFixed(1)},${y(cost(row)).toFixed(1)}`);
  const grid = [0, 1, 2, 3, 4, 5, 6].map((power) => {
    const at = y(10 ** power).toFixed(1);
    return `<path class="grid" d="M${left} ${at}h${width}"/><text x="${left - 8}" y="${at}" dy="4" text-anchor="end">10${superscript(power)}</text>`;
  });
  const marks = rows.map(
    (row) =>
      `<circle cx="${x(row.size).toFixed(1)}" cy="${y(cost(row)).toFixed(1)}" r="4"/><text x="${x(row.size).toFixed(1)}" y="${top + height + 20}" text-anchor="middle">${row.name}</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 300" font-family="system-ui, sans-serif" font-size="12">
<style>svg { color: #1c2530; } @media (prefers-color-scheme: dark) { svg { color: #dfe5ea; } } text { fill: currentColor; } .grid { stroke: currentColor; opacity: .2; } .line { fill: none; stroke: #2f6fb0; stroke-width: 2; } circle { fill: #2f6fb0; }</style>
<text x="${left}" y="16">Planning a scan: microseconds for each GB of data, by size of the disk</text>
${grid.join('\n')}
<polyline class="line" points="${points.join(' ')}"/>
${marks.join('\n')}
</svg>
`;
}

function superscript(power) {
  return '⁰¹²³⁴⁵⁶'[power];
}
