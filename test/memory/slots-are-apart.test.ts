import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { createSharedMemory, SlotArena } from '../../src/memory/shared-memory.ts';
import { thrown } from '../tools.ts';

const built = new URL('../../dist/memory/shared-memory.js', import.meta.url).href;

describe('shared memory', () => {
  it('is as large as it will ever be, in whole pages', () => {
    for (const bytes of [0, 1, 65536, 65537]) {
      const memory = createSharedMemory(bytes, 'a test');
      const pages = Math.max(1, Math.ceil(bytes / 65536));
      expect(memory.buffer.byteLength).toBe(pages * 65536);
      expect(memory.buffer).toBeInstanceOf(SharedArrayBuffer);
      expect(() => (memory as unknown as { grow(pages: number): void }).grow(1)).toThrow();
    }
  });

  it('past 4 GiB is refused with its purpose and what to lower', () => {
    expect(() => createSharedMemory(2 ** 32 + 1, 'a test')).toThrow(/a test: 4\.00 GiB is more than/);
    expect(() => new SlotArena(64, 2 ** 27)).toThrow(/fewer workers or smaller blocks/);
  });

  it('of a size that is none is a mistake of ours, not a want of memory', () => {
    for (const bytes of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(thrown(() => createSharedMemory(bytes, 'a test'))).toMatchObject({ kind: 'internal' });
      expect(thrown(() => new SlotArena(1, bytes))).toMatchObject({ kind: 'internal' });
    }
    for (const slots of [0, -1, 1.5, Number.NaN]) {
      expect(thrown(() => new SlotArena(slots, 64))).toMatchObject({ kind: 'internal' });
    }
  });

  it('that the process has no address space for is a limit, with what to do', () => {
    // Each memory reserves about 10 GiB of at most 128 TiB; a child with less runs out of it soon.
    const code = `
      const { createSharedMemory } = await import(${JSON.stringify(built)});
      const kept = [];
      try {
        for (let i = 0; i < 1000; i++) kept.push(createSharedMemory(65536, 'bank ' + i));
        console.log('never');
      } catch (error) {
        console.log(JSON.stringify({ kind: error.kind, message: error.message, some: kept.length > 0 }));
      }`;
    const script = 'ulimit -v 67108864; exec "$0" --input-type=module -e "$1"';
    const { stdout } = spawnSync('sh', ['-c', script, process.execPath, code], { encoding: 'utf8' });
    const told = JSON.parse(stdout);
    expect(told).toMatchObject({ kind: 'limit', some: true });
    expect(told.message).toMatch(/^bank \d+: cannot make a memory of .*close scanners or array images/);
  });
});

describe('slots', () => {
  it('are aligned, disjoint, large enough, inside the memory, and none is at address 0', () => {
    for (const [slots, bytes] of [
      [1, 1],
      [3, 1000],
      [64, 65536],
      [7, 12345],
      // More than 2 GiB: pointers that a 32-bit signed number cannot hold.
      [3, 2 ** 30],
    ] as const) {
      const arena = new SlotArena(slots, bytes);
      let end = 1;
      for (let i = 0; i < slots; i++) {
        const slot = arena.slot(i);
        expect(slot.memory).toBe(arena.memory);
        expect(slot.pointer % 64).toBe(0);
        expect(slot.pointer).toBeGreaterThanOrEqual(end);
        expect(slot.bytes).toBeGreaterThanOrEqual(bytes);
        end = slot.pointer + slot.bytes;
      }
      expect(end).toBeLessThanOrEqual(arena.memory.buffer.byteLength);
      for (const index of [-1, slots, 0.5]) expect(() => arena.slot(index)).toThrow(/slot/);
    }
  });
});
