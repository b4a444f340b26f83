/** Options of a sync whose production disk is written to meanwhile. */

import { spawn } from 'node:child_process';
import { realpathSync } from 'node:fs';
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
  --qmp SOCKET                     a running QEMU, asked through its monitor: nothing has to be prepared
Without --quiesce it ends when the rest fits, and the replica stays "synchronizing".
`;

export function addLiveOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--live <bitmap>', 'production is written to, and this bitmap marks what').conflicts('qmp'),
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

/**
 * Marks begin with this call: make it before the disk is opened.
 * @param tell is given a line before each pass
 * @returns undefined where nothing is said of a live production
 */
export async function openLive(
  production: string,
  flags: LiveFlags,
  tell: (line: string) => void,
): Promise<OpenLive | undefined> {
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
  const { liveFromBitmap, liveFromQemu } = await import('../sync/live-marks.ts');
  if (qmp !== undefined) {
    if (isNbdUrl(production)) return liveFromQemu({ monitor: qmp, url: production, node }, ending);
    const reason = '--qmp follows an NBD export of that QEMU: name it as production (nbd://…, nbd+unix://…)';
    throw new DriftmapError('argument', reason, { path: production });
  }
  const source = parseBitmapSource(live!);
  if (source === null)
    throw new DriftmapError(
      'argument',
      `expected NBD-URL:bitmap=NAME or IMAGE.qcow2:bitmap=NAME, got '${live}'`,
    );
  if (!isNbdUrl(source.image) && realpathSync(source.image) !== pathOf(production))
    throw new DriftmapError(
      'mismatch',
      'a persistent bitmap tells of writes to its own image: name that as production',
      {
        path: source.image,
      },
    );
  return liveFromBitmap(source.image, source.bitmap, ending);
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
