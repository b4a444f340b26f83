import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../src/base/units.ts';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { Command } from '../../src/lu/nbd/protocol.ts';
import type { NbdExport } from '../../src/protect/nbd/nbd-export.ts';
import { temporary } from '../tools.ts';
import { memoryExport, RawClient, requestBytes, serveHere } from './nbd-peers.ts';

const folder = temporary();
const SIZE = 16 * MiB;

/** An export whose verbs wait to be let go, one by one. */
function held(): { exported: NbdExport; calls: { what: string; go: () => void }[] } {
  const inner = memoryExport(SIZE);
  const calls: { what: string; go: () => void }[] = [];
  const wait = (what: string) =>
    new Promise<undefined>((resolve) => calls.push({ what, go: () => resolve(undefined) }));
  const exported: NbdExport = Object.assign(Object.create(inner) as NbdExport, {
    read: (offset: number, target: Uint8Array) =>
      wait(`read ${offset}`).then(() => inner.read(offset, target)),
    write: (offset: number, source: Uint8Array) =>
      wait(`write ${offset}`).then(() => inner.write(offset, source)),
    flush: () => wait('flush'),
  });
  return { exported, calls };
}

describe('the server', () => {
  it('begins requests in their order, and answers as they complete', async () => {
    const { exported, calls } = held();
    const { socket } = await serveHere(folder, { disk: exported });
    const client = new RawClient(socket);
    await client.enter();
    for (let cookie = 0; cookie < 4; cookie++) {
      client.request({
        type: Command.write,
        offset: cookie * 512,
        length: 512,
        cookie,
        payload: Buffer.alloc(512),
      });
    }
    await expect.poll(() => calls.length).toBe(4);
    expect(calls.map(({ what }) => what)).toEqual(['write 0', 'write 512', 'write 1024', 'write 1536']);
    for (const cookie of [2, 0, 3, 1]) {
      calls[cookie]!.go();
      expect(await client.simpleReply()).toEqual({ error: 0, cookie });
    }
    client.socket.destroy();
  });

  it('answers a write with FUA only after a flush that began when the write was done', async () => {
    const { exported, calls } = held();
    const { socket } = await serveHere(folder, { disk: exported });
    const client = new RawClient(socket);
    await client.enter();
    const write = { type: Command.write, flags: 1, length: 512, payload: Buffer.alloc(512) };
    client.request(write);
    await expect.poll(() => calls.length).toBe(1);
    calls[0]!.go();
    await expect.poll(() => calls.length).toBe(2);
    expect(calls[1]!.what).toBe('flush');
    expect(client.stream.inbox.length).toBe(0);
    calls[1]!.go();
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
    client.socket.destroy();
  });

  it('handles what is outstanding before it lets go of a client that says goodbye', async () => {
    const { exported, calls } = held();
    const { socket } = await serveHere(folder, { disk: exported });
    const client = new RawClient(socket);
    await client.enter();
    client.request({ type: Command.flush, cookie: 8 });
    client.request({ type: Command.disconnect });
    await expect.poll(() => calls.length).toBe(1);
    calls[0]!.go();
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 8 });
    await client.closed;
  });

  it('takes no more requests than it bounds itself to', async () => {
    const { exported, calls } = held();
    const { socket } = await serveHere(folder, { disk: exported });
    const client = new RawClient(socket);
    await client.enter();
    const one = requestBytes({ type: Command.read, length: 512 });
    client.send(Buffer.concat(Array.from({ length: 1000 }, () => one)));
    await expect.poll(() => calls.length).toBe(256);
    for (const { go } of calls.splice(0)) go();
    await expect.poll(() => calls.length).toBe(256);
    client.socket.destroy();
    for (const { go } of calls.splice(0)) go();
  });
});

describe('the client', () => {
  it('has the pieces of a read in flight together, up to its window', async () => {
    const { exported, calls } = held();
    const { url } = await serveHere(folder, { disk: exported });
    const unit = await openNbdUnit(url());
    const reading = unit.read(0, new Uint8Array(SIZE));
    await expect.poll(() => calls.length).toBe(32);
    expect(calls.map(({ what }) => what).sort()).toEqual(
      Array.from({ length: 32 }, (_, i) => `read ${i * 256 * KiB}`).sort(),
    );
    for (let turn = 0; turn < 64; turn++) {
      await expect.poll(() => calls.length).toBeGreaterThan(0);
      calls.shift()!.go();
    }
    await reading;
    await unit.close();
  });

  it('waits for what is in flight before it says goodbye, and begins nothing more', async () => {
    const { exported, calls } = held();
    const { url } = await serveHere(folder, { disk: exported });
    const unit = await openNbdUnit(url());
    let isDone = false;
    const reading = unit.read(0, new Uint8Array(512)).then(() => {
      isDone = true;
    });
    await expect.poll(() => calls.length).toBe(1);
    const closing = unit.close().then(() => expect(isDone).toBe(true));
    calls[0]!.go();
    await Promise.all([reading, closing]);
  });

  it('keeps parts of a block that others write meanwhile', async () => {
    const exported = Object.assign(memoryExport(SIZE), { minimumBlock: 4096, preferredBlock: 4096 });
    const { url } = await serveHere(folder, { disk: exported });
    const unit = await openNbdUnit(url(), { write: true });
    const bytes = Buffer.from(Array.from({ length: 4096 }, (_, i) => 1 + (i % 251)));
    // Sixty-four writes of one block each, all at once, between writes of whole blocks elsewhere.
    await Promise.all(
      Array.from({ length: 64 }, async (_, i) => {
        await unit.write(i * 64, bytes.subarray(i * 64, (i + 1) * 64));
        await unit.write(8192 + i * 4096, bytes);
      }),
    );
    const back = new Uint8Array(4096);
    await unit.read(0, back);
    expect(Buffer.compare(back, bytes)).toBe(0);
    await unit.close();
  });
});
