import { describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/units.ts';
import { describeWith, temporary } from '../../tools.ts';
import { must, urlOf } from '../nbd-peers.ts';
import { Site, until } from './site.ts';

const folder = temporary();

describeWith(['qemu-io'], 'what clients write', () => {
  it('is in the disk and in the journal, disk by disk', async () => {
    const site = new Site(`${folder}/a`, [
      { name: 'system', size: 8 * MiB },
      { name: 'data', size: 4 * MiB },
    ]);
    await site.startReplica();
    const splitter = await site.startSplitter();
    await until(() => splitter.state().state === 'streaming', 'streaming');
    const url = (name: string) => urlOf(`${site.folder}/${name}.sock`, name);
    await must('qemu-io', ['-f', 'raw', '-c', 'write -P 7 1M 64k', '-c', 'flush', url('system')]);
    await must('qemu-io', ['-f', 'raw', '-c', 'write -P 9 512 1k', '-c', 'write -z 100k 300k', url('data')]);
    await must('qemu-io', ['-f', 'raw', '-c', 'write -P 8 0 3M', '-c', 'discard 1M 1M', url('system')]);
    await until(() => splitter.state().acknowledged === splitter.state().order, 'all acknowledged');
    await splitter.close();
    const journal = site.journal!;
    await journal.apply();
    for (const name of ['system', 'data']) {
      const view = journal.view(name, 'latest');
      const bytes = Buffer.alloc(view.size);
      await view.read(0, bytes);
      await view.close();
      expect(Buffer.compare(bytes, site.bytes(name)), name).toBe(0);
    }
    expect(site.bytes('system')[1 * MiB]).toBe(0);
    expect(site.bytes('system')[0]).toBe(8);
    await site.stopReplica();
  });
});

describe('a splitter', () => {
  it('is the only one of its disks and of its folder', async () => {
    const site = new Site(`${folder}/b`, [{ name: 'system', size: 1 * MiB }]);
    const splitter = await site.startSplitter({ reach: null });
    await expect(site.startSplitter({ reach: null })).rejects.toThrow(/another splitter/);
    await expect(site.startSplitter({ reach: null, state: `${folder}/b/other` })).rejects.toThrow(
      /used by another splitter/,
    );
    await splitter.close();
    await (await site.startSplitter({ reach: null })).close();
  });
});
