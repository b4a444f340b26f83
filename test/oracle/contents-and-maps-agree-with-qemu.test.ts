/** Images made by QEMU, read by both: contents as `qemu-img convert` gives them, runs as `qemu-img map` prints them. */

import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { canUnpackZstd } from '../../src/disk/unpack.ts';
import {
  describeWith,
  qemuImg,
  qemuIo,
  qemuRuns,
  readAll,
  runsOf,
  sha256,
  temporaryFolder,
} from '../disk/images.ts';

/** Writes of every kind, on and off cluster boundaries; the last reach the end of an 8 MiB disk. */
const busy = [
  'write -P 1 0 1M',
  'write -P 2 1500000 70000',
  'write -P 3 3M 512',
  'write -P 4 5242000 3000',
  'write -z 256k 128k',
  'write -z -u 3M 64k',
  'write -z -u 6M 512k',
  'discard 512k 192k',
  'write -P 5 8388096 512',
];

describeWith('qemu', 'agreeing with QEMU', () => {
  const folder = temporaryFolder();
  let count = 0;
  const fresh = (extension = 'qcow2') => join(folder, `image-${count++}.${extension}`);

  function create(options: string, size: string, more: readonly string[] = []): string {
    const image = fresh();
    qemuImg('create', '-q', '-f', 'qcow2', ...(options ? ['-o', options] : []), ...more, image, size);
    return image;
  }

  async function expectAgreement(image: string, format = 'qcow2'): Promise<void> {
    const raw = fresh('raw');
    qemuImg('convert', '-f', format, '-O', 'raw', image, raw);
    const disk = await openDisk(image, { format });
    try {
      expect(await runsOf(disk)).toEqual(qemuRuns(image, format));
      expect(sha256(await readAll(disk, 300_007))).toBe(sha256(readFileSync(raw)));
    } finally {
      await disk.close();
      truncateSync(raw, 0);
    }
  }

  it.each([
    ['cluster_size=512', '8M'],
    ['cluster_size=1k', '8M'],
    ['cluster_size=4k', '8M'],
    ['cluster_size=64k', '8M'],
    ['cluster_size=2M', '8M'],
    ['compat=0.10', '8M'],
    ['compat=0.10,cluster_size=2M', '8M'],
    ['lazy_refcounts=on', '8M'],
    ['refcount_bits=1', '8M'],
    ['refcount_bits=64', '8M'],
    ['extended_l2=on', '8M'],
    ['extended_l2=on,cluster_size=16k', '8M'],
    ['extended_l2=on,cluster_size=2M', '8M'],
    ['preallocation=metadata', '8M'],
    ['preallocation=falloc', '8M'],
    ['preallocation=full', '8M'],
    ['preallocation=metadata,extended_l2=on', '8M'],
    ['preallocation=metadata,cluster_size=512', '8M'],
    ['', '8389120'],
    ['cluster_size=2M', '8390144'],
    ['', '1T'],
    ['extended_l2=on', '64T'],
  ])('%s of %s', async (options, size) => {
    const image = create(options, size);
    const large = /T$/.test(size);
    if (!large) await expectAgreement(image);
    qemuIo(image, options.includes('compat=0.10') ? busy.filter((command) => !command.includes('-z')) : busy);
    if (!large) return expectAgreement(image);
    // Too large to convert: the runs must agree, and the bytes of those that are data.
    qemuIo(image, ['write -P 9 900G 100k']);
    const disk = await openDisk(image);
    expect(await runsOf(disk)).toEqual(qemuRuns(image, 'qcow2'));
    const bytes = new Uint8Array(100 * 1024);
    await disk.read(900 * 2 ** 30, bytes);
    expect(bytes.every((byte) => byte === 9)).toBe(true);
    await disk.close();
  });

  it('internal snapshots: the active layer is what is read', async () => {
    const image = create('', '8M');
    qemuIo(image, busy);
    qemuImg('snapshot', '-c', 'one', image);
    qemuIo(image, ['write -P 77 100k 300k', 'write -z -u 2M 1M']);
    qemuImg('snapshot', '-c', 'two', image);
    qemuIo(image, ['write -P 78 200k 3M']);
    await expectAgreement(image);
  });

  it('resized up and down', async () => {
    const image = create('', '4M');
    qemuIo(image, ['write -P 1 0 4M']);
    qemuImg('resize', '-q', image, '9M');
    qemuIo(image, ['write -P 2 8M 1M']);
    await expectAgreement(image);
    qemuImg('resize', '-q', '--shrink', image, '2500096');
    await expectAgreement(image);
  });

  it.each(['zlib', 'zstd'])('clusters compressed with %s', async (type) => {
    const plain = create('', '8M');
    qemuIo(plain, busy);
    // Incompressible pieces among the rest: they stay plain clusters.
    const noise = fresh('raw');
    writeFileSync(
      noise,
      Uint8Array.from({ length: 300_032 }, (_, i) => Math.imul(i + 1, 2654435761) >>> 13),
    );
    qemuIo(plain, [`write -s ${noise} 4M 300032`]);
    for (const options of [
      `compression_type=${type}`,
      `compression_type=${type},cluster_size=4k`,
      `compression_type=${type},cluster_size=2M`,
    ]) {
      const image = fresh();
      qemuImg('convert', '-c', '-f', 'qcow2', '-O', 'qcow2', '-o', options, plain, image);
      // A compressed image that was written to afterwards: both kinds of cluster side by side.
      qemuIo(image, ['write -P 6 70000 5000', 'write -z 1500000 4096', 'write -P 7 7M 64k']);
      if (type === 'zlib' || canUnpackZstd()) {
        await expectAgreement(image);
      } else {
        const disk = await openDisk(image);
        expect(await runsOf(disk)).toEqual(qemuRuns(image, 'qcow2'));
        await expect(readAll(disk)).rejects.toMatchObject({ kind: 'unsupported' });
        await disk.close();
      }
    }
  });

  it('backing chains: shorter, longer, raw at the bottom, zeros that hide', async () => {
    const bottom = fresh('raw');
    writeFileSync(
      bottom,
      Uint8Array.from({ length: 3_000_320 }, (_, i) => (i >>> 9) & 255),
    );
    truncateSync(bottom, 5_000_192);
    const middle = create('cluster_size=4k', '12M', ['-b', bottom, '-F', 'raw']);
    qemuIo(middle, ['write -P 1 4090k 30k', 'write -z 1M 100k', 'write -P 2 11M 1M']);
    await expectAgreement(middle);
    const short = create('', '3M', ['-b', middle, '-F', 'qcow2']);
    qemuIo(short, ['write -P 3 100k 10k', 'write -z -u 2M 128k']);
    await expectAgreement(short);
    const top = create('extended_l2=on', '16M', ['-b', short, '-F', 'qcow2']);
    qemuIo(top, [
      'write -P 4 110k 2k',
      'write -z 120k 2k',
      'write -P 5 15M 100k',
      'write -z 10M 10k',
      'write -z -u 2200k 64k',
    ]);
    await expectAgreement(top);
    const same = create('cluster_size=512', '16M', ['-b', top, '-F', 'qcow2']);
    qemuIo(same, ['write -P 6 112k 1k', 'discard 15M 64k']);
    await expectAgreement(same);
    const disk = await openDisk(same);
    expect(disk.units).toHaveLength(5);
    expect(disk.warnings).toEqual([]);
    await disk.close();
  });

  it('a backing file whose format is not written is guessed, and told', async () => {
    const bottom = create('', '4M');
    qemuIo(bottom, ['write -P 1 1M 1M']);
    const image = create('', '4M', ['-b', bottom, '-F', 'qcow2']);
    // The extension's type becomes one that nobody knows, which is skipped.
    const bytes = readFileSync(image);
    bytes.writeUInt32BE(0x12345678, bytes.indexOf(Buffer.from('e2792aca', 'hex')));
    writeFileSync(image, bytes);
    const disk = await openDisk(image);
    expect(disk.warnings.join()).toMatch(/does not say the format of its backing file/);
    expect((await readAll(disk)).subarray(2 ** 20, 2 ** 21).every((byte) => byte === 1)).toBe(true);
    await disk.close();
  });

  it('raw files with holes', async () => {
    const image = fresh('raw');
    qemuImg('create', '-q', '-f', 'raw', image, '64M');
    qemuIo(image, ['write -P 1 0 4k', 'write -P 2 10M 1M', 'write -P 3 67108352 512'], ['-f', 'raw']);
    await expectAgreement(image, 'raw');
    qemuIo(image, ['discard 10M 512k'], ['-f', 'raw']);
    await expectAgreement(image, 'raw');
  });

  it('external data files, raw and not', async () => {
    for (const raw of ['on', 'off']) {
      const data = fresh('data');
      const image = create(`data_file=${data},data_file_raw=${raw}`, '8M');
      qemuIo(image, busy);
      await expectAgreement(image);
      const disk = await openDisk(image);
      expect(disk.units[0]!.name).toBe(data);
      if (raw === 'on') expect(sha256(await readAll(disk))).toBe(sha256(readFileSync(data)));
      await disk.close();
    }
  });

  it('a last cluster that the end of the file cuts reads as QEMU reads it, with a warning', async () => {
    const image = create('', '1M');
    qemuIo(image, ['write -P 7 0 1M']);
    truncateSync(image, statSync(image).size - 20_000);
    await expectAgreement(image);
    const disk = await openDisk(image);
    expect(disk.warnings.join()).toMatch(/the last 20000 bytes of the last cluster lie past the end/);
    await disk.close();
  });

  it('random writes, zeros and discards over random chains', async () => {
    const size = 2 ** 20;
    const command = fc
      .tuple(
        fc.constantFrom('write -P 1', 'write -P 2', 'write -z', 'write -z -u', 'discard'),
        fc.nat(size / 512 - 1),
        fc.integer({ min: 1, max: 300 }),
      )
      .map(
        ([verb, sector, length]) => `${verb} ${sector * 512} ${Math.min(length, size / 512 - sector) * 512}`,
      );
    const options = fc.constantFrom(
      'cluster_size=512',
      'cluster_size=16k',
      '',
      'extended_l2=on,cluster_size=16k',
      'extended_l2=on',
    );
    const layer = fc.record({ options, commands: fc.array(command, { minLength: 1, maxLength: 6 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(layer, { minLength: 1, maxLength: 3 }), async (layers) => {
        let image = '';
        for (const { options, commands } of layers) {
          image = create(options, String(size), image ? ['-b', image, '-F', 'qcow2'] : []);
          qemuIo(image, commands);
        }
        await expectAgreement(image);
      }),
      { numRuns: 25 },
    );
  });
});
