#!/usr/bin/env node
/** The `driftmap` command. Each command's file defines its own words and loads what it needs only when it runs. */

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { defineAccess } from './access-command.ts';
import { defineBench } from './bench-command.ts';
import { defineBitmap } from './bitmap-command.ts';
import { defineCompletion } from './completion-command.ts';
import { defineDemo } from './demo-command.ts';
import { defineDisks } from './disks-command.ts';
import { Exit, explainExits, fail } from './exit.ts';
import { defineExplain } from './explain-command.ts';
import { defineExport } from './export-command.ts';
import { defineFailback } from './failback-command.ts';
import { defineFailover, defineState } from './failover-command.ts';
import { defineIndex } from './index-command.ts';
import { defineInfo } from './info-command.ts';
import { defineMap } from './map-command.ts';
import { defineBookmark, definePoints, defineRoll } from './points-command.ts';
import { defineProtect } from './protect-command.ts';
import { defineReplica } from './replica-command.ts';
import { defineRestore } from './restore-command.ts';
import { defineScan } from './scan-command.ts';
import { defineServe } from './serve-command.ts';
import { defineSignatures } from './signatures-command.ts';
import { defineSnapshot } from './snapshot-command.ts';
import { defineSnapshots } from './snapshots-command.ts';
import { defineSync } from './sync-command.ts';
import { surviveClosedPipe } from './terminal.ts';
import { defineVerify } from './verify-command.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const program = new Command('driftmap')
  .description(
    'Finds where two copies of a virtual disk differ, by block signatures, and keeps the answer as a sync bitmap.',
  )
  .version(version, '-V, --version', 'print the version')
  .helpOption('-h, --help', 'print this help')
  .helpCommand('help [command]', 'print the help of a command')
  .showSuggestionAfterError()
  .configureOutput({
    writeErr: (text) => process.stderr.write(text.replace(/^error: /, 'driftmap: ')),
  })
  .exitOverride((reason) => {
    process.exit(reason.exitCode === 0 ? Exit.equal : Exit.trouble);
  })
  .addHelpText(
    'after',
    `
Examples:
  driftmap scan vm.qcow2 /dev/replica/vm              where do these two disks differ?
  driftmap scan vm.qcow2 copy.raw --bitmap vm.drift   keep the answer as a sync bitmap
  driftmap bitmap show vm.drift                       look at it again
  driftmap disks /dev/mapper/lun0 /dev/mapper/lun1    which disks lie on these units?
  driftmap demo                                       see it work on two small disks
${explainExits}`,
  );

for (const define of [
  defineScan,
  defineDisks,
  defineMap,
  defineExplain,
  defineSignatures,
  defineIndex,
  defineBitmap,
  defineSnapshot,
  defineSnapshots,
  defineExport,
  defineDemo,
  defineBench,
  defineInfo,
  defineSync,
  defineVerify,
  defineServe,
  defineState,
  defineFailover,
  definePoints,
  defineBookmark,
  defineRoll,
  defineAccess,
  defineFailback,
  defineRestore,
  defineProtect,
  defineReplica,
  defineCompletion,
])
  define(program);

surviveClosedPipe();
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = fail(error);
}
