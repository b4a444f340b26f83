/**
 * Suite `range`: what one worker does, without its thread: ranges of two array images compared by the scan's own
 * inner loop, in this thread. `array-scan` has the same work with threads around it, and their moods.
 */

import { exactSize, KiB, MiB } from '../base/units.ts';
import { openDisk } from '../disk/open.ts';
import { createArrayImage } from '../lu/array-image.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { planScan } from '../scan/plan.ts';
import { RangeComparer } from '../scan/range-comparer.ts';
import { Side } from '../scan/side.ts';
import { slotBytes } from '../scan/slot-layout.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { type BenchCase, type Suite, type SuiteOptions, shortDigest } from './bench-case.ts';
import { compared, contents } from './scan-cases.ts';

/** `gate`: both sides stay in the second-level cache, as for the kernels. */
const DISK = { full: 64 * MiB, gate: 256 * KiB, smoke: 2 * MiB } as const;
const BLOCKS = { full: [4 * KiB, 64 * KiB], gate: [64 * KiB], smoke: [64 * KiB] } as const;

/** Kernels are kept by their memory's number; those of pools count upwards. */
let memories = 0;

export async function openRangeSuite({ scale }: SuiteOptions): Promise<Suite> {
  const size = DISK[scale];
  const images = contents(size).map((bytes, i) => createArrayImage({ size, bytes, name: `side ${i}` }));
  const disks = await Promise.all(images.map((image) => openDisk(image, { format: 'raw' })));
  const [production, replica] = disks.map((disk) => new Side(disk)) as [Side, Side];
  const arena = new SlotArena(1, slotBytes(64 * KiB));
  const memoryId = --memories;
  const key = new Uint8Array(32).map((_, i) => i);
  const cases: BenchCase[] = [];
  for (const blockSize of BLOCKS[scale]) {
    const [map, other] = disks.map((disk) => disk.map);
    const plan = planScan({ size, blockSize, production: map!, replica: other!, workers: 1 });
    for (const by of compared) {
      const comparer = await RangeComparer.create({
        plan,
        compare: by === 'bytes' ? 'bytes' : 'signatures',
        algorithm: algorithmByName(by === 'bytes' ? 'nh128' : by),
        key,
        modules: loadKernels(),
        production,
        replica,
        slot: { ...arena.slot(0), memoryId, index: 0 },
        stopped: () => false,
      });
      cases.push(rangeCase(`range/${by}/${exactSize(blockSize)}`, 2 * size, plan.starts.length, comparer));
    }
  }
  const close = async () => {
    for (const disk of disks) await disk.close();
  };
  return { cases, close };
}

function rangeCase(name: string, bytes: number, ranges: number, comparer: RangeComparer): BenchCase {
  let marks: Uint8Array[] = [];
  return {
    name,
    suite: 'range',
    bytes,
    operations: 0,
    limit: 'machine/memory-read/1',
    threads: 1,
    clock: 'wall',
    run: async () => {
      marks = [];
      for (let range = 0; range < ranges; range++) {
        await comparer.compare(range);
        marks.push(new Uint8Array(comparer.words.slice().buffer));
      }
    },
    digest: () => shortDigest(...marks),
  };
}
