/** Options of a sync whose production disk is written to meanwhile. */

import { spawn } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import { humanSize, MiB, parseSize } from '../base/units.ts';
import { isNbdUrl } from '../lu/nbd/url.ts';
import type { LivePass } from '../sync/live.ts';
import type { LiveEnding, OpenLive } from '../sync/live-marks.ts';
import { parseBitmapSource } from './bitmap-source.ts';
import { Exit, warn } from './exit.ts';

export interface LiveFlags {
  live?: string;
  qmp?: string;
  node?: string;
  liveUntil?: Until;
  quiesce?: string;
  resume?: string;
}

type Until = Pick<LiveEnding, 'threshold' | 'thresholdSeconds'>;

const DEFAULT_UNTIL: Until = { threshold: 16 * MiB };

export const explainLive = `
While production is written to, --live follows it: passes repeat over what became dirty until the rest fits
--live-until; then --quiesce is run, a last pass is made, and --resume is run. Marks come from
  --live NBD-URL:bitmap=NAME       a dirty bitmap that the NBD server of a running QEMU shows (it must be enabled)
  --live IMAGE.qcow2:bitmap=NAME   a persistent bitmap; only while no QEMU has the image open
  --live GROUP.json[:disk=NAME]    a running 'driftmap protect': production is a disk of that group
  --qmp SOCKET                     a running QEMU, asked through its monitor: nothing has to be prepared
Without --quiesce it ends when the rest fits, and the replica stays "synchronizing".
`;

export function addLiveOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--live <marks>',
        'production is written to, and this marks what: a dirty bitmap, or the group of a splitter',
      ).conflicts('qmp'),
    )
    .option(
      '--qmp <monitor>',
      'production is an NBD export of the QEMU with this monitor: SOCKET or HOST:PORT',
    )
    .option('--node <name>', "its block node (default: the export's name)")
    .addOption(
      new Option(
        '--live-until <rest>',
        'when the last pass begins: a size, or a time such as 5s (default: 16M)',
      ).argParser(readUntil),
    )
    .option('--quiesce <command>', 'makes production quiet for the last pass: fsfreeze, virsh suspend')
    .option('--resume <command>', 'lets it go on');
}

function readUntil(text: string): Until {
  const time = /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(text);
  if (time) {
    const unit = { ms: 0.001, s: 1, m: 60 }[time[2] as 'ms' | 's' | 'm'];
    return { threshold: 0, thresholdSeconds: Number(time[1]) * unit };
  }
  try {
    return { threshold: parseSize(text) };
  } catch {
    throw new InvalidArgumentError('expected a size such as 16M, or a time such as 500ms or 5s');
  }
}

export interface LiveContext {
  readonly production: string;
  readonly blockSize: number | undefined;
  readonly format: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** Is given a line before each pass. */
  tell(line: string): void;
}

/**
 * Marks begin with this call: make it before the disk is opened.
 * @returns undefined where nothing is said of a live production
 */
export async function openLive(flags: LiveFlags, context: LiveContext): Promise<OpenLive | undefined> {
  const { production, tell } = context;
  const { live, qmp, node, liveUntil, quiesce, resume } = flags;
  if (live === undefined && qmp === undefined) {
    if (liveUntil === undefined && quiesce === undefined && resume === undefined && node === undefined)
      return undefined;
    const reason =
      '--live-until, --quiesce, --resume and --node are for a production that is followed: --live or --qmp';
    throw new DriftmapError('argument', reason);
  }
  if (resume !== undefined && quiesce === undefined)
    throw new DriftmapError('argument', '--resume is run after --quiesce: give both');
  const ending: LiveEnding = {
    ...(liveUntil ?? DEFAULT_UNTIL),
    ...pauseOf(quiesce, resume, tell),
    onPass: (pass) => tell(describePass(pass)),
  };
  if (qmp !== undefined) {
    const { liveFromQemu } = await import('../sync/live-marks.ts');
    if (isNbdUrl(production)) return liveFromQemu({ monitor: qmp, url: production, node }, ending);
    const reason = '--qmp follows an NBD export of that QEMU: name it as production (nbd://…, nbd+unix://…)';
    throw new DriftmapError('argument', reason, { path: production });
  }
  const splitter = await parseSplitter(live!);
  if (splitter !== null) {
    const { liveFromSplitter } = await import('../protect/splitter/live-splitter.ts');
    return liveFromSplitter({ ...context, ...splitter }, ending);
  }
  return openBitmap(production, live!, ending);
}

async function openBitmap(production: string, live: string, ending: LiveEnding): Promise<OpenLive> {
  const source = parseBitmapSource(live);
  if (source === null)
    throw new DriftmapError(
      'argument',
      `expected NBD-URL:bitmap=NAME, IMAGE.qcow2:bitmap=NAME, or the file of a group, GROUP.json or GROUP.json:disk=NAME; got '${live}'`,
    );
  if (!isNbdUrl(source.image) && realpathSync(source.image) !== pathOf(production))
    throw new DriftmapError(
      'mismatch',
      'a persistent bitmap tells of writes to its own image: name that as production',
      {
        path: source.image,
      },
    );
  const { liveFromBitmap } = await import('../sync/live-marks.ts');
  return liveFromBitmap(source.image, source.bitmap, ending);
}

/** `GROUP.json`, `GROUP.json:disk=NAME`; null where it names something else. A file that is there is that file. */
async function parseSplitter(text: string): Promise<{ splitter: string; disk?: string } | null> {
  const { looksLikeGroupFile } = await import('../protect/group/group-file.ts');
  const isGroup = (path: string) => looksLikeGroupFile(path) || /\.json$/i.test(path);
  const match = existsSync(text) ? null : /^(.+):disk=(.+)$/s.exec(text);
  if (match !== null) return { splitter: match[1]!, disk: match[2]! };
  return isGroup(text) ? { splitter: text } : null;
}

/** What is run around the last pass. */
function pauseOf(
  quiesce: string | undefined,
  resume: string | undefined,
  tell: (line: string) => void,
): Pick<LiveEnding, 'quiesce' | 'resume'> {
  if (quiesce === undefined) return {};
  let since = 0;
  return {
    quiesce: async () => {
      since = performance.now();
      await run(quiesce, 'quiesce');
    },
    resume: async () => {
      const seconds = (performance.now() - since) / 1000;
      try {
        if (resume !== undefined) await run(resume, 'resume');
        tell(`the last pass is over: production was quiet for ${seconds.toFixed(2)} s`);
      } catch (cause) {
        // The replica is equal all the same: that must not be lost.
        warn(`production may still be quiet: ${cause instanceof Error ? cause.message : String(cause)}`);
        process.once('exit', () => {
          process.exitCode = Exit.trouble;
        });
      }
    },
  };
}

function pathOf(disk: string): string {
  try {
    return realpathSync(disk);
  } catch {
    return disk;
  }
}

function describePass({ pass, markedBytes, quiet }: LivePass): string {
  const what = `pass ${pass} over ${humanSize(markedBytes)} that became dirty`;
  return quiet ? `production is quiet: last ${what}` : what;
}

/**
 * A command of the user's shell; what it prints goes to standard error.
 * @throws DriftmapError `io` unless it ends with status 0
 */
function run(command: string, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, { shell: true, stdio: ['ignore', 2, 2] });
    child.once('error', (cause) => reject(systemError(cause, { path: command, operation: name })));
    child.once('close', (status, signal) => {
      if (status === 0) return resolve();
      const how = status === null ? `was ended by ${signal}` : `ended with status ${status}`;
      reject(new DriftmapError('io', `the command of --${name} ${how}`, { path: command, operation: name }));
    });
  });
}
