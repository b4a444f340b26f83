import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { readVolumeGroups } from '../../src/disk/containers/lvm-groups.ts';
import { readThinMap, type ThinMapRequest } from '../../src/disk/containers/thin-map.ts';
import { isZero } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';
import { fuzzSeconds, groupText, other, randomFrom, simpleVolume, striped, uuidOf } from './lvm-builder.ts';
import { sealThinBlock, type ThinBlocks, thinMetadata } from './thin-builder.ts';

const BLOCK = 65536;
const DATA_BLOCKS = 1000;

async function read(bytes: Uint8Array, more: Partial<ThinMapRequest> = {}) {
  const map = await readThinMap(new BytesUnit(bytes), {
    device: 1,
    size: 100 * BLOCK,
    blockSize: BLOCK,
    transaction: 1,
    pending: false,
    dataSize: DATA_BLOCKS * BLOCK,
    originSize: 0,
    ...more,
  });
  return [...map.extents()].map(({ offset, length, kind, place }) => [
    offset / BLOCK,
    length / BLOCK,
    isZero(kind) ? -1 : place / BLOCK,
  ]);
}

type Nodes = ThinBlocks['nodes'];
/** Two devices; the first has a tree of two levels in blocks 3 to 5, the second one leaf in block 6. */
const NODES: Nodes = [
  {
    kind: 'tree',
    entries: [
      [1, 3],
      [4, 6],
    ],
  },
  {
    kind: 'details',
    entries: [
      [1, 5],
      [4, 1],
    ],
  },
  {
    kind: 'mappings',
    internal: true,
    entries: [
      [0, 4],
      [50, 5],
    ],
  },
  {
    kind: 'mappings',
    entries: [
      [0, 10],
      [1, 11],
      [7, 500],
    ],
  },
  {
    kind: 'mappings',
    entries: [
      [50, 12],
      [99, 999],
    ],
  },
  { kind: 'mappings', entries: [[0, 600]] },
];
const GOOD = thinMetadata({ nodes: NODES });
const RUNS = [
  [0, 2, 10],
  [2, 5, -1],
  [7, 1, 500],
  [8, 42, -1],
  [50, 1, 12],
  [51, 48, -1],
  [99, 1, 999],
];

/** The good nodes with the one in a block (from 1) exchanged. */
function exchanged(block: number, node: Nodes[number]): Uint8Array {
  return thinMetadata({ nodes: NODES.map((each, i) => (i + 1 === block ? node : each)) });
}

describe('a thin device', () => {
  it('is mapped where it has blocks and zero elsewhere, cut at its size', async () => {
    expect(await read(GOOD)).toEqual(RUNS);
    expect(await read(GOOD, { device: 4 })).toEqual([
      [0, 1, 600],
      [1, 99, -1],
    ]);
    expect(await read(GOOD, { size: 1.5 * BLOCK })).toEqual([[0, 1.5, 10]]);
  });

  it('without blocks is all zeros', async () => {
    const bytes = thinMetadata({
      nodes: [
        { kind: 'tree', entries: [[1, 3]] },
        { kind: 'details', entries: [[1, 0]] },
        { kind: 'mappings', entries: [] },
      ],
    });
    expect(await read(bytes)).toEqual([[0, 100, -1]]);
  });

  it('may be one transaction behind the group where changes are pending, and not otherwise', async () => {
    expect(await read(GOOD, { transaction: 2, pending: true })).toEqual(RUNS);
    for (const more of [
      { transaction: 2 },
      { transaction: 0, pending: true },
      { transaction: 3, pending: true },
    ]) {
      await expect(read(GOOD, more)).rejects.toMatchObject({ kind: 'mismatch' });
    }
  });
});

describe('a tree', () => {
  it.each([
    ['that leads to itself', 3, { kind: 'mappings', internal: true, entries: [[0, 3]] }, /at most 16 levels/],
    [
      'whose two children are one',
      3,
      {
        kind: 'mappings',
        internal: true,
        entries: [
          [0, 4],
          [50, 4],
        ],
      },
      /ascend from 50/,
    ],
    [
      'whose child has keys of the next',
      3,
      {
        kind: 'mappings',
        internal: true,
        entries: [
          [0, 4],
          [5, 5],
        ],
      },
      /ascend from 0 to below 5/,
    ],
    [
      'whose child has keys too low',
      3,
      {
        kind: 'mappings',
        internal: true,
        entries: [
          [1, 4],
          [50, 5],
        ],
      },
      /ascend from 1/,
    ],
    [
      'whose keys are not in order',
      4,
      {
        kind: 'mappings',
        entries: [
          [1, 10],
          [0, 11],
        ],
      },
      /ascend from 0/,
    ],
    [
      'whose key stands twice',
      4,
      {
        kind: 'mappings',
        entries: [
          [1, 10],
          [1, 11],
        ],
      },
      /ascend from 0/,
    ],
    ['with an empty leaf below its root', 4, { kind: 'mappings', entries: [] }, /entries below the root/],
    ['with an empty internal node', 3, { kind: 'mappings', internal: true, entries: [] }, /has no entries/],
    [
      'that leads out of the metadata',
      3,
      { kind: 'mappings', internal: true, entries: [[0, 7]] },
      /past the end/,
    ],
    [
      'that leads past counting',
      3,
      { kind: 'mappings', internal: true, entries: [[0, 2n ** 64n - 1n]] },
      /past the end/,
    ],
    [
      'whose child is of another tree',
      3,
      { kind: 'mappings', internal: true, entries: [[0, 2]] },
      /values of 8 bytes, got 24/,
    ],
    [
      'with a data block past the pool',
      4,
      { kind: 'mappings', entries: [[0, DATA_BLOCKS]] },
      /data block below 1000, got 1000/,
    ],
    [
      'with fewer blocks than it should have',
      4,
      { kind: 'mappings', entries: [[0, 10]] },
      /expected 5 mapped blocks, the tree has 3/,
    ],
  ] as const)('%s is an error', async (_, block, node, reason) => {
    await expect(read(exchanged(block, node as Nodes[number]))).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(reason),
    });
  });

  it('of devices may have levels as well, each held to its keys', async () => {
    const nodes = (first: number): Nodes => [
      {
        kind: 'tree',
        internal: true,
        entries: [
          [1, 7],
          [4, 8],
        ],
      },
      ...NODES.slice(1),
      {
        kind: 'tree',
        entries: [
          [1, 3],
          [first, 3],
        ],
      },
      { kind: 'tree', entries: [[4, 6]] },
    ];
    expect(await read(thinMetadata({ nodes: nodes(3) }))).toEqual(RUNS);
    expect(await read(thinMetadata({ nodes: nodes(3) }), { device: 4 })).toEqual([
      [0, 1, 600],
      [1, 99, -1],
    ]);
    await expect(read(thinMetadata({ nodes: nodes(3) }), { device: 2 })).rejects.toMatchObject({
      kind: 'not-found',
    });
    await expect(read(thinMetadata({ nodes: nodes(4) }))).rejects.toMatchObject({
      message: expect.stringMatching(/ascend from 1 to below 4/),
    });
  });

  it('is an error where a node is in the place of another', async () => {
    const bytes = GOOD.slice();
    bytes.copyWithin(4 * 4096, 6 * 4096, 7 * 4096);
    await expect(read(bytes)).rejects.toMatchObject({
      message: expect.stringMatching(/expected to be block 4, it says 6/),
    });
  });

  it('of single-entry nodes may be 16 levels deep', async () => {
    const deep = (levels: number): Nodes => [
      { kind: 'tree', entries: [[1, 3]] },
      { kind: 'details', entries: [[1, 1]] },
      ...Array.from({ length: levels - 1 }, (_, i) => ({
        kind: 'mappings' as const,
        internal: true,
        entries: [[0, 4 + i]] as const,
      })),
      { kind: 'mappings', entries: [[0, 10]] },
    ];
    expect(await read(thinMetadata({ nodes: deep(16) }))).toEqual([
      [0, 1, 10],
      [1, 99, -1],
    ]);
    await expect(read(thinMetadata({ nodes: deep(17) }))).rejects.toMatchObject({ kind: 'malformed' });
  });
});

describe('metadata that is damaged', () => {
  it('in any one byte of a block that is read is an error', async () => {
    const bytes = GOOD.slice();
    const random = randomFrom(41);
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    for (let round = 0; performance.now() < end; round++) {
      // Blocks 0 to 5 are those of device 1.
      const at = (round % 6) * 4096 + (random(2) ? random(80) : random(4096));
      bytes[at]! ^= 1 << random(8);
      await expect(read(bytes), `byte ${at}`).rejects.toBeInstanceOf(DriftmapError);
      bytes[at] = GOOD[at]!;
    }
  });

  it('is an error where it is cut at any block', async () => {
    for (let blocks = 0; blocks < 6; blocks++) {
      await expect(read(GOOD.slice(0, blocks * 4096))).rejects.toMatchObject({ kind: 'malformed' });
    }
  });

  it('under good checksums maps nothing that is not in the pool, and covers the volume once', async () => {
    const bytes = GOOD.slice();
    const random = randomFrom(43);
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    let survived = 0;
    while (performance.now() < end) {
      bytes.set(GOOD);
      const block = random(6);
      for (let i = 0; i < 1 + random(2); i++) {
        const most = 252;
        const at = [4 + random(28), 32 + random(40), 32 + most * 8 + random(40), 48 + random(300)][
          random(4)
        ]!;
        bytes[block * 4096 + at] = random(2) ? random(8) : random(256);
      }
      sealThinBlock(bytes, block);
      try {
        let next = 0;
        for (const [at, length, place] of await read(bytes)) {
          expect(at).toBe(next);
          next = at! + length!;
          if (place! >= 0) expect(place! + length!).toBeLessThanOrEqual(DATA_BLOCKS);
        }
        expect(next).toBe(100);
        survived++;
      } catch (error) {
        expect(error).toBeInstanceOf(DriftmapError);
      }
    }
    expect(survived).toBeGreaterThan(0);
  });

  it.each([
    ['magic', 32, 1],
    ['version', 40, 3],
    ['incompatible features', 360, 1],
    ['data block size', 336, 100],
    ['data block size other than the group says', 336, 256],
    ['metadata block size', 340, 16],
    ['size of the pool', 64, DATA_BLOCKS + 1],
  ])('in the superblock: %s', async (_, at, value) => {
    const bytes = GOOD.slice();
    new DataView(bytes.buffer).setUint32(at, value, true);
    sealThinBlock(bytes, 0);
    await expect(read(bytes)).rejects.toMatchObject({ kind: expect.stringMatching(/malformed|unsupported/) });
  });
});

describe('a thin volume in a volume group', () => {
  const pool = (message = '') =>
    other(
      16,
      'thin-pool',
      `metadata = "pool_tmeta"\npool = "pool_tdata"\ntransaction_id = 1\nchunk_size = 128\n${message}`,
    );
  const parts = {
    '.pool_tmeta': [striped(0, 7, [['pv0', 0]])],
    '.pool_tdata': [striped(0, 32, [['pv0', 32]]), striped(32, 128, [['pv0', 96]])],
    pool: [pool()],
  };
  const thin = (more = '', device = 1) =>
    other(80, 'thin', `thin_pool = "pool"\ntransaction_id = 0\ndevice_id = ${device}\n${more}`);
  const metadata = thinMetadata({
    dataBlocks: 10,
    nodes: [
      { kind: 'tree', entries: [[1, 3]] },
      { kind: 'details', entries: [[1, 3]] },
      {
        kind: 'mappings',
        entries: [
          [0, 1],
          [1, 2],
          [3, 9],
        ],
      },
    ],
  });

  async function open(volumes: Record<string, string[]>) {
    const text = groupText({ physical: [{ name: 'pv0', uuid: uuidOf(0), extents: 256 }], volumes });
    const bytes = simpleVolume(uuidOf(0), text);
    bytes.set(metadata, 1 << 20);
    const found = await readVolumeGroups([new BytesUnit(bytes)]);
    expect(found.warnings).toEqual([]);
    return found.volumes;
  }

  /** Runs in extents of 4 KiB; places from the start of the physical volume's extents. */
  async function runs(volumes: Record<string, string[]>) {
    const map = await (await open(volumes)).find(({ name }) => name === 'thin')!.map();
    return [...map.extents()].map(({ offset, length, kind, place, depth }) => [
      offset / 4096,
      length / 4096,
      isZero(kind) ? -1 : (place - (1 << 20)) / 4096,
      depth,
    ]);
  }

  it('lies on its unit, also where its pool is in pieces', async () => {
    // Data blocks have 16 extents: block 1 is in the first piece, 2 and 9 in the second.
    expect(await runs({ ...parts, thin: [thin()] })).toEqual([
      [0, 16, 48, 0],
      [16, 16, 96, 0],
      [32, 16, -1, 0],
      [48, 16, 96 + 7 * 16, 0],
      [64, 16, -1, 0],
    ]);
  });

  it('knows the flag of a pool whose metadata may not grow past its cap', async () => {
    const cropped = { pool: [pool().replace('thin-pool', 'thin-pool+CROP_METADATA')] };
    expect(await runs({ ...parts, ...cropped, thin: [thin()] })).toHaveLength(5);
  });

  it('shows its external origin where nothing was written, and zeros behind its end', async () => {
    const origin = { base: [striped(0, 70, [['pv0', 180]])] };
    expect(await runs({ ...parts, ...origin, thin: [thin('external_origin = "base"')] })).toEqual([
      [0, 16, 48, 0],
      [16, 16, 96, 0],
      [32, 16, 180 + 32, 1],
      [48, 16, 96 + 7 * 16, 0],
      [64, 6, 180 + 64, 1],
      [70, 10, -1, 0],
    ]);
  });

  it.each([
    [
      'a device that the pool does not have',
      { thin: [thin('', 2)] },
      'not-found',
      /created and never activated/,
    ],
    ['a merge under way', { thin: [thin('merge = "snap"')] }, 'unsupported', /being merged/],
    [
      'a pool that is none',
      { pool: [striped(0, 1, [['pv0', 0]])], thin: [thin()] },
      'malformed',
      /to be a thin pool/,
    ],
    [
      'a pool on raid',
      { '.pool_tdata': [other(160, 'raid1', '')], thin: [thin()] },
      'unsupported',
      /pool_tdata is of kind raid1/,
    ],
    [
      'a pool of another chunk size',
      { pool: [pool().replace('128', '256')], thin: [thin()] },
      'malformed',
      /blocks of 131072/,
    ],
    [
      'a pool with a flag',
      { pool: [pool().replace('thin-pool', 'thin-pool+FUTURE')], thin: [thin()] },
      'unsupported',
      /flag FUTURE/,
    ],
    [
      'a pool that is its own data',
      { pool: [pool().replace('pool_tdata', 'thin')], thin: [thin()] },
      'malformed',
      /lies on itself/,
    ],
  ] as const)('is an error with %s', async (_, volumes, kind, reason) => {
    const found = await open({
      ...parts,
      ...(volumes as Record<string, unknown> as Record<string, string[]>),
    });
    await expect(found.find(({ name }) => name === 'thin')!.map()).rejects.toMatchObject({
      kind,
      message: expect.stringMatching(reason),
    });
  });
});
