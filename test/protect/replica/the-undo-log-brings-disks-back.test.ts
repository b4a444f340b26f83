import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../../src/lu/file-unit.ts';
import { UndoLog } from '../../../src/protect/replica/undo-log.ts';
import { RolledDisk } from '../../../src/protect/replica/worked-disk.ts';
import { randomOf } from '../../journal/disks.ts';
import { temporary, thrown } from '../../tools.ts';

const owner = { journal: '0123456789abcdef0123456789abcdef', sequence: 77 };
const BLOCK = 65_536;
const SLOT = BLOCK + 4096;
const SIZES = [10 * BLOCK + 123, 5 * BLOCK] as const;

function fresh(folder: string, seed: number) {
  const random = randomOf(seed);
  const before = SIZES.map((size) => {
    const bytes = Buffer.alloc(size);
    // Some blocks are zeros.
    for (let at = 0; at < size; at += BLOCK)
      if (random(3) > 0) bytes.fill(1 + random(255), at, Math.min(size, at + BLOCK - random(99)));
    return bytes;
  });
  const paths = before.map((bytes, i) => {
    const path = join(folder, `${seed}-${i}.raw`);
    writeFileSync(path, bytes);
    return path;
  });
  const units = paths.map((path) => openFileUnit(path, { write: true }));
  const logPath = join(folder, `${seed}.undo`);
  const log = UndoLog.create(logPath, units, owner);
  const disks = units.map((unit, i) => new RolledDisk(unit, log, i));
  return { random, before, paths, units, logPath, log, disks };
}

async function scribble(disks: readonly RolledDisk[], random: (below: number) => number, count: number) {
  const waits: (undefined | Promise<undefined>)[] = [];
  for (let i = 0; i < count; i++) {
    const disk = disks[random(disks.length)]!;
    const offset = random(disk.size);
    const length = 1 + random(Math.min(disk.size - offset, random(4) === 0 ? 3 * BLOCK : 3000));
    waits.push(
      random(4) === 0
        ? (disk.zero({ offset, length }) as undefined)
        : (disk.write(offset, Buffer.alloc(length, 1 + random(255))) as undefined),
    );
    if (random(5) === 0) await Promise.all(waits.splice(0));
  }
  await Promise.all(waits);
}

describe('an undo log', () => {
  it('brings all disks back to what they were, whatever was written at once', async () => {
    const folder = temporary();
    for (let seed = 1; seed <= 8; seed++) {
      const { random, before, paths, log, disks, units } = fresh(folder, seed);
      await scribble(disks, random, 40);
      expect(paths.some((path, i) => !readFileSync(path).equals(before[i]!))).toBe(true);
      for (const [i, disk] of disks.entries()) {
        const seen = Buffer.alloc(disk.size);
        await log.shieldOf(i).read(0, seen);
        expect(seen.equals(before[i]!), `seed ${seed}: disk ${i} through the shield`).toBe(true);
        const part = Buffer.alloc(2 * BLOCK);
        await log.shieldOf(i).read(BLOCK - 7, part);
        expect(part.equals(before[i]!.subarray(BLOCK - 7, 3 * BLOCK - 7))).toBe(true);
      }
      await log.restore();
      for (const [i, path] of paths.entries()) expect(readFileSync(path).equals(before[i]!)).toBe(true);
      log.remove();
      for (const unit of units) unit.close();
    }
  });

  it('does so from what a crash left: any part of the writes, and the last batch torn', async () => {
    const folder = temporary();
    for (let seed = 101; seed <= 130; seed++) {
      const { random, before, paths, log, disks, units, logPath } = fresh(folder, seed);
      await scribble(disks, random, 1 + random(30));
      log.close();
      const slots = Math.ceil((readFileSync(logPath).length - 4096) / SLOT);
      // One more batch had been begun, of blocks that were not written to yet: it is torn anywhere.
      const saved = disks.map((_, i) => new Set(log.blocksOf(i).map(({ offset }) => offset / BLOCK)));
      const cold = disks.flatMap((disk, i) =>
        Array.from({ length: Math.ceil(disk.size / BLOCK) }, (_, block) => ({ i, block })).filter(
          ({ block }) => !saved[i]!.has(block),
        ),
      );
      const more = UndoLog.open(logPath, units, owner);
      const torn = cold.slice(0, 1 + random(4));
      await Promise.all(torn.map(({ i, block }) => more.save(i, { offset: block * BLOCK, length: 1 })));
      more.close();
      const file = openSync(logPath, 'r+');
      const whole = readFileSync(logPath);
      if (torn.length > 0) {
        const cut = 4096 + slots * SLOT + random(torn.length * SLOT);
        if (random(2) === 0) ftruncateSync(file, Math.min(cut, whole.length));
        else {
          whole.fill(0xa5, cut, Math.min(cut + 512, whole.length));
          writeFileSync(logPath, whole);
        }
      }
      closeSync(file);
      // Of the disk's own writes any part may be lost.
      for (const [i, path] of paths.entries()) {
        const now = readFileSync(path);
        for (let at = 0; at < now.length; at += 512)
          if (random(3) === 0) before[i]!.copy(now, at, at, Math.min(at + 512, now.length));
        writeFileSync(path, now);
      }
      const left = UndoLog.open(logPath, units, owner);
      await left.restore();
      for (const [i, path] of paths.entries())
        expect(readFileSync(path).equals(before[i]!), `seed ${seed}: disk ${i}`).toBe(true);
      left.remove();
      for (const unit of units) unit.close();
    }
  });

  it('tells damage before its last batch, and what is not its own', async () => {
    const folder = temporary();
    const { log, disks, units, logPath } = fresh(folder, 7);
    await disks[0]!.write(0, Buffer.alloc(10, 9));
    await disks[0]!.write(5 * BLOCK, Buffer.alloc(10, 9));
    await disks[1]!.write(3 * BLOCK, Buffer.alloc(10, 9));
    log.close();
    const whole = readFileSync(logPath);
    const open = (bytes: Uint8Array, who = owner) => {
      writeFileSync(logPath, bytes);
      return thrown(() => UndoLog.open(logPath, units, who).close());
    };
    expect(open(whole)).toBeNull();
    const damaged = Buffer.from(whole);
    damaged[4096 + 20] = damaged[4096 + 20]! ^ 1;
    expect(open(damaged)).toMatchObject({ kind: 'malformed', path: logPath, offset: 4096 });
    expect(open(whole, { ...owner, sequence: 78 })).toMatchObject({ kind: 'mismatch' });
    expect(open(whole, { ...owner, journal: 'f'.repeat(32) })).toMatchObject({ kind: 'mismatch' });
    expect(open(whole.subarray(0, 20))).toMatchObject({ kind: 'malformed' });
    const other = Buffer.from(whole);
    other[0] = 0;
    expect(open(other)).toMatchObject({ kind: 'malformed', offset: 0 });
    expect(thrown(() => UndoLog.create(logPath, units, owner))).toMatchObject({ kind: 'policy' });
  });
});
