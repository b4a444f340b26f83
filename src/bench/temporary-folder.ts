/** Folders for what a suite works on. They are removed however the process ends, short of being killed. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemError } from '../base/errors.ts';

const kept = new Set<string>();

process.on('exit', () => {
  for (const path of kept) removeFolder(path);
});

/** @throws DriftmapError of the system's kind, with the folder that TMPDIR names, when none can be made there */
export function temporaryFolder(): { readonly path: string; readonly remove: () => void } {
  let path: string;
  try {
    path = mkdtempSync(join(tmpdir(), 'driftmap-bench-'));
  } catch (cause) {
    const operation = 'making a temporary folder (TMPDIR says where)';
    throw systemError(cause, { path: tmpdir(), operation });
  }
  kept.add(path);
  return {
    path,
    remove: () => {
      removeFolder(path);
      kept.delete(path);
    },
  };
}

function removeFolder(path: string): void {
  rmSync(path, { recursive: true, force: true });
}
