// Duels of two builds in several fresh processes, for scripts/regress.mjs and scripts/regress-proof.mjs.
import { spawn, spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/**
 * What a duel does when it is not told otherwise, in about two minutes. Cases are of two classes, by name.
 *
 * Fine cases come out within 2 or 3 % from process to process: what one thread does in caches of its own. They
 * are told from the verdict's own effect on. Coarse ones allocate much and settle on other code in every
 * process, or have threads around them, files below them and memory that others use too: they vary by 5 to
 * 10 % when the machine is busy, are measured with fewer ratios, and are told from 25 % on. They are there for
 * what the fine ones cannot see: reading, starting, planning, maps and bitmaps.
 */
export const standard = {
  suites: ['kernels', 'mapping', 'range', 'file-scan', 'dispatch', 'bitmap'],
  cases: [
    'kernels/',
    'mapping/lookup',
    'mapping/cursor',
    'range/',
    'mapping/build',
    'mapping/plan',
    'file-scan/',
    'dispatch/',
    'bitmap/',
  ],
  workers: [1],
  processes: 7,
  fine: { ratios: 10, turnMs: 4 },
  coarse: { ratios: 3, turnMs: 5, best: true, leastEffect: 0.25 },
};

const coarseCases = /^(?:array-scan|file-scan|dispatch|bitmap|machine)\/|^mapping\/(?:build|compose|plan)$/;

/** Whether a case is of the coarse class. */
export function isCoarse(name) {
  return coarseCases.test(name);
}

/** Whether a suite may have cases of a class: what it has none of need not be opened for it. */
export function mayHave(suite, { coarse }) {
  return suite === 'mapping' || isCoarse(`${suite}/`) === coarse;
}

/** Garbage is collected between turns, so that its cost meets the build that made it. */
const flags = ['--expose-gc'];

/** Process groups that were started here and have not ended, by the id of their leader. */
const running = new Set();
process.on('exit', () => {
  for (const id of running) endGroup(id);
});

/** Trouble that is no verdict: exit status 2, and one line. */
export function trouble(message) {
  console.error(`regress: ${message}`);
  process.exit(2);
}

/** What nobody foresaw is no verdict either; a signal ends what runs, and removes what was made, at once. */
export function exitWithTrouble() {
  for (const event of ['uncaughtException', 'unhandledRejection']) {
    process.on(event, (error) => trouble(error instanceof Error ? error.message : String(error)));
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => trouble(`stopped by ${signal}`));
  }
}

/** Runs a command in a process group of its own, which ends with this process. @returns status and output */
export async function runCommand([program, ...args], { cwd = root } = {}) {
  const child = spawn(program, args, { cwd, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  if (child.pid !== undefined) running.add(child.pid);
  const [out, err] = [[], []];
  child.stdout.on('data', (piece) => out.push(piece));
  child.stderr.on('data', (piece) => err.push(piece));
  const status = await new Promise((resolve) => {
    child.on('error', (error) => {
      err.push(Buffer.from(error.message));
      resolve(null);
    });
    child.on('close', resolve);
  });
  running.delete(child.pid);
  return { status, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() };
}

function endGroup(id) {
  try {
    process.kill(-id, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

function settings(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const { processes, fine, coarse, ...rest } = { ...standard, ...Object.fromEntries(given) };
  return {
    processes,
    rest: { ...rest, fine: { ...standard.fine, ...fine }, coarse: { ...standard.coarse, ...coarse } },
  };
}

/** @returns names of the cases that were asked for, of each of the builds, without measuring anything */
export async function listCases(builds, options) {
  const { rest } = settings(options);
  const argument = JSON.stringify({ ...rest, list: builds });
  const line = [process.execPath, join(root, 'scripts', 'duel.mjs'), argument];
  const { status, stdout, stderr } = await runCommand(line);
  if (status !== 0) trouble(`the cases cannot be listed: ${stderr.trim()}`);
  return JSON.parse(stdout);
}

/**
 * @param base, head folders that hold a dist/ and the modules it needs
 * @returns one array of duels for each process
 */
export async function runDuels(base, head, options) {
  const { processes, rest } = settings(options);
  const found = [];
  for (let i = 0; i < processes; i++) {
    const argument = JSON.stringify({ ...rest, base, head, headFirst: i % 2 === 1 });
    const line = [process.execPath, ...flags, join(root, 'scripts', 'duel.mjs'), argument];
    const pin = rest.workers.every((count) => count === 1);
    const { status, stdout, stderr } = await runCommand(pin ? pinned(line, i) : line);
    if (status !== 0) trouble(`a process of the duel failed: ${stderr.trim()}`);
    const duels = JSON.parse(stdout);
    if (duels.length === 0) trouble('the builds have no case in common that was asked for');
    found.push(duels);
  }
  return found;
}

/**
 * A command kept on one processor, another each time. Where one thread works at a time it loses nothing by that,
 * and both builds' threads meet the same processor: what its neighbours do (the other thread of a core, other
 * machines on the host) slows one by a half and not the other.
 */
function pinned(line, turn) {
  if (spawnSync('taskset', ['--version']).status !== 0) return line;
  const allowed = /Cpus_allowed_list:\s*(\S+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '';
  const processors = allowed.split(',').flatMap((part) => {
    const [first, last = first] = part.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  return ['taskset', '--cpu-list', String(processors[turn % processors.length]), ...line];
}

/** A module of the head's own bench: the one that gives the verdict. */
export function benchModule(build, file) {
  return import(pathToFileURL(join(build, 'dist', 'bench', file)).href);
}

/** Copies a build's dist/, so that nobody builds it anew while it runs, and links its modules. */
export function copyBuild(from, to) {
  mkdirSync(to, { recursive: true });
  cpSync(join(from, 'dist'), join(to, 'dist'), { recursive: true });
  cpSync(join(from, 'package.json'), join(to, 'package.json'));
  const own = join(from, 'node_modules');
  symlinkSync(existsSync(own) ? own : join(root, 'node_modules'), join(to, 'node_modules'));
}

/** A number of something: whole, from `least` on. */
export function wholeNumber(values, name, least = 1) {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value >= least) return value;
  return trouble(`expected a whole number from ${least} on for --${name}, got '${values[name]}'`);
}

export function positiveNumber(values, name) {
  const value = Number(values[name]);
  if (Number.isFinite(value) && value > 0) return value;
  return trouble(`expected a positive number for --${name}, got '${values[name]}'`);
}

/** Minutes of measuring must not end with "no such directory". */
export function checkOutput(path, name) {
  const refuse = (why) => trouble(`cannot write --${name} ${path}: ${why}`);
  const there = statSync(path, { throwIfNoEntry: false });
  if (there?.isDirectory()) refuse('it is a directory');
  try {
    const folder = dirname(path);
    if (there === undefined && !statSync(folder).isDirectory()) refuse(`${folder} is no directory`);
    accessSync(there === undefined ? folder : path, constants.W_OK);
  } catch (error) {
    refuse(error.message);
  }
}
