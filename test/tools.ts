/**
 * What tests need beyond this project: real tools, and the sample disks beside the checkout. A suite whose
 * need is not there is skipped, loudly and by name; with DRIFTMAP_REQUIRE_TOOLS=1, as in CI, it fails.
 */

import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { afterAll, describe, it } from 'vitest';

/** The checkout. */
export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

const samples = join(root, '..', 'shared', 'corpus');
/** The folder of sample disks; null where there is none. */
export const corpus: string | null = existsSync(join(samples, 'MANIFEST.json')) ? samples : null;

/** A command's path, from PATH; null where it is not installed. */
export function tool(name: string): string | null {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    try {
      const path = join(folder, name);
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next folder may have it.
    }
  }
  return null;
}

/** `needs`: names of commands, and `corpus` for the sample disks. */
export function describeWith(needs: readonly string[], title: string, body: () => void): void {
  const missing = needs.filter((need) => (need === 'corpus' ? corpus : tool(need)) === null);
  if (missing.length === 0) {
    describe(title, body);
    return;
  }
  const what = missing
    .map((need) => (need === 'corpus' ? 'the sample disks (../shared/corpus)' : need))
    .join(', ');
  if (process.env.DRIFTMAP_REQUIRE_TOOLS) {
    describe(title, () => {
      it(`needs ${what}`, () => {
        throw new Error(`not found: ${what}, and DRIFTMAP_REQUIRE_TOOLS is set`);
      });
    });
    return;
  }
  process.stderr.write(`\n*** SKIPPED for want of ${what}: ${title}\n`);
  describe.skip(`${title} (SKIPPED for want of ${what})`, body);
}

/** A folder that is removed after the file's tests. */
export function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), 'driftmap-test-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export function gunzip(path: string): Buffer {
  return gunzipSync(readFileSync(path));
}
