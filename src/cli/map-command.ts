/** `driftmap map DISK` */

import type { Command } from 'commander';
import { Exit, explainExits, warn } from './exit.ts';
import { allowOutsideOption, formatOption } from './options.ts';
import { paint, print, printable } from './terminal.ts';

interface MapCommandOptions {
  json?: boolean;
  format?: string;
  allowOutside?: boolean;
}

export function defineMap(program: Command): void {
  program
    .command('map')
    .summary("show where a disk's bytes lie")
    .description("Prints a disk's extent map: which runs hold data, and where on which file they lie.")
    .argument('<disk>', 'an image, a block device, or an address (see scan --help)')
    .option(
      '--json',
      'print the runs as a JSON array, with the keys of qemu-img map and "unit", the file they lie in',
    )
    .addOption(formatOption('-f, --format <format>', 'the disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `
Examples:
  driftmap map vm.qcow2
  driftmap map vm.qcow2 --json | jq '.[] | select(.data)'
  driftmap map lu0.img,lu1.img:gpt2/lvm:vg/images/ext4:/vm.qcow2
${explainExits}`,
    )
    .action(runMap);
}

async function runMap(path: string, options: MapCommandOptions): Promise<void> {
  const { openDisk } = await import('../disk/open.ts');
  const { blockStatus } = await import('../disk/block-status.ts');
  const disk = await openDisk(path, { format: options.format, allowOutside: options.allowOutside });
  try {
    for (const warning of disk.warnings) warn(warning);
    let first = true;
    if (!options.json)
      await print(`${paint('bold', row('start', 'length', 'kind', 'depth', 'place', ''))}\n`);
    for await (const { start, length, depth, zero, data, offset, unit } of blockStatus(disk)) {
      if (options.json) {
        const place = offset === undefined ? {} : { offset };
        const name = unit === undefined ? {} : { unit };
        await print(
          `${first ? '[' : ',\n '}${JSON.stringify({ start, length, depth, zero, data, ...place, ...name })}`,
        );
      } else {
        const kind = zero
          ? data
            ? 'data, zero'
            : 'zero'
          : data
            ? offset === undefined
              ? 'compressed'
              : 'data'
            : 'unknown';
        await print(
          `${row(start, length, kind, depth, offset ?? '–', data ? printable(disk.units[unit]!.name) : '')}\n`,
        );
      }
      first = false;
    }
    if (options.json) await print(first ? '[]\n' : ']\n');
    process.exitCode = Exit.equal;
  } finally {
    await disk.close();
  }
}

function row(...[start, length, kind, depth, place, unit]: (string | number)[]): string {
  const right = (text: string | number | undefined, width: number) => String(text).padStart(width);
  return `${right(start, 16)} ${right(length, 16)}  ${String(kind).padEnd(11)} ${right(depth, 5)} ${right(place, 16)}  ${unit}`.trimEnd();
}
