// What the parts of the report share: commands in turn, medians, lines with a goal.
import { spawnSync } from 'node:child_process';
import { accessSync, closeSync, constants, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
export const command = [process.execPath, join(root, 'dist', 'lib', 'main.js')];
export const threads = Math.min(2, availableParallelism());

export const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

/** One run: wall and processor seconds, peak memory in bytes; the last two by GNU time, where it is there. */
export function timed([program, ...args], ok = [0]) {
  const gnu = isExecutable('/usr/bin/time');
  const line = gnu ? ['/usr/bin/time', '-q', '-f', '%U %S %M', program, ...args] : [program, ...args];
  const from = performance.now();
  const { status, stdout, stderr, error } = spawnSync(line[0], line.slice(1), {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  const wall = (performance.now() - from) / 1000;
  if (error || !ok.includes(status))
    throw new Error(`${program} ${args.join(' ')}: status ${status}: ${stderr}`);
  const [user, system, kilobytes] = gnu ? stderr.trim().split('\n').at(-1).split(' ').map(Number) : [];
  return { wall, cpu: gnu ? user + system : null, peak: gnu ? kilobytes * 1024 : null, stdout };
}

/** Contestants in turn, round by round; `before` is not timed. @returns for each its runs, by name */
export function inTurn(contestants, rounds) {
  const runs = Object.fromEntries(contestants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (const { name, command: line, ok, before } of contestants) {
      before?.();
      runs[name].push(timed(line, ok));
    }
  }
  return runs;
}

/** Median, and the least and the most in brackets. */
export function spread(list, digits = 2) {
  const text = (value) => value.toFixed(digits);
  return `${text(median(list))} (${text(Math.min(...list))}–${text(Math.max(...list))})`;
}

/** Ratios of the two in each round, which met the same machine. */
export function ratios(runs, name, yardstick, key = 'wall') {
  return runs[name].map((run, i) => run[key] / runs[yardstick][i][key]);
}

const lines = [];
/** A figure beside its goal: `most` for what should be small, `least` for what should be large. */
export function goal(what, list, { most, least, unit = '×', digits = 2 }) {
  const value = median(list);
  const reached = most === undefined ? value >= least : value <= most;
  const wanted = most === undefined ? `≥ ${least}` : `≤ ${most}`;
  const verdict = reached ? 'reached' : 'MISSED';
  lines.push({ what, median: value, runs: list, wanted, reached });
  console.log(
    `  ${what.padEnd(58)} ${spread(list, digits).padStart(22)} ${unit.padEnd(5)} wanted ${wanted.padEnd(8)} ${verdict}`,
  );
}
export const results = () => lines;

export function heading(text) {
  console.log(`\n${text}`);
}

export function skip(what, why) {
  console.log(`  ${what}: not measured: ${why}`);
}

export function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

export function installed(tool) {
  return (process.env.PATH ?? '').split(delimiter).some((path) => isExecutable(join(path, tool)));
}

/** Brings a file into the page cache. */
export function warm(path) {
  const fd = openSync(path, 'r');
  const piece = Buffer.alloc(2 ** 22);
  for (let at = 0, got = 1; got > 0; at += got) got = readSync(fd, piece, 0, piece.length, at);
  closeSync(fd);
}

export const json = (path) => JSON.parse(readFileSync(path, 'utf8'));
