/** `driftmap signatures DISK` */

import type { Command } from 'commander';
import { type AlgorithmName, algorithms } from '../signature/algorithm.ts';
import { Exit, explainExits, warn } from './exit.ts';
import {
  allowOutsideOption,
  blockSizeOption,
  explainSignatures,
  formatOption,
  signatureOption,
  sizeOption,
} from './options.ts';
import { print } from './terminal.ts';

interface SignaturesCommandOptions {
  blockSize: number;
  signature: AlgorithmName;
  offset?: number;
  length?: number;
  json?: boolean;
  format?: string;
  allowOutside?: boolean;
}

/** A keyed signature printed without its key says nothing. */
const printable = algorithms.filter(({ keyed }) => !keyed).map(({ name }) => name);

export function defineSignatures(program: Command): void {
  program
    .command('signatures')
    .summary("print the signatures of a disk's blocks")
    .description(
      'Prints one line a block: its signature in hexadecimal, its offset and its length. Holes count as zeros.',
    )
    .argument('<disk>', 'an image or a block device')
    .addOption(blockSizeOption())
    .addOption(signatureOption('blake3', printable))
    .addOption(sizeOption('--offset <size>', 'begin at the block that holds this offset'))
    .addOption(sizeOption('--length <size>', 'end with the block that holds the last of so many bytes'))
    .option('--json', 'print one JSON object')
    .addOption(formatOption('-f, --format <format>', 'the disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `${explainSignatures(printable)}
Examples:
  driftmap signatures vm.qcow2 --block-size 1M
  driftmap signatures vm.qcow2 --offset 1G --length 64M --json
${explainExits}`,
    )
    .action(runSignatures);
}

async function runSignatures(path: string, options: SignaturesCommandOptions): Promise<void> {
  const { openDisk } = await import('../disk/open.ts');
  const { signatures } = await import('../scan/signatures.ts');
  const { blockSize, signature, json } = options;
  const disk = await openDisk(path, { format: options.format, allowOutside: options.allowOutside });
  try {
    for (const warning of disk.warnings) warn(warning);
    const offset = options.offset ?? 0;
    const range = { offset, length: options.length ?? Math.max(0, disk.size - offset) };
    if (json)
      await print(`{"size":${disk.size},"blockSize":${blockSize},"signature":"${signature}","blocks":[`);
    let lines = '';
    let first = true;
    for await (const block of signatures(disk, { range, blockSize, signature })) {
      const hex = Buffer.from(block.signature).toString('hex');
      if (json)
        lines += `${first ? '\n' : ',\n'}${JSON.stringify({ offset: block.offset, length: block.length, signature: hex })}`;
      else lines += `${hex}  ${block.offset}  ${block.length}\n`;
      first = false;
      if (lines.length > 65536) {
        await print(lines);
        lines = '';
      }
    }
    await print(json ? `${lines}]}\n` : lines);
    process.exitCode = Exit.equal;
  } finally {
    await disk.close();
  }
}
