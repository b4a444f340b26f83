import { describe, expect, it } from 'vitest';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { bitmapOf, headerOf } from './bitmaps.ts';

const size = 1_000_000;
const mismatch = (message: RegExp) =>
  expect.objectContaining({ kind: 'mismatch', message: expect.stringMatching(message) });

describe('a bitmap', () => {
  const bitmap = bitmapOf(headerOf(size), [1], [1]);
  const { production, replica } = bitmap.header;

  it.each([
    ['block size', headerOf(size, 1024), /expected blocks of 512, got 1K/],
    [
      'production disk',
      headerOf(size, 512, { production: { ...production, identity: 'file:9' } }),
      /production disk file:1:2, got one about file:9/,
    ],
    [
      'replica disk',
      headerOf(size, 512, { replica: { ...replica, identity: 'file:9' } }),
      /replica disk file:1:3, got one about file:9/,
    ],
    ['production size', headerOf(size + 1), /production disk had 1000001 bytes and has 1000000/],
    [
      'replica size',
      headerOf(size, 512, { replica: { ...replica, size: 7 } }),
      /replica disk had 7 bytes and has 500000/,
    ],
  ])('of another %s is refused by whatever combines', (_, header, message) => {
    const other = new SyncBitmap(header);
    expect(() => bitmap.or(other)).toThrow(mismatch(message));
    expect(() => bitmap.and(other)).toThrow(mismatch(message));
    expect(() => bitmap.andNot(other)).toThrow(mismatch(message));
    expect(() => bitmap.adopt(other)).toThrow(mismatch(message));
    expect(() => bitmap.checkSameDisks(other, '--within')).toThrow(mismatch(/^--within: /));
    expect(bitmap.equals(other)).toBe(false);
    expect([...bitmap.runs()]).toEqual([{ start: 1, end: 2 }]);
  });

  it('of another generation may be combined but not gone on from', () => {
    const other = bitmapOf(headerOf(size, 512, { replica: { ...replica, generation: 'later' } }), [2], []);
    expect(bitmap.or(other).count).toBe(2);
    expect(() => bitmap.checkSameGeneration(other, '--resume')).toThrow(
      mismatch(/^--resume: the replica disk changed .*generation later, now g2/),
    );
    bitmap.checkSameGeneration(bitmapOf(bitmap.header, [], []), '--resume');
  });

  it('refuses live marks of another size', () => {
    expect(() => bitmap.markLive(LiveMarks.create(size + 1, 512))).toThrow(mismatch(/live marks/));
    expect(() => bitmap.markLive(LiveMarks.create(size, 1024))).toThrow(mismatch(/live marks/));
    const live = LiveMarks.create(size, 512);
    live.markDirty(5 * 512, 1);
    const marked = bitmapOf(headerOf(size), [1], []);
    marked.markLive(live);
    expect([...marked.runs()]).toEqual([
      { start: 1, end: 2 },
      { start: 5, end: 6 },
    ]);
    expect(marked.coveredBlocks).toBe(0);
  });

  it('cannot be about disks that cannot be', () => {
    for (const header of [
      headerOf(size, 500),
      headerOf(size, 256),
      headerOf(size, 32 * 2 ** 20),
      headerOf(-1),
      headerOf(1.5),
      headerOf(2 ** 53),
      { ...headerOf(size), size: size - 1 },
      headerOf(size, 512, { replica: { ...replica, size: -5 } }),
    ]) {
      expect(() => new SyncBitmap(header)).toThrow(expect.objectContaining({ kind: 'argument' }));
    }
  });
});
