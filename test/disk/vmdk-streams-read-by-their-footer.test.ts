import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { describeWith, qemuImg, qemuIo, temporaryFolder } from './images.ts';
import { contentsOf, randomFrom, same } from './vhd-loading.ts';
import { buildHosted, type Grain, type HostedSpec, naiveHosted, SECTOR } from './vmdk-builder.ts';
import { contentsOrNull, loadChain, loadFrom, refusal, writeFiles } from './vmdk-loading.ts';

const grainSectors = 16;
const grainBytes = grainSectors * SECTOR;

/** Some grains do not compress at all, most do; the last one is cut by the disk's end. */
function stream(
  seed: number,
  more: Partial<HostedSpec> = {},
): HostedSpec & { readonly contents: Uint8Array } {
  const random = randomFrom(seed);
  const count = 40;
  const capacity = count * grainSectors - 5;
  const contents = new Uint8Array(count * grainBytes);
  const grains = Array.from({ length: count }, (_, i): Grain => {
    const kind = i === count - 1 ? 2 : random(4);
    if (kind === 0) return null;
    const grain = contents.subarray(i * grainBytes, (i + 1) * grainBytes);
    if (kind === 1) grain.set(grain.map(() => random(256)));
    else grain.fill(1 + random(255), random(100));
    return grain;
  });
  const order = grains.map((_, i) => i).reverse();
  return {
    capacity,
    grainSectors,
    entriesPerTable: 16,
    grains,
    order,
    atEnd: true,
    descriptor: { createType: 'streamOptimized' },
    contents: contents.slice(0, capacity * SECTOR),
    ...more,
  };
}

describe('a stream-optimized VMDK with its directory at the end', () => {
  it.each([false, true])('reads as it was written, from a unit that waits: %s', async (wait) => {
    for (const seed of [1, 2, 3]) {
      const spec = stream(seed);
      const image = await loadFrom({ disk: buildHosted(spec) }, 'disk', wait);
      expect(image.warnings).toEqual([]);
      expect(same(await contentsOf(image), spec.contents)).toBe(true);
      expect(same(naiveHosted(buildHosted(spec), spec.contents.length)!, spec.contents)).toBe(true);
    }
  });

  it('every grain is one extent, behind its marker', async () => {
    const spec = stream(4);
    const image = buildHosted(spec);
    const view = new DataView(image.buffer);
    const { map } = await loadFrom({ disk: image }, 'disk');
    let packed = 0;
    for (const { offset, length, place, stored, cluster, skip } of map.extents()) {
      if (place < 0) continue;
      packed++;
      expect([length, cluster, skip]).toEqual([Math.min(grainBytes, map.size - offset), grainBytes, 0]);
      expect(Number(view.getBigUint64(place - 12, true)) * SECTOR).toBe(offset);
      expect(view.getUint32(place - 4, true)).toBe(stored);
    }
    expect(packed).toBe(spec.grains.filter((grain) => grain !== null).length);
  });

  it('reads wherever a read begins and ends', async () => {
    const spec = stream(5);
    const image = await loadFrom({ disk: buildHosted(spec) }, 'disk');
    const { DiskReader } = await import('../../src/disk/reader.ts');
    const reader = new DiskReader({ name: 'test', map: image.map, units: image.units });
    const random = randomFrom(9);
    for (let i = 0; i < 500; i++) {
      const offset = random(spec.contents.length);
      const part = new Uint8Array(random(Math.min(3 * grainBytes, spec.contents.length - offset)));
      await reader.readInto(offset, part);
      expect(same(part, spec.contents.subarray(offset, offset + part.length))).toBe(true);
    }
  });

  it('cut short, or with something behind it: refused', async () => {
    const image = buildHosted(stream(6));
    const longer = new Uint8Array(image.length + SECTOR);
    longer.set(image);
    for (const damaged of [image.slice(0, -1), image.slice(0, -SECTOR), image.slice(0, 4 * SECTOR), longer]) {
      const error = await refusal({ disk: damaged }, 'disk');
      expect(error.kind).toBe('malformed');
      expect(error.message).toMatch(/cut short, or something follows/);
    }
  });

  it.each<[string, number, (view: DataView, at: number) => void, RegExp]>([
    ['marker', 1536, (view, at) => view.setUint32(at + 12, 2, true), /the marker of the footer/],
    ['marker with a size', 1536, (view, at) => view.setUint32(at + 8, 2, true), /the marker of the footer/],
    ['end of stream', 512, (view, at) => view.setUint32(at + 12, 1, true), /end-of-stream marker/],
    ['magic', 1024, (view, at) => view.setUint32(at, 1, true), /expected 'KDMV'/],
    ['version', 1024, (view, at) => view.setUint32(at + 4, 4, true), /version 1, 2 or 3, got 4/],
    ['capacity', 1024, (view, at) => view.setUint32(at + 12, 640, true), /capacity of 640, the header 635/],
    ['grain size', 1024, (view, at) => view.setUint32(at + 20, 32, true), /grain size of 32, the header 16/],
    [
      'directory',
      1024,
      (view, at) => view.setBigInt64(at + 56, -1n, true),
      /grain directory within the file/,
    ],
    [
      'no directory',
      1024,
      (view, at) => view.setBigInt64(at + 56, 0n, true),
      /grain directory within the file/,
    ],
  ])('a footer with another %s: refused', async (_, fromEnd, patch, reason) => {
    const image = buildHosted(stream(7));
    patch(new DataView(image.buffer), image.length - fromEnd);
    const error = await refusal({ disk: image }, 'disk');
    expect(error.message).toMatch(reason);
    expect(error.offset).toBeGreaterThanOrEqual(image.length - fromEnd);
  });
});

describe('a stream-optimized VMDK without a footer', () => {
  const spec = stream(10, { atEnd: false, packed: true, order: Array.from({ length: 40 }, (_, i) => i) });
  const image = buildHosted(spec);
  // Its last grain is one byte repeated: the packed one takes a sector of the sixteen that it has room in.
  const room = image.length - SECTOR + grainBytes;
  const ofLength = (length: number) => {
    const bytes = new Uint8Array(length);
    bytes.set(image.subarray(0, length));
    return { disk: bytes };
  };

  it.each([
    ['its last grain', image.length],
    ['an end-of-stream marker', image.length + SECTOR],
    ['the whole room of its last grain', room],
    ['more than that', room + 3 * SECTOR],
  ])('that ends with %s: read', async (_, length) => {
    const contents = await contentsOf(await loadFrom(ofLength(length), 'disk'));
    expect(same(contents, spec.contents)).toBe(true);
  });

  it('that ends anywhere else: refused as cut short', async () => {
    let refused = 0;
    for (let length = image.length + 1; length < room; length += SECTOR - 1) {
      if (length === image.length + SECTOR) continue;
      const error = await refusal(ofLength(length), 'disk');
      expect([error.kind, error.offset]).toEqual(['malformed', length]);
      expect(error.message).toMatch(/expected the end of the file at .* end-of-stream marker.*cut short/);
      refused++;
    }
    expect(refused).toBeGreaterThan(10);
  });
});

describe('a compressed grain', () => {
  const spec = stream(8, { atEnd: false, packed: true, redundant: true });
  const good = buildHosted(spec);

  async function firstPacked(): Promise<{ place: number; offset: number; stored: number }> {
    const { map } = await loadFrom({ disk: good }, 'disk');
    for (const { place, offset, stored } of map.extents())
      if (place > 0) return { place, offset, stored: stored! };
    throw new Error('no grain');
  }

  it.each<[string, number, number, RegExp]>([
    ['of another sector', -12, 16, /expected the marker of the grain at sector/],
    ['of none', -12, 2 ** 31, /expected the marker of the grain at sector/],
    ['without a size', -4, 0, /1 to 16384 stored bytes.*got 0/],
    ['of a size past two grains', -4, 16_385, /stored bytes/],
    ['of the largest size', -4, 0xffffffff, /stored bytes/],
  ])('behind a marker %s: refused at open', async (_, at, value, reason) => {
    const { place } = await firstPacked();
    const image = good.slice();
    const view = new DataView(image.buffer);
    const old = view.getUint32(place + at, true);
    view.setUint32(place + at, at === -12 ? old + value : value, true);
    const error = await refusal({ disk: image }, 'disk');
    expect([error.kind, error.offset! <= place]).toEqual(['malformed', true]);
    expect(error.message).toMatch(reason);
  });

  it('that does not unpack, or not to a whole grain: an error when it is read', async () => {
    const { place, offset, stored } = await firstPacked();
    for (const at of [place, place + (stored >> 1), place + stored - 1]) {
      const image = good.slice();
      image[at]! ^= 0xff;
      const loaded = await loadFrom({ disk: image }, 'disk');
      await expect(contentsOf(loaded)).rejects.toMatchObject({
        kind: 'malformed',
        offset: place,
        message: expect.stringMatching(/compressed cluster \(zlib\) is damaged/),
      });
    }
    const short = buildHosted({
      ...spec,
      grains: spec.grains.map((grain) => (grain instanceof Uint8Array ? grain.slice(0, 700) : null)),
    });
    const loaded = await loadFrom({ disk: short }, 'disk');
    await expect(contentsOf(loaded)).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/expected at least \d+ bytes unpacked, got 700/),
    });
    // What is there is read, whatever the cluster was unpacked for first.
    const { DiskReader } = await import('../../src/disk/reader.ts');
    const reader = new DiskReader({ name: 'test', map: loaded.map, units: loaded.units });
    const part = new Uint8Array(700);
    await reader.readInto(offset, part);
    expect(same(part, spec.contents.subarray(offset, offset + 700))).toBe(true);
    expect(() => reader.readInto(offset + 600, part)).toThrow(/got 700/);
    const longer = buildHosted({
      ...spec,
      grains: spec.grains.map((grain) => (grain ? new Uint8Array(9000) : null)),
    });
    await expect(contentsOf(await loadFrom({ disk: longer }, 'disk'))).rejects.toMatchObject({
      kind: 'malformed',
    });
  });

  it('that two entries lead to: refused', async () => {
    const image = good.slice();
    const view = new DataView(image.buffer);
    const directory = Number(view.getBigUint64(56, true)) * SECTOR;
    const table = view.getUint32(directory, true) * SECTOR;
    const entries = Array.from({ length: 16 }, (_, i) => view.getUint32(table + 4 * i, true));
    const [first, second] = entries.flatMap((entry, i) => (entry > 0 ? [i] : []));
    view.setUint32(table + 4 * second!, entries[first!]!, true);
    expect((await refusal({ disk: image }, 'disk')).message).toMatch(/marker of the grain/);
  });
});

describeWith('qemu', 'streams that QEMU wrote', () => {
  const folder = temporaryFolder();
  const path = join(folder, 'stream.vmdk');

  /** Some contents, and whether the packed last grain leaves any whole sector of its room. */
  const cases: [string, number, (bytes: Uint8Array) => void, boolean][] = [512, 65_536, 197_120].flatMap(
    (size): [string, number, (bytes: Uint8Array) => void, boolean][] => [
      ['nothing', size, () => {}, false],
      ['bytes that do not pack', size, (bytes) => randomize(bytes), size % 65_536 !== 0],
      ['one byte at the end', size, (bytes) => void bytes.fill(1, size - 1), true],
    ],
  );
  function randomize(bytes: Uint8Array): void {
    const random = randomFrom(bytes.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = random(256);
  }

  it.each(cases)(
    'with %s, %i bytes: read whole, refused when its end is cut',
    async (_, size, fill, roomy) => {
      const bytes = new Uint8Array(size);
      fill(bytes);
      writeFiles(folder, { 'plain.raw': bytes });
      const options = ['-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized'];
      qemuImg('convert', ...options, join(folder, 'plain.raw'), path);
      const image = new Uint8Array(readFileSync(path));
      expect(same((await contentsOrNull({ disk: image }, 'disk'))!, bytes)).toBe(true);
      for (const less of [1, SECTOR, 2 * SECTOR, 1000]) {
        const cut = image.slice(0, -less);
        const contents = await contentsOrNull({ disk: cut }, 'disk');
        // Where there is no room left over, QEMU pads the last sector only, and who cuts that cuts no data.
        if (roomy || contents === null) expect(contents).toBeNull();
        else expect([same(contents, bytes), less < SECTOR]).toEqual([true, true]);
      }
    },
  );

  it('and never closed: read', async () => {
    qemuImg('create', '-f', 'vmdk', '-o', 'subformat=streamOptimized', path, '1M');
    const empty = new Uint8Array(readFileSync(path));
    expect(same((await contentsOrNull({ disk: empty }, 'disk'))!, new Uint8Array(2 ** 20))).toBe(true);
    qemuIo(path, ['write -c -P 7 0 64k', 'write -c -P 9 128k 64k'], ['-f', 'vmdk']);
    const wanted = new Uint8Array(2 ** 20).fill(7, 0, 65_536).fill(9, 131_072, 196_608);
    const image = new Uint8Array(readFileSync(path));
    expect(same((await contentsOrNull({ disk: image }, 'disk'))!, wanted)).toBe(true);
  });
});

describeWith('qemu', 'streams that were built by hand', () => {
  const folder = temporaryFolder();

  it('read as QEMU reads them', async () => {
    for (const seed of [11, 12]) {
      const spec = stream(seed, { redundant: seed === 12 });
      writeFiles(folder, { 'disk.vmdk': buildHosted(spec) });
      qemuImg('convert', '-f', 'vmdk', '-O', 'raw', join(folder, 'disk.vmdk'), join(folder, 'oracle.raw'));
      expect(same(new Uint8Array(readFileSync(join(folder, 'oracle.raw'))), spec.contents)).toBe(true);
      const loaded = await loadChain(join(folder, 'disk.vmdk'));
      expect(same(await contentsOf(loaded), spec.contents)).toBe(true);
      for (const unit of loaded.units) await unit.close();
    }
    expect(
      await contentsOrNull({ disk: new Uint8Array(readFileSync(join(folder, 'disk.vmdk'))) }, 'disk'),
    ).not.toBeNull();
  });
});
