/** `driftmap export DISK...` */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { isNbdUrl } from '../lu/nbd/url.ts';
import type { NbdBitmap, NbdExport } from '../protect/nbd/nbd-export.ts';
import type { NbdListen } from '../protect/nbd/server.ts';
import { Exit, warn } from './exit.ts';
import { allowOutsideOption, formatOption } from './options.ts';
import { print, printable } from './terminal.ts';

interface ExportCommandOptions {
  listen?: NbdListen;
  socket?: string;
  readOnly?: boolean;
  format?: string;
  allowOutside?: boolean;
  bitmap: string[];
  tlsCertificates?: string;
  tlsPsk?: string;
  tlsVerifyPeer?: boolean;
  maxConnections?: number;
}

/** What is open for an export, and how it is served. */
interface Opened {
  readonly exported: NbdExport;
  close(): unknown;
}

const collect = (value: string, before: string[]) => [...before, value];

export function defineExport(program: Command): void {
  program
    .command('export')
    .summary('serve disks over NBD')
    .description(
      'Serves disks as NBD exports until it is stopped: to qemu, nbdcopy, nbd-client, nbdfuse, and to driftmap scan elsewhere. Raw disks can be written to; images of other formats are for reading only.',
    )
    .argument('<disk...>', 'an image, a block device, an address or an NBD URL; NAME=DISK names the export')
    .addOption(
      new Option('-l, --listen <address>', 'HOST:PORT, :PORT or PORT (default: localhost:10809)').argParser(
        readAddress,
      ),
    )
    .addOption(new Option('-U, --socket <path>', 'listen on a Unix socket').conflicts('listen'))
    .option('-r, --read-only', 'let nobody write')
    .addOption(formatOption('-f, --format <format>', 'the disks'))
    .addOption(allowOutsideOption())
    .option(
      '-B, --bitmap <name=file>',
      'show a sync bitmap as the dirty bitmap NAME; may be given again',
      collect,
      [],
    )
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
    .addOption(new Option('--max-connections <count>', 'clients at a time').argParser(readCount))
    .addHelpText(
      'after',
      `
Prints the address of each export once clients can connect. Who can reach the address can read the disk, and
write to it: listen on loopback or on a socket, or ask for TLS. docs/NBD.md tells more.

Examples:
  driftmap export vm.raw                                nbdinfo nbd://localhost/vm.raw
  driftmap export vm.qcow2 --socket /run/vm.sock        nbdcopy 'nbd+unix:///?socket=/run/vm.sock' copy.raw
  driftmap export boot=a.raw data=/dev/vg/data -r -l :10809 --tls-psk keys.psk
  driftmap export vm.raw -r --bitmap changed=vm.drift   nbdinfo --map=qemu:dirty-bitmap:changed nbd://localhost

Exit status: 0 stopped by SIGTERM or Ctrl-C, 2 trouble.
`,
    )
    .action(runExport);
}

async function runExport(disks: string[], options: ExportCommandOptions): Promise<void> {
  const { serveNbd } = await import('../protect/nbd/server.ts');
  const { readServerCredentials } = await import('../lu/nbd/credentials.ts');
  const { tlsCertificates: certificates, tlsPsk: pskFile, tlsVerifyPeer: verifyPeer } = options;
  const isSecure = certificates !== undefined || pskFile !== undefined;
  const listen =
    options.socket === undefined ? (options.listen ?? { port: 10809 }) : { socket: options.socket };
  const opened = new Map<string, Opened>();
  // From now on: whoever reads the addresses may send the signal at once.
  const stop = stopped();
  try {
    for (const disk of disks) await openExport(disk, opened, options);
    const server = await serveNbd({
      exports: Object.fromEntries([...opened].map(([name, { exported }]) => [name, exported])),
      listen,
      tls: isSecure ? readServerCredentials({ certificates, pskFile, verifyPeer }) : undefined,
      readOnly: options.readOnly,
      maxConnections: options.maxConnections,
      onTrouble: (error) => warn(error.message),
    });
    if (!isSecure && !isLocal(listen))
      warn('everybody who can reach this address can use these disks: ask for TLS');
    for (const name of opened.keys()) await print(`${printable(server.uri(name))}\n`);
    await stop;
    await server.close();
  } finally {
    for (const { close } of opened.values()) await close();
  }
  process.exitCode = Exit.equal;
}

/** A signal ends the serving in peace; a second one ends the process. */
export function stopped(): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });
}

async function openExport(
  text: string,
  opened: Map<string, Opened>,
  options: ExportCommandOptions,
): Promise<void> {
  const { name, disk } = split(text);
  if (opened.has(name)) {
    throw new DriftmapError('argument', `two exports are named '${name}': name them as in NAME=DISK`, {
      path: text,
    });
  }
  const bitmaps = await loadBitmaps(options.bitmap);
  const { openDisk } = await import('../disk/open.ts');
  const { openUnit } = await import('../lu/open-unit.ts');
  const { diskExport, unitExport } = await import('../protect/nbd/unit-export.ts');
  const { format, allowOutside, readOnly = false } = options;
  // A server of another may end with its first client: one connection serves to look, and to write.
  const remote = isNbdUrl(disk) && !readOnly ? await openUnit(disk, { write: true }) : null;
  const asDisk = await openDisk(remote ?? disk, { format, allowOutside });
  for (const warning of asDisk.warnings) warn(warning);
  const about = { description: `${asDisk.format} disk`, bitmaps };
  if (readOnly || asDisk.format !== 'raw') {
    if (!readOnly) {
      warn(
        `${disk}: served for reading only: driftmap writes to raw disks alone (--read-only says it yourself)`,
      );
    }
    const close = () => Promise.all([asDisk.close(), remote?.close()]);
    opened.set(name, { exported: diskExport(asDisk, about), close });
    return;
  }
  await asDisk.close();
  const unit = remote ?? (await openWritable(disk));
  if (!unit.canWrite) warn(`${disk}: served for reading only: it cannot be written to`);
  opened.set(name, { exported: unitExport(unit, about), close: () => unit.close() });
}

async function openWritable(disk: string): Promise<LogicalUnit> {
  const { openUnit } = await import('../lu/open-unit.ts');
  const { parseAddress } = await import('../disk/address.ts');
  if (parseAddress(disk) !== null) {
    const reason = 'a place inside a logical unit is served for reading only: add --read-only';
    throw new DriftmapError('argument', reason, { path: disk });
  }
  return openUnit(disk, { write: true });
}

async function loadBitmaps(options: readonly string[]): Promise<Map<string, NbdBitmap>> {
  const bitmaps = new Map<string, NbdBitmap>();
  for (const option of options) {
    const { loadBitmap } = await import('../bitmap/drift-file.ts');
    const { syncBitmapExport } = await import('../protect/nbd/unit-export.ts');
    const at = option.indexOf('=');
    if (at < 1) throw new DriftmapError('argument', `expected --bitmap NAME=FILE, got '${option}'`);
    bitmaps.set(option.slice(0, at), syncBitmapExport(loadBitmap(option.slice(at + 1))));
  }
  return bitmaps;
}

/** `NAME=DISK`; without a name the last part of the path is one. A URL may hold an equals sign of its own. */
export function split(text: string): { readonly name: string; readonly disk: string } {
  const match = /^([^=/:]+)=(.+)$/s.exec(text);
  if (match !== null) return { name: match[1]!, disk: match[2]! };
  const [path] = text.split('?');
  return { name: path!.slice(path!.lastIndexOf('/') + 1), disk: text };
}

export function isLocal(listen: NbdListen): boolean {
  if ('socket' in listen) return true;
  return ['localhost', '127.0.0.1', '::1', undefined].includes(listen.host);
}

export function readAddress(text: string): NbdListen {
  const match = /^(?:(\[[^\]]+\]|[^:[\]]*):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2] ?? Number.NaN);
  if (match === null || port > 65535) throw new InvalidArgumentError('Expected HOST:PORT, :PORT or PORT.');
  const host = match[1]?.replace(/^\[(.*)\]$/, '$1');
  if (host === undefined) return { port };
  return { port, host: host === '' ? '::' : host };
}

function readCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 100_000)
    throw new InvalidArgumentError('Expected a number from 1 up.');
  return count;
}
