import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { BytesUnit, readAll } from './images.ts';
import { buildQcow2, dataEntry, type Qcow2Spec } from './qcow2-builder.ts';

const open = (spec: Qcow2Spec) => openDisk(new BytesUnit(buildQcow2(spec)), { format: 'qcow2' });
const text = (words: string) => new TextEncoder().encode(words);
const cluster = 65536;

/** One cluster of data, one unallocated. */
const good: Qcow2Spec = { entries: [[dataEntry(0)], [0n]], dataClusters: 1 };
const patched = (patch: (header: DataView) => void): Qcow2Spec => ({ ...good, patch });

describe('a good header', () => {
  it.each<[string, Qcow2Spec]>([
    ['version 3', good],
    ['version 2', { ...good, version: 2 }],
    ['dirty', { ...good, incompatible: 1n }],
    [
      'with unknown compatible and auto-clear features',
      patched((header) => header.setBigUint64(80, 0xffffffff0000n)),
    ],
    ['with an unknown extension', { ...good, extensions: [{ type: 0x99, data: text('whatever') }] }],
    ['of 104 bytes', patched((header) => header.setUint32(100, 104))],
    ['with snapshots', patched((header) => header.setUint32(60, 65536))],
  ])('%s', async (_, spec) => {
    const disk = await open(spec);
    const bytes = await readAll(disk);
    expect(bytes.subarray(0, cluster).every((byte) => byte === 1)).toBe(true);
    expect(bytes.subarray(cluster).every((byte) => byte === 0)).toBe(true);
    expect(disk.warnings).toEqual([]);
    expect(disk.format).toBe('qcow2');
  });

  it('marked corrupt: opened, with a warning', async () => {
    const disk = await open({ ...good, incompatible: 2n });
    expect(disk.warnings.join()).toMatch(/marked corrupt/);
  });

  it('of an empty disk', async () => {
    const disk = await open({ entries: [] });
    expect(disk.size).toBe(0);
    expect(disk.map.count).toBe(0);
    expect(disk.read(0, new Uint8Array(0))).toBeUndefined();
  });
});

describe('a bad header is refused', () => {
  it.each<[string, Qcow2Spec, string, number | undefined, RegExp]>([
    ['version 1', patched((h) => h.setUint32(4, 1)), 'unsupported', 4, /version 2 or 3, got 1/],
    ['version 4', patched((h) => h.setUint32(4, 4)), 'unsupported', 4, /version 2 or 3, got 4/],
    ['cluster bits 22', patched((h) => h.setUint32(20, 22)), 'malformed', 20, /9 to 21, got 22/],
    [
      'header length past the cluster',
      patched((h) => h.setUint32(100, 65544)),
      'malformed',
      100,
      /header_length/,
    ],
    ['header length 108', patched((h) => h.setUint32(100, 108)), 'malformed', 100, /multiple of 8/],
    ['refcount order 7', patched((h) => h.setUint32(96, 7)), 'malformed', 96, /refcount_order 0 to 6/],
    ['no refcount table', patched((h) => h.setUint32(56, 0)), 'malformed', 56, /refcount table/],
    [
      'refcount table off its boundary',
      patched((h) => h.setBigUint64(48, 513n)),
      'malformed',
      48,
      /cluster boundary/,
    ],
    [
      'snapshots off their boundary',
      patched((h) => h.setBigUint64(64, 4096n)),
      'malformed',
      64,
      /cluster boundary/,
    ],
    [
      'L1 table too short',
      patched((h) => h.setBigUint64(24, 2n ** 40n)),
      'malformed',
      36,
      /at least 2048 L1 entries/,
    ],
    [
      'L1 table off its boundary',
      patched((h) => h.setBigUint64(40, 1000n)),
      'malformed',
      40,
      /cluster boundary/,
    ],
    ['L1 table at 0', patched((h) => h.setBigUint64(40, 0n)), 'malformed', 40, /L1 table/],
    ['L1 table of 64 MiB', patched((h) => h.setUint32(36, 2 ** 23)), 'malformed', 36, /at most 4194304/],
    ['AES', patched((h) => h.setUint32(32, 1)), 'unsupported', 32, /encrypted \(AES\)/],
    ['LUKS', patched((h) => h.setUint32(32, 2)), 'unsupported', 32, /encrypted \(LUKS\)/],
    ['crypt method 3', patched((h) => h.setUint32(32, 3)), 'malformed', 32, /crypt_method/],
    [
      'compression type without its feature',
      { ...good, compressionType: 1 },
      'malformed',
      104,
      /feature bit is clear/,
    ],
    [
      'compression feature without a type',
      { ...good, incompatible: 8n },
      'malformed',
      104,
      /feature bit is set/,
    ],
    [
      'compression type 2',
      { ...good, incompatible: 8n, compressionType: 2 },
      'unsupported',
      104,
      /0 \(zlib\) or 1 \(zstd\), got 2/,
    ],
    [
      'extended L2 with small clusters',
      { clusterBits: 13, entries: [[0n]], incompatible: 16n },
      'malformed',
      20,
      /at least 14/,
    ],
    ['a data file without a name', { ...good, incompatible: 4n }, 'malformed', 72, /does not name it/],
    [
      'a data file name with a zero',
      { ...good, incompatible: 4n, extensions: [{ type: 0x44415441, data: text('a\0b') }] },
      'malformed',
      120,
      /without zero bytes/,
    ],
    [
      'an extension past its area',
      patched((h) => {
        h.setUint32(112, 5);
        h.setUint32(116, 65536);
      }),
      'malformed',
      112,
      /header extension 0x5/,
    ],
    [
      'a backing format of 16 bytes',
      { ...good, extensions: [{ type: 0xe2792aca, data: text('qcow2qcow2qcow2q') }] },
      'malformed',
      120,
      /at most 15/,
    ],
    ['a backing name of 1024 bytes', { ...good, backing: 'a'.repeat(1024) }, 'malformed', 16, /at most 1023/],
    [
      'a backing name inside the header',
      patched((h) => {
        h.setBigUint64(8, 64n);
        h.setUint32(16, 8);
      }),
      'malformed',
      8,
      /within the first cluster/,
    ],
    [
      'a backing name that is not UTF-8',
      { ...good, backing: 'x', patch: (h) => h.setUint8(120, 0xff) },
      'malformed',
      120,
      /UTF-8/,
    ],
    [
      'unknown features without names',
      { ...good, incompatible: (1n << 5n) | (1n << 63n) },
      'unsupported',
      72,
      /bit 5, bit 63/,
    ],
    [
      'unknown features with names',
      {
        ...good,
        incompatible: 1n << 40n,
        extensions: [{ type: 0x6803f857, data: text(`\0\u0028${'time travel'.padEnd(46, '\0')}`) }],
      },
      'unsupported',
      72,
      /does not know: time travel/,
    ],
    ['a size above 2^53', patched((h) => h.setBigUint64(24, 2n ** 60n)), 'limit', 24, /2\^53/],
  ])('%s', async (_, spec, kind, offset, reason) => {
    await expect(open(spec)).rejects.toMatchObject({
      kind,
      offset,
      path: '<bytes>',
      message: expect.stringMatching(reason),
    });
  });

  it('asked for in something else', async () => {
    const unit = new BytesUnit(new Uint8Array(100).fill(65));
    await expect(openDisk(unit, { format: 'qcow2' })).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/not a qcow2 image: expected magic 514649fb .* got 41414141/),
    });
  });

  it('cut at every length', async () => {
    const image = buildQcow2(good);
    for (let length = 0; length < 160; length++) {
      const unit = new BytesUnit(image.subarray(0, length));
      await expect(openDisk(unit, { format: 'qcow2' })).rejects.toMatchObject({ kind: 'malformed' });
    }
  });
});

describe('bad tables are refused', () => {
  it.each<[string, Qcow2Spec, RegExp]>([
    ['a zero cluster in version 2', { version: 2, entries: [[1n]] }, /zero cluster in a version 2/],
    ['a cluster off its boundary', { entries: [[dataEntry(0) + 512n]], dataClusters: 2 }, /cluster boundary/],
    [
      'a zero cluster off its boundary',
      { entries: [[dataEntry(0) + 513n]], dataClusters: 2 },
      /cluster boundary/,
    ],
    ['a cluster past the end', { entries: [[dataEntry(1)]], dataClusters: 1 }, /lies past the end/],
    [
      'a subcluster allocated nowhere',
      { incompatible: 16n, entries: [[0n, 1n]] },
      /in a cluster that is not/,
    ],
    [
      'a subcluster allocated and zero',
      { incompatible: 16n, entries: [[dataEntry(0), (1n << 32n) | 1n]], dataClusters: 1 },
      /both allocated and zero/,
    ],
  ])('%s', async (_, spec, reason) => {
    await expect(open(spec)).rejects.toMatchObject({
      kind: 'malformed',
      path: '<bytes>',
      offset: 3 * cluster,
      message: expect.stringMatching(reason),
    });
  });

  it('one L2 table in two L1 entries', async () => {
    const image = buildQcow2({
      entries: [[dataEntry(0)]],
      dataClusters: 1,
      patch: (header) => {
        header.setBigUint64(24, 3n * 8192n * 65536n);
        header.setUint32(36, 3);
        header.setBigUint64(2 * cluster + 16, (1n << 63n) | BigInt(3 * cluster));
      },
    });
    await expect(openDisk(new BytesUnit(image), { format: 'qcow2' })).rejects.toMatchObject({
      kind: 'malformed',
      offset: 3 * cluster,
      message: expect.stringMatching(/two L1 entries lead to one L2 table/),
    });
  });
});
