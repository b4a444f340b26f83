import { describe, expect, it } from 'vitest';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { delayUnit, type Fault, faultUnit, type LogEntry, logUnit } from '../../src/lu/filters.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { thrown } from '../tools.ts';
import { inWorker } from './conformance.ts';

const image = (size = 10_000) => createArrayImage({ size });
const failed = (act: () => unknown) => thrown(act) !== null;
const read = (unit: LogicalUnit, offset = 0, length = 1) =>
  failed(() => unit.read(offset, new Uint8Array(length)));

describe('fault', () => {
  it('fails from the n-th call on, so many times', () => {
    const unit = faultUnit(image(), [{ on: 'read', after: 3, times: 2 }]);
    expect([1, 2, 3, 4, 5, 6].map(() => read(unit))).toEqual([false, false, true, true, false, false]);
  });

  it('fails for ever when it is not told how often, and at every call when not told from when', () => {
    const unit = faultUnit(image(), [{ on: 'read' }]);
    expect(Array.from({ length: 20 }, () => read(unit))).toEqual(Array(20).fill(true));
  });

  it('fails where a call touches its range by a byte, and counts only those', () => {
    const unit = faultUnit(image(), [{ on: 'read', range: { offset: 5000, length: 10 }, after: 2 }]);
    expect([read(unit, 4999), read(unit, 5010), read(unit, 0, 5000)]).toEqual([false, false, false]);
    expect([read(unit, 5009), read(unit, 4000, 1001), read(unit, 5009), read(unit, 5010)]).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });

  it.each([
    ['read', (unit: LogicalUnit) => unit.read(16, new Uint8Array(8)), 16, 8],
    ['write', (unit: LogicalUnit) => unit.write(16, new Uint8Array(8)), 16, 8],
    ['zero', (unit: LogicalUnit) => unit.zero({ offset: 16, length: 8 }), 16, 8],
    ['extents', (unit: LogicalUnit) => unit.extents({ offset: 16, length: 8 }), 16, 8],
    ['flush', (unit: LogicalUnit) => unit.flush(), 0, 0],
  ] as const)('of %s is an io error with the place, and of nothing else', (on, act, offset, length) => {
    const unit = faultUnit(image(), [{ on }]);
    expect(thrown(() => act(unit))).toMatchObject({
      name: 'DriftmapError',
      kind: 'io',
      path: unit.name,
      offset,
      length,
      operation: on,
    });
    const others = ['read', 'write', 'zero', 'extents', 'flush'].filter(
      (other) => other !== on,
    ) as Fault['on'][];
    const spared = faultUnit(
      image(),
      others.map((other) => ({ on: other })),
    );
    expect(thrown(() => act(spared))).toBeNull();
  });

  it('tears a write: the first half is there, and it fails', () => {
    const below = image(100);
    const unit = faultUnit(below, [{ on: 'write', how: 'tear', times: 1 }]);
    expect(thrown(() => unit.write(10, new Uint8Array(21).fill(7)))).toMatchObject({ kind: 'io' });
    const back = new Uint8Array(100);
    below.read(0, back);
    expect([back.indexOf(7), back.lastIndexOf(7)]).toEqual([10, 19]);
    unit.write(10, new Uint8Array(21).fill(7));
    below.read(0, back);
    expect(back.lastIndexOf(7)).toBe(30);
  });

  it('tears a write also where the unit below has to wait', async () => {
    const below = image(100);
    const unit = faultUnit(delayUnit(below, { on: ['write'], milliseconds: 1 }), [
      { on: 'write', how: 'tear' },
    ]);
    await expect(unit.write(10, new Uint8Array(20).fill(7))).rejects.toMatchObject({ kind: 'io' });
    const back = new Uint8Array(100);
    below.read(0, back);
    expect([back.indexOf(7), back.lastIndexOf(7)]).toEqual([10, 19]);
  });

  it('can throw what is no error of ours', () => {
    const unit = faultUnit(image(), [{ on: 'read', how: 'throw' }]);
    expect(thrown(() => unit.read(0, new Uint8Array(1)))).toBeInstanceOf(TypeError);
  });

  it('counts over all threads', async () => {
    const unit = faultUnit(image(100), [{ on: 'read', after: 4, times: 3 }]);
    expect([read(unit), read(unit)]).toEqual([false, false]);
    const act = `for (let i = 0; i < 3; i++) {
      try { unit.read(0, new Uint8Array(1)); bytes[i] = 1; } catch (error) { bytes[i] = error.kind === 'io' ? 2 : 3; }
    }`;
    const { bytes } = (await inWorker(unit, act)) as { bytes: Uint8Array };
    expect([...bytes.subarray(0, 3)]).toEqual([1, 2, 2]);
    expect([read(unit), read(unit)]).toEqual([true, false]);
  });

  it('can end the thread that meets it', async () => {
    const unit = faultUnit(image(100), [{ on: 'read', how: 'exit' }]);
    await expect(inWorker(unit, 'unit.read(0, bytes);')).rejects.toThrow(/status 7/);
  });
});

describe('delay', () => {
  it('makes what it names wait for a promise, and leaves the rest at once', async () => {
    const below = image();
    const unit = delayUnit(below, { on: ['write'], milliseconds: 20 });
    const writing = unit.write(0, new Uint8Array([5]));
    expect(writing).toBeInstanceOf(Promise);
    const byte = new Uint8Array(1);
    expect(unit.read(0, byte)).toBeUndefined();
    expect(byte[0]).toBe(0);
    await writing;
    unit.read(0, byte);
    expect(byte[0]).toBe(5);
  });

  it('passes on what the unit below refuses', async () => {
    const unit = delayUnit(image(100), { on: ['read', 'extents'], milliseconds: 1 });
    await expect(unit.read(100, new Uint8Array(1))).rejects.toMatchObject({ kind: 'argument' });
    await expect(unit.extents({ offset: 100, length: 1 })).rejects.toMatchObject({ kind: 'argument' });
  });

  it('works in a worker too', async () => {
    const unit = delayUnit(image(100), { on: ['read'], milliseconds: 1 });
    const act =
      'const pending = unit.read(0, bytes); await pending; bytes[0] = pending instanceof Promise ? 1 : 2;';
    const { bytes } = (await inWorker(unit, act)) as { bytes: Uint8Array };
    expect(bytes[0]).toBe(1);
  });
});

describe('log', () => {
  it('tells of every call before it is made, also of those that fail', () => {
    const entries: LogEntry[] = [];
    const unit = logUnit(faultUnit(image(100), [{ on: 'read' }]), (entry) => entries.push(entry));
    unit.write(1, new Uint8Array(2));
    expect(read(unit, 3, 4)).toBe(true);
    unit.zero({ offset: 5, length: 6 });
    unit.extents({ offset: 7, length: 8 });
    unit.flush();
    expect(entries).toEqual([
      { operation: 'write', offset: 1, length: 2 },
      { operation: 'read', offset: 3, length: 4 },
      { operation: 'zero', offset: 5, length: 6 },
      { operation: 'extents', offset: 7, length: 8 },
      { operation: 'flush', offset: 0, length: 0 },
    ]);
  });
});

describe('a filter upon filters', () => {
  it('is the unit below to everybody who asks', () => {
    const below = image(100);
    const unit = logUnit(delayUnit(faultUnit(below, []), { on: [], milliseconds: 1 }), () => {});
    expect([unit.name, unit.size, unit.identity, unit.canWrite, unit.generation()]).toEqual([
      below.name,
      below.size,
      below.identity,
      below.canWrite,
      below.generation(),
    ]);
    unit.close();
    expect(read(below)).toBe(true);
  });

  it('keeps its order in a worker', async () => {
    const unit = delayUnit(faultUnit(image(100), [{ on: 'read', after: 2 }]), {
      on: ['read'],
      milliseconds: 1,
    });
    const act = `await unit.read(0, new Uint8Array(1));
      await unit.read(0, new Uint8Array(1)).then(() => { bytes[0] = 1; }, (error) => { bytes[0] = error.kind === 'io' ? 2 : 3; });`;
    const { bytes } = (await inWorker(unit, act)) as { bytes: Uint8Array };
    expect(bytes[0]).toBe(2);
  });
});
