// From 1 GiB to 1 PiB: what a scan costs by the size of disks that are mostly empty, as real ones are.
//   node bench/scale.mjs [--smoke] [--json FILE] [--svg FILE]      (after npm run build)
//
// Planning: both maps of a pair are built and planned. Extents grow with the disk, to ten million on either side
// of the petabyte; the peak is the whole process's, Node included.
// Scanning: real scans of pairs whose maps lead, as those of sparse images do, to one cluster of data here and
// there; the clusters lie in two small array images, over and over, because nobody has a petabyte at hand. Data
// grows more slowly than the disk; what is told is the time for each GB of it, both sides counted.
// Every figure comes from a process of its own, so that its peak of memory is its own.
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { MappedDisk } from '../dist/disk/mapped-disk.js';
import { createArrayImage, createScanner } from '../dist/index.js';
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
const MiB = 2 ** 20;
const CLUSTER = 65536;
/** Extents to be planned on either side, and bytes of data to be scanned on either side. */
const sizes = [
  { name: '1 GiB', size: GiB, extents: 2_000, data: 128 * MiB },
  { name: '32 GiB', size: 32 * GiB, extents: 20_000, data: 256 * MiB },
  { name: '1 TiB', size: 1024 * GiB, extents: 200_000, data: 512 * MiB },
  { name: '32 TiB', size: 32 * 1024 * GiB, extents: 2_000_000, data: 1024 * MiB },
  { name: '1 PiB', size: 1024 * 1024 * GiB, extents: 10_000_000, data: 2048 * MiB },
];
const LIMIT = { seconds: 5, bytes: 500e6 };
/** What the clusters of scanned disks lie in: larger than a core's own caches. */
const UNIT = 64 * MiB;
const SCANS = 5;

if (values.one !== undefined) {
  const { work, ...row } = JSON.parse(values.one);
  console.log(JSON.stringify(work === 'plan' ? planning(row) : await scanning(row)));
} else report();

/**
 * A cluster of data, then a hole, to the end: no two pieces of data adjoin.
 * @param unit bytes that the clusters lie in; they come round again and again
 */
function sparseMap(size, pairs, unit = Infinity) {
  const builder = ExtentMapBuilder.ofCount(2 * pairs);
  const stride = Math.floor(size / pairs / CLUSTER) * CLUSTER;
  for (let i = 0; i < pairs; i++) {
    const offset = i * stride;
    const end = i === pairs - 1 ? size : offset + stride;
    const place = unit === Infinity ? i * CLUSTER : (i * CLUSTER) % unit;
    builder.append({ offset, length: CLUSTER, kind: Kind.data, unit: 0, place, depth: 0 });
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

function planning({ size, extents }) {
  const started = performance.now();
  const pairs = Math.floor(extents / 2);
  const [production, replica] = [sparseMap(size, pairs), sparseMap(size, pairs)];
  const built = performance.now();
  // Until the code is compiled: what is told is the cost of size, not of starting.
  const plans = [];
  let peakBytes = 0;
  while (plans.length < 3 || performance.now() - built < 300) {
    const from = performance.now();
    const plan = planScan({ size, blockSize: CLUSTER, production, replica, workers: 2 });
    plans.push({ seconds: (performance.now() - from) / 1000, ranges: plan.starts.length });
    if (plans.length === 1) peakBytes = process.resourceUsage().maxRSS * 1024;
  }
  plans.sort((a, b) => a.seconds - b.seconds);
  const { seconds: planSeconds, ranges } = plans[plans.length >> 1];
  const count = production.count + replica.count;
  return {
    extents: count,
    dataBytes: 2 * pairs * CLUSTER,
    buildSeconds: (built - started) / 1000,
    planSeconds,
    ranges,
    planNanosecondsPerExtent: (planSeconds * 1e9) / count,
    mapBytes: 20 * count,
    peakBytes,
  };
}

/** The fastest of some scans by a kept scanner: others only make it slower. */
async function scanning({ name, size, data }) {
  const pairs = data / CLUSTER;
  const [production, replica] = ['production', 'replica'].map((side) => {
    const unit = createArrayImage({ size: UNIT, name: side });
    fill(unit);
    if (side === 'replica') unit.write(0, Uint8Array.of(1, 2, 3));
    const map = sparseMap(size, pairs, UNIT);
    const parts = { format: 'qcow2', map, units: [unit], identity: `scale ${side}`, warnings: [] };
    return new MappedDisk({ name: `${side} of ${name}`, ...parts, layers: [], owned: [] });
  });
  const scanner = createScanner();
  const seconds = [];
  for (let i = 0; i < (values.smoke ? 1 : SCANS); i++) {
    const { markedBlocks, seconds: taken } = await scanner.scan({ production, replica });
    // Each time that the units came round, their first clusters differ: the data was looked at.
    const differing = Math.ceil(data / UNIT);
    if (markedBlocks !== differing) throw new Error(`${markedBlocks} blocks differ, not ${differing}`);
    seconds.push(taken);
  }
  await scanner.close();
  const scanSeconds = Math.min(...seconds);
  return { scannedBytes: 2 * data, scanSeconds, scanSecondsPerGB: scanSeconds / ((2 * data) / 1e9) };
}

function fill(unit) {
  const words = new Uint32Array(UNIT / 4);
  for (let i = 0, state = 1; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  unit.write(0, new Uint8Array(words.buffer));
}

function inItsOwnProcess(work, row) {
  const args = [fileURLToPath(import.meta.url), '--one', JSON.stringify({ work, ...row })];
  if (values.smoke) args.push('--smoke');
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout);
}

function report() {
  const rows = sizes.map(({ name, size, extents, data }) => {
    const least = { extents: Math.min(extents, 20_000), data: 4 * MiB };
    const row = { name, size, ...(values.smoke ? least : { extents, data }) };
    return { name, size, ...inItsOwnProcess('plan', row), ...inItsOwnProcess('scan', row) };
  });
  console.log(`Node ${process.version}; pairs of maps of clusters of 64 KiB, every second extent a hole\n`);
  console.log(
    'disk      extents  build s   plan s  ns/extent  plan ms/GB  peak MB    scanned GB   scan s   scan ms/GB',
  );
  for (const row of rows) console.log(line(row));
  const { name, planSeconds, peakBytes, mapBytes } = rows.at(-1);
  const held = planSeconds < LIMIT.seconds && peakBytes < LIMIT.bytes;
  const got = `${planSeconds.toFixed(2)} s and ${(peakBytes / 1e6).toFixed(0)} MB`;
  const of = `the whole process, ${(mapBytes / 1e6).toFixed(0)} MB of it both maps`;
  const verdict = values.smoke ? 'not told in smoke size' : held ? 'reached' : 'MISSED';
  const wanted = `under ${LIMIT.seconds} s and ${LIMIT.bytes / 1e6} MB`;
  console.log(`\nA pair of ${name} is planned in ${got} (${of}); wanted: ${wanted}: ${verdict}`);
  const costs = rows.map(({ scanSecondsPerGB }) => scanSecondsPerGB);
  const spread = Math.max(...costs) / Math.min(...costs);
  console.log(
    `Scanning costs ${(1000 * Math.min(...costs)).toFixed(0)}–${(1000 * Math.max(...costs)).toFixed(0)} ms for each GB of data, from ${rows[0].name} to ${name}: a factor of ${spread.toFixed(2)}`,
  );
  if (values.json) writeFileSync(values.json, `${JSON.stringify(rows, null, 2)}\n`);
  if (values.svg) writeFileSync(values.svg, plot(rows));
}

function planCost(row) {
  return (row.planSeconds * 1e3) / (row.dataBytes / 1e9);
}

function scanCost(row) {
  return row.scanSecondsPerGB * 1e3;
}

function line(row) {
  return [
    row.name.padEnd(7),
    String(row.extents).padStart(9),
    row.buildSeconds.toFixed(3).padStart(8),
    row.planSeconds.toFixed(3).padStart(8),
    row.planNanosecondsPerExtent.toFixed(0).padStart(10),
    planCost(row).toFixed(2).padStart(11),
    (row.peakBytes / 1e6).toFixed(0).padStart(8),
    (row.scannedBytes / 1e9).toFixed(2).padStart(13),
    row.scanSeconds.toFixed(3).padStart(8),
    scanCost(row).toFixed(0).padStart(12),
  ].join(' ');
}

/** Time for each gigabyte of data against the disk's size, both logarithmic: flat is the claim. */
function plot(rows) {
  const [left, top, width, height] = [70, 30, 500, 220];
  const x = (size) => left + (width * Math.log2(size / GiB)) / 20;
  const y = (cost) => top + height - (height * (Math.log10(Math.max(cost, 0.1)) + 1)) / 5;
  const grid = [-1, 0, 1, 2, 3, 4].map((power) => {
    const at = y(10 ** power).toFixed(1);
    return `<path class="grid" d="M${left} ${at}h${width}"/><text x="${left - 8}" y="${at}" dy="4" text-anchor="end">${10 ** power} ms</text>`;
  });
  const names = rows.map(
    ({ name, size }) =>
      `<text x="${x(size).toFixed(1)}" y="${top + height + 20}" text-anchor="middle">${name}</text>`,
  );
  const curve = (kind, cost) => {
    const points = rows.map((row) => [x(row.size).toFixed(1), y(cost(row)).toFixed(1)]);
    const marks = points.map(([cx, cy]) => `<circle class="${kind}" cx="${cx}" cy="${cy}" r="4"/>`);
    const label = `<text x="${left + 8}" y="${Number(points[0][1]) - 10}">${kind}</text>`;
    return `<polyline class="line ${kind}" points="${points.map((at) => at.join(',')).join(' ')}"/>\n${marks.join('\n')}\n${label}`;
  };
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 300" font-family="system-ui, sans-serif" font-size="12">
<style>svg { color: #1c2530; } @media (prefers-color-scheme: dark) { svg { color: #dfe5ea; } } text { fill: currentColor; } .grid { stroke: currentColor; opacity: .2; } .line { fill: none; stroke-width: 2; } polyline.scanning { stroke: #2f6fb0; } circle.scanning { fill: #2f6fb0; } polyline.planning { stroke: #c0702a; } circle.planning { fill: #c0702a; }</style>
<text x="${left}" y="16">Milliseconds for each GB of data, by size of the disk</text>
${grid.join('\n')}
${names.join('\n')}
${curve('scanning', scanCost)}
${curve('planning', planCost)}
</svg>
`;
}
