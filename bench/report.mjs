// The ratios that docs/PERFORMANCE.md promises, each beside its goal, in one run: npm run bench:report
//   node bench/report.mjs [--rounds 7] [--size 4G] [--folder FOLDER] [--node NODE]… [--json FILE] [--smoke]
// FOLDER keeps the pairs between runs; without it they are made in a temporary folder (14 GB for 4G) and removed.
// --node adds the kernels' figures under another Node. Rivals that are not installed are named and left out.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { goal, heading, results, root, threads, timed } from './report/measure.mjs';
import { arrayImages, directReads, starts } from './report/memory.mjs';
import { driftedPair, equalPair, growth, makePair } from './report/pairs.mjs';
import { workerTime } from './report/profile.mjs';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string' },
    size: { type: 'string' },
    folder: { type: 'string' },
    node: { type: 'string', multiple: true, default: [] },
    json: { type: 'string' },
    smoke: { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds ?? (values.smoke ? 1 : 7));
const size = values.size ?? (values.smoke ? '64M' : '4G');
const folder = values.folder ?? mkdtempSync(join(tmpdir(), 'driftmap-report-'));
const scratch = mkdtempSync(join(tmpdir(), 'driftmap-report-scratch-'));
process.on('exit', () => {
  rmSync(scratch, { recursive: true, force: true });
  if (!values.folder) rmSync(folder, { recursive: true, force: true });
});

console.log(
  `${new Date().toISOString().slice(0, 10)}, ${cpus()[0]?.model.trim()}, ${cpus().length} processors, Node ${process.version}, load ${loadavg()[0].toFixed(1)}; medians of ${rounds}, least and most in brackets`,
);
kernels();
const [equal, drifted] = ['equal', 'drifted'].map((name) => join(folder, name));
prepare(equal, '--equal', '--qcow2');
prepare(drifted);
equalPair(equal, rounds, blake3Rate);
driftedPair(drifted, scratch, rounds);
workerTime(drifted, Math.min(rounds, 3));
await arrayImages(rounds, (values.smoke ? 1 : 16) * 2 ** 26);
starts(scratch, rounds);
directReads(scratch, Math.min(rounds, 5), (values.smoke ? 1 : 16) * 2 ** 26);
growth(scratch, values.smoke ? 1 : 3, values.smoke ? [1, 2] : [1, 4, 16, 64]);
scale();
if (values.json)
  writeFileSync(
    values.json,
    `${JSON.stringify({ node: process.version, rounds, size, results: results() }, null, 2)}\n`,
  );
const missed = results().filter(({ reached }) => !reached);
console.log(
  `\n${results().length - missed.length} of ${results().length} goals reached; load at the end ${loadavg()[0].toFixed(1)}`,
);

function kernels() {
  for (const node of [process.execPath, ...values.node]) {
    const script = join(root, 'bench', 'kernels.mjs');
    const size = values.smoke ? ['--smoke'] : ['--rounds', String(rounds)];
    const { stdout } = timed([node, script, '--json', ...size]);
    const { node: version, ratios } = JSON.parse(stdout);
    heading(`Kernels, Node ${version}, medians of ${rounds}`);
    for (const { what, block, ratio, wanted } of ratios)
      goal(`${what}, ${block / 1024} KiB`, [ratio], { least: wanted });
  }
}

/** GB/s of as many kernels at once as a scan has workers: nothing but signing, now. */
function blake3Rate() {
  const file = join(root, 'bench', 'report', 'kernel-rate.mjs');
  const { stdout } = timed([process.execPath, file, String(threads)]);
  return Number(stdout);
}

function prepare(path, ...options) {
  if (existsSync(join(path, 'truth.json'))) return;
  mkdirSync(path, { recursive: true });
  makePair(path, size, ...options);
}

function scale() {
  heading('Planning, from 1 GiB to 1 PiB');
  const { stdout, status, stderr } = spawnSync(
    process.execPath,
    [join(root, 'bench', 'scale.mjs'), ...(values.smoke ? ['--smoke'] : [])],
    { encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(stderr);
  console.log(
    stdout
      .trim()
      .split('\n')
      .map((line) => `  ${line}`)
      .join('\n'),
  );
}
