import { describe, expect, it } from 'vitest';
import { isVmfs, openVmfs } from '../../src/disk/containers/vmfs.ts';
import { BytesUnit } from './images.ts';
import { VmfsBuilder, type VmfsOptions } from './vmfs-builder.ts';
import { filesOf, refusalOf } from './vmfs-loading.ts';

const MiB = 2 ** 20;

function build(options: VmfsOptions, change: (builder: VmfsBuilder) => void): BytesUnit {
  const builder = new VmfsBuilder(options);
  change(builder);
  return new BytesUnit(builder.finish());
}

describe('a file system that is like VMFS 3 and 5 and is neither', () => {
  const head = (builder: VmfsBuilder) => builder.unitOf(2 * MiB);
  it.each<[string, (builder: VmfsBuilder) => void, RegExp]>([
    [
      'VMFS 6 by its device',
      (builder) => builder.put32(MiB + 4, 6),
      /VMFS 6 .* is not read: only VMFS 3 and 5/,
    ],
    ['VMFS 6 by its version', (builder) => builder.put32(head(builder) + 4, 24), /is VMFS 6 \(version 24\)/],
    ['VMFS 6 by its magic', (builder) => builder.put32(head(builder), 0x2fabf160), /is VMFS 6 /],
    ['VMFS-L', (builder) => builder.put32(head(builder), 0x2fabf15f), /is VMFS-L, the local file system/],
    ['VMFS-L 6', (builder) => builder.put32(head(builder), 0x2fabf161), /is VMFS-L 6, the local/],
    ['a first part of several', (builder) => builder.put32(MiB + 512 + 0x90, 3), /spans 3 logical units/],
    ['a later part', (builder) => builder.put32(MiB + 512 + 0x78, 40), /begins with physical extent 40/],
  ])('%s', async (_, change, reason) => {
    const unit = build({}, change);
    expect(await isVmfs(unit)).toBe(true);
    const error = await refusalOf(() => openVmfs(unit));
    expect([error.kind, error.message]).toEqual(['unsupported', expect.stringMatching(reason)]);
  });
});

it('what is no VMFS is told from it, and is an error to open', async () => {
  for (const size of [0, 512, MiB, MiB + 1024, 20 * MiB]) {
    const unit = new BytesUnit(new Uint8Array(size).fill(1));
    expect(await isVmfs(unit)).toBe(false);
    expect((await refusalOf(() => openVmfs(unit))).kind).toBe('malformed');
  }
});

it('a raw device mapping is listed, and has no map', async () => {
  const unit = build({}, (builder) => {
    builder.addFile(builder.root, 'raw-rdmp.vmdk', { addressing: 'sub', size: 8 * MiB * 1024, type: 6 });
  });
  const file = (await filesOf(await openVmfs(unit))).get('/raw-rdmp.vmdk')!;
  expect([file.kind, file.size]).toEqual(['rdm', 8 * MiB * 1024]);
  const error = await refusalOf(() => file.map());
  expect([error.kind, error.message]).toEqual([
    'unsupported',
    expect.stringMatching(/raw-rdmp\.vmdk is a raw device mapping: .* another logical unit/),
  ]);
});

it('a file that has changed since it was found is refused', async () => {
  const builder = new VmfsBuilder({ descriptors: 3000 });
  const id = builder.addFile(builder.root, 'disk', { addressing: 'pointer', size: 2 * MiB });
  // More descriptors than are kept in memory.
  for (let i = 0; i < 2800; i++) builder.addFile(builder.root, `f${i}`, { addressing: 'sub', size: 0 });
  const fs = await openVmfs(new BytesUnit(builder.finish()));
  const file = await fs.lookup('/disk');
  expect((await file.map()).size).toBe(2 * MiB);
  builder.put64(builder.descriptorPlace(id) + 532, 3 * MiB);
  expect((await filesOf(fs)).size).toBe(2801);
  const error = await refusalOf(() => file.map());
  expect([error.kind, error.message]).toEqual([
    'io',
    expect.stringMatching(/changed from 2097152 to 3145728 bytes since it was found: read a snapshot/),
  ]);
});

it('hosts that have the file system open are told of', async () => {
  const unit = build({}, (builder) => {
    for (const host of [3, 7]) builder.put32(builder.unitOf(3 * MiB) + host * 512, 0xabcdef02);
    builder.put32(builder.unitOf(3 * MiB) + 9 * 512, 0xabcdef01);
  });
  const { warnings } = await openVmfs(unit);
  expect(warnings).toEqual([expect.stringMatching(/^<bytes>: 2 hosts have the file system open/)]);
});
