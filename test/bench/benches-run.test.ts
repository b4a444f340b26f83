import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root } from '../tools.ts';

const benches = readdirSync(join(root, 'bench')).filter((file) => file.endsWith('.mjs'));

describe('every bench runs in smoke size', () => {
  it.each(benches)(
    '%s',
    (file) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'bench', file), '--smoke'], {
        encoding: 'utf8',
        cwd: root,
      });
      expect({ status, stderr }).toMatchObject({ status: 0 });
      expect(stdout).toMatch(/\d/);
      expect(stdout).not.toMatch(/NaN|Infinity|undefined/);
    },
    240_000,
  );
});

describe('the kernel bench', () => {
  it('gives every figure and ratio as a number, for machines', () => {
    const args = [join(root, 'bench', 'kernels.mjs'), '--smoke', '--json'];
    const { stdout } = spawnSync(process.execPath, args, { encoding: 'utf8', cwd: root });
    const { results, ratios } = JSON.parse(stdout);
    expect(results).toHaveLength(21);
    expect(ratios).toHaveLength(9);
    for (const { best, median } of results) {
      expect(median).toBeGreaterThan(0);
      expect(best).toBeGreaterThanOrEqual(median);
    }
    for (const { ratio } of ratios) expect(ratio).toBeGreaterThan(0);
  });
});
