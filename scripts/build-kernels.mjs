// Builds wasm/*.ts (one AssemblyScript entry per kernel) into dist/wasm/*.wasm, reproducibly, and holds
// the result against wasm/SHA256SUMS.
//   node scripts/build-kernels.mjs            build what is older than its sources
//   node scripts/build-kernels.mjs --check    rebuild everything from source and compare with SHA256SUMS and dist/wasm
//   node scripts/build-kernels.mjs --pin      rebuild everything and rewrite SHA256SUMS (after changing a kernel)
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const sources = join(root, 'wasm');
const target = join(root, 'dist', 'wasm');
const sumsFile = join(sources, 'SHA256SUMS');

// asc flags every kernel shares: an imported shared memory of whatever size, no runtime, no static data.
const common = ['--importMemory', '--sharedMemory', '--initialMemory', '1', '--maximumMemory', '65536'];
const features = ['--enable', 'threads', '--enable', 'simd', '--enable', 'bulk-memory'];

/** A kernel's entry file states its optimization level on its first line: `// asc: -O3`, as measured. */
function flagsOf(source) {
  const match = /^\/\/ asc: (.+)$/m.exec(source.split('\n', 1)[0]);
  return match ? match[1].trim().split(/\s+/) : ['-O3'];
}

async function macrosOf(name) {
  const file = join(sources, `${name}.macros.mjs`);
  return existsSync(file) ? import(pathToFileURL(file).href) : {};
}

/** The source of a kernel; a line `//@ what` becomes what `NAME.macros.mjs` exports under that name. */
async function expanded(name, variant) {
  const source = readFileSync(join(sources, `${name}.ts`), 'utf8');
  const macros = await macrosOf(name);
  return source.replace(/^ *\/\/@ (\w+)$/gm, (_, what) => {
    if (typeof macros[what] !== 'function') throw new Error(`${name}.macros.mjs exports no ${what}`);
    return macros[what](variant);
  });
}

async function compile(name, variant) {
  const asc = await import('assemblyscript/asc');
  const source = await expanded(name, variant);
  const { error, stderr, binary } = await asc.main(
    [`${name}.ts`, '--outFile', 'out.wasm', ...flagsOf(source), '--runtime', 'stub', ...common, ...features],
    {
      readFile: (file, base) => {
        if (file === `${name}.ts`) return source;
        const path = join(base ?? '.', file);
        const full = path.startsWith('/') ? path : join(sources, path);
        return existsSync(full) ? readFileSync(full, 'utf8') : null;
      },
      writeFile: (file, contents) => {
        if (file === 'out.wasm') output = contents;
      },
      listFiles: () => [],
    },
  );
  if (error) throw new Error(`${name}: ${stderr.toString()}`);
  return binary ?? output;
}
let output;

const kernels = readdirSync(sources)
  .filter(
    (file) =>
      file.endsWith('.ts') &&
      /^export function/m.test(readFileSync(join(sources, file), 'utf8')) &&
      /^\/\/ asc:/.test(readFileSync(join(sources, file), 'utf8')),
  )
  .map((file) => file.slice(0, -3))
  .sort();
const newestSource = Math.max(...readdirSync(sources).map((file) => statSync(join(sources, file)).mtimeMs));
const mode = process.argv[2] ?? '';
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

mkdirSync(target, { recursive: true });
const sums = [];
let failed = 0;
const builds = [];
for (const name of kernels) {
  const { variants = [] } = await macrosOf(name);
  for (const variant of ['', ...variants]) builds.push({ name, variant });
}
for (const { name, variant } of builds) {
  const built = variant ? `${name}-${variant}` : name;
  const file = join(target, `${built}.wasm`);
  if (mode === '' && existsSync(file) && statSync(file).mtimeMs > newestSource) continue;
  const bytes = await compile(name, variant);
  sums.push(`${sha256(bytes)}  ${built}.wasm`);
  if (mode === '--check' && existsSync(file) && sha256(readFileSync(file)) !== sha256(bytes)) {
    console.error(`kernels: dist/wasm/${built}.wasm is not what its source builds to`);
    failed++;
  }
  writeFileSync(file, bytes);
}
if (mode === '--pin') writeFileSync(sumsFile, `${sums.join('\n')}\n`);
if (mode === '--check') {
  const pinned = existsSync(sumsFile) ? readFileSync(sumsFile, 'utf8') : '';
  if (pinned !== `${sums.join('\n')}\n`) {
    console.error(
      'kernels: what the sources build to differs from wasm/SHA256SUMS (after a wanted change: npm run build -- --pin)',
    );
    failed++;
  } else console.log(`kernels: ${sums.length} rebuilt from source, equal to wasm/SHA256SUMS`);
}
process.exitCode = failed ? 1 : 0;
