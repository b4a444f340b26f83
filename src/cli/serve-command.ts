/** `driftmap serve` */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { MAX_GRANTS } from '../base/limits.ts';
import type { Grant } from '../sync/server.ts';
import { DEFAULT_PORT } from '../wire/site.ts';
import { Exit, fail } from './exit.ts';
import { workersOption } from './options.ts';
import { rateOption, readToken } from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { printable } from './terminal.ts';

interface ServeFlags {
  stdio?: boolean;
  listen?: { host: string; port: number };
  grant?: [string, Grant][];
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  tokenFile?: string;
  insecure?: boolean;
  metrics?: { host: string; port: number };
  limit?: number;
  workers?: number;
}

export function defineServe(program: Command): void {
  program
    .command('serve')
    .summary('let another site compare and synchronize disks here')
    .description(
      'Serves disks to `driftmap scan`, `sync` and `verify` of another site: over standard input and output for ssh, or as a server.',
    )
    .option('--stdio', 'one session over standard input and output: what ssh runs')
    .addOption(
      new Option('--listen <address>', `host:port, or a port (${DEFAULT_PORT} is usual)`).argParser(
        readAddress,
      ),
    )
    .addOption(
      new Option(
        '--grant <name=disk>',
        'a disk and the name that clients say; options follow: ,ro ,format=F ,state=FILE ,source=DISK ,index=FILE',
      ).argParser(readGrant),
    )
    .option('--tls-cert <file>', 'our certificate (PEM)')
    .option('--tls-key <file>', 'its key')
    .option('--tls-ca <file>', 'who signs the certificates that clients must show (mutual TLS 1.3)')
    .option('--token-file <file>', 'the secret that both sites share')
    .option('--insecure', 'allow a server on other addresses than loopback without TLS, or without any proof')
    .addOption(
      new Option('--metrics <address>', 'serve /metrics for Prometheus there (HTTP; on loopback)').argParser(
        readAddress,
      ),
    )
    .addOption(rateOption())
    .addOption(workersOption())
    .addHelpText(
      'after',
      `
Without --grant, --stdio serves any disk that this user can open: whoever reaches it by ssh could run any
other command as well. With --grant, only those, which suits a forced command in authorized_keys:
  command="driftmap serve --stdio --grant vm=/srv/vm.raw" ssh-ed25519 AAAA…

What a granted disk is, its grant says: by format=F, else by the file's name (.qcow2, .vhd, .vhdx, .vdi, .vmdk; any
other is raw). Neither a client nor the contents choose it: a guest could make its raw disk look like an image that
names a file beside it. What is named is followed only for images so granted, and only within the image's folder.

Examples:
  driftmap serve --listen 0.0.0.0:${DEFAULT_PORT} --grant vm=/srv/vm.raw \\
      --tls-cert server.pem --tls-key server.key --tls-ca clients.pem
  driftmap serve --listen 127.0.0.1:${DEFAULT_PORT} --grant vm=/srv/vm.raw,ro --token-file secret
`,
    )
    .action(runServe);
}

function readAddress(text: string): { host: string; port: number } {
  const match = /^(?:(.+):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (!match || port > 65535) throw new InvalidArgumentError('expected host:port, or a port');
  return { host: match[1] ?? '127.0.0.1', port };
}

function readGrant(text: string, before: [string, Grant][] = []): [string, Grant][] {
  const equals = text.indexOf('=');
  if (equals < 1 || equals === text.length - 1) throw new InvalidArgumentError('expected NAME=DISK');
  const name = text.slice(0, equals);
  if (before.some(([taken]) => taken === name)) throw new InvalidArgumentError(`'${name}' is granted twice`);
  if (before.length === MAX_GRANTS) throw new InvalidArgumentError(`expected at most ${MAX_GRANTS} grants`);
  // Options begin with a comma and a word we know: an address may hold commas too.
  const [disk = '', ...options] = text
    .slice(equals + 1)
    .split(/,(?=ro(?:,|$)|format=|state=|source=|index=)/);
  const value = (key: string) =>
    options.find((option) => option.startsWith(`${key}=`))?.slice(key.length + 1);
  const grant: Grant = {
    disk,
    readOnly: options.includes('ro'),
    format: value('format'),
    state: value('state'),
    sources: options.filter((option) => option.startsWith('source=')).map((option) => option.slice(7)),
    indexes: options.filter((option) => option.startsWith('index=')).map((option) => option.slice(6)),
  };
  return [...before, [name, grant]];
}

async function runServe(flags: ServeFlags): Promise<void> {
  const grants = flags.grant === undefined ? null : new Map(flags.grant);
  if ((flags.stdio === true) === (flags.listen !== undefined))
    throw new DriftmapError('argument', 'expected either --stdio or --listen');
  return flags.stdio === true ? serveStdio(flags, grants) : serveListening(flags, grants);
}

async function serveStdio(flags: ServeFlags, grants: ReadonlyMap<string, Grant> | null): Promise<void> {
  const { ownStdio } = await import('../wire/stdio.ts');
  const { serveSession } = await import('../sync/server.ts');
  const { RateLimiter } = await import('../wire/limiter.ts');
  // Standard output is the session's: whatever else would be printed there goes to standard error.
  const transport = ownStdio();
  console.log = console.error;
  const grant = (name: string) => (grants === null ? { disk: name, anyFormat: true } : grants.get(name));
  const limiter = flags.limit === undefined ? undefined : new RateLimiter(flags.limit);
  // Over ssh, standard error is the client's terminal too.
  const options = { grant, limiter, workers: flags.workers, signal: stopOnSignals(), onUntold: log };
  try {
    await serveSession(transport, options);
    process.exitCode = Exit.equal;
  } catch (error) {
    // The client has been told, and tells its user; or standard error has.
    process.exitCode = Exit.trouble;
    if (process.env.DRIFTMAP_DEBUG) fail(error);
  }
  process.exit();
}

async function serveListening(flags: ServeFlags, grants: ReadonlyMap<string, Grant> | null): Promise<void> {
  if (grants === null)
    throw new DriftmapError('argument', 'expected at least one disk to serve: --grant NAME=DISK');
  const { serve } = await import('../sync/serve.ts');
  const { RateLimiter } = await import('../wire/limiter.ts');
  const { host, port } = flags.listen!;
  const tls =
    flags.tlsCert === undefined && flags.tlsKey === undefined && flags.tlsCa === undefined
      ? null
      : { cert: flags.tlsCert, key: flags.tlsKey, ca: flags.tlsCa };
  const signal = stopOnSignals();
  const server = await serve({
    ...{ host, port, tls, insecure: flags.insecure, workers: flags.workers },
    token: flags.tokenFile === undefined ? undefined : readToken(flags.tokenFile),
    limiter: flags.limit === undefined ? undefined : new RateLimiter(flags.limit),
    grant: (name) => grants.get(name),
    onSession: ({ peer, disk, job, totals }) =>
      log(`${peer}: ${job} of ${disk} done, ${totals.sentBytes + totals.placedBytes} bytes made equal`),
    onError: (error, peer) => log(`${peer}: ${error instanceof Error ? error.message : String(error)}`),
  });
  const metrics =
    flags.metrics === undefined ? null : await serveMetrics(flags.metrics, () => server.metrics.text());
  log(
    `listening on ${host}:${server.port} (${tls === null ? 'plain' : 'TLS 1.3'}), ${grants.size} disks granted`,
  );
  if (metrics !== null) log(`metrics on http://${flags.metrics!.host}:${metrics.port}/metrics`);
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  log('shutting down: waiting for sessions under way');
  await metrics?.close();
  await server.close();
  process.exitCode = Exit.equal;
}

async function serveMetrics(
  { host, port }: { host: string; port: number },
  text: () => string,
): Promise<{ port: number; close(): Promise<void> }> {
  const { createServer } = await import('node:http');
  const http = createServer((request, response) => {
    const known = request.method === 'GET' && request.url === '/metrics';
    response.writeHead(known ? 200 : 404, { 'content-type': 'text/plain; version=0.0.4' });
    response.end(known ? text() : 'try /metrics\n');
  });
  await new Promise<void>((resolve, reject) => {
    http.once('error', (cause) => reject(new DriftmapError('io', `metrics: ${cause.message}`, { cause })));
    http.listen(port, host, resolve);
  });
  const address = http.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : port,
    close: async () => {
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}

function log(text: string): void {
  process.stderr.write(`driftmap serve: ${printable(text)}\n`);
}
