// Packs the project, installs the tarball into an empty project, and uses it as a library and as a command.
//   node scripts/try-package.mjs [--node PATH]     PATH: the node that runs the installed package
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const at = process.argv.indexOf('--node');
const node = at < 0 ? process.execPath : process.argv[at + 1];
const folder = mkdtempSync(join(tmpdir(), 'driftmap-package-'));

function run(command, args, { cwd = folder, status = 0 } = {}) {
  // The package's own `node` comes first in PATH, so that its `#!/usr/bin/env node` finds it too.
  const env = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH}` };
  const result = spawnSync(command, args, { cwd, env, encoding: 'utf8' });
  if (result.status !== status) {
    throw new Error(
      `${command} ${args.join(' ')}: expected status ${status}, got ${result.status}\n${result.stdout}${result.stderr}`,
    );
  }
  return result.stdout;
}

function expect(condition, what) {
  if (!condition) throw new Error(`expected ${what}`);
}

/** Only what users need may be in the tarball. */
const allowed = /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|dist\/.+\.(js|d\.ts|wasm))$/;

try {
  const [{ filename, files, unpackedSize }] = JSON.parse(
    run('npm', ['pack', '--json', '--pack-destination', folder], { cwd: root }).replace(/^[^[]*/, ''),
  );
  const foreign = files.map(({ path }) => path).filter((path) => !allowed.test(path));
  expect(
    foreign.length === 0,
    `nothing but code, types and documents in the tarball, got ${foreign.join(', ')}`,
  );
  expect(
    files.some(({ path }) => path.endsWith('.wasm')),
    'kernels in the tarball',
  );

  writeFileSync(
    join(folder, 'package.json'),
    JSON.stringify({ name: 'empty', private: true, type: 'module' }),
  );
  run('npm', ['install', '--no-audit', '--no-fund', join(folder, filename)]);

  const bin = join(folder, 'node_modules', '.bin', 'driftmap');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  expect(run(bin, ['--version']).trim() === version, `version ${version}`);
  const demo = run(bin, ['demo']);
  const place = /rm -r (\S+)/.exec(demo)?.[1];
  expect(place, 'the demo to name its folder');
  const disks = [join(folder, place, 'production.qcow2'), join(folder, place, 'replica.raw')].map(
    (path, i) => (place.startsWith('/') ? join(place, i === 0 ? 'production.qcow2' : 'replica.raw') : path),
  );
  const byCommand = JSON.parse(run(bin, ['scan', ...disks, '--json'], { status: 1 }));
  expect(byCommand.markedBlocks > 0, 'marks from the command');
  run(bin, ['scan', disks[1], disks[1], '--quiet'], { status: 0 });
  run(bin, ['scan', disks[1], '/nowhere'], { status: 2 });

  writeFileSync(
    join(folder, 'use.mjs'),
    `import { createArrayImage, openDisk, scan, DriftmapError } from 'driftmap';
const [production, replica] = await Promise.all(process.argv.slice(2).map((path) => openDisk(path)));
const { markedBlocks, ranges } = await scan({ production, replica, signature: 'blake3' });
console.log(JSON.stringify({ markedBlocks, ranges, error: typeof DriftmapError, image: createArrayImage({ size: 65536 }).size }));
await production.close();
await replica.close();
`,
  );
  const byLibrary = JSON.parse(run(node, ['use.mjs', ...disks]));
  expect(
    JSON.stringify(byLibrary.ranges) === JSON.stringify(byCommand.ranges),
    'the library to find what the command finds',
  );
  rmSync(dirname(disks[0]), { recursive: true });
  const mark = run(node, ['--version']).trim();
  console.log(
    `package: ${files.length} files, ${unpackedSize} bytes unpacked, works as a library and as a command on Node ${mark}`,
  );
} catch (error) {
  console.error(`package: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
