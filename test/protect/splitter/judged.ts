/** What a splitter that is started now would find in a state folder, without starting one. */

import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openFileUnit } from '../../../src/lu/file-unit.ts';
import { newStamp, readStamp, type Stamp } from '../../../src/protect/splitter/stamp-file.ts';
import { openState } from '../../../src/protect/splitter/state-folder.ts';

export interface Judged {
  /** Bytes that would be compared, by disk. */
  readonly suspected: readonly number[];
  readonly notes: readonly string[];
}

export async function judged(
  state: string,
  disks: readonly { readonly name: string; readonly path: string }[],
): Promise<Judged> {
  const folder = mkdtempSync(join(tmpdir(), 'driftmap-test-'));
  const units = disks.map(({ path }) => openFileUnit(path));
  try {
    for (const name of ['intents', 'stamp']) {
      if (existsSync(join(state, name))) copyFileSync(join(state, name), join(folder, name));
    }
    const opened = openState(
      folder,
      'test',
      disks.map(({ name }, i) => ({ name, unit: units[i]! })),
    );
    await opened.intents.close();
    await opened.stamps.close();
    return { suspected: opened.marks.map(({ bytes }) => bytes), notes: opened.notes };
  } finally {
    for (const unit of units) unit.close();
    rmSync(folder, { recursive: true });
  }
}

export function stampIn(state: string): Stamp {
  const path = join(state, 'stamp');
  return readStamp(new Uint8Array(readFileSync(path)), path);
}

/** Makes a state folder say another thing. */
export function restamp(state: string, change: (stamp: Stamp) => Stamp): void {
  writeFileSync(join(state, 'stamp'), newStamp(change(stampIn(state))).bytes);
}
