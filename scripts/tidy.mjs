// Watches the plan of the house (docs/ARCHITECTURE.md): imports go down the floors, there is no circle, no
// dead file, each outside library is imported in one place, and files stay short. Part of `npm test`.
//   node scripts/tidy.mjs [ROOT]      prints what is wrong and exits 1; prints one line and exits 0 otherwise
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** Rooms and their floors: a file may import from its own room and from lower floors. */
export const floors = {
  base: 0,
  memory: 1,
  codec: 1,
  lu: 2,
  mapping: 2,
  signature: 2,
  bitmap: 2,
  disk: 3,
  scan: 4,
  journal: 4,
  store: 4,
  wire: 4,
  bench: 5,
  snapshots: 5,
  sync: 5,
  protect: 6,
  cli: 7,
};

/** Where each outside library may be imported: a file, or a room. */
export const doors = {
  piscina: 'scan/pool.ts',
  '@msgpack/msgpack': 'codec/control.ts',
  'hash-wasm': 'signature',
  koffi: 'lu/posix.ts',
  tinybench: 'bench/run.ts',
  commander: 'cli',
  'cli-progress': 'cli/progress-bar.ts',
  '@aws-sdk/client-s3': 'store/s3-objects.ts',
};

/** Where execution begins; every other file must be reached from one of these. */
const entries = [
  'index.ts',
  'cli/main.ts',
  'scan/worker.ts',
  'scan/index-worker.ts',
  'bench/limit-worker.ts',
  'bench/duel.ts',
  'sync/sign-worker.ts',
  'snapshots/piece-worker.ts',
];
const MAX_LINES = 500;

/** @returns one line per finding, none when the house is tidy. */
export function findings(root) {
  const source = join(root, 'src');
  const files = listFiles(source);
  const imports = new Map(files.map((file) => [file, importsOf(source, file)]));
  return [
    ...files.flatMap((file) => imports.get(file).flatMap((target) => floorFinding(file, target) ?? [])),
    ...files.flatMap((file) => imports.get(file).flatMap((target) => doorFinding(file, target) ?? [])),
    ...circles(imports),
    ...deadFiles(files, imports),
    ...files.flatMap((file) => lengthFinding(source, file) ?? []),
  ];
}

function listFiles(source) {
  return readdirSync(source, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts') && !entry.name.endsWith('.d.ts'))
    .map((entry) => relative(source, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort();
}

const names = String.raw`(?:type\s+)?(?:\{[^}]*\}|\*(?:\s+as\s+\w+)?|[\w$]+(?:\s*,\s*\{[^}]*\})?)`;
const importPatterns = [
  new RegExp(String.raw`^(?:import|export)\s+${names}\s+from\s*'([^']+)'`, 'gm'),
  /^import\s*'([^']+)'/gm,
  /\bimport\s*\(\s*'([^']+)'/g,
  /\brequire\(\s*'([^']+)'/g,
];

/** Static, dynamic and type imports, re-exports and `require`. */
function importsOf(source, file) {
  const text = readFileSync(join(source, file), 'utf8')
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/^\s*\/\/.*$/gm, '');
  const found = new Set();
  for (const pattern of importPatterns) {
    for (const [, target] of text.matchAll(pattern)) found.add(target);
  }
  return [...found]
    .filter((target) => !target.startsWith('node:'))
    .map((target) => resolve(source, file, target));
}

/** Ours as a path below src, a library as its package's name with a leading `npm:`. */
function resolve(source, file, target) {
  if (target.startsWith('.'))
    return relative(source, join(source, dirname(file), target))
      .split(sep)
      .join('/');
  const parts = target.split('/');
  return `npm:${target.startsWith('@') ? parts.slice(0, 2).join('/') : parts[0]}`;
}

const roomOf = (file) => (file.includes('/') ? file.slice(0, file.indexOf('/')) : '');

function floorFinding(file, target) {
  if (target.startsWith('npm:')) return undefined;
  const [from, to] = [roomOf(file), roomOf(target)];
  if (from === '') return undefined;
  if (!(from in floors)) return `${file}: the room '${from}' has no floor (scripts/tidy.mjs)`;
  if (from === to) return undefined;
  if (!(to in floors)) return `${file}: imports ${target}, which is in no room`;
  if (floors[to] >= floors[from])
    return `${file} (floor ${floors[from]}) imports ${target} (floor ${floors[to]}): imports go down`;
  return undefined;
}

function doorFinding(file, target) {
  if (!target.startsWith('npm:')) return undefined;
  const name = target.slice(4);
  const door = doors[name];
  if (door === undefined) return `${file}: imports ${name}, which has no door (scripts/tidy.mjs)`;
  if (file !== door && !file.startsWith(`${door}/`)) return `${file}: imports ${name}; only ${door} may`;
  return undefined;
}

function circles(imports) {
  const state = new Map();
  const found = [];
  const visit = (file, path) => {
    if (state.get(file) === 'done' || !imports.has(file)) return;
    if (state.get(file) === 'open') {
      found.push(`a circle of imports: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`);
      return;
    }
    state.set(file, 'open');
    for (const target of imports.get(file)) visit(target, [...path, file]);
    state.set(file, 'done');
  };
  for (const file of imports.keys()) visit(file, []);
  return found;
}

function deadFiles(files, imports) {
  const reached = new Set();
  const visit = (file) => {
    if (reached.has(file) || !imports.has(file)) return;
    reached.add(file);
    for (const target of imports.get(file)) visit(target);
  };
  for (const entry of entries) visit(entry);
  return files.filter((file) => !reached.has(file)).map((file) => `${file}: nothing imports it`);
}

function lengthFinding(source, file) {
  const lines = readFileSync(join(source, file), 'utf8').split('\n').length - 1;
  return lines > MAX_LINES ? `${file}: ${lines} lines; split it by noun (at most ${MAX_LINES})` : undefined;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const root = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '..');
  const found = findings(root);
  for (const line of found) console.error(`tidy: ${line}`);
  if (found.length === 0)
    console.log('tidy: floors, circles, dead files, doors and lengths are as they should be');
  process.exitCode = found.length === 0 ? 0 : 1;
}
