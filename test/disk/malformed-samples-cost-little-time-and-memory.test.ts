/** The malformed samples in a process of their own, built as users run it: its whole memory is what they cost. */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { expect, it } from 'vitest';
import { corpus, describeWith, temporaryFolder, unpack } from './images.ts';

const built = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'dist', 'disk', 'open.js');
const sweep = `
  import { readdirSync } from 'node:fs';
  const { openDisk } = await import(process.argv[1]);
  const target = new Uint8Array(65536);
  const slowest = { name: '', milliseconds: 0 };
  const names = readdirSync('.');
  for (const name of names) {
    const begun = performance.now();
    try {
      const disk = await openDisk(name);
      for (let at = 0; at < disk.size; at += 65536) await disk.read(at, target.subarray(0, Math.min(65536, disk.size - at)));
      await disk.close();
    } catch (error) {
      if (error?.name !== 'DriftmapError' || error.kind === 'internal') throw error;
    }
    const milliseconds = performance.now() - begun;
    if (milliseconds > slowest.milliseconds) Object.assign(slowest, { name, milliseconds });
  }
  console.log(JSON.stringify({ count: names.length, slowest, kilobytes: process.resourceUsage().maxRSS }));
`;

describeWith('corpus', 'all malformed samples in one process', () => {
  const folder = temporaryFolder();
  const there = existsSync(built);
  if (!there)
    console.warn('SKIPPED for want of dist (npm run build): malformed samples in a process of their own');

  it.skipIf(!there)('each within two seconds, all within 256 MiB', () => {
    const samples = readdirSync(join(corpus!, 'malformed')).filter((name) => name.endsWith('.gz'));
    for (const name of samples) unpack(join(corpus!, 'malformed', name), join(folder, name.slice(0, -3)));
    const words = ['--input-type=module', '--eval', sweep, pathToFileURL(built).href];
    const { status, stdout, stderr } = spawnSync(process.execPath, words, {
      cwd: folder,
      encoding: 'utf8',
      timeout: 60_000,
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const { count, slowest, kilobytes } = JSON.parse(stdout);
    expect(count).toBe(samples.length);
    expect(slowest.milliseconds, slowest.name).toBeLessThan(2000);
    expect(kilobytes).toBeLessThan(256 * 1024);
  });
});
