import { rmSync } from 'node:fs';
import { afterAll, expect, it } from 'vitest';
import { driftmap } from './command.ts';

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

it('shows what it promises, and finds every disk as it was', () => {
  const { status, stdout, stderr } = driftmap(['demo', '--protect']);
  const folder = /^Continuous protection, in (.*):$/m.exec(stdout)?.[1];
  if (folder !== undefined) folders.push(folder);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  // Two disks as of the bookmark: through access, after the roll, and from the snapshot.
  expect(stdout.match(/as it was, byte for byte/g)).toHaveLength(6);
  expect(stdout).toContain('$ driftmap roll web.json --to before-upgrade');
}, 120_000);
