// Is HEAD_REF slower than BASE_REF? Builds both, measures them in turn in the same processes, and decides by
// the rule in docs/PERFORMANCE.md. Exits 0 when no case regressed, 1 when one did, 2 on trouble.
//   node scripts/regress.mjs BASE_REF HEAD_REF [options]
//   --suite NAME, --case TEXT    measure other cases than the standard ones (both may be repeated)
//   --processes N --ratios N --turn MS --workers N      how long; more processes tell smaller effects
//   --effect PERCENT             a smaller slowdown is no regression (5)
//   --coarse-effect PERCENT      the same of coarse cases: whole scans, starting, planning, maps, bitmaps (25)
//   --changed NAME               a case whose results are meant to be others, or that is meant to be gone (repeated)
//   --json FILE --markdown FILE  write the verdict there too; Markdown is appended, as CI summaries want it
//   --plant PERCENT [--plant-case NAME]                 slow HEAD down in the bench's loop, to see the gate speak
//
// A ref of `.` is the checkout as it stands, with its own dist/ (npm run build first); one with a slash that is
// a folder with a dist/ is that build. Both builds are measured by HEAD's bench where it fits BASE's code, so
// that a change of the bench is not taken for one of the product. It needs a checkout: the npm package has no
// scripts, and its users compare with `driftmap bench --json` and `driftmap bench compare`.
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  benchModule,
  checkOutput,
  copyBuild,
  exitWithTrouble,
  listCases,
  positiveNumber,
  root,
  runCommand,
  runDuels,
  standard,
  trouble,
  wholeNumber,
} from './duels.mjs';

const usage = 'usage: node scripts/regress.mjs BASE_REF HEAD_REF [options], see the head of the file';

exitWithTrouble();
const { values, positionals } = parsed();
if (positionals.length !== 2) trouble(usage);
const [baseRef, headRef] = positionals;
const options = duelOptions();
const effect = positiveNumber(values, 'effect') / 100;
for (const name of ['json', 'markdown']) if (values[name] !== undefined) checkOutput(values[name], name);

const folder = mkdtempSync(join(tmpdir(), 'driftmap-regress-'));
const worktrees = [];
process.on('exit', () => {
  for (const path of worktrees) git('worktree', 'remove', '--force', path);
  // What was killed just now may still be ending.
  rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
});

/** Names of the cases of the base's own bench, where the head's bench took its place. */
let ownCases = [];
const head = await prepare('head', headRef);
const base = await prepare('base', baseRef, head);
const { added, removed } = await checkNames();
const duels = await runDuels(base, head, options);
const { compareDuels } = await benchModule(head, 'compare.js');
const { describeComparison } = await benchModule(head, 'report-text.js');
const { comparisonAsMarkdown } = await benchModule(head, 'report-markdown.js');
const comparison = compareDuels(duels, { effect, meaningChanged: values.changed, added, removed });
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
  const effects = { effect: { type: 'string', default: '5' }, 'coarse-effect': text };
  try {
    return parseArgs({ allowPositionals: true, options: { ...options, ...more, ...effects } });
  } catch (error) {
    return trouble(`${error.message}; ${usage}`);
  }
}

/** What scripts/duels.mjs is asked for; whatever is not said stays as it is there. */
function duelOptions() {
  const given = (name, read) => (values[name] === undefined ? undefined : read(values, name));
  const dropUndefined = (object) => JSON.parse(JSON.stringify(object));
  const ratios = given('ratios', wholeNumber);
  const turnMs = given('turn', positiveNumber);
  const leastEffect = given('coarse-effect', (...one) => positiveNumber(...one) / 100);
  const workers = given('workers', wholeNumber);
  const share = given('plant', (...one) => positiveNumber(...one) / 100);
  if (values['plant-case'] !== undefined && share === undefined)
    trouble('--plant-case needs --plant PERCENT');
  return {
    suites: values.suite ?? suitesOf(values.case),
    cases: values.case ?? (values.suite ? [''] : undefined),
    workers: workers && [workers],
    processes: given('processes', wholeNumber),
    fine: dropUndefined({ ratios, turnMs }),
    coarse: dropUndefined({ ratios, turnMs, leastEffect }),
    plant: share && { name: values['plant-case'], share },
  };
}

/** Cases begin with their suite's name; a part of a name may be of any. */
function suitesOf(cases) {
  if (cases === undefined) return undefined;
  const all = [...standard.suites, 'array-scan'];
  const named = cases.map((text) => all.find((suite) => text.startsWith(`${suite}/`)));
  return named.includes(undefined) ? all : [...new Set(named)];
}

/** Before anything is measured: is there something to measure, and are the names that were given those of cases? */
async function checkNames() {
  const [ofBase, ofHead] = await listCases([base, head], options);
  const before = [...new Set([...ofBase, ...ownCases])];
  const added = ofHead.filter((name) => !before.includes(name));
  const removed = before.filter((name) => !ofHead.includes(name));
  const both = ofHead.filter((name) => ofBase.includes(name));
  if (both.length === 0) trouble('the builds have no case in common that was asked for');
  const unknown = (option, name) => trouble(`no case of this run is called '${name}', as --${option} says`);
  for (const name of values.changed ?? []) {
    if (!before.includes(name) && !ofHead.includes(name)) unknown('changed', name);
  }
  const planted = values['plant-case'];
  if (planted !== undefined && !both.includes(planted)) unknown('plant-case', planted);
  for (const text of values.case ?? []) {
    if (![...before, ...ofHead].some((name) => name.includes(text))) unknown('case', text);
  }
  return { added, removed };
}

function git(...args) {
  return spawnSync('git', args, { cwd: root, encoding: 'utf8' });
}

/** A folder with a ref's dist/ and modules; with `bench`, the bench of that folder where it fits. */
async function prepare(name, ref, bench) {
  const path = join(folder, name);
  const built = builtFolder(ref);
  if (built !== undefined) {
    if (!existsSync(join(built, 'dist', 'bench', 'suites.js')))
      trouble(`${ref} is not built: npm run build there first`);
    copyBuild(built, path);
    return path;
  }
  const { status, stderr } = git('worktree', 'add', '--detach', path, ref);
  if (status !== 0) trouble(`cannot check out ${ref}: ${stderr.trim()}`);
  worktrees.push(path);
  await installModules(path);
  if (bench !== undefined && (await buildWithBenchOf(bench, path))) return path;
  await run(path, process.execPath, 'scripts/build.mjs');
  if (!existsSync(join(path, 'dist', 'bench', 'suites.js'))) {
    trouble(`${ref} has no bench, and the one of ${headRef} does not fit its code`);
  }
  return path;
}

/** The folder that a ref names, where it is one and no commit. */
function builtFolder(ref) {
  if (ref === '.') return root;
  return ref.includes('/') && existsSync(join(ref, 'dist')) ? resolve(ref) : undefined;
}

/** The checkout's own modules where they are the same ones; `npm ci` otherwise. */
async function installModules(path) {
  const lock = (where) => readFileSync(join(where, 'package-lock.json'), 'utf8');
  if (existsSync(join(root, 'node_modules')) && lock(path) === lock(root)) {
    symlinkSync(join(root, 'node_modules'), join(path, 'node_modules'));
  } else await run(path, 'npm', 'ci', '--no-audit', '--no-fund', '--ignore-scripts');
}

/** @returns whether the base could be built with the head's bench; its own sources are back when not */
async function buildWithBenchOf(head, path) {
  // A copied build has no sources: those of its folder are its own.
  const sources = existsSync(join(head, 'src')) ? head : builtFolder(headRef);
  const theirs = join(sources, 'src', 'bench');
  if (!existsSync(theirs)) return false;
  const own = join(path, 'src', 'bench');
  if (existsSync(own) && !sameFiles(own, theirs)) {
    // Cases that the head's bench has no more are seen by the base's own alone.
    await run(path, process.execPath, 'scripts/build.mjs');
    ownCases = (await listCases([path], options))[0];
  }
  rmSync(own, { recursive: true, force: true });
  cpSync(theirs, own, { recursive: true });
  addMissingLimits(join(sources, 'src', 'base', 'limits.ts'), join(path, 'src', 'base', 'limits.ts'));
  const { status } = await runCommand([process.execPath, 'scripts/build.mjs'], { cwd: path });
  if (status === 0) return true;
  spawnSync('git', ['checkout', '--', 'src'], { cwd: path });
  spawnSync('git', ['clean', '-fdq', 'src', 'dist'], { cwd: path });
  rmSync(join(path, 'dist'), { recursive: true, force: true });
  return false;
}

/** Whether two flat folders hold the same. */
function sameFiles(one, other) {
  const [names, others] = [one, other].map((path) => readdirSync(path).sort());
  const same = (name) => readFileSync(join(one, name)).equals(readFileSync(join(other, name)));
  return names.join() === others.join() && names.every(same);
}

/** Caps that the bench brought with it; those that the base has stay as they are: they may be what changed. */
function addMissingLimits(from, to) {
  const text = readFileSync(to, 'utf8');
  const lines = readFileSync(from, 'utf8').match(/^export const \w+ = .*;$/gm) ?? [];
  const missing = lines.filter((line) => !text.includes(`export const ${line.split(' ')[2]} =`));
  appendFileSync(to, `${missing.join('\n')}\n`);
}

async function run(cwd, ...line) {
  const { status, stdout, stderr } = await runCommand(line, { cwd });
  if (status !== 0) trouble(`${line.join(' ')} failed in ${cwd}:\n${stdout}${stderr}`);
}
