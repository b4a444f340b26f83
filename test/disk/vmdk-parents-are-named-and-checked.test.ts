import { describe, expect, it } from 'vitest';
import { BytesUnit } from './images.ts';
import { contentsOf, over, parentOf, same } from './vhd-loading.ts';
import { buildHosted, descriptorFile, type Grain, SECTOR } from './vmdk-builder.ts';
import { loadFrom, refusal } from './vmdk-loading.ts';

const grainBytes = 16 * SECTOR;
const filled = (seed: number, length = grainBytes) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 19 + seed * 5) % 255));

const child = (hint: string | undefined, parentCid = 'aabbccdd', grains: readonly Grain[] = [filled(1)]) =>
  buildHosted({ capacity: 64, grains, zeroFlag: true, descriptor: { hint, parentCid } as never });

describe('the parent of a VMDK', () => {
  it.each([
    ['base.vmdk', 'base.vmdk'],
    ['../other/base.vmdk', '../other/base.vmdk'],
    ['..\\other\\base.vmdk', '../other/base.vmdk'],
    ['/srv/disks/base.vmdk', '/srv/disks/base.vmdk'],
    ['/vmfs/volumes/4f1a-22/vm/base.vmdk', 'base.vmdk'],
    ['C:\\VMs\\My disk\\base disk.vmdk', 'base disk.vmdk'],
    ['d:/VMs/base.vmdk', 'base.vmdk'],
    ['\\\\server\\share\\base.vmdk', 'base.vmdk'],
  ])('%s is looked for as %s', async (hint, name) => {
    const { backing } = await loadFrom({ child: child(hint) }, 'child');
    expect(backing).toMatchObject({ name, format: 'vmdk' });
  });

  it.each<[string, string, Uint8Array]>([
    ['a sparse one', 'aabbccdd', buildHosted({ capacity: 16, grains: [], descriptor: { cid: 'aabbccdd' } })],
    ['a descriptor', 'AABBCCDD', descriptorFile({ cid: 'aabbccdd', extents: ['RW 1 ZERO'] })],
    ['one with a short CID', '00000abc', descriptorFile({ cid: 'abc', extents: ['RW 1 ZERO'] })],
  ])('is known by its CID: %s', async (_, parentCid, bytes) => {
    const { backing } = await loadFrom({ child: child('p', parentCid) }, 'child');
    await backing!.check!(new BytesUnit(bytes, { name: 'p' }));
    const other = await loadFrom({ child: child('p', '12345678') }, 'child');
    await expect(other.backing!.check!(new BytesUnit(bytes, { name: 'p' }))).rejects.toMatchObject({
      kind: 'mismatch',
      path: 'child',
      message: expect.stringMatching(/parent with the CID 12345678, got p with (aabbccdd|00000abc)/),
    });
  });

  it('that is no VMDK, or an extent of one, is not the one that was meant', async () => {
    const { backing } = await loadFrom({ child: child('p') }, 'child');
    const extent = buildHosted({ capacity: 16, grains: [], descriptor: null });
    for (const bytes of [filled(1), extent, new Uint8Array(3)]) {
      await expect(backing!.check!(new BytesUnit(bytes, { name: 'p' }))).rejects.toMatchObject({ path: 'p' });
    }
  });

  it.each<[string, string | undefined, string, RegExp]>([
    ['a CID without a name', undefined, 'aabbccdd', /nothing names it/],
    ['an empty name', '', 'aabbccdd', /nothing names it/],
    ['a name without a CID', 'base.vmdk', 'ffffffff', /says that there is no parent/],
    ['a quote in it', 'a"b', 'aabbccdd', /expected a quoted name/],
  ])('%s: refused', async (_, hint, parentCid, reason) => {
    const error = await refusal({ child: child(hint, parentCid) }, 'child');
    expect([error.kind, error.message]).toEqual(['malformed', expect.stringMatching(reason)]);
  });

  it('shows through where nothing was written, and not through zeros', async () => {
    const grains: Grain[] = [null, filled(2), 'zero', null];
    const top = await loadFrom({ child: child('base', 'abc', grains) }, 'child');
    const spec = {
      capacity: 64,
      grains: [3, 4, 5, 6].map((seed) => filled(seed)),
      descriptor: { cid: 'abc' },
    };
    const base = await loadFrom({ base: buildHosted(spec) }, 'base');
    await parentOf(top).check!(base.units[0]!);
    const wanted = new Uint8Array(4 * grainBytes);
    wanted.set(filled(3), 0);
    wanted.set(filled(2), grainBytes);
    wanted.set(filled(6), 3 * grainBytes);
    expect(same(await contentsOf(over(top, base)), wanted)).toBe(true);
  });

  it('does not show through an extent of zeros', async () => {
    const text = descriptorFile({
      hint: 'base',
      parentCid: 'abc',
      extents: ['RW 16 ZERO', 'RW 16 SPARSE "s"'],
    });
    const s = buildHosted({ capacity: 16, grains: [null], descriptor: null });
    const top = await loadFrom({ child: text, s }, 'child');
    const spec = { capacity: 32, grains: [filled(3), filled(4)], descriptor: { cid: 'abc' } };
    const base = await loadFrom({ base: buildHosted(spec) }, 'base');
    const wanted = new Uint8Array(2 * grainBytes);
    wanted.set(filled(4), grainBytes);
    expect(same(await contentsOf(over(top, base)), wanted)).toBe(true);
  });
});
