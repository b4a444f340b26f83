/** Runs the built command as a person would. */

import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What the package's `driftmap` runs. */
export const bin = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'dist', 'lib', 'main.js');

export function driftmap(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): SpawnSyncReturns<string> {
  const env = { ...process.env, NO_COLOR: '1', ...options.env };
  return spawnSync(process.execPath, [bin, ...args], {
    encoding: 'utf8',
    cwd: options.cwd,
    env,
    maxBuffer: 2 ** 26,
  });
}

/** Starts the command and sends it a signal after a while. */
export function driftmapStopped(
  args: readonly string[],
  signal: NodeJS.Signals,
  afterMs: number,
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [bin, ...args], { env: { ...process.env, NO_COLOR: '1' } });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (text) => {
      stdout += text;
    });
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    setTimeout(() => child.kill(signal), afterMs);
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}
