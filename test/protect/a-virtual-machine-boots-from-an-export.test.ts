import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openFileUnit, serveNbd, unitExport } from '../../src/index.ts';
import { bootVm, makeGuestDisk, makeVmParts, vmNeeds } from '../lab/vm.ts';
import { describeWith, temporary } from '../tools.ts';

const folder = temporary();

describeWith(vmNeeds, 'a machine whose disk is our export', () => {
  it('boots, reads what is there, and writes what debugfs then finds', async () => {
    const vm = makeVmParts(join(folder, 'vm'));
    const disk = join(folder, 'disk.raw');
    makeGuestDisk(vm, disk, {
      files: { hello: 'from the host' },
      work: 'echo "from the guest" > /srv/answer\ndd if=/dev/zero of=/srv/big bs=1M count=8 conv=fsync 2>/dev/null\n',
    });
    const unit = openFileUnit(disk, { write: true });
    const socket = join(folder, 'nbd.sock');
    const server = await serveNbd({ exports: { disk: unitExport(unit) }, listen: { socket } });
    try {
      const shown = await bootVm(vm, server.uri('disk'));
      expect(shown).toContain('VM: /srv/hello: from the host');
      expect(shown).toContain('VM: done');
    } finally {
      await server.close();
      unit.close();
    }
    const { stdout } = spawnSync('debugfs', ['-R', 'cat /srv/answer', disk], { encoding: 'utf8' });
    expect(stdout).toBe('from the guest\n');
    expect(spawnSync('fsck.ext4', ['-fn', disk]).status).toBe(0);
  }, 120_000);
});
