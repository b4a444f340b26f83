/** `driftmap replica` */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { GroupFile } from '../protect/group/group-file.ts';
import type { ReplicaHost } from '../protect/replica/host.ts';
import type { StreamSocket } from '../protect/stream/living.ts';
import type { StreamTarget } from '../protect/stream/session.ts';
import type { Transport } from '../wire/transport.ts';
import { Exit, fail } from './exit.ts';
import { readToken } from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { printable } from './terminal.ts';

interface ReplicaFlags {
  stdio?: boolean;
  listen?: { host: string; port: number };
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  tokenFile?: string;
  insecure?: boolean;
}

export function defineReplica(program: Command): void {
  program
    .command('replica')
    .summary('keep the journal of a group, and its replica disks')
    .description(
      "Takes the stream of `driftmap protect`, keeps it in the journal, and lets the replica's disks follow: over standard input and output for ssh, or as a server.",
    )
    .argument('<group>', 'the file that describes the group (docs/PROTECTION.md)')
    .option('--stdio', 'one stream over standard input and output: what ssh, or protect itself, runs')
    .addOption(new Option('--listen <address>', 'host:port, or a port').argParser(readAddress))
    .option('--tls-cert <file>', 'our certificate (PEM)')
    .option('--tls-key <file>', 'its key')
    .option('--tls-ca <file>', 'who signs the certificate that production must show (mutual TLS 1.3)')
    .option('--token-file <file>', 'the secret that both sites share')
    .option('--insecure', 'allow a server on other addresses than loopback without TLS, or without any proof')
    .addHelpText(
      'after',
      `
With --stdio it ends with the stream, once no access is open any more; until then the next stream is passed on to it.
With --listen it lives on, and so do accesses.

Examples:
  driftmap replica /etc/driftmap/web.json --listen 0.0.0.0:7117 \\
      --tls-cert server.pem --tls-key server.key --tls-ca production.pem
  driftmap replica web.json --listen 127.0.0.1:7117 --token-file secret

Exit status: 0 ended in peace, 2 trouble.
`,
    )
    .action(runReplica);
}

function readAddress(text: string): { host: string; port: number } {
  const match = /^(?:(.+):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (!match || port > 65535) throw new InvalidArgumentError('expected host:port, or a port');
  return { host: match[1] ?? '127.0.0.1', port };
}

async function runReplica(path: string, flags: ReplicaFlags): Promise<void> {
  if ((flags.stdio === true) === (flags.listen !== undefined))
    throw new DriftmapError('argument', 'expected either --stdio or --listen');
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const file = readGroupFile(path);
  return flags.stdio === true ? serveStdio(file) : serveListening(file, flags);
}

/**
 * The group, opened when the first production has said how large its disks are. From then on streams are also taken
 * from replicas that are started while this one has the journal.
 */
class Owner {
  host: ReplicaHost | null = null;
  readonly target: Promise<StreamTarget>;
  private readonly file: GroupFile;
  private readonly signal: AbortSignal;
  private readonly streams = new Set<Promise<void>>();
  private socket: StreamSocket | null = null;

  constructor(file: GroupFile, signal: AbortSignal) {
    this.file = file;
    this.signal = signal;
    this.target = import('../protect/stream/replica-target.ts').then(({ replicaTarget }) =>
      replicaTarget(file, async (sizes) => (this.host ?? (await this.open(sizes))).group),
    );
  }

  async open(sizes?: ReadonlyMap<string, number>): Promise<ReplicaHost> {
    const { hostReplica } = await import('../protect/replica/host.ts');
    const { listenForStreams, streamSocket } = await import('../protect/stream/living.ts');
    this.host = await hostReplica(this.file, { sizes });
    for (const warning of this.host.group.warnings) log(warning);
    this.socket = await listenForStreams(streamSocket(this.file), (transport) => this.serve(transport));
    return this.host;
  }

  private serve(transport: Transport): void {
    const stream = serveOne(transport, this, { signal: this.signal })
      .catch((error) => log(`${transport.name}: ${error instanceof Error ? error.message : String(error)}`))
      .finally(() => this.streams.delete(stream));
    this.streams.add(stream);
  }

  /** Resolves when no access is open and no stream comes; none is taken in then. */
  async whenUnused(): Promise<void> {
    const { host, streams } = this;
    const isUsed = () => host!.group.accesses.size > 0 || streams.size > 0;
    const pause = async () => {
      while (isUsed())
        await Promise.race([...streams, ...[...host!.group.accesses].map((access) => access.ended)]);
    };
    await pause();
    this.socket?.close();
    // What came in before that.
    await new Promise((resolve) => setImmediate(resolve));
    await pause();
  }

  async close(): Promise<void> {
    this.socket?.close();
    await Promise.all(this.streams);
    await this.host?.close();
  }
}

async function serveOne(
  transport: Transport,
  owner: Owner,
  { token, signal }: { token?: Uint8Array | undefined; signal: AbortSignal },
): Promise<void> {
  const { Connection } = await import('../wire/connection.ts');
  const { welcome } = await import('../wire/greeting.ts');
  const { serveStream } = await import('../protect/stream/session.ts');
  const connection = new Connection(transport);
  const stop = () =>
    void connection.abandon(
      new DriftmapError('aborted', 'the replica is being stopped', { operation: 'stream' }),
    );
  signal.addEventListener('abort', stop, { once: true });
  const impatience = setTimeout(
    () => connection.fail(new DriftmapError('io', 'no greeting came', { path: connection.peer })),
    20_000,
  );
  try {
    await welcome(connection, { token });
    clearTimeout(impatience);
    await serveStream(connection, await owner.target);
    await connection.close();
  } catch (cause) {
    // Who has not greeted well is told so, and is gone.
    await connection.abandon(systemError(cause, { operation: 'stream' }));
    throw cause;
  } finally {
    clearTimeout(impatience);
    signal.removeEventListener('abort', stop);
  }
}

async function serveStdio(file: GroupFile): Promise<void> {
  const { ownStdio } = await import('../wire/stdio.ts');
  const { reachLiving, relay, streamSocket } = await import('../protect/stream/living.ts');
  const transport = ownStdio();
  // Standard output is the stream's; and whoever started us may be gone before us.
  console.log = console.error;
  process.stderr.on('error', () => undefined);
  process.stdout.on('error', () => undefined);
  const living = await reachLiving(streamSocket(file));
  if (living !== null) {
    await relay(living, transport);
    process.exit(Exit.equal);
  }
  const signal = stopOnSignals();
  const owner = new Owner(file, signal);
  try {
    await serveOne(transport, owner, { signal });
    process.exitCode = Exit.equal;
  } catch (error) {
    // Production has been told, as far as it still listens.
    process.exitCode = Exit.trouble;
    if (process.env.DRIFTMAP_DEBUG) fail(error);
  }
  if (owner.host !== null) {
    const stopped = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      else signal.addEventListener('abort', () => resolve(), { once: true });
    });
    await Promise.race([owner.whenUnused(), stopped]);
    await owner.close();
  }
  process.exit();
}

async function serveListening(file: GroupFile, flags: ReplicaFlags): Promise<void> {
  const { checkSafe } = await import('../sync/serve.ts');
  const { listenTcp } = await import('../wire/tcp.ts');
  const { hasReplica } = await import('../protect/replica/open-replica.ts');
  const { host, port } = flags.listen!;
  const { tlsCert: cert, tlsKey: key, tlsCa: ca, insecure } = flags;
  const tls = cert === undefined && key === undefined && ca === undefined ? null : { cert, key, ca };
  const token = flags.tokenFile === undefined ? undefined : readToken(flags.tokenFile);
  checkSafe({ host, tls, token, insecure });
  const signal = stopOnSignals();
  const owner = new Owner(file, signal);
  if (hasReplica(file)) await owner.open();
  const streams = new Set<Promise<void>>();
  const listener = await listenTcp({
    host,
    port,
    tls,
    onRefused: (reason) => log(`a stranger: ${reason}`),
    onTransport: (transport) => {
      log(`${transport.name}: connected`);
      const stream = serveOne(transport, owner, { token, signal })
        .then(() => log(`${transport.name}: left in peace`))
        .catch((error) => log(`${transport.name}: ${error instanceof Error ? error.message : String(error)}`))
        .finally(() => streams.delete(stream));
      streams.add(stream);
    },
  });
  log(
    `listening on ${host}:${listener.port} (${tls === null ? 'plain' : 'TLS 1.3'}) for the group '${file.group}'`,
  );
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  const closed = listener.close();
  await Promise.all(streams);
  await owner.close();
  await closed;
  process.exitCode = Exit.equal;
}

function log(text: string): void {
  process.stderr.write(`driftmap replica: ${printable(text)}\n`);
}
