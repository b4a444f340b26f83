/** `driftmap protect` */

import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { STREAM_MAX_CONFIGURATION_BYTES } from '../base/protection-limits.ts';
import { humanSize } from '../base/units.ts';
import { readBounded } from '../codec/atomic-file.ts';
import type { GroupFile, ProductionSide } from '../protect/group/group-file.ts';
import type { CourseParts } from '../protect/splitter/course.ts';
import type { SplitterState } from '../protect/splitter/splitter.ts';
import { isLoopback } from '../wire/site.ts';
import { Exit, warn } from './exit.ts';
import { rateOption, readToken } from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { print, printable } from './terminal.ts';

interface ProtectFlags {
  status?: boolean;
  json?: boolean;
  patience: number;
  ssh?: string;
  remoteCommand?: string;
  limit?: number;
}

export function defineProtect(program: Command): void {
  program
    .command('protect')
    .summary('serve the disks of a group, and stream every write to its replica')
    .description(
      'Serves the disks of a group over NBD and streams every write to the replica, in one order over all disks. Whenever that would make the guest wait, writes are marked instead, and made up for later.',
    )
    .argument('<group>', 'the file that describes the group (docs/PROTECTION.md)')
    .option('--status', 'print how the group is, and exit')
    .option('--json', 'print JSON: one object, or one to each change of state')
    .option(
      '--patience <seconds>',
      'the replica acknowledges nothing for so long: mark instead',
      (text) => readSeconds(text),
      10,
    )
    .option('--ssh <command>', 'the command that connects, as rsync -e')
    .option('--remote-command <command>', 'what ssh runs there (default: driftmap replica GROUP --stdio)')
    .addOption(rateOption())
    .addHelpText(
      'after',
      `
It prints where each disk is served, then a line for each change of state:
  streaming   every write goes to the replica's journal
  marking     writes are marked: the replica is away, too slow, or failing (the line says why)
  resyncing   what was marked is sent, while new writes are streamed
  paused      as marking, because somebody asked for it

Whoever can reach an export can read and write the disk: give sockets to the hypervisor's user alone.

Examples:
  driftmap protect web.json                  until SIGTERM or Ctrl-C
  driftmap protect web.json --status         how is it?
  curl --unix-socket /var/lib/driftmap/web/control.sock http://localhost/metrics
  curl --unix-socket /var/lib/driftmap/web/control.sock -X POST http://localhost/pause
  driftmap sync /srv/vm/system.raw copy.raw --live web.json      one more copy, by the writes that it sees

Exit status: 0 stopped by SIGTERM or Ctrl-C, 2 trouble. With --status: 0 streaming, 1 not, 2 trouble.
`,
    )
    .action(runProtect);
}

function readSeconds(text: string): number {
  const seconds = Number(text);
  if (seconds >= 1 && seconds <= 3600) return seconds;
  throw new DriftmapError('argument', `expected --patience of 1 to 3600 seconds, got '${text}'`);
}

async function runProtect(path: string, flags: ProtectFlags): Promise<void> {
  const { productionOf, readGroupFile } = await import('../protect/group/group-file.ts');
  const file = readGroupFile(path);
  const production = productionOf(file);
  if (flags.status) return tellStatus(production, flags);
  return serve(file, production, flags);
}

async function tellStatus(production: ProductionSide, flags: ProtectFlags): Promise<void> {
  const { askControl } = await import('../protect/group/control.ts');
  const { controlSocketOf } = await import('../protect/splitter/control-routes.ts');
  const path = controlSocketOf(production.state);
  const asked = await askControl(path, 'GET /state');
  if (asked === null)
    throw new DriftmapError('not-found', 'the group is not being protected: nobody listens there', { path });
  const state = asked.answer as SplitterState;
  await print(flags.json ? `${JSON.stringify(state)}\n` : describe(state));
  process.exitCode = state.state === 'streaming' ? Exit.equal : Exit.different;
}

function describe(state: SplitterState): string {
  const lines = [
    `${state.group}: ${lineOf(state)}, since ${state.since}`,
    `  replica    ${state.connected ? 'connected' : 'not connected'}`,
    `  on its way ${humanSize(state.queuedBytes)}, ${state.order - state.acknowledged} writes`,
    `  journal    has all up to sequence ${state.sequence}`,
    `  falls      ${state.falls}`,
  ];
  for (const disk of state.disks) {
    lines.push(
      `  ${disk.name}: ${disk.uri}`,
      `    ${humanSize(disk.writtenBytes)} written in ${disk.writes} writes, ${humanSize(disk.markedBytes)} marked`,
    );
    for (const { since, takes, writtenBytes } of disk.watches)
      lines.push(`    watched since ${since}, ${humanSize(writtenBytes)} written after take ${takes}`);
  }
  return lines.map((line) => `${printable(line)}\n`).join('');
}

function lineOf({ state, why, markedBytes }: SplitterState): string {
  if (state === 'streaming') return 'streaming';
  const marked = `${humanSize(markedBytes)} ${state === 'resyncing' ? 'left' : 'marked'}`;
  return why === null ? `${state}, ${marked}` : `${state} (${why}), ${marked}`;
}

async function serve(file: GroupFile, production: ProductionSide, flags: ProtectFlags): Promise<void> {
  const { openSplitter } = await import('../protect/splitter/splitter.ts');
  const { serveControl } = await import('../protect/group/control.ts');
  const { controlSocketOf, splitterRoutes } = await import('../protect/splitter/control-routes.ts');
  const stop = stopOnSignals();
  const reporter = new Reporter(flags.json ?? false);
  const splitter = await openSplitter({
    group: file.group,
    state: production.state,
    disks: production.disks,
    reach: await reachOf(file, production, flags),
    configuration: () => configurationOf(production),
    patience: flags.patience,
    onChange: (state) => reporter.tell(state),
    onTrouble: (error) => warn(error.message),
  });
  try {
    for (const note of splitter.notes) warn(note);
    for (const { name, listen } of production.disks) {
      if ('socket' in listen || listen.host === undefined || isLoopback(listen.host)) continue;
      warn(`everybody who can reach ${listen.host} can read and write the disk '${name}'`);
    }
    const control = await serveControl(controlSocketOf(production.state), splitterRoutes(splitter));
    try {
      await reporter.begin(splitter.state());
      if (!stop.aborted) {
        await new Promise((resolve) => stop.addEventListener('abort', resolve, { once: true }));
      }
    } finally {
      await control.close();
    }
  } finally {
    await splitter.close();
  }
  process.exitCode = Exit.equal;
}

/** What describes the machine; null, and a warning, where it cannot be had: protection goes on without it. */
function configurationOf({ configuration }: ProductionSide): string | null {
  if (configuration === null) return null;
  try {
    return Buffer.from(readBounded(configuration, STREAM_MAX_CONFIGURATION_BYTES)).toString('utf8');
  } catch (error) {
    warn(`${error instanceof Error ? error.message : String(error)}: snapshots are made without it`);
    return null;
  }
}

/** One line to each change of state, after the addresses. */
class Reporter {
  private readonly json: boolean;
  private begun = false;
  private last = '';

  constructor(json: boolean) {
    this.json = json;
  }

  async begin(state: SplitterState): Promise<void> {
    if (this.json) {
      const exports = state.disks.map(({ name, uri }) => ({ disk: name, uri }));
      await print(`${JSON.stringify({ exports })}\n`);
    } else {
      for (const { name, uri } of state.disks) await print(`${printable(`${name}: ${uri}`)}\n`);
    }
    this.begun = true;
    this.tell(state);
  }

  tell(state: SplitterState): void {
    if (!this.begun) return;
    const line = this.json ? JSON.stringify(state) : `${state.since} ${printable(lineOf(state))}`;
    if (line === this.last) return;
    this.last = line;
    void print(`${line}\n`);
  }
}

async function reachOf(
  file: GroupFile,
  { replica }: ProductionSide,
  flags: ProtectFlags,
): Promise<CourseParts['reach']> {
  const { reachChild, reachSite } = await import('../protect/stream/reach.ts');
  if (replica === null) {
    if (file.replica === null) return null;
    const entry = process.argv[1] ?? fileURLToPath(import.meta.url);
    const command = [process.execPath, ...process.execArgv, entry, 'replica', file.path, '--stdio'];
    return (signal) => reachChild({ command, signal });
  }
  const { RateLimiter } = await import('../wire/limiter.ts');
  const { tls, token } = replica;
  const options = {
    ssh: flags.ssh,
    remoteCommand: flags.remoteCommand,
    tls: tls ?? undefined,
    token: token === null ? undefined : readToken(token),
    limiter: flags.limit === undefined ? undefined : new RateLimiter(flags.limit),
  };
  return (signal) => reachSite(replica, { ...options, signal });
}
