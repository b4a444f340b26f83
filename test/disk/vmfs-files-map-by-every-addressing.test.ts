import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isVmfs, openVmfs } from '../../src/disk/containers/vmfs.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';
import {
  type Addressing,
  builtUuid,
  type FileSpec,
  patternOf,
  VmfsBuilder,
  type VmfsOptions,
} from './vmfs-builder.ts';
import { contentsOf, difference, filesOf, read, refusalOf } from './vmfs-loading.ts';
import { naiveVmfs } from './vmfs-naive.ts';

const MiB = 2 ** 20;
type Blocks = Map<number, 'data' | 'zeroed'>;

/** What a file of the builder reads as. */
function expected({ size, blocks, contents, addressing }: FileSpec, blockSize: number): Uint8Array {
  if (contents) return contents;
  const out = new Uint8Array(size);
  if (addressing === 'resident') return out.fill(1);
  for (const [index, kind] of blocks ?? []) {
    const part = patternOf(index, blockSize).subarray(0, Math.max(0, size - index * blockSize));
    if (kind === 'data') out.set(part, index * blockSize);
  }
  return out;
}

const specs: Record<string, FileSpec> = {
  'resident.txt': { addressing: 'resident', size: 700 },
  'resident-full': { addressing: 'resident', size: 1024 },
  'empty.log': { addressing: 'sub', size: 0 },
  'sub.vmx': {
    addressing: 'sub',
    size: 3 * 8192 - 5,
    blocks: new Map([
      [0, 'data'],
      [2, 'data'],
    ]) as Blocks,
  },
  'thin.vmdk': {
    addressing: 'file',
    size: 12 * MiB + 7,
    blocks: new Map([
      [1, 'data'],
      [2, 'data'],
      [12, 'data'],
    ]) as Blocks,
  },
  'lazy.vmdk': {
    addressing: 'file',
    size: 4 * MiB,
    blocks: new Map([
      [0, 'data'],
      [1, 'zeroed'],
      [2, 'zeroed'],
      [3, 'zeroed'],
    ]) as Blocks,
  },
  'full.vmdk': {
    addressing: 'file',
    size: 2 * MiB - 512,
    blocks: new Map([
      [0, 'data'],
      [1, 'data'],
    ]) as Blocks,
  },
  'indirect.vmdk': {
    addressing: 'pointer',
    size: 2500 * MiB,
    blocks: new Map([
      [0, 'data'],
      [1023, 'data'],
      [1024, 'zeroed'],
      [2499, 'data'],
    ]) as Blocks,
  },
};
const specs5: Record<string, FileSpec> = {
  'second.vmdk': {
    addressing: 'pointer2',
    size: 1100 * MiB,
    blocks: new Map([
      [5, 'data'],
      [1050, 'data'],
    ]) as Blocks,
  },
  'double.vmdk': {
    addressing: 'double',
    size: 3 * 2 ** 20 * MiB + 5,
    blocks: new Map([
      [0, 'data'],
      [1024, 'zeroed'],
      [2 ** 20 - 1, 'data'],
      [2 * 2 ** 20 + 1024 * 7 + 3, 'data'],
      [3 * 2 ** 20, 'data'],
    ]) as Blocks,
  },
};

function build(options: VmfsOptions, files: Record<string, FileSpec>): BytesUnit {
  const builder = new VmfsBuilder(options);
  for (const [name, spec] of Object.entries(files)) builder.addFile(builder.root, name, spec);
  return new BytesUnit(builder.finish());
}

const shapes: [string, VmfsOptions][] = [
  ['VMFS 3', { version: 3, subBlockSize: 8192 }],
  ['VMFS 5', { version: 5 }],
  ['blocks from the top down', { downwards: true }],
  ['physical extents out of order', { extents: [2, 0, 3, 1], extentBytes: 16 * MiB }],
];

describe.each(shapes)('%s', (_, options) => {
  const files = options.version === 3 ? specs : { ...specs, ...specs5 };
  const unit = build(options, files);
  const naive = naiveVmfs(unit.bytes)!;

  it.each(Object.keys(files))('%s maps to where its blocks are', async (name) => {
    const file = await (await openVmfs(unit)).lookup(`/${name}`);
    const map = await file.map();
    expect([file.path, file.size, map.size]).toEqual([`/${name}`, files[name]!.size, files[name]!.size]);
    if (file.size < 2 ** 36) expect(difference(map, naive.get(`/${name}`)!)).toBeNull();
    if (file.size < 16 * MiB) {
      const blockSize = name.startsWith('sub') ? 8192 : MiB;
      const same = Buffer.compare(await contentsOf(unit, map), expected(files[name]!, blockSize));
      expect(same).toBe(0);
    }
    for (const extent of map.extents()) expect([Kind.data, Kind.zero]).toContain(extent.kind);
  });

  it('all files are found, with the class of those that have one', async () => {
    const found = await filesOf(await openVmfs(unit));
    expect([...found.keys()]).toEqual(Object.keys(files).map((name) => `/${name}`));
    const kinds = Object.fromEntries([...found].map(([path, { kind }]) => [path.slice(1), kind]));
    expect(kinds).toMatchObject({ 'thin.vmdk': 'thin', 'lazy.vmdk': 'zeroedthick', 'full.vmdk': 'thick' });
    expect(kinds['indirect.vmdk']).toBe('thin');
    expect([kinds['resident.txt'], kinds['sub.vmx'], kinds['empty.log']]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });
});

describe('blocks of a file', () => {
  it('that are to be zeroed read as zeros, whatever is there, and have a place', async () => {
    const unit = build({}, specs);
    const map = await (await (await openVmfs(unit)).lookup('/lazy.vmdk')).map();
    const [data, zero] = [...map.extents()];
    expect([data!.length, zero!.offset, zero!.length, zero!.kind]).toEqual([MiB, MiB, 3 * MiB, Kind.zero]);
    expect(unit.bytes[zero!.place]).toBe(0xee);
    expect((await contentsOf(unit, map)).subarray(MiB).every((byte) => byte === 0)).toBe(true);
  });

  it('behind two levels of pointer blocks are where they should be', async () => {
    const unit = build({}, specs5);
    const map = await (await (await openVmfs(unit)).lookup('/double.vmdk')).map();
    const data = [...map.extents()].filter(({ kind, place }) => kind === Kind.data || place >= 0);
    const at = [...specs5['double.vmdk']!.blocks!.keys()];
    expect(data.map(({ offset }) => offset / MiB)).toEqual(at);
    for (const { offset, length, kind, place } of data) {
      const byte = kind === Kind.zero ? 0xee : 1 + ((offset / MiB) % 255);
      expect(unit.bytes.subarray(place, place + length).every((found) => found === byte)).toBe(true);
    }
    expect(data.at(-1)!.length).toBe(5);
  });

  it.each([2, 4, 8])('of %i MiB are found', async (size) => {
    const blockSize = size * MiB;
    const spec: FileSpec = { addressing: 'file', size: 3 * blockSize, blocks: new Map([[1, 'data']]) };
    const unit = build({ version: 3, blockSize, volumeBytes: 24 * blockSize }, { disk: spec });
    const found = await read(unit, '/disk');
    expect(Buffer.compare(found, expected(spec, blockSize))).toBe(0);
  });

  it('in any pattern are what was written (model)', async () => {
    const block = fc.constantFrom<'data' | 'zeroed' | null>('data', 'zeroed', null);
    const addressing = fc.constantFrom<Addressing>('file', 'pointer', 'pointer2', 'double', 'sub');
    const file = fc.record({
      addressing,
      first: fc.nat({ max: 200 }),
      pattern: fc.array(block, { maxLength: 6 }),
      tail: fc.nat({ max: 8191 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(file, { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (models, downwards) => {
          const files: Record<string, FileSpec> = {};
          for (const [i, { addressing: by, first, pattern, tail }] of models.entries()) {
            const blocks: Blocks = new Map();
            const start = by === 'file' || by === 'sub' ? first : first * 11;
            for (const [k, kind] of pattern.entries()) {
              if (kind !== null) blocks.set(start + k, by === 'sub' ? 'data' : kind);
            }
            const size = (start + pattern.length) * (by === 'sub' ? 8192 : MiB);
            files[`f${i}`] = { addressing: by, size: Math.max(0, size - tail), blocks };
          }
          const unit = build({ downwards }, files);
          const naive = naiveVmfs(unit.bytes)!;
          for (const [path, entry] of await filesOf(await openVmfs(unit))) {
            expect(difference(await entry.map(), naive.get(path)!)).toBeNull();
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});

describe('directories', () => {
  const builder = new VmfsBuilder({ descriptors: 3000, volumeBytes: 64 * MiB });
  const vm = builder.addDirectory(builder.root, 'vm one');
  const deep = builder.addDirectory(vm, 'snapshots');
  const text = (words: string): FileSpec => {
    const contents = new TextEncoder().encode(words);
    return { addressing: 'resident', size: contents.length, contents };
  };
  builder.addFile(builder.root, 'top', text('top'));
  builder.addFile(vm, 'größe-日本.vmx', text('config'));
  builder.addFile(deep, 'disk', text('deep'));
  const many = builder.addDirectory(builder.root, 'many');
  for (let i = 0; i < 2000; i++) builder.addFile(many, `file-${i}`, text(`number ${i}`));
  builder.addLink(vm, 'up', '../top');
  builder.addLink(vm, 'down', 'snapshots');
  builder.addLink(vm, 'far', '/vmfs/volumes/datastore1/vm one/up');
  builder.addLink(vm, 'by-uuid', `/vmfs/volumes/${builtUuid}/top`);
  builder.addLink(vm, 'out', '/etc/passwd');
  builder.addLink(vm, 'other', '/vmfs/volumes/other/top');
  builder.addLink(builder.root, 'a', 'b');
  builder.addLink(builder.root, 'b', 'a');
  const unit = new BytesUnit(builder.finish(), { wait: true });
  const textAt = async (path: string) => new TextDecoder().decode(await read(unit, path));

  it('are listed one after the other', async () => {
    const fs = await openVmfs(unit);
    expect([fs.kind, fs.label, fs.warnings, await isVmfs(unit)]).toEqual(['vmfs', 'datastore1', [], true]);
    const paths = [...(await filesOf(fs)).keys()];
    expect(paths.slice(0, 4)).toEqual([
      '/top',
      '/vm one/größe-日本.vmx',
      '/vm one/snapshots/disk',
      '/many/file-0',
    ]);
    expect(paths.length).toBe(2003);
    expect(paths).toEqual(
      [...naiveVmfs(unit.bytes)!.keys()].sort((a, b) => paths.indexOf(a) - paths.indexOf(b)),
    );
  });

  it.each([
    ['/vm one/snapshots/disk', 'deep'],
    ['vm one//größe-日本.vmx', 'config'],
    ['/many/file-1999', 'number 1999'],
    ['/vm one/../top', 'top'],
    ['/../../top', 'top'],
    ['/vm one/up', 'top'],
    ['/vm one/down/disk', 'deep'],
    ['/vm one/far', 'top'],
    ['/vm one/by-uuid', 'top'],
  ])('%s is found', async (path, contents) => {
    expect(await textAt(path)).toBe(contents);
  });

  it.each([
    ['/nothing', 'not-found', /'nothing' is not there/],
    ['/top/more', 'not-found', /'top' is no directory/],
    ['/vm one', 'argument', /is a directory/],
    ['/', 'argument', /is a directory/],
    ['/.fdc.sf', 'argument', /of the file system itself/],
    ['/vm one/down', 'argument', /is a directory/],
    ['/vm one/out', 'policy', /outside of the file system/],
    ['/vm one/other', 'policy', /outside of the file system/],
    ['/a', 'malformed', /symbolic links .* are a loop/],
  ])('%s is refused', async (path, kind, reason) => {
    const fs = await openVmfs(unit);
    const error = await refusalOf(() => fs.lookup(path));
    expect([error.kind, error.message]).toEqual([kind, expect.stringMatching(reason)]);
    expect(error.path).toBe('<bytes>');
  });
});
