import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root } from '../tools.ts';

const benches = readdirSync(join(root, 'bench')).filter((file) => file.endsWith('.mjs'));

describe('every bench runs in smoke size', () => {
  it.each(benches)('%s', (file) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'bench', file), '--smoke'], {
      encoding: 'utf8',
      cwd: root,
    });
    expect({ status, stderr }).toMatchObject({ status: 0 });
    expect(stdout).toMatch(/\d/);
  });
});
