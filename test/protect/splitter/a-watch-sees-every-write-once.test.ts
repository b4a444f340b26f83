/**
 * A follower copies what a watch tells him, from the disk as it is then. Whatever the guest does, and however takes fall
 * between its requests, the copy is equal once the guest is quiet; and what is told is what was touched, and no more.
 */

import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { DriftmapError } from '../../../src/base/errors.ts';
import { MAX_WATCHES, WATCH_PART_BLOCKS, WATCHES_PER_DISK } from '../../../src/base/protection-limits.ts';
import { KiB, MiB, TiB } from '../../../src/base/units.ts';
import { PagedBits } from '../../../src/bitmap/paged-bits.ts';
import { FileUnit } from '../../../src/lu/file-unit.ts';
import {
  askControl,
  type ControlRoutes,
  type ControlServer,
  serveControl,
} from '../../../src/protect/group/control.ts';
import { splitterRoutes } from '../../../src/protect/splitter/control-routes.ts';
import { liveFromSplitter } from '../../../src/protect/splitter/live-splitter.ts';
import type { SplitDisk } from '../../../src/protect/splitter/split-disk.ts';
import type { Splitter } from '../../../src/protect/splitter/splitter.ts';
import { WatchClient } from '../../../src/protect/splitter/watch-client.ts';
import { watchRoutes } from '../../../src/protect/splitter/watch-routes.ts';
import { Watches } from '../../../src/protect/splitter/watches.ts';
import { sync } from '../../../src/sync/sync.ts';
import { temporary } from '../../tools.ts';
import { makeFile, Site, until } from './site.ts';

const folder = temporary();
const SIZE = 5 * MiB + 1536;
/** Zeroed in several turns. */
const OTHER = 20 * MiB;
const shapes = [
  { name: 'disk', size: SIZE },
  { name: 'other', size: OTHER },
];
const site = new Site(join(folder, 'site'), shapes);
const control = join(folder, 'control.sock');
let splitter: Splitter;
let server: ControlServer;
let disk: SplitDisk;
let other: SplitDisk;

beforeAll(async () => {
  splitter = await site.startSplitter({ reach: null });
  server = await serveControl(control, splitterRoutes(splitter));
  const { parts } = splitter as unknown as { parts: { disks: [SplitDisk, SplitDisk] } };
  [disk, other] = parts.disks;
});
afterAll(async () => {
  await server.close();
  await splitter.close();
});

/** Copies what a watch tells him; knows which blocks may have been touched since. */
class Follower {
  readonly client: WatchClient;
  readonly copy: Buffer;
  private touched = new Set<number>();
  private unsure = new Set<number>();

  private constructor(client: WatchClient, copy: Buffer) {
    this.client = client;
    this.copy = copy;
  }

  static async begin(blockSize: number): Promise<Follower> {
    const client = await WatchClient.begin(control, { disk: 'disk', blockSize });
    // The comparison, which comes after the beginning.
    return new Follower(client, site.bytes('disk'));
  }

  touch(offset: number, length: number): void {
    for (const block of this.blocksOf(offset, length)) this.touched.add(block);
  }

  /** Of a request that is under way: some of it was before. */
  mayTouch(offset: number, length: number): void {
    this.touch(offset, length);
    for (const block of this.blocksOf(offset, length)) this.unsure.add(block);
  }

  private *blocksOf(offset: number, length: number): Generator<number, undefined> {
    const { blockSize } = this.client.begun;
    if (length === 0) return;
    for (let at = Math.floor(offset / blockSize); at * blockSize < offset + length; at++) yield at;
  }

  /** @param exactly nothing is under way: then all that was touched is told */
  async take(exactly: boolean): Promise<void> {
    const { blockSize } = this.client.begun;
    const touched = exactly ? this.touched : null;
    if (exactly) this.touched = new Set();
    const bits = await this.client.take();
    const now = site.bytes('disk');
    const told: number[] = [];
    for (const { start, end } of bits.runs()) {
      now.copy(this.copy, start * blockSize, start * blockSize, Math.min(end * blockSize, SIZE));
      for (let block = start; block < end; block++) told.push(block);
    }
    if (touched === null) {
      // What was told of a request that goes on may be told again, and need not be.
      for (const block of told) expect(this.touched.has(block)).toBe(true);
      this.unsure = new Set([...this.unsure, ...told]);
      return;
    }
    for (const block of told) expect(touched.has(block)).toBe(true);
    for (const block of touched) if (!this.unsure.has(block)) expect(told).toContain(block);
    this.unsure = new Set();
  }
}

const place = fc
  .tuple(fc.nat(SIZE - 1), fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.integer({ min: 1, max: SIZE })))
  .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));
type Step =
  | {
      act: 'write' | 'fail' | 'zero' | 'zero by writing' | 'trim' | 'zero aside';
      offset: number;
      length: number;
    }
  | { act: 'take'; who: number }
  | { act: 'begin'; blockSize: number }
  | { act: 'end'; who: number };
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .tuple(
        fc.constantFrom('write', 'write', 'fail', 'zero', 'zero by writing', 'trim', 'zero aside'),
        place,
      )
      .map(([act, at]) => ({ act, ...at }) as Step),
  },
  { weight: 4, arbitrary: fc.nat(3).map((who): Step => ({ act: 'take', who })) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(512, 4 * KiB, 64 * KiB, MiB)
      .map((blockSize): Step => ({ act: 'begin', blockSize })),
  },
  { weight: 1, arbitrary: fc.nat(3).map((who): Step => ({ act: 'end', who })) },
);

let fill = 0;
async function guestDoes({ act, offset, length }: Extract<Step, { offset: number }>): Promise<void> {
  fill = (fill % 255) + 1;
  const bytes = Buffer.alloc(length, fill);
  if (act === 'write') await disk.write(offset, bytes);
  else if (act === 'trim') await disk.trim({ offset, length });
  else if (act === 'fail') {
    const half = Math.floor(length / 2);
    const real = FileUnit.prototype.write;
    const broken = vi.spyOn(FileUnit.prototype, 'write').mockImplementation(function (
      this: FileUnit,
      at,
      source,
    ) {
      real.call(this, at, source.subarray(0, half));
      throw new DriftmapError('io', 'the disk gave up in the middle');
    });
    try {
      const failed = (async () => disk.write(offset, bytes))();
      await expect(failed).rejects.toThrow('gave up');
    } finally {
      broken.mockRestore();
    }
  } else await disk.zero({ offset, length }, { mayPunch: act === 'zero', fast: false });
}

async function play(steps: readonly Step[]): Promise<void> {
  const followers = [await Follower.begin(4 * KiB)];
  const aside = new Set<Promise<void>>();
  const settle = async () => {
    await Promise.all(aside);
    aside.clear();
  };
  try {
    for (const one of steps) {
      if (one.act === 'begin') {
        if (followers.length < WATCHES_PER_DISK) followers.push(await Follower.begin(one.blockSize));
        for (const { offset, length } of pendingOf(aside)) followers.at(-1)!.mayTouch(offset, length);
      } else if (one.act === 'end') {
        if (followers.length > 1) await followers.splice(one.who % followers.length, 1)[0]!.client.close();
        await until(() => watching()[0] === followers.length, 'it has ended');
      } else if (one.act === 'take') {
        await followers[one.who % followers.length]!.take(aside.size === 0);
      } else {
        // A write of one request into another's range, both under way, is the guest's own race; not a take's.
        if (one.act !== 'zero aside') await settle();
        const { offset, length } = touchedBy(one);
        for (const follower of followers) follower.touch(offset, length);
        if (one.act === 'zero aside') aside.add(named(guestDoes(one), one));
        else await guestDoes(one);
      }
    }
    await settle();
    for (const follower of followers) {
      await follower.take(true);
      expect(follower.copy.equals(site.bytes('disk'))).toBe(true);
    }
  } finally {
    await settle();
    for (const { client } of followers) await client.close();
    await until(() => watching()[0] === 0, 'all have ended');
  }
}

/** A disk gives back whole pages: what is discarded of others stays. */
function touchedBy({ act, offset, length }: Extract<Step, { offset: number }>) {
  if (act !== 'trim') return { offset, length };
  const from = Math.ceil(offset / (4 * KiB)) * 4 * KiB;
  const to = Math.floor((offset + length) / (4 * KiB)) * 4 * KiB;
  return { offset: from, length: Math.max(0, to - from) };
}

const watching = () => splitter.state().disks.map(({ watches }) => watches.length);

const ranges = new WeakMap<Promise<void>, { offset: number; length: number }>();
function named(work: Promise<void>, range: { offset: number; length: number }): Promise<void> {
  ranges.set(work, range);
  return work;
}
function pendingOf(aside: ReadonlySet<Promise<void>>): { offset: number; length: number }[] {
  return [...aside].map((work) => ranges.get(work)!);
}

describe('a watch', () => {
  it('tells every write once, to each who watches, whatever falls between', async () => {
    await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 30 }), play), {
      numRuns: 40,
    });
    expect(watching()).toEqual([0, 0]);
    expect(splitter.state().disks[0]!.failedWrites).toBeGreaterThan(0);
  });

  it('loses nothing of a zeroing in turns that is under way when it begins, and at each take', async () => {
    const zero = () => other.zero({ offset: 0, length: OTHER }, { mayPunch: false, fast: false });
    // Now all regions are hot: the next one begins at once.
    await zero();
    await other.write(0, Buffer.alloc(OTHER, 9));
    let over = false;
    const zeroing = Promise.resolve(zero()).then(() => {
      over = true;
    });
    const watch = splitter.watch('other', 64 * KiB);
    const copy = site.bytes('other');
    const counts: number[] = [];
    for (let last = false; !last; ) {
      last = over;
      const bits = watch.take().snapshot();
      counts.push(bits.count);
      const now = site.bytes('other');
      for (const { start, end } of bits.runs())
        now.copy(copy, start * 64 * KiB, start * 64 * KiB, end * 64 * KiB);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await zeroing;
    // What was zeroed before it began is in the copy; the rest came in several takes.
    const told = counts.reduce((sum, count) => sum + count, 0);
    expect(told).toBeGreaterThan(0);
    expect(told).toBeLessThan(OTHER / (64 * KiB));
    expect(counts.filter((count) => count > 0).length).toBeGreaterThan(1);
    expect(copy.equals(Buffer.alloc(OTHER))).toBe(true);
    watch.end(new DriftmapError('aborted', 'enough'));
  });

  it('is told in parts, whatever the disk has, in blocks that are not too many', async () => {
    const size = 5 * TiB + 12345;
    const watches = new Watches([{ name: 'large', size, watches: [] }]);
    const at = join(folder, 'large.sock');
    const routes = watchRoutes({
      watch: (...of) => watches.begin(...of),
      findWatch: (id) => watches.find(id),
    });
    const large = await serveControl(at, routes);
    const client = await WatchClient.begin(at, { disk: 'large', blockSize: 64 * KiB });
    const watch = watches.find(client.begun.watch);
    const blocks = Math.ceil(size / (64 * KiB));
    const expected = new PagedBits(blocks);
    for (let i = 0; i < 5000; i++) {
      const offset = (i * 7_919_000_003) % (size - 100_000);
      watch.mark(offset, 100_000);
      expected.setRun({
        start: Math.floor(offset / (64 * KiB)),
        end: Math.floor((offset + 99_999) / (64 * KiB)) + 1,
      });
    }
    watch.mark(size - 1, 1);
    expected.set(blocks - 1);
    expect((await client.take()).equals(expected)).toBe(true);
    expect((await client.take()).isEmpty).toBe(true);
    watch.mark(0, size);
    expect((await client.take()).isFull).toBe(true);
    await client.close();
    await large.close();
    const huge = new Watches([{ name: 'huge', size: 2 ** 52, watches: [] }]);
    expect(huge.begin('huge', 4 * KiB).blockSize).toBe(MiB);
    expect(huge.begin('huge', MiB).blockSize).toBe(MiB);
  });
});

/** As `curl --unix-socket` does, which reads one answer. */
function plain(path: string, body: object): Promise<number> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath: control, method: 'POST', path }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    outgoing.on('error', reject);
    outgoing.end(JSON.stringify(body));
  });
}

describe('watches by the control socket', () => {
  it('are bounded in number, and refused in words', async () => {
    const clients: WatchClient[] = [];
    for (let i = 0; i < WATCHES_PER_DISK; i++)
      clients.push(await WatchClient.begin(control, { disk: 'disk' }));
    await expect(WatchClient.begin(control, { disk: 'disk' })).rejects.toMatchObject({ kind: 'limit' });
    clients.push(await WatchClient.begin(control, { disk: 'other' }));
    await expect(WatchClient.begin(control, { disk: 'none' })).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringContaining("it has 'disk', 'other'"),
    });
    for (const blockSize of [0, 511, 1e9, 0.5])
      await expect(WatchClient.begin(control, { disk: 'other', blockSize })).rejects.toMatchObject({
        kind: 'argument',
      });
    await expect(WatchClient.begin(join(folder, 'no.sock'), { disk: 'disk' })).rejects.toMatchObject({
      kind: 'not-found',
    });
    expect(await plain('/watch', { disk: 'other' })).toBe(400);
    expect(await plain('/watch/take', { watch: clients[0]!.begun.watch })).toBe(400);
    await expect(askControl(control, 'POST /watch', {})).rejects.toMatchObject({ kind: 'argument' });
    await expect(askControl(control, 'POST /watch/take', {})).rejects.toMatchObject({ kind: 'argument' });
    await expect(askControl(control, 'POST /watch/take', { watch: 'x' })).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringContaining('marked nowhere'),
    });
    expect(watching()).toEqual([WATCHES_PER_DISK, 1]);
    for (const client of clients) await client.close();
    await until(() => watching().every((count) => count === 0), 'all have ended');
    const many = new Watches(
      Array.from({ length: MAX_WATCHES }, (_, i) => ({ name: `${i}`, size: MiB, watches: [] })),
    );
    for (let i = 0; i < MAX_WATCHES; i++) many.begin(`${i}`);
    expect(() => many.begin('0')).toThrow(/at most/);
  });

  it('end when somebody says so, and are told apart from those that somebody else took from', async () => {
    const client = await WatchClient.begin(control, { disk: 'disk' });
    const { watch } = client.begun;
    await askControl(control, 'POST /watch/take', { watch });
    await expect(client.take()).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringContaining('somebody else took'),
    });
    expect(client.lost.aborted).toBe(false);
    await askControl(control, 'POST /watch/end', { watch });
    await until(() => client.lost.aborted, 'it is told');
    expect(client.lost.reason).toMatchObject({ message: expect.stringContaining('ended by somebody else') });
    await expect(client.take()).rejects.toMatchObject({ kind: 'io' });
    await client.close();
    // In this process, where no socket is between.
    const near = splitter.watch('other', 4 * KiB);
    near.mark(0, 1);
    expect(near.take().snapshot().count).toBe(1);
    near.end(new DriftmapError('aborted', 'enough'));
    expect(() => near.take()).toThrow('enough');
  });
});

describe('a sync in the process of the splitter', () => {
  it('follows it without a socket, and by the socket without a group file', async () => {
    for (const from of [splitter, control]) {
      const replica = makeFile(join(folder, `near-${typeof from}`), SIZE);
      const production = site.production('disk');
      await disk.write(0, Buffer.alloc(SIZE, 5));
      let passes = 0;
      const live = await liveFromSplitter(
        { splitter: from, production, blockSize: 4 * KiB },
        {
          threshold: MiB,
          onPass: ({ markedBytes }) => {
            // Three pages, each in a block of the session.
            passes++;
            expect(markedBytes).toBe(3 * 64 * KiB);
          },
          quiesce: async () => disk.write(3 * MiB, Buffer.alloc(100, 8)),
        },
      );
      await disk.write(MiB, Buffer.alloc(4 * KiB, 6));
      await disk.write(2 * MiB, Buffer.alloc(4 * KiB, 7));
      const { consistent } = await sync({ production, replica, live, workers: 1, blockSize: 64 * KiB });
      await live.close();
      expect([consistent, passes]).toEqual([true, 1]);
      expect(site.bytes('disk').equals(readFileSync(replica))).toBe(true);
      await until(() => watching()[0] === 0, 'it has ended');
    }
  });
});

describe('answers that contradict themselves', () => {
  const begun = { watch: 'w', disk: 'disk', size: 3 * TiB, blockSize: 64 * KiB };
  /** A set without bits, in the layout of Roaring. */
  const empty = Buffer.alloc(8).toString('base64');
  const taken = { watch: 'w', take: 1, markedBlocks: 0 };

  it.each<[string, object, unknown[], object]>([
    ['another disk', { ...begun, disk: 'x' }, [], taken],
    ['no size', { ...begun, size: 0.5 }, [], taken],
    ['more blocks than are allowed', { ...begun, blockSize: 512 }, [], taken],
    ['no name', { ...begun, watch: 7 }, [], taken],
    ['a part in the middle of another', begun, [{ first: 5, marks: empty }], taken],
    ['a part past the end', begun, [{ first: WATCH_PART_BLOCKS * 1024, marks: empty }], taken],
    [
      'parts that do not ascend',
      begun,
      [
        { first: 0, marks: empty },
        { first: 0, marks: empty },
      ],
      taken,
    ],
    ['no place', begun, [{ marks: empty }], taken],
    ['nothing', begun, [null], taken],
    ['no marks', begun, [{ first: 0, marks: 5 }], taken],
    ['marks that are none', begun, [{ first: 0, marks: 'AAAA' }], taken],
    ['marks without end', begun, [{ first: 0, marks: 'A'.repeat(WATCH_PART_BLOCKS) }], taken],
    ['another number of marks', begun, [{ first: 0, marks: empty }], { ...taken, markedBlocks: 1 }],
    ['marks of another watch', begun, [], { ...taken, watch: 'v' }],
    ['no number', begun, [], { watch: 'w', markedBlocks: 0 }],
  ])('are refused: %s', async (what, first, parts, last) => {
    const at = join(folder, `bad-${what.replaceAll(' ', '-')}.sock`);
    const routes: ControlRoutes = {
      'POST /watch': async ({ tell, signal }) => {
        tell(first);
        await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      },
      'POST /watch/take': ({ tell }) => {
        for (const part of parts) tell(part);
        return last;
      },
    };
    const bad = await serveControl(at, routes);
    const follow = async () => {
      const client = await WatchClient.begin(at, { disk: 'disk' });
      try {
        await client.take();
      } finally {
        await client.close();
      }
    };
    await expect(follow()).rejects.toMatchObject({ kind: what === 'no number' ? 'mismatch' : 'malformed' });
    await bad.close();
  });
});
