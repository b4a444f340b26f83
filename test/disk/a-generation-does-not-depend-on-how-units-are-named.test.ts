import { expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { viewOver } from '../../src/disk/view-unit.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';

class Told extends BytesUnit {
  writes = 0;
  override generation(): string {
    return `${this.name}@${this.writes}`;
  }
}

const size = 512;
const unitOf = (name: string) => new Told(new Uint8Array(size), { name });

/** A volume that lies on the whole of some units, one after the other. */
function volumeOn(numbers: readonly number[]): ExtentMap {
  const builder = new ExtentMapBuilder();
  for (const unit of numbers)
    builder.append({ offset: builder.size, length: size, kind: Kind.data, unit, place: 0, depth: 0 });
  return builder.finish();
}

const volume = { name: 'volume', layer: 'volume', step: 'lvm:vg/vm' } as const;

it('a volume has one generation in whichever order, and beside whichever others, units are named', async () => {
  const [a, b, other] = ['a', 'b', 'other'].map(unitOf) as [Told, Told, Told];
  const ways = [
    viewOver({ ...volume, map: volumeOn([0, 1]), parents: [a, b] }),
    viewOver({ ...volume, map: volumeOn([1, 0]), parents: [b, a] }),
    viewOver({ ...volume, map: volumeOn([2, 0]), parents: [b, other, a] }),
  ];
  const disks = await Promise.all(ways.map((view) => openDisk(view, { format: 'raw' })));
  const told = () => new Set([...ways, ...disks].map((each) => each.generation()));
  expect(told()).toEqual(new Set(['a@0 b@0']));
  other.writes++;
  expect(told()).toEqual(new Set(['a@0 b@0']));
  for (const unit of [a, b]) {
    unit.writes++;
    expect(told().size).toBe(1);
  }
  expect(told()).toEqual(new Set(['a@1 b@1']));
});

it("a write to a thin pool's metadata, or to a file system's unit, changes what lies there", async () => {
  const [metadata, data, other] = ['metadata', 'data', 'other'].map(unitOf) as [Told, Told, Told];
  const parents = [other, data, metadata];
  const thin = viewOver({ ...volume, map: volumeOn([1]), parents, tables: [metadata] });
  const hole = new ExtentMapBuilder();
  hole.append({ offset: 0, length: size, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
  const step = { layer: 'file', step: 'ext4:/hole', map: hole.finish() } as const;
  const file = viewOver({ name: 'file', parents: [thin], ...step });
  const disk = await openDisk(file, { format: 'raw' });
  for (const each of [thin, file, disk]) expect(each.generation()).toBe('data@0 metadata@0');
  metadata.writes++;
  for (const each of [thin, file, disk]) expect(each.generation()).toBe('data@0 metadata@1');
});
