/** `driftmap snapshots`: what the subcommands are called and take; each loads what it needs when it runs. */

import { type Command, Option } from 'commander';
import { explainExits } from './exit.ts';
import { readAddress } from './export-command.ts';
import { allowOutsideOption, formatOption, repeatedOption, sizeOption } from './options.ts';
import { rateOption } from './site-options.ts';
import { addStoreOptions, explainStores, readCount, readDuration } from './snapshots-store.ts';

export function defineSnapshots(program: Command): void {
  const snapshots = program
    .command('snapshots')
    .summary('snapshots of disks in a folder or an object store')
    .description(
      'Keeps snapshots of groups of disks in a folder or in S3: incremental, each block once, compressed, encrypted on request.',
    )
    .addHelpText('after', `${explainStores}\ndocs/SNAPSHOTS.md tells more.\n${explainExits}`);
  defineInit(snapshots);
  defineTake(snapshots);
  defineList(snapshots);
  defineVerify(snapshots);
  definePrune(snapshots);
  defineRestore(snapshots);
  defineAccess(snapshots);
}

function defineInit(snapshots: Command): void {
  snapshots
    .command('init')
    .summary('make a repository')
    .description('Makes a repository of snapshots. A folder is made where it is not; a bucket is not.')
    .argument('<store>', 'a folder, or s3://BUCKET/PREFIX')
    .addOption(
      sizeOption(
        '-b, --block-size <size>',
        'bytes of a block: a power of two from 4K to 16M (default: 256K)',
      ),
    )
    .addOption(
      new Option(
        '--compression <codec>',
        'how blocks are compressed (default: zstd where this Node has it)',
      ).choices(['zstd', 'deflate', 'none']),
    )
    .option('--key <file>', 'encrypt with this key: 32 bytes, or 64 hexadecimal digits')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Without its key an encrypted repository is lost: keep copies of the file where the repository is not.

Examples:
  driftmap snapshots init /backup/web
  head -c 32 /dev/urandom > web.key; driftmap snapshots init s3://backup/web --key web.key
${explainExits}`,
    )
    .action(async (...args) => (await import('./snapshots-list.ts')).runInit(...(args as [string, object])));
}

function defineTake(snapshots: Command): void {
  addStoreOptions(
    snapshots
      .command('take')
      .summary('take a snapshot of disks')
      .description(
        'Takes one snapshot of disks that nobody writes to. What the store has is not sent. Disks of a protected group are taken from their journal: then STORE is the group file, and no disks are named.',
      ),
  )
    .argument('<store>', 'the repository')
    .argument(
      '[disk...]',
      "an image, a block device, an address or an NBD URL; NAME=DISK names it in the snapshot; none with a group's file: its disks as of now, from their journal",
    )
    .option('--group <name>', 'which disks belong together over time (default: the name of the first one)')
    .addOption(formatOption('-f, --format <format>', 'the disks'))
    .addOption(allowOutsideOption())
    .addOption(
      repeatedOption(
        '-B, --changed <name=file>',
        'a bitmap of what changed on a disk since the parent: nothing else is read; may be given again',
      ),
    )
    .option('--parent <snapshot>', 'the snapshot before (default: the latest of the group)')
    .addOption(
      new Option('--full', 'read everything, as if there were none').conflicts(['changed', 'parent']),
    )
    .option('--at <point>', "of a group: a time, a bookmark, a sequence (default: 'latest')")
    .option('--name <text>', 'a name for this moment')
    .option('--application', "the guest's programs were brought to rest")
    .option('--configuration <file>', 'a description of the virtual machine to keep with it')
    .addOption(rateOption())
    .option('-q, --quiet', 'no progress')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${explainStores}
Examples:
  driftmap snapshots take web.json
  driftmap snapshots take /backup/web system=vm.qcow2 data=/dev/vg/data --group web
  driftmap bitmap import vm.qcow2 -n since-sunday -o vm.drift && driftmap snapshots take /backup/web vm.qcow2 --changed vm.qcow2=vm.drift
${explainExits}`,
    )
    .action(async (...args) =>
      (await import('./snapshots-take.ts')).runTake(...(args as [string, string[], object])),
    );
}

function defineList(snapshots: Command): void {
  addStoreOptions(
    snapshots.command('list').summary('list snapshots').description('Lists snapshots, oldest first.'),
  )
    .argument('<store>', 'the repository')
    .option('--group <name>', 'of this group alone')
    .option('--json', 'print JSON')
    .addHelpText('after', `${explainStores}${explainExits}`)
    .action(async (...args) => (await import('./snapshots-list.ts')).runList(...(args as [string, object])));
  addStoreOptions(
    snapshots.command('show').summary('show one snapshot').description('Shows what a snapshot holds.'),
  )
    .argument('<store>', 'the repository')
    .argument('<snapshot>', 'the beginning of its id, a time, or latest')
    .option('--group <name>', 'of this group')
    .option('--configuration', 'print the description of the virtual machine, and nothing else')
    .option('--json', 'print JSON')
    .addHelpText('after', `${explainStores}${explainExits}`)
    .action(async (...args) =>
      (await import('./snapshots-list.ts')).runShow(...(args as [string, string, object])),
    );
}

function defineVerify(snapshots: Command): void {
  addStoreOptions(
    snapshots
      .command('verify')
      .summary('verify every block against its name')
      .description(
        'Fetches every object of the snapshots and computes its signature again. Tells which snapshots damage hits.',
      ),
  )
    .argument('<store>', 'the repository')
    .argument('[snapshot...]', 'these alone (default: all)')
    .option('--group <name>', 'of this group alone')
    .option('--quick', 'look only whether blocks are there')
    .option('-q, --quiet', 'no progress')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${explainStores}\nExit status: 0 all is well, 1 something is damaged or missing, 2 trouble.\n`,
    )
    .action(async (...args) =>
      (await import('./snapshots-verify.ts')).runVerify(...(args as [string, string[], object])),
    );
}

function definePrune(snapshots: Command): void {
  const command = snapshots
    .command('prune')
    .summary('forget snapshots by rules, and remove what nobody needs')
    .description(
      'Forgets the snapshots that no rule keeps, group by group, and removes objects that no snapshot refers to: first they are listed, and a later run removes those that are still of no use. Safe beside running uploads.',
    )
    .argument('<store>', 'the repository');
  for (const [kind, what] of [
    ['last', 'the newest ones'],
    ['hourly', 'the newest of each of so many hours'],
    ['daily', '… days'],
    ['weekly', '… weeks'],
    ['monthly', '… months'],
    ['yearly', '… years'],
  ] as const)
    command.addOption(new Option(`--keep-${kind} <count>`, `keep ${what}`).argParser(readCount));
  addStoreOptions(command)
    .addOption(
      new Option(
        '--keep-within <duration>',
        'keep all within so long before the newest, such as 3d',
      ).argParser(readDuration),
    )
    .addOption(repeatedOption('--forget <snapshot>', 'forget this one; may be given again'))
    .addOption(
      new Option('--grace <duration>', 'leave garbage alone for so long (default: 1d)').argParser(
        readDuration,
      ),
    )
    .option('-n, --dry-run', 'say what would be done')
    .option('-q, --quiet', 'no progress')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${explainStores}
Without rules nothing is forgotten, and garbage is removed all the same. The rules are those of restic forget.

Examples:
  driftmap snapshots prune /backup/web --keep-hourly 24 --keep-daily 7 --keep-weekly 5
${explainExits}`,
    )
    .action(async (...args) =>
      (await import('./snapshots-prune.ts')).runPrune(...(args as [string, object])),
    );
}

function defineRestore(snapshots: Command): void {
  addStoreOptions(
    snapshots
      .command('restore')
      .summary('restore disks')
      .description('Restores whole disks of a snapshot into raw files, devices or NBD exports.'),
  )
    .argument('<store>', 'the repository')
    .argument('<snapshot>', 'the beginning of its id, a time, or latest')
    .option('--group <name>', 'of this group')
    .addOption(new Option('--to <folder>', 'all disks, as NAME.raw in a folder').conflicts('disk'))
    .addOption(
      repeatedOption(
        '--disk <name=place>',
        'one disk, into a file, a device or an export; may be given again',
      ),
    )
    .option('--overwrite', 'replace what is there')
    .option('-q, --quiet', 'no progress')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `${explainStores}
A file takes its name when it is whole. What a stopped restore leaves (NAME.part) is gone on from. Of a device,
only what differs is fetched and written.

Examples:
  driftmap snapshots restore /backup/web latest --to /srv/restored
  driftmap snapshots restore s3://backup/web 2026-03-01T14:02 --disk system=/dev/vg/system --overwrite
${explainExits}`,
    )
    .action(async (...args) =>
      (await import('./snapshots-restore.ts')).runRestore(...(args as [string, string, object])),
    );
}

function defineAccess(snapshots: Command): void {
  addStoreOptions(
    snapshots
      .command('access')
      .summary('serve the disks of a snapshot over NBD')
      .description(
        'Serves the disks of a snapshot straight from the store, at once: blocks are fetched when they are read. Writes go to an overlay and are discarded at the end.',
      ),
  )
    .argument('<store>', 'the repository')
    .argument('<snapshot>', 'the beginning of its id, a time, or latest')
    .option('--group <name>', 'of this group')
    .addOption(
      new Option('-l, --listen <address>', 'HOST:PORT, :PORT or PORT (default: localhost:10809)').argParser(
        readAddress,
      ),
    )
    .addOption(new Option('-U, --socket <path>', 'listen on a Unix socket').conflicts('listen'))
    .option('-r, --read-only', 'let nobody write')
    .option('--cache <folder>', 'keep what was fetched in this folder')
    .addOption(sizeOption('--cache-bytes <size>', 'of it, at most (default: 4G)'))
    .option('--overlay <folder>', 'where writes lie until the end (default: the folder for temporary files)')
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
    .addHelpText(
      'after',
      `${explainStores}
Prints the address of each export once clients can connect. Who can reach the address can read the disk.

Examples:
  driftmap snapshots access /backup/web latest --socket /run/web.sock
  driftmap snapshots access s3://backup/web 14:02 --cache /var/cache/driftmap   # then: qemu-system-x86_64 -drive file=nbd://localhost/system,format=raw …

Exit status: 0 stopped by SIGTERM or Ctrl-C, 2 trouble.
`,
    )
    .action(async (...args) =>
      (await import('./snapshots-access.ts')).runAccess(...(args as [string, string, object])),
    );
}
