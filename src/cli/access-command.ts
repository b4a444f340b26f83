/** `driftmap access`: the disks of a group as of a point, over NBD. */

import { mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import { humanSize } from '../base/units.ts';
import type { GroupFile } from '../protect/group/group-file.ts';
import type { TimedPoint } from '../protect/replica/points-report.ts';
import type { AccessState } from '../protect/replica/replica-group.ts';
import { Exit, warn } from './exit.ts';
import { explainGroup, explainTimes, type Missing, warnOfMissing, warnOfOthers } from './points-command.ts';
import { paint, print, printable } from './terminal.ts';

interface AccessFlags {
  at?: string;
  listen?: { host?: string; port: number };
  socketDir?: string;
  rolled?: boolean;
  readOnly?: boolean;
  overlay?: string;
  tlsCertificates?: string;
  tlsVerifyPeer?: boolean;
  tlsPsk?: string;
  promote?: boolean;
  discard?: boolean;
  id?: number;
  json?: boolean;
}

type Told = Omit<AccessState, 'point'> &
  TimedPoint & {
    readonly others: readonly TimedPoint[];
    readonly missing?: Missing | null;
    readonly ended?: string;
  };

export function defineAccess(program: Command): void {
  program
    .command('access')
    .summary('serve the disks of a group as of a point in time')
    .description(
      'Serves all disks of a group over NBD as they were at one moment, to look into, to test, or to start the virtual machine from. What is written is discarded when it ends (Ctrl-C), unless it is promoted.',
    )
    .argument('<group>', "the group's file")
    .option('--at <point>', "a time, a bookmark, a sequence, or 'latest'")
    .addOption(
      new Option('-l, --listen <address>', 'HOST:PORT, :PORT or PORT (default: localhost:10809)').argParser(
        readAddress,
      ),
    )
    .addOption(
      new Option(
        '-U, --socket-dir <folder>',
        'a Unix socket for each disk, FOLDER/DISK.sock; the folder is made',
      ).conflicts('listen'),
    )
    .option('--rolled', 'roll the disks themselves there and serve them: at their own speed')
    .option('-r, --read-only', 'let nobody write')
    .option('--overlay <folder>', "where writes are kept meanwhile (default: the journal's folder)")
    .option(
      '--tls-certificates <folder>',
      'serve nobody without TLS: ca-cert.pem, server-cert.pem, server-key.pem',
    )
    .option('--tls-verify-peer', 'serve only clients with a certificate of that authority')
    .addOption(
      new Option('--tls-psk <file>', 'serve only clients with a key of this file').conflicts(
        'tlsCertificates',
      ),
    )
    .addOption(
      new Option(
        '--promote',
        'end the access that is open, and keep it: this site becomes production with it',
      ).conflicts(['at', 'discard']),
    )
    .addOption(
      new Option('--discard', 'end the access that is open, and discard what it wrote').conflicts('at'),
    )
    .addOption(new Option('--id <number>', 'which access to end, when several are open').argParser(readId))
    .option('--json', 'print one JSON object once clients can connect, and one at the end')
    .addHelpText(
      'after',
      `${explainTimes}
${explainGroup}

Virtual access (the default) is up at once however far back it goes: what is asked for is read through the
journal, writes go to an overlay, and the replica goes on following production. Rolled access takes the time
of the roll; the replica does not follow meanwhile, and what each block held is kept, so that discarding
brings the disks back exactly, after a crash too.

Examples:
  driftmap access web.json --at 14:02:07                   nbdinfo nbd://localhost/system
  driftmap access web.json --at before-upgrade -U /run/pit qemu-system-x86_64 … file=nbd+unix:///system?socket=/run/pit/system.sock
  driftmap access web.json --promote                       in another terminal: keep it

Exit status: 0 ended by Ctrl-C, SIGTERM, --promote or --discard; 2 trouble.
`,
    )
    .action(runAccess);
}

async function runAccess(path: string, flags: AccessFlags): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const file = readGroupFile(path);
  if (flags.promote || flags.discard) return endAccess(file, flags);
  if (flags.at === undefined)
    throw new DriftmapError('argument', "expected --at with a time, a bookmark, a sequence or 'latest'");
  const { askReplica } = await import('../protect/replica/host.ts');
  if (flags.socketDir !== undefined) makeSocketFolder(resolve(flags.socketDir));
  const place =
    flags.socketDir === undefined ? (flags.listen ?? {}) : { socketFolder: resolve(flags.socketDir) };
  const { tlsCertificates, tlsPsk, tlsVerifyPeer } = flags;
  const isSecure = tlsCertificates !== undefined || tlsPsk !== undefined;
  const body = {
    at: flags.at,
    kind: flags.rolled ? 'rolled' : 'virtual',
    ...place,
    ...(flags.overlay !== undefined && { overlay: resolve(flags.overlay) }),
    ...(flags.readOnly && { readOnly: true }),
    ...(isSecure && {
      tls: {
        ...(tlsCertificates !== undefined && { certificates: resolve(tlsCertificates) }),
        ...(tlsPsk !== undefined && { pskFile: resolve(tlsPsk) }),
        ...(tlsVerifyPeer && { verifyPeer: true }),
      },
    }),
  };
  const isLocal = ['localhost', '127.0.0.1', '::1', undefined].includes(flags.listen?.host);
  if (!isSecure && !isLocal) warn('everybody who can reach this address can use these disks: ask for TLS');
  const session = new AccessSession(file, flags.json === true);
  const onProgress = (progress: unknown) => session.told(progress);
  const options = { signal: session.signal, onProgress, onWarning: warn };
  const answer = await askReplica(file, 'POST /access', body, options).catch((error: unknown) => {
    const isGone = error instanceof DriftmapError && error.kind === 'not-found' && error.operation === 'find';
    if (isGone && file.replica?.snapshots != null)
      warn(`a snapshot may have it: driftmap snapshots access ${path} ${flags.at}`);
    throw error;
  });
  await session.end(answer as Told);
  process.exitCode = Exit.equal;
}

/** What is in it is for this user alone. Folders above it are not made: a name that was mistyped is to be seen. */
function makeSocketFolder(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw systemError(cause, { path, operation: 'create' });
  }
}

/** An access from its beginning to its end, as its terminal sees it. */
class AccessSession {
  private readonly file: GroupFile;
  private readonly json: boolean;
  private readonly stop = new AbortController();
  private open: Told | null = null;

  constructor(file: GroupFile, json: boolean) {
    this.file = file;
    this.json = json;
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
      process.on(signal, () => this.interrupted(signal));
  }

  /** Aborted where there is nothing to end in order. */
  get signal(): AbortSignal {
    return this.stop.signal;
  }

  told(progress: unknown): void {
    const { open, trouble } = progress as { open?: Told; trouble?: string };
    if (trouble !== undefined) warn(trouble);
    if (open === undefined) return;
    this.open = open;
    if (!this.json) warnOfOthers(open.others);
    if (!this.json) warnOfMissing(open.missing);
    void print(this.json ? `${JSON.stringify(open)}\n` : describeOpen(open));
  }

  async end(ended: Told): Promise<void> {
    if (this.json) {
      await print(`${JSON.stringify(ended)}\n`);
      return;
    }
    const kept = 'kept: this site is production now (driftmap failover --help says what comes next)';
    await print(ended.ended === 'keep' ? `${kept}\n` : 'discarded\n');
  }

  /** The first time the access is ended in order; the second time at once, which discards it as well. */
  private interrupted(signal: NodeJS.Signals): void {
    const { open } = this;
    this.open = null;
    if (open === null) {
      this.stop.abort(signal);
      return;
    }
    void this.discard(open.id).catch(() => this.stop.abort(signal));
  }

  private async discard(id: number): Promise<void> {
    const { askControl } = await import('../protect/group/control.ts');
    const { replicaSocket } = await import('../protect/replica/host.ts');
    await askControl(replicaSocket(this.file), 'POST /access/end', { id, how: 'discard' });
  }
}

function describeOpen({ kind, at, sequence, exports }: Told): string {
  const lines = exports.map(({ disk, uri }) => `  ${printable(disk).padEnd(12)}${printable(uri)}`);
  const how = kind === 'rolled' ? 'rolled access' : 'virtual access';
  return `${how} as of ${at}  ${paint('dim', `sequence ${sequence}`)}\n${lines.join('\n')}\n${paint('dim', 'Ctrl-C ends it and discards what was written')}\n`;
}

async function endAccess(file: GroupFile, flags: AccessFlags): Promise<void> {
  const { askControl } = await import('../protect/group/control.ts');
  const { replicaSocket } = await import('../protect/replica/host.ts');
  const socket = replicaSocket(file);
  const body = { how: flags.promote ? 'keep' : 'discard', ...(flags.id !== undefined && { id: flags.id }) };
  const asked = await askControl(socket, 'POST /access/end', body);
  if (asked === null)
    throw new DriftmapError('not-found', 'no access is open: no process has this group open', {
      path: socket,
    });
  const ended = asked.answer as Told;
  const what = `${humanSize(ended.writtenBytes)} written as of ${ended.at}`;
  const text =
    ended.ended === 'keep' ? `kept: ${what}; this site is production now\n` : `discarded: ${what}\n`;
  await print(flags.json ? `${JSON.stringify(ended)}\n` : text);
  process.exitCode = Exit.equal;
}

function readAddress(text: string): { host?: string; port: number } {
  const match = /^(?:(\[[^\]]+\]|[^:[\]]*):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2] ?? Number.NaN);
  if (match === null || port > 65535) throw new InvalidArgumentError('Expected HOST:PORT, :PORT or PORT.');
  const host = match[1]?.replace(/^\[(.*)\]$/, '$1');
  if (host === undefined) return { port };
  return { port, host: host === '' ? '::' : host };
}

function readId(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('Expected the number of an access.');
  return Number(text);
}
