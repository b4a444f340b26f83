import { describe, expect, it } from 'vitest';
import { createSharedMemory, SlotArena } from '../../src/memory/shared-memory.ts';

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
});

describe('slots', () => {
  it('are aligned, disjoint, large enough, inside the memory, and none is at address 0', () => {
    for (const [slots, bytes] of [
      [1, 1],
      [3, 1000],
      [64, 65536],
      [7, 12345],
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
