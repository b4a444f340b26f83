import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { LVM_MAX_METADATA_BYTES, LVM_MAX_METADATA_NODES } from '../../src/base/limits.ts';
import { type ConfigNode, ConfigSection, parseConfig } from '../../src/disk/containers/lvm-config.ts';
import { readVolumeGroups } from '../../src/disk/containers/lvm-groups.ts';
import { BytesUnit } from './images.ts';
import {
  fuzzSeconds,
  groupText,
  other,
  randomFrom,
  sealArea,
  sealLabel,
  simpleVolume,
  striped,
  uuidOf,
} from './lvm-builder.ts';

const parse = (text: string) => parseConfig(text, 'unit', 1000);

type Plain = number | string | Plain[] | { [name: string]: Plain };

function plain(node: ConfigNode): Plain {
  if (node instanceof ConfigSection) {
    return Object.fromEntries([...node.nodes].map(([name, inner]) => [name, plain(inner)]));
  }
  return typeof node === 'object' ? node.map(plain) : node;
}

/** As LVM writes: one node a line, braces at their line's end. */
function print(value: Plain): string {
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return `"${value.replace(/["\\]/g, '\\$&')}"`;
  if (Array.isArray(value)) return `[${value.map(print).join(', ')}]`;
  return Object.entries(value)
    .map(([name, inner]) =>
      typeof inner === 'object' && !Array.isArray(inner)
        ? `${name} {\n${print(inner)}\n}\n`
        : `${name} = ${print(inner)}\t# ${name} }{\n`,
    )
    .join('\n');
}

const { tree } = fc.letrec<{ tree: { [name: string]: Plain }; value: Plain }>((tie) => ({
  tree: fc.dictionary(fc.stringMatching(/^[a-z_][a-z0-9_.+-]{0,8}$/), tie('value'), {
    maxKeys: 6,
    noNullPrototype: true,
  }),
  value: fc.oneof(
    { maxDepth: 4 },
    fc.integer(),
    fc.string({
      maxLength: 12,
      unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)),
    }),
    fc.array(fc.oneof(fc.integer(), fc.stringMatching(/^[ -~]{0,9}$/)), { maxLength: 5 }),
    tie('tree'),
  ),
}));

describe('the text', () => {
  it('is read back as it was written, whatever stands in it', () => {
    fc.assert(
      fc.property(tree, (value) => {
        expect(plain(parse(print(value)))).toEqual(value);
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    ['a', /expected '=' or '{' after a name/, 1001],
    ['a {', /expected the '}'/, 1000],
    ['a }', /expected '=' or '{'/, 1002],
    ['}', /expected a name or the end/, 1000],
    ['a = ', /expected a value/, 1004],
    ['a = b', /expected a number/, 1004],
    ['a = [1', /expected ',' or '\]'/, 1006],
    ['a = [1 2]', /expected ',' or '\]'/, 1007],
    ['a = "b', /no closing quote/, 1004],
    ['a = "b\\"', /no closing quote/, 1004],
    ['a = 1\na = 2', /'a' stands twice/, 1006],
    ['a = 0x10', /expected a number/, 1004],
  ])('%j is an error at its place', (text, reason, offset) => {
    expect(() => parse(text)).toThrow(expect.objectContaining({ kind: 'malformed', offset }) as Error);
    expect(() => parse(text)).toThrow(reason);
  });

  it('ends at a zero byte, and may be empty', () => {
    expect(plain(parse('a = 1\0 } nonsense'))).toEqual({ a: 1 });
    expect(plain(parse(''))).toEqual({});
    expect(plain(parse('# only a remark'))).toEqual({});
  });

  it('is bounded in nesting, in values and in size', () => {
    expect(plain(parse(`${'a {'.repeat(16)}${'}'.repeat(16)}`))).toBeTypeOf('object');
    const limit = expect.objectContaining({ kind: 'limit' }) as Error;
    expect(() => parse('a {'.repeat(100_000))).toThrow(limit);
    expect(() => parse(`a = ${'['.repeat(100_000)}`)).toThrow(limit);
    expect(() => parse(`a = [${'1,'.repeat(LVM_MAX_METADATA_NODES)}]`)).toThrow(limit);
    expect(() => parse(' '.repeat(LVM_MAX_METADATA_BYTES + 1))).toThrow(limit);
  });
});

const physical = [{ name: 'pv0', uuid: uuidOf(0), extents: 200 }];
const TEXT = groupText({
  physical,
  volumes: {
    lin: [striped(0, 4, [['pv0', 3]]), striped(4, 2, [['pv0', 20]])],
    stripes: [
      striped(0, 6, [
        ['pv0', 30],
        ['pv0', 40],
      ]),
    ],
    top: [striped(0, 3, [['low', 1]])],
    '.low': [striped(0, 5, [['pv0', 60]])],
    mirror: [other(4, 'raid1', 'device_count = 2')],
  },
});

/** What can be seen of a unit: each volume's runs, or the kind of the error. Only errors of ours may come. */
async function look(bytes: Uint8Array): Promise<Record<string, unknown>> {
  const { volumes } = await readVolumeGroups([new BytesUnit(bytes)]);
  const seen: Record<string, unknown> = {};
  for (const { group, name, size, map } of volumes) {
    try {
      const found = await map();
      expect(found.size).toBe(size);
      const runs = [...found.extents()];
      for (const { place, length } of runs) expect(place + length).toBeLessThanOrEqual(bytes.length);
      seen[`${group}/${name}`] = runs;
    } catch (error) {
      expect(error).toBeInstanceOf(DriftmapError);
      seen[`${group}/${name}`] = (error as DriftmapError).kind;
    }
  }
  return seen;
}

describe('a physical volume', () => {
  const good = simpleVolume(uuidOf(0), TEXT);

  it('with one byte of its metadata damaged is as it was, or gone, and never another', async () => {
    const whole = await look(good);
    expect(Object.keys(whole)).toHaveLength(4);
    const bytes = good.slice();
    const random = randomFrom(31);
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    const places = [
      [512, 512],
      [4096, 80],
      [4608, TEXT.length + 1],
    ] as const;
    let gone = 0;
    for (let round = 0; performance.now() < end; round++) {
      const [from, length] = places[round % 3]!;
      const at = from + random(length);
      bytes[at]! ^= 1 << random(8);
      const seen = await look(bytes);
      bytes[at] = good[at]!;
      if (Object.keys(seen).length === 0) gone++;
      else expect(seen, `byte ${at}`).toEqual(whole);
    }
    expect(gone).toBeGreaterThan(0);
  });

  it('with damage under good checksums leads to nothing out of the unit', async () => {
    const random = randomFrom(37);
    const words = [
      '0',
      '1',
      '-1',
      '9007199254740993',
      '1e9',
      '"pv0"',
      '"low"',
      '"top"',
      '[',
      '}',
      '{',
      '=',
      '"',
      ',',
      '8',
    ];
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    let read = 0;
    while (performance.now() < end) {
      let text = TEXT;
      for (let i = 0; i < 1 + random(3); i++) {
        const at = random(text.length);
        const numbers = [...text.matchAll(/\b\d+\b|"\w+"/g)];
        const hit = numbers[random(numbers.length)]!;
        text = random(3)
          ? text.slice(0, hit.index) + words[random(words.length)] + text.slice(hit.index + hit[0].length)
          : text.slice(0, at) + words[random(words.length)] + text.slice(at + random(3));
      }
      if (Object.keys(await look(simpleVolume(uuidOf(0), text, 1 << 21))).length > 0) read++;
    }
    expect(read).toBeGreaterThan(0);
  });

  it('with a label or an area header of any other values leads to nothing but our errors', async () => {
    const random = randomFrom(53);
    const bytes = good.slice();
    const end = performance.now() + (fuzzSeconds * 1000) / 4;
    while (performance.now() < end) {
      bytes.set(good.subarray(0, 8192));
      const label = random(2) === 0;
      const from = label ? 512 : 4096;
      const at =
        from + (label ? [8, 20, 24, 104, 112, 120][random(6)]! : [20, 24, 32, 40, 48, 56][random(6)]!);
      const values = [0n, 1n, 511n, 512n, 4096n, BigInt(random(1 << 21)), 2n ** 53n, 2n ** 64n - 1n];
      new DataView(bytes.buffer).setBigUint64(at, values[random(values.length)]!, true);
      if (label) sealLabel(bytes);
      else sealArea(bytes, 4096);
      await look(bytes);
    }
  });

  it('that is cut anywhere is gone, or an error says why', async () => {
    const whole = await look(good);
    for (let size = 0; size < good.length; size += size < 8192 ? 512 : 65536) {
      const seen = await look(good.slice(0, size));
      for (const [name, runs] of Object.entries(seen)) {
        if (typeof runs !== 'string') expect(runs).toEqual(whole[name]);
      }
    }
  });
});

describe('a volume group', () => {
  const seen = async (volumes: Record<string, string[]>, more = {}) =>
    look(simpleVolume(uuidOf(0), groupText({ physical, volumes, ...more })));

  it.each([
    ['an extent past the physical volume', striped(0, 1, [['pv0', 200]])],
    ['a run that reaches past it', striped(0, 2, [['pv0', 199]])],
    ['a physical volume that is not there', striped(0, 1, [['pv9', 0]])],
    ['more stripes than areas', striped(0, 2, [['pv0', 0]]).replace('stripe_count = 1', 'stripe_count = 2')],
    [
      'extents that stripes do not divide',
      striped(0, 3, [
        ['pv0', 0],
        ['pv0', 50],
      ]),
    ],
    [
      'a stripe of no size',
      striped(
        0,
        2,
        [
          ['pv0', 0],
          ['pv0', 50],
        ],
        0,
      ),
    ],
    [
      'a stripe of one sector',
      striped(
        0,
        2,
        [
          ['pv0', 0],
          ['pv0', 50],
        ],
        1,
      ),
    ],
    [
      'a stripe larger than its run',
      striped(
        0,
        2,
        [
          ['pv0', 0],
          ['pv0', 50],
        ],
        16,
      ),
    ],
    ['more than the units hold', striped(0, 2 ** 40, [['pv0', 0]])],
  ])('with %s makes that volume an error', async (_, segment) => {
    expect(await seen({ v: [segment], good: [striped(0, 1, [['pv0', 0]])] })).toMatchObject({
      'vg/v': 'malformed',
      'vg/good': [{ length: 4096 }],
    });
  });

  it('with a run past the volume that it lies on, or of one extent many times, makes that volume an error', async () => {
    const low = { '.low': [striped(0, 5, [['pv0', 0]])] };
    expect(await seen({ v: [striped(0, 3, [['low', 3]])], ...low })).toEqual({ 'vg/v': 'malformed' });
    const often = (count: number) => Array.from({ length: count }, (_, i) => striped(i, 1, [['pv0', 7]]));
    // The unit has 512 extents, the physical volume's own 200 among them.
    expect(await seen({ v: often(512) })).toMatchObject({ 'vg/v': expect.any(Array) });
    expect(await seen({ v: often(513) })).toEqual({ 'vg/v': 'malformed' });
  });

  it.each([
    ['segments with a gap', { v: [striped(0, 1, [['pv0', 0]]), striped(2, 1, [['pv0', 5]])] }, {}],
    ['segments that overlap', { v: [striped(0, 2, [['pv0', 0]]), striped(1, 2, [['pv0', 5]])] }, {}],
    ['a name with a slash', { '"a/b"': [striped(0, 1, [['pv0', 0]])] }, {}],
    ['a name that drives a terminal', { '"a\x1b[2J"': [striped(0, 1, [['pv0', 0]])] }, {}],
    ['extents of no size', {}, { extentSize: 0 }],
    ['extents past counting', {}, { extentSize: 2 ** 50 }],
  ])('with %s is left aside with a warning', async (_, volumes, more) => {
    const text = groupText({ physical, volumes: volumes as Record<string, string[]>, ...more });
    const found = await readVolumeGroups([new BytesUnit(simpleVolume(uuidOf(0), text))]);
    expect(found.volumes).toEqual([]);
    expect(found.warnings).toEqual([
      expect.stringMatching(/^<bytes>: LVM2 [\x20-\x7e]*copy of the metadata is ignored$/),
    ]);
  });
});
