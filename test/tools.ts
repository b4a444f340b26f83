/**
 * What tests need beyond this project: real tools, and the sample disks beside the checkout. A suite whose
 * need is not there is skipped, loudly and by name; with DRIFTMAP_REQUIRE_TOOLS=1, as in CI, it fails. What
 * cannot be installed, such as loop devices in a container, is skipped loudly even then.
 */

import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
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
      if (statSync(path).isFile()) return path;
    } catch {
      // The next folder may have it.
    }
  }
  return null;
}

let loops: boolean | undefined;
/** Whether files can be attached as block devices here: it takes `losetup`, root, and a kernel that lets us. */
function hasLoopDevices(): boolean {
  loops ??= attachesOnce();
  return loops;
}

function attachesOnce(): boolean {
  const losetup = tool('losetup');
  if (losetup === null) return false;
  const folder = mkdtempSync(join(tmpdir(), 'driftmap-loop-'));
  try {
    writeFileSync(join(folder, 'probe'), new Uint8Array(4096));
    const { status, stdout } = spawnSync(losetup, ['--find', '--show', join(folder, 'probe')], {
      encoding: 'utf8',
    });
    if (status !== 0) return false;
    spawnSync(losetup, ['--detach', stdout.trim()]);
    return true;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

let mounts: boolean | undefined;
/** Whether this kernel mounts XFS from a file: it takes loop devices, mkfs.xfs, and a kernel with XFS. */
function mountsXfs(): boolean {
  mounts ??= hasLoopDevices() && tool('mkfs.xfs') !== null && mountsOnce();
  return mounts;
}

function mountsOnce(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'driftmap-mount-'));
  try {
    const image = join(folder, 'image');
    spawnSync('truncate', ['-s', '300M', image]);
    if (spawnSync('mkfs.xfs', ['-q', image]).status !== 0) return false;
    mkdirSync(join(folder, 'at'));
    if (spawnSync('mount', ['-t', 'xfs', '-o', 'loop', image, join(folder, 'at')]).status !== 0) return false;
    return spawnSync('umount', [join(folder, 'at')]).status === 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Need {
  readonly title: string;
  readonly met: () => boolean;
  /** Whether its want is a failure where DRIFTMAP_REQUIRE_TOOLS is set. */
  readonly required: boolean;
}

function needOf(name: string): Need {
  if (name === 'corpus') {
    return { title: 'the sample disks (../shared/corpus)', met: () => corpus !== null, required: true };
  }
  if (name === 'loop devices') return { title: name, met: hasLoopDevices, required: false };
  if (name === 'FUSE') return { title: '/dev/fuse', met: () => existsSync('/dev/fuse'), required: false };
  if (name === 'mounted XFS') return { title: name, met: mountsXfs, required: false };
  return { title: name, met: () => tool(name) !== null, required: true };
}

/** `needs`: names of commands, `corpus` for the sample disks, `loop devices`, `mounted XFS`, `FUSE`. */
export function describeWith(needs: readonly string[], title: string, body: () => void): void {
  const missing = needs.map(needOf).filter((need) => !need.met());
  if (missing.length === 0) {
    describe(title, body);
    return;
  }
  const what = missing.map((need) => need.title).join(', ');
  if (process.env.DRIFTMAP_REQUIRE_TOOLS && missing.some((need) => need.required)) {
    describe(title, () => {
      it(`needs ${what}`, () => {
        throw new Error(`not found: ${what}, and DRIFTMAP_REQUIRE_TOOLS is set`);
      });
    });
    return;
  }
  process.stderr.write(`\n*** SKIPPED for want of ${what}: ${title}\n`);
  // Not `describe.skip` with the body: that runs it to list its tests, and it may open what is not there.
  describe(title, () => {
    it.skip(`SKIPPED for want of ${what}`, () => {});
  });
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

/** What it throws; null when it does not. */
export function thrown(act: () => unknown): unknown {
  try {
    act();
    return null;
  } catch (error) {
    return error;
  }
}
