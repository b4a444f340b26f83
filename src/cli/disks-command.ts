/** `driftmap disks LU…` */

import type { Command } from 'commander';
import { humanSize } from '../base/units.ts';
import type { Finding, FoundDisk } from '../disk/finder.ts';
import { Exit, explainExits, warn } from './exit.ts';
import { allowOutsideOption } from './options.ts';
import { paint, print, printable } from './terminal.ts';

interface DisksCommandOptions {
  json?: boolean;
  all?: boolean;
  allowOutside?: boolean;
}

export function defineDisks(program: Command): void {
  program
    .command('disks')
    .summary('find the virtual disks on logical units')
    .description(
      'Lists every virtual disk on logical units: in their partitions, volumes and file systems. Nothing is mounted or written.',
    )
    .argument('<units...>', 'files or block devices; name all that hold one volume group together')
    .option('--json', 'print one JSON object: {"disks": […], "refused": […]}')
    .option(
      '--all',
      'also files whose contents alone look like an image, files that are parts of a disk, and places that hold a file system',
    )
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `
What is listed: partitions and volumes that hold no file system, each as one raw disk; and files. A file is
listed when its name and its contents tell the same format (.qcow2 .qcow .qc2 .vmdk .vhd .avhd .vpc .vhdx
.avhdx .vdi), and as a raw disk when its name ends in .raw or .img, whatever is in it: contents are a guest's
to write, names are not. A file that another image is made of (-flat.vmdk, -s001.vmdk, a data file) belongs
to that one. Members of a backing chain are listed each, with the parent that shows through it.
What cannot be read is told on standard error, one line each, and hides nothing else. Where something was
refused and no disk was found, the exit status is 2.

The address is what scan, map and explain take.

Examples:
  driftmap disks lu0.img lu1.img
  driftmap disks /dev/mapper/lun0 --json | jq -r '.disks[].address'
${explainExits}`,
    )
    .action(runDisks);
}

async function runDisks(units: string[], options: DisksCommandOptions): Promise<void> {
  const { findDisks } = await import('../disk/finder.ts');
  const { all, allowOutside } = options;
  const listing = options.json ? new JsonListing() : new TextListing();
  for await (const finding of findDisks(units, { all, allowOutside })) {
    if (finding.what === 'disk') await listing.add(finding.disk);
    else if (finding.what === 'warning') warn(finding.message);
    else listing.refuse(finding);
  }
  await listing.end();
  const { disks, refused } = listing;
  process.exitCode = disks === 0 && refused > 0 ? Exit.trouble : Exit.equal;
}

type Refusal = Extract<Finding, { what: 'refused' }>;

function tellRefusal({ address, reason }: Refusal): void {
  const label = paint('yellow', 'driftmap: refused:', process.stderr);
  process.stderr.write(`${label} ${printable(`${address}: ${reason}`)}\n`);
}

class TextListing {
  disks = 0;
  refused = 0;

  async add(disk: FoundDisk): Promise<void> {
    if (this.disks++ === 0) {
      await print(`${paint('bold', row('size', 'data', 'format', 'class', 'address'))}\n`);
    }
    const { address, format, size, data, parent, partOf, holds } = disk;
    const notes = [
      parent === null ? '' : `over ${parent}`,
      partOf === null ? '' : `part of ${partOf}`,
      holds === null ? '' : `holds ${holds}`,
    ].filter((note) => note !== '');
    const note = notes.length === 0 ? '' : `  ${paint('dim', printable(notes.join(', ')))}`;
    await print(`${row(humanSize(size), humanSize(data), format, disk.class, printable(address))}${note}\n`);
  }

  refuse(refusal: Refusal): void {
    this.refused++;
    tellRefusal(refusal);
  }

  async end(): Promise<void> {
    if (this.disks > 0) return;
    await print(`no virtual disk found${this.refused > 0 ? `; ${this.refused} refused` : ''}\n`);
  }
}

function row(size: string, data: string, format: string, kind: string, address: string): string {
  return `${size.padStart(10)} ${data.padStart(10)}  ${format.padEnd(6)} ${kind.padEnd(14)} ${address}`;
}

class JsonListing {
  disks = 0;
  private readonly refusals: Refusal[] = [];

  get refused(): number {
    return this.refusals.length;
  }

  async add(disk: FoundDisk): Promise<void> {
    await print(`${this.disks++ === 0 ? '{"disks": [\n  ' : ',\n  '}${JSON.stringify(disk)}`);
  }

  refuse(refusal: Refusal): void {
    tellRefusal(refusal);
    this.refusals.push(refusal);
  }

  async end(): Promise<void> {
    const refused = this.refusals.map(({ address, kind, reason }) => ({ address, kind, reason }));
    const disks = this.disks === 0 ? '{"disks": [' : '\n';
    await print(`${disks}],\n "refused": ${JSON.stringify(refused)}}\n`);
  }
}
