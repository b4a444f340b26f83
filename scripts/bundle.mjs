// Puts the compiled modules together in dist/lib: what the package's users and the `driftmap` command load.
// A hundred small files cost a command 60 ms, and each of its threads 15 ms more, only to be found and read.
// Every file lies one folder below dist/, as modules do, so that paths to kernels and workers keep their meaning.
import { readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const dist = (...path) => join(root, 'dist', ...path);
const { dependencies, optionalDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

rmSync(dist('lib'), { recursive: true, force: true });
// Each by itself, though it means that code is there twice: what is bundled together is cut into many small
// files, so that each can load just its own, and the library took twice as long to load.
await bundle({ index: dist('index.js') });
await bundle({ main: dist('cli', 'main.js') });
await bundle({ worker: dist('scan', 'worker.js') });
await bundle({ 'index-worker': dist('scan', 'index-worker.js') });
await bundle({ 'sign-worker': dist('sync', 'sign-worker.js') });
await bundle({ 'piece-worker': dist('snapshots', 'piece-worker.js') });
await bundle({ 'limit-worker': dist('bench', 'limit-worker.js') });

async function bundle(input) {
  const made = await rolldown({
    input,
    platform: 'node',
    // Libraries stay what npm installed.
    external: [...Object.keys(dependencies), ...Object.keys(optionalDependencies)],
    onLog(level, log) {
      if (level === 'warn') throw new Error(`bundle: ${log.message}`);
    },
  });
  await made.write({
    dir: dist('lib'),
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: '[name]-[hash].js',
  });
  await made.close();
}
