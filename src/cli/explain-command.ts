/** `driftmap explain DISK OFFSET` */

import type { Command } from 'commander';
import { parseSize } from '../base/units.ts';
import { Exit, explainExits, warn } from './exit.ts';
import { allowOutsideOption, formatOption } from './options.ts';
import { paint, print, printable } from './terminal.ts';

interface ExplainCommandOptions {
  json?: boolean;
  format?: string;
  allowOutside?: boolean;
}

export function defineExplain(program: Command): void {
  program
    .command('explain')
    .summary('show where one byte of a disk lies, layer by layer')
    .description(
      'Follows one offset of a disk through every layer: the image of its chain, the file, the volume, the partition, down to the unit and the physical offset.',
    )
    .argument('<disk>', 'an image, a block device, or an address')
    .argument('<offset>', 'a byte of the disk: 4096, 64K, 16M, 1.5G')
    .option('--json', 'print one JSON object')
    .addOption(formatOption('-f, --format <format>', 'the disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `
Each line is a layer: where the byte lies in it, how many bytes go on from there in one run (never more than
in the layer above), and whether that is data. The last line is the unit; a layer that says "zero" or
"unallocated" is the last where it has no storage for the byte.

Examples:
  driftmap explain vm.qcow2 1M
  driftmap explain lu0.img,lu1.img:gpt2/lvm:vg/images/ext4:/vm.qcow2 64K --json
${explainExits}`,
    )
    .action(runExplain);
}

async function runExplain(disk: string, position: string, options: ExplainCommandOptions): Promise<void> {
  const { explain } = await import('../disk/explain.ts');
  const { format, allowOutside } = options;
  const offset = parseSize(position);
  const { layers, warnings } = await explain(disk, offset, { format, allowOutside });
  for (const warning of warnings) warn(warning);
  process.exitCode = Exit.equal;
  if (options.json) return print(`${JSON.stringify({ disk, offset, layers }, null, 2)}\n`);
  await print(`${paint('bold', row('layer', 'offset', 'length', 'kind', ''))}\n`);
  for (const { layer, offset, length, kind, name, format, words } of layers) {
    const details = [...(format === undefined ? [] : [format]), ...words];
    const note = details.length === 0 ? '' : `  ${paint('dim', printable(details.join(', ')))}`;
    await print(`${row(layer, offset, length, kind, printable(name))}${note}\n`);
  }
}

function row(...[layer, offset, length, kind, name]: (string | number)[]): string {
  const right = (text: string | number | undefined) => String(text).padStart(16);
  return `${String(layer).padEnd(9)} ${right(offset)} ${right(length)}  ${String(kind).padEnd(11)}  ${name}`.trimEnd();
}
