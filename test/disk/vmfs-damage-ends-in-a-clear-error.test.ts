import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { isVmfs, openVmfs } from '../../src/disk/containers/vmfs.ts';
import type { ExtentMap } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';
import { type FileSpec, type Region, VmfsBuilder, type VmfsOptions } from './vmfs-builder.ts';
import { difference, filesOf, fuzzSeconds, mapsOrRefusal, refusalOf } from './vmfs-loading.ts';
import { naiveVmfs } from './vmfs-naive.ts';

const MiB = 2 ** 20;
const blocks = (...indices: number[]): ReadonlyMap<number, 'data' | 'zeroed'> =>
  new Map(indices.map((index) => [Math.abs(index), index < 0 ? 'zeroed' : 'data']));

/** A file system with a file of every kind, in two directories. */
function build(options: VmfsOptions = {}) {
  const builder = new VmfsBuilder(options);
  const vm = builder.addDirectory(builder.root, 'vm');
  const files: Record<string, FileSpec> = {
    direct: { addressing: 'file', size: 7 * MiB - 5, blocks: blocks(0, -1, 3, 6) },
    small: { addressing: 'sub', size: 20_000, blocks: blocks(0, 2) },
    resident: { addressing: 'resident', size: 500 },
    indirect: { addressing: 'pointer', size: 1030 * MiB, blocks: blocks(1, 2, -1023, 1024) },
    double: { addressing: 'double', size: 1040 * MiB, blocks: blocks(0, -1030, 1039) },
  };
  const ids: Record<string, number> = { vm, root: builder.root };
  for (const [name, spec] of Object.entries(files)) ids[name] = builder.addFile(vm, name, spec);
  ids.log = builder.addFile(builder.root, 'log', { addressing: 'sub', size: 9000, blocks: blocks(0, 1) });
  const bytes = builder.finish();
  const view = new DataView(bytes.buffer);
  return { builder, bytes, view, ids, unit: new BytesUnit(bytes) };
}

const { builder, bytes, view, ids, unit } = build({ extents: [1, 0, 2, 3], extentBytes: 16 * MiB });
const info = builder.unitOf(2 * MiB);
const meta = (name: string) => builder.descriptorPlace(ids[name]!) + 512;
const pointers = (name: string) => builder.descriptorPlace(ids[name]!) + 1024;
const device = MiB;
const volume = MiB + 512;
const extent = (index: number) => MiB + 0x80600 + index * 128;
const resource = (item: number) => {
  const first = view.getUint32(builder.descriptorPlace(((item << 22) | 4) >>> 0) + 1024, true);
  return builder.unitOf(Math.floor(first / 64) * MiB);
};
/** Where the root directory's entries are, and those of the directory in it. */
const rootEntries = builder.unitOf(Math.floor(view.getUint32(pointers('root'), true) / 64) * MiB);

const good = naiveVmfs(bytes)!;

/** Changes 32 bits, does something, and changes them back. */
async function withChange<T>(at: number, value: number, act: () => Promise<T>): Promise<T> {
  const before = view.getUint32(at, true);
  view.setUint32(at, value, true);
  try {
    return await act();
  } finally {
    view.setUint32(at, before, true);
  }
}

it('without damage: all files, as the naive reading has them', async () => {
  const maps = await mapsOrRefusal(unit);
  if (maps instanceof DriftmapError) throw maps;
  expect([...maps.keys()].sort()).toEqual([...good.keys()].sort());
  expect(good.size).toBe(6);
  for (const [path, map] of maps) expect([path, difference(map, good.get(path)!)]).toEqual([path, null]);
});

describe('fields that cannot be', () => {
  it.each<[string, number, number, RegExp]>([
    ['device: magic', device, 1, /device header: expected magic c001d00d, got 00000001/],
    ['device: version', device + 4, 7, /expected version 3, 4 or 5, got 7/],
    ['device: volumes', device + 0x66, 2, /expected 1 volume/],
    ['device: too many extents', device + 0x6a, 300_000, /at most 262144 physical extents/],
    ['device: fewer extents', device + 0x6a, 3, /expected a last physical extent below 3/],
    ['device: more extents than a region', device + 0x6a, 9000, /expected a further table/],
    ['device: tables', device + 0xbe, 9, /expected 1 to 8 tables/],
    ['device: data begins later', device + 0x7a, 40 * MiB, /expected it on the unit from 41943040 on/],
    ['volume: no size', volume, 0, /expected a volume's size/],
    ['volume: size beyond its extents', volume, 80 * MiB, /extents hold 67108864 bytes of .* 83886080/],
    ['volume: state', volume + 0x10, 4, /expected a state from 1 to 3/],
    ['volume: number', volume + 0x70, 5, /extents hold 0 bytes/],
    ['extent: used or not', extent(1), 0x102, /expected 0 or 1, got 2/],
    ['extent: no length', extent(1) + 25, 0, /got 0 bytes at/],
    ['extent: a gap', extent(1) + 17, 17 * MiB, /expected the one for 16777216 of the volume/],
    ['extent: over another', extent(1) + 9, 17 * MiB + 32 * MiB, /there is another one already/],
    ['head: magic', info, 5, /head of the VMFS file system: expected magic 2fabf15e, got 00000005/],
    ['head: block size', info + 0xa1, 3 * MiB, /expected blocks of 1, 2, 4 or 8 MiB/],
    ['head: sub-block size', info + 0xd9, 1000, /expected sub-blocks of a power of two/],
    ['head: another sub-block size', info + 0xd9, 4096, /\.sbc\.sf: expected pieces of 4096 bytes, got 8192/],
    ['head: another volume', info + 0xb4, 77, /names another volume/],
    ['head: descriptors elsewhere', info + 0xd1, 4096, /as the head of the file system says/],
    ['.fdc.sf: items', resource(2), 0, /expected 1 to 3968 items/],
    ['.fdc.sf: clusters', resource(2) + 4, 0, /expected clusters in a group/],
    ['.fdc.sf: pieces', resource(2) + 12, 4096, /expected (pieces of 2048 bytes|groups of at least)/],
    ['.fdc.sf: group', resource(2) + 16, 100, /expected groups of at least/],
    ['.pbc.sf: no pieces', resource(3) + 12, 0, /expected pointer blocks/],
    ['.sbc.sf: odd pieces', resource(4) + 12, 8000, /expected pieces of a power of two/],
    ['.pb2.sf: other pieces', resource(6) + 12, 2048, /\.pb2\.sf: expected pieces of 4096 bytes, got 2048/],
    ['.pb2.sf: not there', info + 0xe1, 0, /has no such file/],
    ['root: magic', meta('root') - 512, 0, /expected magic 10c00001/],
    ['root: elsewhere', meta('root') - 508, 4096, /expected to be at \d+ of the volume, it says 4096/],
    ['root: another', meta('root'), 0x00400004, /says that it is file descriptor 00400004/],
    ['root: a file', meta('root') + 12, 3, /expected a directory/],
    ['root: no type', meta('root') + 12, 9, /expected a type from 2 to 6/],
    ['root: size', meta('root') + 20, 1000, /expected whole entries of 140 bytes/],
    ['root: huge', meta('root') + 20, 140 * 500_000, /at most 67108864/],
    ['entry: type', rootEntries + 140 * 7, 7, /expected a type from 2 to 6, got 7/],
    ['entry: generation', rootEntries + 140 * 7 + 8, 99, /expected .* generation 99/],
    ['entry: another type', rootEntries + 140 * 7, 3, /expected .* of type 3 .* it is of type 2/],
    [
      'entry: a block',
      rootEntries + 140 * 7 + 4,
      0x41,
      /expected the id of a file descriptor, got file block/,
    ],
    ['entry: no such descriptor', rootEntries + 140 * 7 + 4, 0xffc00004, /item 1023 of cluster 0/],
    ['entry: no name', rootEntries + 140 * 7 + 12, 0, /expected a name in UTF-8 without/],
    ['entry: two parts', rootEntries + 140 * 7 + 12, 0x2f612f61, /expected a name in UTF-8 without/],
    ['entry: no UTF-8', rootEntries + 140 * 7 + 12, 0xffffffff, /expected a name in UTF-8/],
    ['file: size', meta('direct') + 20, 300 * MiB, /expected a size of at most 256 blocks/],
    ['file: size of 2^62', meta('direct') + 24, 2 ** 30, /expected a size below 2\^53/],
    ['file: block size', meta('direct') + 28, 2 * MiB, /expected blocks of 1048576 bytes, got 2097152/],
    ['file: blocks', meta('direct') + 36, 5, /says that the file has 5 blocks, and 4 are found/],
    ['file: to be zeroed', meta('direct') + 72, 0, /says that 0 blocks are to be zeroed, and 1 are found/],
    ['file: a lost block', pointers('direct'), 0, /says that the file has 4 blocks, and 3 are found/],
    ['file: addressing', meta('direct') + 68, 6, /of a kind \(6\) that is not known/],
    [
      'file: addressing of pointer blocks',
      meta('direct') + 68,
      3,
      /expected the id of a pointer block, got file/,
    ],
    [
      'file: a block past the end',
      pointers('direct'),
      0xffffffc1,
      /is number 67108863: the file system has 64/,
    ],
    [
      'file: a sub-block',
      pointers('direct'),
      0x42,
      /expected the id of a file block, got sub-block 00000042/,
    ],
    [
      'file: a block twice',
      pointers('direct'),
      view.getUint32(pointers('direct') + 12, true),
      /over one another/,
    ],
    ['small file: shared', pointers('small'), view.getUint32(pointers('small'), true) + 32, /copy on write/],
    ['small file: item', pointers('small'), 0x0000001a, /is item 48 of cluster 0/],
    ['small file: file block', pointers('small'), 0x41, /expected the id of a sub-block, got file block/],
    ['resident file: size', meta('resident') + 20, 1025, /at most 1024 bytes in a descriptor/],
    ['pointer block twice', pointers('indirect') + 4, view.getUint32(pointers('indirect'), true), /twice/],
    [
      'pointer block twice, with a flag',
      pointers('indirect') + 4,
      view.getUint32(pointers('indirect'), true) + 32,
      /twice/,
    ],
    ['pointer block past the end', pointers('indirect'), 0x0fffffc3, /cluster 4194303/],
  ])('%s', async (_, at, value, reason) => {
    const found = await withChange(at, value, () => mapsOrRefusal(unit));
    if (!(found instanceof DriftmapError)) throw new Error('expected an error');
    expect(found.message).toMatch(reason);
    expect(['malformed', 'unsupported', 'limit']).toContain(found.kind);
    expect([found.path, typeof found.offset]).toEqual(['<bytes>', 'number']);
  });

  it('a file of the system with two blocks in one place', async () => {
    const place = builder.descriptorPlace(((4 << 22) | 4) >>> 0) + 1024;
    const found = await withChange(place + 4, view.getUint32(place, true), () =>
      refusalOf(() => openVmfs(unit)),
    );
    expect(found.message).toMatch(/\.sbc\.sf: expected file blocks, each once/);
  });
});

describe('loops', () => {
  it('of directories end in an error', async () => {
    const looped = new VmfsBuilder();
    const outer = looped.addDirectory(looped.root, 'outer');
    const inner = looped.addDirectory(outer, 'inner');
    looped.link(inner, 'again', outer, 2);
    const loop = new BytesUnit(looped.finish());
    const error = await refusalOf(async () => filesOf(await openVmfs(loop)));
    expect([error.kind, error.message]).toEqual([
      'malformed',
      expect.stringMatching(/\/outer\/inner\/again is a directory that is in another one already/),
    ]);
  });

  it('and directories without an end, too', async () => {
    const looped = new VmfsBuilder({ descriptors: 400 });
    let here = looped.root;
    for (let i = 0; i < 130; i++) here = looped.addDirectory(here, 'd');
    const error = await refusalOf(async () => filesOf(await openVmfs(new BytesUnit(looped.finish()))));
    expect([error.kind, error.message]).toEqual([
      'limit',
      expect.stringMatching(/128 directories in one another/),
    ]);
  });

  it('of entries that many directories share end in an error', async () => {
    const shared = new VmfsBuilder({ descriptors: 500, subBlocks: 500 });
    const many = shared.addDirectory(shared.root, 'many');
    const file = shared.addFile(many, 'file', { addressing: 'sub', size: 0 });
    for (let i = 0; i < 930; i++) shared.link(many, `f${i}`, file, 3);
    const others = Array.from({ length: 300 }, (_, i) => shared.addDirectory(shared.root, `d${i}`));
    const image = shared.finish();
    const copied = new DataView(image.buffer);
    const from = shared.descriptorPlace(many);
    for (const other of others) {
      const to = shared.descriptorPlace(other);
      for (const field of [532, 540, 548, 580])
        copied.setUint32(to + field, copied.getUint32(from + field, true), true);
      image.copyWithin(to + 1024, from + 1024, from + 2048);
    }
    const error = await refusalOf(async () => filesOf(await openVmfs(new BytesUnit(image))));
    expect([error.kind, error.message]).toEqual(['limit', expect.stringMatching(/262144 entries in all/)]);
  });
});

it('a link that leads through a large directory again and again ends in an error', async () => {
  const busy = new VmfsBuilder({ descriptors: 100 });
  const large = busy.addDirectory(busy.root, 'large');
  const file = busy.addFile(large, 'file', { addressing: 'sub', size: 0 });
  for (let i = 0; i < 900; i++) busy.link(large, `f${i}`, file, 3);
  busy.addDirectory(large, 'z');
  busy.addLink(busy.root, 'link', `large/${'z/../'.repeat(800)}file`);
  const fs = await openVmfs(new BytesUnit(busy.finish()));
  const error = await refusalOf(() => fs.lookup('/link'));
  expect([error.kind, error.message]).toEqual([
    'limit',
    expect.stringMatching(/directory entries on the way/),
  ]);
});

describe('a unit that is cut short', () => {
  it('ends in an error, or reads what is there as it was', { timeout: 60_000 }, async () => {
    const cuts = new Set<number>([0, 1, device, device + 1023, device + 1024]);
    for (const [start, end] of builder.regions)
      for (const at of [start, start + 1, end - 1, end]) cuts.add(at);
    for (let at = 16 * MiB; at <= bytes.length; at += MiB) for (const near of [-1, 0, 1]) cuts.add(at + near);
    let whole = 0;
    let refused = 0;
    for (const cut of [...cuts].filter((at) => at <= bytes.length).sort((a, b) => a - b)) {
      const short = new BytesUnit(bytes.subarray(0, cut));
      expect(await isVmfs(short)).toBe(cut >= device + 1024);
      const maps = await mapsOrRefusal(short);
      if (maps instanceof DriftmapError) {
        refused++;
        expect(['malformed', 'argument']).toContain(maps.kind);
        continue;
      }
      whole++;
      for (const [path, map] of maps) expect(difference(map, good.get(path)!)).toBeNull();
      const { warnings } = await openVmfs(short);
      expect(warnings).toEqual(cut < bytes.length ? [expect.stringMatching(/cut short/)] : []);
    }
    expect(whole).toBeGreaterThan(1);
    expect(refused).toBeGreaterThan(100);
  });
});

describe('one damaged byte', () => {
  it.each<[string, VmfsOptions]>([
    ['in order', {}],
    ['physical extents out of order', { extents: [1, 0, 2, 3], extentBytes: 16 * MiB }],
  ])('%s: an error, or what the tables say', { timeout: fuzzSeconds * 1000 + 30_000 }, async (_, options) => {
    const built = build(options);
    const places = placesOf(built.builder.regions);
    let done = 0;
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(places.length - 1), fc.integer({ min: 1, max: 255 }), async (which, change) => {
        const place = places[which]!;
        built.bytes[place]! ^= change;
        try {
          const begun = performance.now();
          const maps = await mapsOrRefusal(built.unit);
          expect(performance.now() - begun).toBeLessThan(2000);
          done++;
          if (maps instanceof DriftmapError) return;
          opened++;
          checkAgainstNaive(maps, built.bytes);
        } finally {
          built.bytes[place]! ^= change;
        }
      }),
      { numRuns: 20_000, interruptAfterTimeLimit: (fuzzSeconds * 1000) / 2 },
    );
    console.info(`${done} mutants, ${opened} of them readable`);
    expect(opened).toBeGreaterThan(0);
    expect(done - opened).toBeGreaterThan(0);
  });
});

function placesOf(regions: readonly Region[]): number[] {
  const places = new Set<number>();
  for (const [start, end] of regions) for (let at = start; at < end; at++) places.add(at);
  return [...places];
}

function checkAgainstNaive(maps: ReadonlyMap<string, ExtentMap>, image: Uint8Array): void {
  const naive = naiveVmfs(image);
  expect(naive).not.toBeNull();
  expect([...maps.keys()].sort()).toEqual([...naive!.keys()].sort());
  for (const [path, map] of maps) expect([path, difference(map, naive!.get(path)!)]).toEqual([path, null]);
}
