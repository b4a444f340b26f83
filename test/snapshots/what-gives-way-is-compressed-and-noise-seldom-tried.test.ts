import { randomBytes } from 'node:crypto';
import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { looksRandom, Trials } from '../../src/snapshots/trials.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { bytesOf, MemoryUnit, makeRepository, source, take } from './disks.ts';

const BLOCK = 64 * 1024;

/** How many of such blocks in a row are tried. */
function tried(blocks: Iterable<Uint8Array>): number {
  const trials = new Trials();
  let count = 0;
  for (const block of blocks) {
    const trial = trials.begin(looksRandom(block));
    if (trial === null) continue;
    count++;
    trials.end(trial, deflateRawSync(block, { level: 1 }).length < block.length * 0.95);
  }
  return count;
}

function* many(count: number, make: (i: number) => Uint8Array): Generator<Uint8Array> {
  for (let i = 0; i < count; i++) yield make(i);
}

describe('of blocks that come by', () => {
  it('every one that gives way by its bytes is tried', () => {
    const base64 = (i: number) => Buffer.from(randomBytes(BLOCK).toString('base64')).subarray(0, BLOCK - i);
    expect(tried(many(50, base64))).toBe(50);
    const halves = () => Buffer.concat([randomBytes(BLOCK / 2), Buffer.alloc(BLOCK / 2)]);
    expect(tried(many(50, halves))).toBe(50);
  });

  it('few of random ones are tried, and yet some', () => {
    const count = tried(many(1000, () => randomBytes(BLOCK)));
    expect(count).toBeGreaterThanOrEqual(3);
    expect(count).toBeLessThanOrEqual(10);
  });

  it('repeats of random bytes are found when one is tried, and then all are', () => {
    const part = randomBytes(1024);
    const repeated = () => Buffer.concat(Array.from({ length: BLOCK / 1024 }, () => part));
    expect(tried(many(100, repeated))).toBe(100);
  });

  it('short ones are tried as well', () => {
    expect(tried(many(20, () => Buffer.alloc(500, 'text')))).toBe(20);
  });
});

describe('buffers that are used again', () => {
  it.each([null, randomBytes(32)])('hold each block whole, packed or not, sealed or not', async (key) => {
    const bytes = new Uint8Array(150 * 4096 - 100);
    for (let at = 0, i = 0; at < bytes.length; at += 4096, i++) {
      const block = i % 3 === 0 ? Buffer.alloc(4096, `line ${i}\n`) : randomBytes(4096);
      bytes.set(block.subarray(0, bytes.length - at), at);
    }
    const repository = await makeRepository(memoryObjects(), { key });
    const taken = await take(repository, [source('disk', new MemoryUnit(bytes))], { connections: 3 });
    expect(taken.blocksSent).toBe(150);
    expect(taken.bytesSent).toBeLessThan(bytes.length * 0.75);
    expect(Buffer.compare(await bytesOf(repository, taken, 'disk'), bytes)).toBe(0);
  });
});
