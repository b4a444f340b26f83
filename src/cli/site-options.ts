/** Options about other sites that several commands share. */

import { statSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { MAX_TOKEN_BYTES, MIN_TOKEN_BYTES } from '../base/limits.ts';
import { parseSize } from '../base/units.ts';
import { readBounded } from '../codec/atomic-file.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { SiteOptions } from '../sync/connect.ts';
import { RateLimiter } from '../wire/limiter.ts';
import { warn } from './exit.ts';
import { repeatedOption } from './options.ts';

export interface SiteFlags {
  ssh?: string;
  remoteCommand?: string;
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  tlsName?: string;
  tokenFile?: string;
  insecure?: boolean;
  limit?: number;
}

export const explainSites = `
A disk at another site is named by an address:
  ssh://[user@]host/path        driftmap is run there by your ssh (driftmap serve --stdio); /~/path is in your home
  driftmaps://host[:port]/name  a server with TLS (driftmap serve --listen), which grants the disk under this name
  driftmap://host[:port]/name   the same without TLS, on this machine
`;

export function addSiteOptions(command: Command): Command {
  return command
    .addOption(new Option('--ssh <command>', 'the command that connects, as rsync -e').env('DRIFTMAP_SSH'))
    .option('--remote-command <command>', 'what ssh runs there (default: driftmap serve --stdio)')
    .option('--tls-cert <file>', 'our certificate (PEM), for a server that asks for one')
    .option('--tls-key <file>', 'its key')
    .option('--tls-ca <file>', "who signs the server's certificate")
    .option('--tls-name <name>', "the name in the server's certificate, when it is not its host's")
    .option('--token-file <file>', 'the secret that both sites share')
    .option('--insecure', 'allow a server on another machine without TLS')
    .addOption(rateOption());
}

export interface IndexFlags {
  productionIndex?: string[];
  replicaIndex?: string[];
}

/** Of disks that are here. */
export function addIndexOptions(command: Command): Command {
  return command
    .addOption(
      repeatedOption(
        '--production-index <file>',
        'use the signatures of this index of the production disk, when it is here; may be repeated',
      ),
    )
    .addOption(repeatedOption('--replica-index <file>', 'the same for the replica'));
}

function isIndexed({ productionIndex = [], replicaIndex = [] }: IndexFlags): boolean {
  return productionIndex.length + replicaIndex.length > 0;
}

/** Undefined where an index decides, since the user did not. */
export function chosenBlockSize(command: Command, flags: IndexFlags & { blockSize: number }) {
  const isDefault = command.getOptionValueSource('blockSize') === 'default';
  return isIndexed(flags) && isDefault ? undefined : flags.blockSize;
}

/** As `chosenBlockSize`. */
export function chosenSignature(command: Command, flags: IndexFlags & { signature: AlgorithmName }) {
  const isDefault = command.getOptionValueSource('signature') === 'default';
  return isIndexed(flags) && isDefault ? undefined : flags.signature;
}

export function rateOption(): Option {
  return new Option('--limit <rate>', 'bytes to send per second at most, such as 50M').argParser((text) => {
    try {
      const rate = parseSize(text);
      if (rate > 0) return rate;
    } catch {
      // Said below.
    }
    throw new InvalidArgumentError('expected bytes a second, such as 50M');
  });
}

export function siteOptions(flags: SiteFlags, signal: AbortSignal): SiteOptions {
  return {
    ssh: flags.ssh,
    remoteCommand: flags.remoteCommand,
    tls: { cert: flags.tlsCert, key: flags.tlsKey, ca: flags.tlsCa, servername: flags.tlsName },
    token: flags.tokenFile === undefined ? undefined : readToken(flags.tokenFile),
    insecure: flags.insecure,
    limiter: flags.limit === undefined ? undefined : new RateLimiter(flags.limit),
    signal,
  };
}

/** The secret in a file, without the line feed that editors leave. */
export function readToken(path: string): Uint8Array {
  const bytes = readBounded(path, MAX_TOKEN_BYTES);
  let { length } = bytes;
  while (length > 0 && (bytes[length - 1] === 10 || bytes[length - 1] === 13)) length--;
  if (length < MIN_TOKEN_BYTES) {
    const reason = `expected at least ${MIN_TOKEN_BYTES} bytes, got ${length}: a shorter token can be guessed (openssl rand -hex 32 makes one)`;
    throw new DriftmapError('argument', reason, { path });
  }
  if (process.platform !== 'win32' && statSync(path).mode % 0o100 !== 0)
    warn(`${path}: others can read this token: chmod 600`);
  return bytes.subarray(0, length);
}
