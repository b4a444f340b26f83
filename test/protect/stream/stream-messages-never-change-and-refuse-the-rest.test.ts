import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import { decodeControl, encodeControl } from '../../../src/codec/control.ts';
import {
  answerShape,
  askShape,
  decodeJournaled,
  decodeProbe,
  decodeProbed,
  decodeWrites,
  encodeJournaled,
  encodeProbe,
  encodeProbed,
  followingShape,
  followShape,
  markedShape,
  markShape,
} from '../../../src/protect/stream/messages.ts';
import { Slab, StreamQueue } from '../../../src/protect/stream/queue.ts';
import { thrown } from '../../tools.ts';

const named = (...sizes: number[]) => sizes.map((size, i) => ({ name: `d${i}`, size }));
const disks = named(5_000_000_000_000, 1 * MiB + 5);
const joined = (parts: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
const run = '0123456789abcdef'.repeat(2);

function exampleWrites(): Uint8Array {
  const slab = new Slab();
  slab.begin(5_000_000_000, 1_700_000_000_000);
  slab.add(0, 4_999_999_999_990, Uint8Array.of(1, 2, 3), 1_700_000_000_000);
  slab.addZeros(1, 512, 1 * MiB - 600, 1_700_000_000_007);
  slab.add(1, 0, Uint8Array.of(9), 1_700_000_000_009);
  return joined(slab.parts());
}

const probe = {
  id: 7,
  disk: 1,
  blockSize: 64 * KiB,
  first: 15,
  count: 2,
  signatures: new Uint8Array(64).fill(3),
};
const controls = {
  follow: [
    followShape,
    {
      version: 1,
      group: 'web',
      disks: [{ name: 'system', size: disks[0]!.size }],
      run,
      next: 1,
      configuration: '<domain/>',
    },
  ],
  following: [followingShape, { version: 1, journal: run, last: 12, suspended: true }],
  mark: [markShape, { order: 9, kind: 'bookmark', text: 'before the upgrade', consistency: 'application' }],
  marked: [
    markedShape,
    { order: 9, sequence: 0, time: 0, error: { kind: 'argument', message: 'it is taken' } },
  ],
  ask: [askShape, { id: 1, what: 'points', body: '{}' }],
  answer: [answerShape, { id: 1, ok: true, body: '[]' }],
} as const;
const bulk = {
  writes: exampleWrites(),
  journaled: encodeJournaled({ order: 5_000_000_002, sequence: 77 }),
  probe: joined(encodeProbe(probe)),
  probeZeros: joined(encodeProbe({ ...probe, signatures: null, first: 2 ** 26, disk: 0, count: 16_384 })),
  probed: encodeProbed(7, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 1)),
};

describe('the messages of the stream', () => {
  it('are written as they always were', () => {
    const all = {
      ...Object.fromEntries(
        Object.entries(bulk).map(([name, bytes]) => [name, Buffer.from(bytes).toString('hex')]),
      ),
      ...Object.fromEntries(
        Object.entries(controls).map(([name, [, value]]) => [
          name,
          Buffer.from(encodeControl(value)).toString('hex'),
        ]),
      ),
    };
    const path = join(import.meta.dirname, '..', '..', 'abi', 'stream-v1.json');
    // Made once, by DRIFTMAP_FREEZE=1; whoever has to make it anew has made version 2.
    if (process.env.DRIFTMAP_FREEZE) writeFileSync(path, `${JSON.stringify(all, null, 2)}\n`, { flag: 'wx' });
    expect(all).toEqual(JSON.parse(readFileSync(path, 'utf8')));
  });

  it('are read as what was written', () => {
    expect(decodeWrites(bulk.writes, disks)).toEqual({
      first: 5_000_000_000,
      writes: [
        { disk: 'd0', offset: 4_999_999_999_990, time: 1_700_000_000_000, bytes: Uint8Array.of(1, 2, 3) },
        { disk: 'd1', offset: 512, zeros: 1 * MiB - 600, time: 1_700_000_000_007 },
        { disk: 'd1', offset: 0, time: 1_700_000_000_009, bytes: Uint8Array.of(9) },
      ],
    });
    expect(decodeJournaled(bulk.journaled)).toEqual({ order: 5_000_000_002, sequence: 77 });
    expect(decodeProbe(bulk.probe, disks)).toEqual(probe);
    expect(decodeProbe(bulk.probeZeros, disks)).toMatchObject({ signatures: null, first: 2 ** 26 });
    expect([...decodeProbed(bulk.probed).differs]).toEqual([1, 0, 0, 0, 0, 0, 0, 0, 1]);
    for (const [shape, value] of Object.values(controls))
      expect(
        (shape as (value: unknown, where: string) => unknown)(decodeControl(encodeControl(value), 'x'), 'x'),
      ).toEqual(value);
  });

  it('are refused cut short, too long, or out of their disk, with a clear error', () => {
    const decoders: [Uint8Array, (bytes: Uint8Array) => unknown][] = [
      [bulk.writes, (bytes) => decodeWrites(bytes, disks)],
      [bulk.journaled, decodeJournaled],
      [bulk.probe, (bytes) => decodeProbe(bytes, disks)],
      [bulk.probed, decodeProbed],
    ];
    for (const [bytes, decode] of decoders) {
      for (let cut = 0; cut < bytes.length; cut++)
        expect(thrown(() => decode(bytes.subarray(0, cut)))).toMatchObject({ kind: 'malformed' });
      expect(thrown(() => decode(joined([bytes, Uint8Array.of(0)])))).toMatchObject({ kind: 'malformed' });
    }
    expect(thrown(() => decodeWrites(bulk.writes, disks.slice(0, 1)))).toMatchObject({ kind: 'malformed' });
    expect(thrown(() => decodeWrites(bulk.writes, named(disks[0]!.size, 1 * MiB - 600)))).toMatchObject({
      kind: 'malformed',
    });
    expect(thrown(() => decodeProbe(bulk.probe, named(1, 1 * MiB - 1)))).toMatchObject({ kind: 'malformed' });
  });

  it('never do more than be refused, whatever bytes there are', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(bulk.writes, bulk.probe, bulk.probed),
        fc.array(fc.tuple(fc.nat(63), fc.nat(255)), { maxLength: 6 }),
        (good, changes) => {
          const bytes = good.slice();
          for (const [at, value] of changes) bytes[at % bytes.length] = value;
          for (const decode of [
            () => decodeWrites(bytes, disks),
            () => decodeProbe(bytes, disks),
            () => decodeProbed(bytes),
          ]) {
            const error = thrown(decode);
            if (error !== null) expect(error).toMatchObject({ kind: 'malformed' });
          }
          const { writes } =
            thrown(() => decodeWrites(bytes, disks)) === null ? decodeWrites(bytes, disks) : { writes: [] };
          for (const write of writes) {
            const length = 'bytes' in write ? write.bytes.length : write.zeros;
            const { size } = disks.find(({ name }) => name === write.disk)!;
            expect(write.offset + length).toBeLessThanOrEqual(size);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('the queue', () => {
  /** Sends everything. */
  function drain(queue: StreamQueue): number[] {
    const firsts: number[] = [];
    for (let item = queue.take(); item !== null; item = queue.take())
      firsts.push(item.kind === 'writes' ? item.slab.first : item.mark.order);
    return firsts;
  }

  it('numbers writes and marks in one order, and lets go of what is acknowledged', () => {
    const queue = new StreamQueue(() => 5, 3);
    queue.add(0, 0, new Uint8Array(10));
    queue.add(1, 7, new Uint8Array(20));
    expect(queue.addMark({ kind: 'suspend', text: 'x', consistency: 'crash' })).toBe(3);
    queue.addZeros(0, 0, 5);
    expect(drain(queue)).toEqual([1, 3, 4]);
    queue.acknowledge(1);
    expect(queue.messages).toBe(2);
    queue.acknowledge(2);
    expect(queue.messages).toBe(1);
    queue.acknowledge(4);
    expect([queue.messages, queue.isEmpty, queue.next]).toEqual([0, true, 5]);
  });

  it('is full when it is, and gives up what was not sent', () => {
    const queue = new StreamQueue(() => 5, 3);
    const piece = new Uint8Array(1 * MiB);
    expect([queue.add(0, 0, piece), queue.add(0, 1 * MiB, piece)]).toEqual([true, true]);
    drain(queue);
    expect(queue.add(0, 2 * MiB, piece)).toBe(true);
    expect(queue.add(0, 3 * MiB, piece)).toBe(false);
    const dropped: number[] = [];
    queue.dropUnsent((_, offset) => dropped.push(offset));
    expect(dropped).toEqual([2 * MiB]);
    expect(queue.next).toBe(3);
    queue.acknowledge(1);
    queue.dropAll((_, offset) => dropped.push(offset));
    expect(dropped).toEqual([2 * MiB, 1 * MiB]);
    expect([queue.isEmpty, queue.next, queue.acknowledged]).toEqual([true, 3, 2]);
  });

  it('cuts large writes, and what it sends is what was written', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(1), fc.nat(1 * MiB), fc.constantFrom(1, 100, 4096, 300_000, 1_500_000)), {
          minLength: 1,
          maxLength: 12,
        }),
        (writes) => {
          const queue = new StreamQueue(() => 9, 64);
          const model = [new Uint8Array(4 * MiB), new Uint8Array(4 * MiB)];
          const made = [new Uint8Array(4 * MiB), new Uint8Array(4 * MiB)];
          for (const [i, [disk, offset, length]] of writes.entries()) {
            const bytes = new Uint8Array(length).fill(i + 1);
            expect(queue.add(disk, offset, bytes)).toBe(true);
            model[disk]!.set(bytes, offset);
          }
          let next = 1;
          for (let item = queue.take(); item !== null; item = queue.take()) {
            if (item.kind !== 'writes') throw new Error('a mark that nobody made');
            const message = decodeWrites(joined(item.slab.parts()), named(4 * MiB, 4 * MiB));
            expect(message.first).toBe(next);
            next += message.writes.length;
            for (const write of message.writes) {
              if ('bytes' in write) made[write.disk === 'd0' ? 0 : 1]!.set(write.bytes, write.offset);
            }
          }
          expect(next).toBe(queue.next);
          for (const disk of [0, 1]) expect(Buffer.compare(made[disk]!, model[disk]!)).toBe(0);
        },
      ),
      { numRuns: 30 },
    );
  });
});
