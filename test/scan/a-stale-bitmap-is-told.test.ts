import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createScanner } from '../../src/scan/scan.ts';
import { temporary } from '../tools.ts';
import { changeByte, openRaw } from './indexes.ts';

const folder = temporary();

it('a scan within a bitmap says when a side was written to since the bitmap was made', async () => {
  const [one, other] = ['one.raw', 'other.raw'].map((name) => join(folder, name)) as [string, string];
  for (const path of [one, other]) writeFileSync(path, new Uint8Array(8 * 512).fill(1));
  changeByte(one, 0);
  const scanner = createScanner({ workers: 1 });
  const scanned = async (within?: Parameters<typeof scanner.scan>[0]['within']) => {
    const [production, replica] = [await openRaw(one), await openRaw(other)];
    const result = await scanner.scan({ production, replica, blockSize: 512, within });
    await production.close();
    await replica.close();
    return result;
  };
  const { bitmap } = await scanned();
  const fresh = await scanned(bitmap);
  expect([fresh.markedBlocks, fresh.warnings]).toEqual([1, []]);
  changeByte(other, 5 * 512);
  const stale = await scanned(bitmap);
  // The difference at block 5 is not found: that is what the warning is about.
  expect(stale.markedBlocks).toBe(1);
  expect(stale.warnings).toEqual([expect.stringMatching(/^\S*other\.raw: was written to since the bitmap/)]);
  changeByte(one, 3 * 512);
  expect((await scanned(bitmap)).warnings).toHaveLength(2);
  await scanner.close();
});
