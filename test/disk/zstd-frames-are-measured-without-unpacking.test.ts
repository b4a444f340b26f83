import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { zstdFrameLength } from '../../src/disk/unpack.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { corpus, describeWith, temporaryFolder, unpack } from './images.ts';

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
/** RFC 8878, section 3.1.1.2: last block, type, size. */
const block = (last: number, type: number, size: number) => {
  const word = last | (type << 1) | (size << 3);
  return [word & 255, (word >> 8) & 255, word >> 16];
};

describe('the length of a zstd frame', () => {
  it.each([
    ['one raw block', [...MAGIC, 0x20, 5, ...block(1, 0, 5), 1, 2, 3, 4, 5]],
    ['a repeated byte', [...MAGIC, 0x20, 200, ...block(1, 1, 200), 7]],
    ['an empty block before the last', [...MAGIC, 0x20, 3, ...block(0, 0, 0), ...block(1, 0, 3), 1, 2, 3]],
    ['a checksum', [...MAGIC, 0x24, 1, ...block(1, 0, 1), 9, 1, 2, 3, 4]],
    ['a window and no content size', [...MAGIC, 0x00, 0x58, ...block(1, 0, 1), 9]],
    ['a content size of 4 bytes', [...MAGIC, 0xa0, 1, 0, 0, 0, ...block(1, 0, 1), 9]],
    ['a dictionary id of 2 bytes', [...MAGIC, 0x22, 1, 2, 1, ...block(1, 0, 1), 9]],
  ])('%s', (_, frame) => {
    expect(zstdFrameLength(Uint8Array.from(frame))).toBe(frame.length);
    expect(zstdFrameLength(Uint8Array.from([...frame, 0, 0, 0xfd, 1]))).toBe(frame.length);
    for (let length = 0; length < frame.length; length++) {
      expect(() => zstdFrameLength(Uint8Array.from(frame.slice(0, length)))).toThrow(/zstd frame/);
    }
  });
});

describeWith('corpus', 'zstd clusters of a sample', () => {
  const folder = temporaryFolder();

  it('are frames that end within the sectors that are theirs', async () => {
    const image = join(folder, 'zstd.qcow2');
    unpack(join(corpus!, 'generated', 'qcow2', 'zstd.qcow2.gz'), image);
    const bytes = readFileSync(image);
    const disk = await openDisk(image);
    const clusters = [...disk.map.extents()].filter(({ kind }) => kind === Kind.zstd);
    expect(clusters.length).toBeGreaterThan(10);
    for (const { place, stored } of clusters) {
      const length = zstdFrameLength(bytes.subarray(place, place + stored!));
      // No more than the last sector is left over, or the entry would have named one fewer.
      expect(stored! - length).toBeLessThan(512);
    }
    await disk.close();
  });
});
