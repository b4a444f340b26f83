import { mkdtempSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { nbdkit, qemuNbd } from '../protect/nbd-peers.ts';
import { describeWith, temporary } from '../tools.ts';
import { conformance } from './conformance.ts';

const folder = temporary();

function sparse(size: number): string {
  const path = join(mkdtempSync(join(folder, 'f')), 'disk.raw');
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

describeWith(['nbdkit'], 'nbdkit', () => {
  const of = async (args: readonly string[], write = true) =>
    openNbdUnit((await nbdkit(folder, args)).url(), { write });
  conformance({
    title: 'memory served by nbdkit',
    make: (size) => of(['memory', `${size}`]),
    makeReadOnly: (size) => of(['memory', `${size}`], false),
    runs: 4,
  });
  conformance({
    title: 'blocks of 4096 bytes at least and 16 KiB at most, served by nbdkit',
    make: (size) =>
      of([
        '--filter=blocksize-policy',
        'memory',
        `${size}`,
        'blocksize-minimum=4096',
        'blocksize-preferred=4096',
        'blocksize-maximum=16384',
        'blocksize-error-policy=error',
      ]),
    makeReadOnly: (size) => of(['-r', 'memory', `${size}`]),
    runs: 4,
  });
  conformance({
    title: 'a server without structured replies, zeroing, flush or extents',
    make: (size) => of(['--no-sr', '--filter=nozero', '--filter=noextents', 'memory', `${size}`]),
    runs: 4,
  });
});
describeWith(['qemu-nbd'], 'qemu-nbd', () => {
  conformance({
    title: 'a raw file served by qemu-nbd',
    make: async (size) => {
      const peer = await qemuNbd(folder, ['-f', 'raw', sparse(size)]);
      return openNbdUnit(peer.url(), { write: true });
    },
    makeReadOnly: async (size) => {
      const peer = await qemuNbd(folder, ['-r', '-f', 'raw', sparse(size)]);
      return openNbdUnit(peer.url(), { write: true });
    },
    runs: 4,
  });
});
