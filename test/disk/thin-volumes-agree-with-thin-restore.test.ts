import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { crc32c } from '../../src/codec/checksum.ts';
import { blockChecksum } from '../../src/disk/containers/thin-checksum.ts';
import { readThinMap, type ThinMapRequest } from '../../src/disk/containers/thin-map.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import { randomFrom } from './lvm-builder.ts';
import { slowCrc32c } from './thin-builder.ts';

const BLOCK = 65536;
const request = (more: Partial<ThinMapRequest>): ThinMapRequest => ({
  device: 1,
  size: 1024 * BLOCK,
  blockSize: BLOCK,
  transaction: 1,
  pending: false,
  dataSize: 640 * BLOCK,
  originSize: 0,
  ...more,
});

/** Volume block → data block, out of the XML of thin_dump. */
function mappingsOf(xml: string): Map<number, Map<number, number>> {
  const devices = new Map<number, Map<number, number>>();
  for (const [, device, body = ''] of xml.matchAll(/<device dev_id="(\d+)"[^>]*>(.*?)<\/device>/gs)) {
    const found = new Map<number, number>();
    const run =
      /<(?:range|single)_mapping origin_(?:begin|block)="(\d+)" data_(?:begin|block)="(\d+)"(?: length="(\d+)")?/g;
    for (const [, at, data, length = '1'] of body.matchAll(run)) {
      for (let i = 0; i < Number(length); i++) found.set(Number(at) + i, Number(data) + i);
    }
    devices.set(Number(device), found);
  }
  return devices;
}

async function blocksOf(bytes: Uint8Array, options: Partial<ThinMapRequest>): Promise<Map<number, number>> {
  const map = await readThinMap(new BytesUnit(bytes), request(options));
  expect(map.size).toBe(options.size ?? 1024 * BLOCK);
  const found = new Map<number, number>();
  for (const { offset, length, place } of map.extents()) {
    if (place < 0) continue;
    for (let at = 0; at < length; at += BLOCK) found.set((offset + at) / BLOCK, (place + at) / BLOCK);
  }
  return found;
}

describe('the checksum', () => {
  it('is the one of RFC 3720, appendix B.4', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
    const random = randomFrom(2);
    for (let length = 0; length < 40; length++) {
      const bytes = Uint8Array.from({ length }, () => random(256));
      expect(blockChecksum(Uint8Array.of(9, 9, 9, 9, ...bytes), 160774)).toBe(
        (slowCrc32c(bytes) ^ 160774) >>> 0,
      );
      const half = Math.floor(length / 2);
      expect(crc32c(bytes.subarray(half), crc32c(bytes.subarray(0, half)))).toBe(crc32c(bytes));
    }
  });
});

describeWith(['corpus'], 'the metadata of the sample pool', () => {
  it('says what thin.xml says', async () => {
    const bytes = gunzip(join(corpus!, 'generated/lu/tmeta.bin.gz'));
    const xml = readFileSync(join(corpus!, 'generated/lu/thin.xml'), 'utf8');
    expect(await blocksOf(bytes, {})).toEqual(mappingsOf(xml).get(1));
  });
});

describeWith(['thin_restore', 'thin_dump'], 'metadata written by thin_restore', () => {
  const folder = temporary();

  function restore(name: string, xml: string): { bytes: Uint8Array; dumped: string } {
    const from = join(folder, `${name}.xml`);
    const to = join(folder, `${name}.bin`);
    writeFileSync(from, xml);
    const fd = openSync(to, 'w');
    ftruncateSync(fd, 16 << 20);
    closeSync(fd);
    execFileSync('thin_restore', ['-q', '-i', from, '-o', to]);
    const dumped = execFileSync('thin_dump', [to], { encoding: 'utf8', maxBuffer: 2 ** 28 });
    return { bytes: readFileSync(to), dumped };
  }

  it('gives every device the blocks that thin_dump gives it, through trees of one to three levels', async () => {
    const random = randomFrom(9);
    const dataBlocks = 400_000;
    for (const [round, sizes] of [
      [1, 0, 300],
      [40_000, 7, 252, 253],
      [120_000, 3000],
    ].entries()) {
      let free = 0;
      const devices = sizes.map((count, i) => {
        const runs: string[] = [];
        for (let at = random(50), left = count; left > 0; at += random(9)) {
          const length = Math.min(left, 1 + random(3));
          const mapping =
            length > 1
              ? `<range_mapping origin_begin="${at}" data_begin="${free}" length="${length}" time="0"/>`
              : `<single_mapping origin_block="${at}" data_block="${free}" time="0"/>`;
          runs.push(mapping);
          at += length;
          free += length + random(2);
          left -= length;
        }
        const id = 1 + i * 7;
        return `<device dev_id="${id}" mapped_blocks="${count}" transaction="0" creation_time="0" snap_time="0">\n${runs.join('\n')}\n</device>`;
      });
      const head = `<superblock uuid="" time="3" transaction="9" flags="0" version="2" data_block_size="128" nr_data_blocks="${dataBlocks}">`;
      const { bytes, dumped } = restore(`r${round}`, `${head}\n${devices.join('\n')}\n</superblock>\n`);
      const expected = mappingsOf(dumped);
      expect(expected.size).toBe(sizes.length);
      for (const [device, blocks] of expected) {
        const size = (1 + Math.max(0, ...[...blocks.keys()].slice(-1))) * BLOCK;
        const found = await blocksOf(bytes, { device, size, transaction: 9, dataSize: dataBlocks * BLOCK });
        expect(found.size).toBe(sizes[(device - 1) / 7]);
        expect(found, `device ${device}`).toEqual(blocks);
      }
      await expect(
        blocksOf(bytes, { device: 5, transaction: 9, dataSize: dataBlocks * BLOCK }),
      ).rejects.toMatchObject({ kind: 'not-found' });
    }
  });
});
