import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, it } from 'vitest';
import { describeWith, tool } from '../tools.ts';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const folder = mkdtempSync(join(tmpdir(), 'driftmap-cmp-'));
afterAll(() => rmSync(folder, { recursive: true }));

function script(name: string, ...args: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'scripts', name), ...args], {
    encoding: 'utf8',
  });
  return { status, output: stdout + stderr };
}

describeWith(['cmp'], 'a scan of a large pair', () => {
  it.each(['4096', '65536'])(
    'marks exactly the blocks of %s bytes in which cmp -l lists a byte',
    (blockSize) => {
      const made = script('make-pair.mjs', folder, '--size', '96M', ...(tool('qemu-img') ? ['--qcow2'] : []));
      expect(made).toMatchObject({ status: 0 });
      const { status, output } = script('check-pair.mjs', folder, '--block-size', blockSize);
      expect({ status, output }).toMatchObject({ status: 0 });
      expect(output).not.toMatch(/\b0 blocks marked/);
      expect(output.match(/0 missed, 0 extra/g)).toHaveLength(tool('qemu-img') ? 8 : 4);
    },
  );
});
