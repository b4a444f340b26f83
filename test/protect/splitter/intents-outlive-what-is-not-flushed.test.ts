/**
 * What the journal has and the disk has not flushed, a power cut takes from the disk alone. So a region keeps its
 * intent until a flush that began after its last write has ended well.
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../../src/base/errors.ts';
import { KiB, MiB } from '../../../src/base/units.ts';
import { placeOfRegion, readImage } from '../../../src/protect/splitter/intents-file.ts';
import type { SplitDisk } from '../../../src/protect/splitter/split-disk.ts';
import type { Splitter } from '../../../src/protect/splitter/splitter.ts';
import { temporary } from '../../tools.ts';
import { restamp } from './judged.ts';
import { Site, until } from './site.ts';

const folder = temporary();
const shapes = [{ name: 'disk', size: 16 * MiB }];

let open: Splitter | null = null;
afterEach(async () => {
  await open?.close();
  open = null;
});

/** A disk whose flushes are held up, or fail, as a test says. */
class Held {
  readonly site: Site;
  splitter!: Splitter;
  disk!: SplitDisk;
  begun = 0;
  /** Ends the flush that is under way. */
  end: (error?: DriftmapError) => void = () => undefined;

  constructor(name: string) {
    this.site = new Site(join(folder, name), shapes);
  }

  async start(): Promise<void> {
    await this.site.startReplica();
    this.splitter = await this.site.startSplitter();
    open = this.splitter;
    // Rounds are the test's alone.
    clearInterval((this.splitter as unknown as { cooling: NodeJS.Timeout }).cooling);
    await until(() => this.splitter.state().state === 'streaming', 'streaming');
    const { disks } = (this.splitter as unknown as { parts: { disks: SplitDisk[] } }).parts;
    this.disk = disks[0]!;
    // What is hot from the start is cleared: the disk's own flush is a real one still.
    for (let round = 0; round < 4 && this.hot().length > 0; round++) {
      this.mayFlush();
      await this.splitter.coolDown();
    }
    expect(this.hot()).toEqual([]);
    this.mayFlush();
    this.disk.unit.flushAside = () => {
      this.begun++;
      return new Promise((resolve, reject) => {
        this.end = (error) => (error === undefined ? resolve(undefined) : reject(error));
      });
    };
  }

  /** However long the last flush took. */
  mayFlush(): void {
    (this.splitter as unknown as { mayFlushAt: Map<unknown, unknown> }).mayFlushAt.clear();
  }

  /** Regions whose bits are set in the file. */
  hot(): number[] {
    const path = join(this.site.state, 'intents');
    const { image } = readImage(new Uint8Array(readFileSync(path)), path);
    return [0, 1, 2, 3].filter((region) => {
      const { byte, mask } = placeOfRegion(image.starts[0]!, region);
      return (image.bytes[byte]! & mask) !== 0;
    });
  }

  async write(offset: number): Promise<void> {
    await this.disk.write(offset, Buffer.alloc(4 * KiB, 7));
    await this.journaled();
  }

  async journaled(): Promise<void> {
    const { splitter } = this;
    await until(() => splitter.state().acknowledged === splitter.state().order, 'in the journal');
  }
}

/** A round has a flush under way; other rounds before it had nothing to do. */
async function beginFlush(held: Held): Promise<{ round: Promise<void> }> {
  const { begun } = held;
  await held.splitter.coolDown();
  const round = held.splitter.coolDown();
  await until(() => held.begun > begun, 'a flush');
  return { round };
}

describe('a write that the guest does not flush', () => {
  it('keeps its intent until a flush that began after it has ended', async () => {
    const held = new Held('late');
    await held.start();
    await held.write(0);
    const { round } = await beginFlush(held);
    expect(held.hot()).toEqual([0]);
    // After the flush has begun: it says nothing of this one.
    await held.write(4 * MiB);
    held.end();
    await round;
    expect(held.hot()).toEqual([1]);
    held.mayFlush();
    const next = await beginFlush(held);
    expect(held.hot()).toEqual([1]);
    held.end();
    await next.round;
    expect(held.hot()).toEqual([]);
    const guest = held.disk.flush();
    await until(() => held.begun === 3, "the guest's own");
    held.end();
    await guest;
    // Nothing is left to flush.
    await held.splitter.coolDown();
    expect(held.begun).toBe(3);
    const closing = held.splitter.close();
    await until(() => held.begun === 4, 'a flush at the end');
    held.end();
    await closing;
  });

  it("is cleared by the guest's own flush, without another", async () => {
    const held = new Held('guest');
    await held.start();
    await held.write(8 * MiB);
    const flushed = held.disk.flush();
    await until(() => held.begun === 1, "the guest's");
    held.end();
    await flushed;
    await held.splitter.coolDown();
    await held.splitter.coolDown();
    expect(held.hot()).toEqual([]);
    expect(held.begun).toBe(1);
    held.disk.unit.flushAside = async () => undefined;
  });

  it('is compared after a flush that failed, whatever flushes came later; and the guest learns of it', async () => {
    const held = new Held('failed');
    await held.start();
    await held.write(12 * MiB);
    const { round } = await beginFlush(held);
    held.end(new DriftmapError('io', 'the medium is broken'));
    await round;
    expect(held.hot()).toEqual([3]);
    await expect(held.disk.flush()).rejects.toThrow(/the medium is broken/);
    held.disk.unit.flushAside = async () => undefined;
    await held.disk.flush();
    await held.splitter.coolDown();
    await held.splitter.coolDown();
    expect(held.hot()).toEqual([3]);
    expect(held.splitter.state()).toMatchObject({ state: 'streaming', markedBytes: 0 });
    await held.splitter.close();
    const again = await held.site.startSplitter({ reach: null });
    open = again;
    expect(again.state().markedBytes).toBe(4 * MiB);
  });
});

describe('a power cut', () => {
  it('takes unflushed writes from the disk, and the replica becomes equal to what is left', async () => {
    const held = new Held('power');
    await held.start();
    const durable = readFileSync(held.site.production('disk'));
    await held.write(4 * MiB);
    await held.write(4 * MiB + 64 * KiB);
    const { round } = await beginFlush(held);
    // The power fails: the flush never ends, and the state folder is as it is now.
    const intents = readFileSync(join(held.site.state, 'intents'));
    const stamp = readFileSync(join(held.site.state, 'stamp'));
    held.end();
    await round;
    held.disk.unit.flushAside = async () => undefined;
    await held.splitter.close();
    writeFileSync(held.site.production('disk'), durable);
    writeFileSync(join(held.site.state, 'intents'), intents);
    writeFileSync(join(held.site.state, 'stamp'), stamp);
    restamp(held.site.state, (before) => ({ ...before, host: 'ab'.repeat(16) }));
    const splitter = await held.site.startSplitter();
    open = splitter;
    // The intents speak, and not a stamp that would have all compared.
    expect(splitter.notes).toEqual([]);
    await until(() => splitter.state().state === 'streaming', 'streaming');
    const unit = held.site.journal!.newest('disk');
    const there = Buffer.alloc(unit.size);
    await unit.read(0, there);
    await unit.close();
    expect(Buffer.compare(there, durable)).toBe(0);
  });
});

describe('a disk of 0 bytes', () => {
  it('is refused by name', async () => {
    const site = new Site(join(folder, 'empty'), [...shapes, { name: 'none', size: 0 }]);
    await expect(site.startSplitter()).rejects.toThrow(/the disk 'none' has 0 bytes/);
  });
});
