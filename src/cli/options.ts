/** Options that several commands share, and how their values are read. */

import { InvalidArgumentError, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { MAX_BLOCK_SIZE, MAX_WORKERS, MIN_BLOCK_SIZE } from '../base/limits.ts';
import { isPowerOfTwo, parseSize } from '../base/units.ts';
import { type AlgorithmName, algorithms } from '../signature/algorithm.ts';

/** Turns one of our errors into commander's, so that the message names the option. */
function reading<T>(read: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return read(text);
    } catch (error) {
      throw new InvalidArgumentError(error instanceof DriftmapError ? error.message : String(error));
    }
  };
}

export function blockSizeOption(): Option {
  return new Option('-b, --block-size <size>', 'bytes of a block: a power of two from 512 to 16M')
    .default(65536, '64K')
    .argParser(
      reading((text) => {
        const size = parseSize(text);
        if (!isPowerOfTwo(size) || size < MIN_BLOCK_SIZE || size > MAX_BLOCK_SIZE) {
          throw new DriftmapError('argument', `expected a power of two from 512 to 16M`);
        }
        return size;
      }),
    );
}

export function signatureOption(
  standard: AlgorithmName,
  names: readonly string[] = algorithms.map(({ name }) => name),
): Option {
  return new Option('-s, --signature <name>', 'how blocks are compared').choices(names).default(standard);
}

/** One line per algorithm, for help texts. */
export function explainSignatures(names: readonly string[] = algorithms.map(({ name }) => name)): string {
  const lines = algorithms
    .filter(({ name }) => names.includes(name))
    .map(({ name, purpose }) => `  ${name.padEnd(9)} ${purpose}`);
  return `\nSignatures:\n${lines.join('\n')}\n`;
}

export function workersOption(): Option {
  return new Option('-j, --workers <count>', 'threads (default: one per processor)').argParser(
    reading((text) => {
      const count = Number(text);
      if (!Number.isInteger(count) || count < 1 || count > MAX_WORKERS) {
        throw new DriftmapError('argument', `expected 1 to ${MAX_WORKERS}`);
      }
      return count;
    }),
  );
}

export function sizeOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser(reading(parseSize));
}

export function formatOption(flags: string, whose: string): Option {
  const description = `format of ${whose} (default: by its first bytes)`;
  return new Option(flags, description).choices(['raw', 'qcow2', 'vhd', 'vhdx', 'vdi', 'vmdk']);
}

export function allowOutsideOption(): Option {
  return new Option(
    '--allow-outside',
    "follow backing and data files that lie outside an image's own folder",
  );
}

/** A share: `1%`, `0.5%` or `0.01`. */
export function sampleOption(description: string): Option {
  return new Option('--sample <share>', description).argParser(
    reading((text) => {
      const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(text.trim());
      const share = match ? Number(match[1]) / (match[2] ? 100 : 1) : Number.NaN;
      if (!(share >= 0 && share <= 1)) {
        throw new DriftmapError('argument', `expected a share such as 1% or 0.01, got '${text}'`);
      }
      return share;
    }),
  );
}

export function seedOption(): Option {
  return new Option('--seed <number>', 'which blocks --sample verifies (default: random)').argParser(
    reading((text) => {
      const seed = Number(text);
      if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
        throw new DriftmapError('argument', 'expected a whole number from 0 to 4294967295');
      }
      return seed;
    }),
  );
}

/** An option that may be given several times. */
export function repeatedOption(flags: string, description: string): Option {
  return new Option(flags, description).argParser((text: string, before: string[] | undefined) => [
    ...(before ?? []),
    text,
  ]);
}
