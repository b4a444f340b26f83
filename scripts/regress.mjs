// Is HEAD_REF slower than BASE_REF? Builds both, measures them in turn in the same processes, and decides by
// the rule in docs/PERFORMANCE.md. Exits 0 when no case regressed, 1 when one did, 2 on trouble.
//   node scripts/regress.mjs BASE_REF HEAD_REF [options]
//   --suite NAME, --case TEXT    measure other cases than the standard ones (both may be repeated)
//   --processes N --ratios N --turn MS --workers N      how long; more processes tell smaller effects
//   --effect PERCENT             a smaller slowdown is no regression (5)
//   --changed NAME               a case whose results are meant to be others (may be repeated)
//   --json FILE --markdown FILE  write the verdict there too; Markdown is appended, as CI summaries want it
//   --plant PERCENT [--plant-case NAME]                 slow HEAD down in the bench's loop, to see the gate speak
//
// A ref of `.` is the checkout as it stands, with its own dist/ (npm run build first). Both builds are measured
// by HEAD's bench where it fits BASE's code, so that a change of the bench is not taken for one of the product.
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { benchModule, copyBuild, root, runDuels, trouble } from './duels.mjs';

const usage = 'usage: node scripts/regress.mjs BASE_REF HEAD_REF [options], see the head of the file';

const { values, positionals } = parsed();
if (positionals.length !== 2) trouble(usage);
const [baseRef, headRef] = positionals;

const folder = mkdtempSync(join(tmpdir(), 'driftmap-regress-'));
const worktrees = [];
process.on('exit', () => {
  for (const path of worktrees) git('worktree', 'remove', '--force', path);
  rmSync(folder, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(2));

const head = prepare('head', headRef);
const base = prepare('base', baseRef, head);
const duels = runDuels(base, head, {
  suites: values.suite,
  cases: values.case ?? (values.suite ? [''] : undefined),
  workers: values.workers && [number('workers')],
  processes: values.processes && number('processes'),
  ratios: values.ratios && number('ratios'),
  turnMs: values.turn && number('turn'),
  plant: values.plant && { name: values['plant-case'], share: number('plant') / 100 },
});
const { compareDuels } = await benchModule(head, 'compare.js');
const { describeComparison } = await benchModule(head, 'report-text.js');
const { comparisonAsMarkdown } = await benchModule(head, 'report-markdown.js');
const comparison = compareDuels(duels, {
  effect: number('effect') / 100,
  meaningChanged: values.changed,
});
process.stdout.write(describeComparison(comparison));
if (values.json)
  writeFileSync(values.json, `${JSON.stringify({ ...comparison, baseRef, headRef, duels })}\n`);
if (values.markdown) appendFileSync(values.markdown, comparisonAsMarkdown(comparison));
process.exitCode = comparison.passed ? 0 : 1;

function parsed() {
  const text = { type: 'string' };
  const list = { type: 'string', multiple: true };
  const options = { suite: list, case: list, changed: list, processes: text, ratios: text, turn: text };
  const more = { workers: text, json: text, markdown: text, plant: text, 'plant-case': text };
  const effect = { type: 'string', default: '5' };
  try {
    return parseArgs({ allowPositionals: true, options: { ...options, ...more, effect } });
  } catch (error) {
    return trouble(`${error.message}\n${usage}`);
  }
}

function number(name) {
  const value = Number(values[name]);
  if (!(value > 0)) trouble(`expected a positive number for --${name}, got '${values[name]}'`);
  return value;
}

function git(...args) {
  return spawnSync('git', args, { cwd: root, encoding: 'utf8' });
}

/** A folder with a ref's dist/ and modules; with `bench`, the bench of that folder where it fits. */
function prepare(name, ref, bench) {
  const path = join(folder, name);
  if (ref === '.') {
    if (!existsSync(join(root, 'dist', 'bench', 'suites.js')))
      trouble('build the checkout first: npm run build');
    copyBuild(root, path);
    return path;
  }
  const { status, stderr } = git('worktree', 'add', '--detach', path, ref);
  if (status !== 0) trouble(`cannot check out ${ref}: ${stderr.trim()}`);
  worktrees.push(path);
  installModules(path);
  if (bench !== undefined && buildWithBenchOf(bench, path)) return path;
  run(path, process.execPath, 'scripts/build.mjs');
  if (!existsSync(join(path, 'dist', 'bench', 'suites.js'))) {
    trouble(`${ref} has no bench, and the one of ${headRef} does not fit its code`);
  }
  return path;
}

/** The checkout's own modules where they are the same ones; `npm ci` otherwise. */
function installModules(path) {
  const lock = (where) => readFileSync(join(where, 'package-lock.json'), 'utf8');
  if (existsSync(join(root, 'node_modules')) && lock(path) === lock(root)) {
    symlinkSync(join(root, 'node_modules'), join(path, 'node_modules'));
  } else run(path, 'npm', 'ci', '--no-audit', '--no-fund', '--ignore-scripts');
}

/** @returns whether the base could be built with the head's bench; its own sources are back when not */
function buildWithBenchOf(head, path) {
  // A copied build has no sources: those of the checkout are its own.
  const sources = existsSync(join(head, 'src')) ? head : root;
  const own = join(path, 'src', 'bench');
  rmSync(own, { recursive: true, force: true });
  cpSync(join(sources, 'src', 'bench'), own, { recursive: true });
  addMissingLimits(join(sources, 'src', 'base', 'limits.ts'), join(path, 'src', 'base', 'limits.ts'));
  const { status } = spawnSync(process.execPath, ['scripts/build.mjs'], { cwd: path });
  if (status === 0) return true;
  spawnSync('git', ['checkout', '--', 'src'], { cwd: path });
  spawnSync('git', ['clean', '-fdq', 'src', 'dist'], { cwd: path });
  rmSync(join(path, 'dist'), { recursive: true, force: true });
  return false;
}

/** Caps that the bench brought with it; those that the base has stay as they are: they may be what changed. */
function addMissingLimits(from, to) {
  const text = readFileSync(to, 'utf8');
  const lines = readFileSync(from, 'utf8').match(/^export const \w+ = .*;$/gm) ?? [];
  const missing = lines.filter((line) => !text.includes(`export const ${line.split(' ')[2]} =`));
  appendFileSync(to, `${missing.join('\n')}\n`);
}

function run(cwd, command, ...args) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' });
  if (status !== 0) trouble(`${command} ${args.join(' ')} failed in ${cwd}:\n${stdout ?? ''}${stderr ?? ''}`);
}
