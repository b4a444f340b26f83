import { spawnSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { ScanPool } from '../../src/scan/pool.ts';

it('a pool that is closed at once waits for its threads: to end one while it loads can abort Node 20', async () => {
  const pool = new ScanPool(3);
  const { starting } = pool as unknown as { starting: ReadonlySet<unknown> };
  expect(starting.size).toBe(3);
  await pool.close();
  expect(starting.size).toBe(0);
});

it('scanners that are opened and closed in a row leave the process whole', () => {
  const script = `
    const { createScanner } = await import(process.argv[1]);
    for (let i = 0; i < 12; i++) await createScanner({ workers: 3 }).close();
    console.log('whole');`;
  const library = new URL('../../dist/lib/index.js', import.meta.url).href;
  const { stdout, status } = spawnSync(process.execPath, ['--input-type=module', '--eval', script, library], {
    encoding: 'utf8',
  });
  expect({ stdout, status }).toEqual({ stdout: 'whole\n', status: 0 });
});
