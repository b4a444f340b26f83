/** Runs the built command beside this process, and small groups for it to work on. */

import { type ChildProcess, spawn } from 'node:child_process';
import { openUnit } from '../../../src/lu/open-unit.ts';
import type { GroupFile } from '../../../src/protect/group/group-file.ts';
import { hostReplica } from '../../../src/protect/replica/host.ts';
import { bin } from '../../cli/command.ts';
import { groupFile, Modelled, until } from './groups.ts';

export interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Not `spawnSync`: the process that is asked may be this one. */
export function start(args: readonly string[]): {
  child: ChildProcess;
  output: () => string;
  ended: Promise<Ended>;
} {
  const child = spawn(process.execPath, [bin, ...args], { env: { ...process.env, NO_COLOR: '1' } });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text) => {
    stdout += text;
  });
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (status) => resolve({ status, stdout, stderr })),
  );
  return { child, output: () => stdout, ended };
}

export const run = (...args: string[]) => start(args).ended;

/** A group with some writes, a bookmark `middle`, and some more; closed. */
export async function madeGroup(folder: string, seed: number) {
  const file = groupFile(folder);
  const modelled = await Modelled.create(file, seed);
  await modelled.write(20);
  const middle = await modelled.bookmark('middle');
  await modelled.write(20);
  await modelled.group.close();
  return { file, model: modelled.model, middle };
}

export async function bytesOf(uri: string, size: number): Promise<Buffer> {
  const unit = await openUnit(uri);
  try {
    const bytes = Buffer.alloc(size);
    await unit.read(0, bytes);
    return bytes;
  } finally {
    await unit.close();
  }
}

/** Starts an access and waits until it says where. */
export async function startAccess(...args: string[]) {
  const access = start(['access', ...args, '--json']);
  await until('the access is open', () => access.output().includes('\n'));
  const open = JSON.parse(access.output().split('\n')[0]!) as {
    id: number;
    sequence: number;
    exports: { disk: string; uri: string }[];
  };
  return { ...access, open };
}

/** The two ways in which a command finds a group. */
export const owners = ['no process', 'a living owner'] as const;

export const hosting = async (owner: (typeof owners)[number], file: GroupFile) =>
  owner === 'no process' ? null : hostReplica(file);
