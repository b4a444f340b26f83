import { setMaxListeners } from 'node:events';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { ByteRange } from '../../src/base/units.ts';
import { checksum } from '../../src/codec/checksum.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { type Fault, faultUnit, logUnit } from '../../src/lu/filters.ts';
import type { LogicalUnit, UnitExtent } from '../../src/lu/logical-unit.ts';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { hasher } from '../../src/snapshots/hasher.ts';
import { Pieces } from '../../src/snapshots/pieces.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { looksRandom } from '../../src/snapshots/trials.ts';
import { slowStore, wrapStore } from '../store/filters.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { temporary } from '../tools.ts';
import { bytesOf, KIB, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const folder = temporary();
const MIB = 1024 * KIB;
const SIZE = 40 * MIB + 5000;

/** Noise, text, and zeros that nobody tells to be a hole; the last block is short. */
const contents = new Uint8Array(SIZE);
for (let at = 0, i = 0; at < SIZE; at += MIB, i++) {
  const length = Math.min(MIB, SIZE - at);
  if (i % 4 === 1) contents.fill(`text ${i} `.charCodeAt(i % 5), at, at + length);
  else if (i % 4 !== 2) contents.set(noise(length, i), at);
}

function fileOf(bytes: Uint8Array): LogicalUnit {
  const path = join(mkdtempSync(join(folder, 'disk-')), 'disk.raw');
  writeFileSync(path, bytes);
  return openFileUnit(path);
}

const wants = { checksums: true, looks: true };

function piecesOf(blockSize: number, threads = 1): Pieces {
  return new Pieces({ blockSize, plainAt: 60, connections: 2, totalBytes: SIZE, threads, wants });
}

/** Reads the beginning over and over until a thread takes orders. */
async function ready(pieces: Pieces, unit: LogicalUnit): Promise<undefined> {
  while (pieces.ahead === 1) {
    (await pieces.begin(unit, 0, pieces.most * 4096)).end();
    await sleep(2);
  }
}

/** Reads all of a disk as far ahead as it is allowed, and compares every block with what it must be. */
async function readAll(pieces: Pieces, unit: LogicalUnit, blockSize: number): Promise<undefined> {
  const begun: (() => Promise<undefined>)[] = [];
  const length = pieces.most * blockSize;
  for (let offset = 0; offset < SIZE; offset += length) {
    if (begun.length === pieces.ahead) await begun.shift()!();
    const reading = pieces.begin(unit, offset, Math.min(length, SIZE - offset));
    begun.push(async () => {
      const piece = await reading;
      for (let i = 0, at = offset; i < pieces.most && at < SIZE; i++, at += blockSize) {
        const expected = contents.subarray(at, Math.min(at + blockSize, SIZE));
        const signature = piece.signature(i);
        if (signature === null) {
          expect(expected.every((byte) => byte === 0)).toBe(true);
          continue;
        }
        expect(Buffer.compare(signature, hasher().sign(expected))).toBe(0);
        const block = piece.take(i);
        expect(Buffer.compare(block.buffer.subarray(60, 60 + block.length), expected)).toBe(0);
        expect(block.checksum).toBe(checksum(expected));
        expect(block.looksRandom).toBe(looksRandom(expected));
        block.release();
      }
      piece.end();
      return undefined;
    });
  }
  for (const end of begun) await end();
  return undefined;
}

describe('a thread', () => {
  it.each([
    [256 * KIB, 1],
    [4 * KIB, 1],
    [16 * MIB, 2],
  ])('finds of a file in blocks of %i what is found here (%i at a time)', async (blockSize, threads) => {
    const reads: number[] = [];
    const file = fileOf(contents);
    const unit = logUnit(file, ({ offset }) => reads.push(offset));
    const pieces = piecesOf(blockSize, threads);
    await ready(pieces, unit);
    const before = reads.length;
    expect(before).toBeGreaterThan(0);
    await readAll(pieces, unit, blockSize);
    // All of it was read elsewhere.
    expect(reads.length).toBe(before);
    await pieces.close();
    await file.close();
  });

  it('signs what only the caller can read', async () => {
    const unit = new MemoryUnit(contents);
    const pieces = piecesOf(256 * KIB);
    await ready(pieces, unit);
    await readAll(pieces, unit, 256 * KIB);
    await pieces.close();
  });

  it('is not started where none is wanted, nor for what is small', async () => {
    const unit = new MemoryUnit(contents);
    const none = piecesOf(256 * KIB, 0);
    await readAll(none, unit, 256 * KIB);
    expect(none.ahead).toBe(1);
    const small = new Pieces({ blockSize: 4096, plainAt: 48, connections: 2, totalBytes: 30 * MIB, wants });
    for (let i = 0; i < 100; i++) (await small.begin(unit, 0, small.most * 4096)).end();
    await sleep(300);
    expect(small.ahead).toBe(1);
  });

  it.each([
    ['cannot read', 'error', 'io'],
    ['fails in a way that is not ours', 'throw', 'worker'],
    ['dies', 'exit', 'worker'],
  ] as const)('that %s ends the piece with an error, and closing ends', async (_, how, kind) => {
    const file = fileOf(contents);
    const range = { offset: 20 * MIB, length: 1 };
    const faults: Fault[] = [{ on: 'read', range, how }];
    const unit = faultUnit(file, faults);
    const pieces = piecesOf(256 * KIB);
    await ready(pieces, unit);
    await expect(pieces.begin(unit, 20 * MIB, MIB)).rejects.toMatchObject({ kind });
    // Of a thread that lives, others are read all the same; nobody waits for one that is dead.
    const next = pieces.begin(unit, 30 * MIB, MIB);
    if (how === 'exit') await expect(next).rejects.toMatchObject({ kind });
    else (await next).end();
    await pieces.close();
    await file.close();
  });
});

/** Reads as the file, the piece at 24 MiB late enough for a thread to have started; which then ends. */
function endsThreads(file: LogicalUnit): LogicalUnit {
  const faults: Fault[] = [{ on: 'read', range: { offset: 28 * MIB, length: 1 }, how: 'exit' }];
  return {
    name: file.name,
    size: file.size,
    identity: file.identity,
    canWrite: false,
    generation: () => file.generation(),
    read: (offset, target) => {
      const isLate = offset <= 24 * MIB && 24 * MIB < offset + target.length;
      if (isLate) return sleep(2000).then(() => file.read(offset, target));
      return file.read(offset, target);
    },
    write: () => undefined,
    zero: () => undefined,
    flush: () => undefined,
    extents: (range, limit) => file.extents(range, limit),
    handle: () => faultUnit(file, faults).handle(),
    close: () => undefined,
  };
}

/** A gigabyte that nobody holds: every block is another one. */
class EndlessUnit extends MemoryUnit {
  override readonly size = 1024 * MIB;
  constructor() {
    super(new Uint8Array(0));
  }
  override read(offset: number, target: Uint8Array): undefined {
    this.bytesRead += target.length;
    target.fill(offset / MIB);
    for (let at = 0; at < target.length; at += 4096) target.set(Buffer.from(`${offset + at}`), at);
  }
  override extents({ offset, length }: ByteRange): readonly UnitExtent[] {
    return [{ offset, length, kind: 'data' }];
  }
}

describe('a snapshot of a large disk', () => {
  it.each([
    ['plain', null],
    ['sealed', Buffer.alloc(32, 7)],
  ])(
    '(%s) gives back every byte, and is made of the same objects with threads and without',
    async (_, key) => {
      const file = fileOf(contents);
      const blocks: string[][] = [];
      for (const threads of [0, 1]) {
        const store = memoryObjects();
        const repository = await makeRepository(slowStore(store, 1), { blockSize: 256 * KIB, key });
        const taken = await take(repository, [source('disk', file)], { threads, connections: 4 });
        expect(taken.bytesRead).toBe(SIZE);
        expect(Buffer.compare(await bytesOf(repository, taken, 'disk'), contents)).toBe(0);
        blocks.push([...store.objects.keys()].filter((name) => name.startsWith('blocks/')).sort());
      }
      expect(blocks[1]!.length).toBe(blocks[0]!.length);
      // Names of sealed ones are the repository's own.
      if (key === null) expect(blocks[1]).toEqual(blocks[0]);
      await file.close();
    },
  );

  it.each([
    ['cannot be read', 'io'],
    ['loses its thread', 'worker'],
  ] as const)('that %s leaves no snapshot, and can be taken again', async (_, kind) => {
    const file = fileOf(contents);
    const store = memoryObjects();
    const repository = await makeRepository(store, { blockSize: 256 * KIB });
    const fault: Fault = { on: 'read', range: { offset: 39 * MIB, length: 1 } };
    const unit = kind === 'io' ? faultUnit(file, [fault]) : endsThreads(file);
    const failed = take(repository, [source('disk', unit)], { threads: 1 });
    await expect(failed).rejects.toMatchObject({ kind });
    expect(await listSnapshots(repository)).toEqual([]);
    expect([...store.objects.keys()].filter((name) => name.startsWith('drafts/'))).toEqual([]);
    const taken = await take(repository, [source('disk', file)], { threads: 1 });
    expect(Buffer.compare(await bytesOf(repository, taken, 'disk'), contents)).toBe(0);
    await file.close();
  });

  it('reads no further than memory is bounded while the store is silent, and ends when it is stopped', async () => {
    const store = memoryObjects();
    await makeRepository(store, { blockSize: 256 * KIB });
    const silent = wrapStore(store, {
      before: ({ verb, key }, { signal }) =>
        verb === 'put' && key.startsWith('blocks/') ? until(signal) : undefined,
    });
    const unit = new EndlessUnit();
    const stop = new AbortController();
    const taking = take(await openRepository(silent), [source('disk', unit)], {
      threads: 2,
      connections: 8,
      signal: stop.signal,
    });
    taking.catch(() => undefined);
    for (let before = -1; before !== unit.bytesRead || before === 0; await sleep(200))
      before = unit.bytesRead;
    // Eight that are sent, and five pieces of eight blocks.
    expect(unit.bytesRead).toBeLessThanOrEqual((8 + 5 * 8) * 256 * KIB);
    stop.abort('SIGINT');
    await expect(taking).rejects.toMatchObject({ kind: 'aborted' });
    const { bytesRead } = unit;
    await sleep(100);
    expect(unit.bytesRead).toBe(bytesRead);
    expect([...store.objects.keys()]).toEqual(['config']);
  });
});

/** Never but by the signal. */
function until(signal: AbortSignal | undefined): Promise<undefined> {
  return new Promise((_, reject) => {
    const end = () => reject(new DriftmapError('aborted', 'was stopped'));
    if (signal?.aborted) end();
    if (signal !== undefined) setMaxListeners(0, signal);
    signal?.addEventListener('abort', end, { once: true });
  });
}
