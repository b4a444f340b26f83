// Duels of two builds in several fresh processes, for scripts/regress.mjs and scripts/regress-proof.mjs.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/**
 * What a duel does when it is not told otherwise, in about a minute. The cases are those that come out within
 * 2 or 3 % from process to process: what one thread does in caches of its own. Others can be asked for by name.
 * Cases that allocate much settle on other code in every process; scans with threads and larger memory meet
 * the other users of the machine, and vary by 5 to 10 % when it is busy.
 */
export const standard = {
  suites: ['kernels', 'mapping', 'range'],
  cases: ['kernels/', 'mapping/lookup', 'mapping/cursor', 'range/'],
  workers: [1],
  processes: 7,
  ratios: 10,
  turnMs: 4,
};

/** Garbage is collected between turns, so that its cost meets the build that made it. */
const flags = ['--expose-gc'];

/** Trouble that is no verdict: exit status 2. */
export function trouble(message) {
  console.error(`regress: ${message}`);
  process.exit(2);
}

/**
 * @param base, head folders that hold a dist/ and the modules it needs
 * @returns one array of duels for each process
 */
export function runDuels(base, head, options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const { processes, ...rest } = { ...standard, ...Object.fromEntries(given) };
  return Array.from({ length: processes }, (_, i) => {
    const argument = JSON.stringify({ ...rest, base, head, headFirst: i % 2 === 1 });
    const line = [process.execPath, ...flags, join(root, 'scripts', 'duel.mjs'), argument];
    const [program, ...args] = rest.workers.every((count) => count === 1) ? pinned(line, i) : line;
    const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 2 ** 28 });
    if (status !== 0) trouble(`a process of the duel failed: ${stderr.trim()}`);
    const duels = JSON.parse(stdout);
    if (duels.length === 0) trouble('the builds have no case in common that was asked for');
    return duels;
  });
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
  symlinkSync(join(from, 'node_modules'), join(to, 'node_modules'));
}
