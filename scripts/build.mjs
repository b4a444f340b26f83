// Builds dist/: kernels (AssemblyScript → WebAssembly), then TypeScript, then the bundle. `--check` and `--pin` go to the kernels.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const run = (...args) => {
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
};

run('scripts/build-kernels.mjs', ...process.argv.slice(2));
run('node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json');
run('scripts/bundle.mjs');
const bin = join(root, 'dist', 'lib', 'main.js');
if (existsSync(bin)) chmodSync(bin, 0o755);
