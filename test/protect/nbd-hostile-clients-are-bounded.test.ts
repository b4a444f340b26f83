import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../src/base/units.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { Command, Errno, lengthAndText, Option, Reply } from '../../src/lu/nbd/protocol.ts';
import type { NbdExport } from '../../src/protect/nbd/nbd-export.ts';
import { unitExport } from '../../src/protect/nbd/unit-export.ts';
import { temporary } from '../tools.ts';
import { memoryExport, RawClient, requestBytes, serveHere } from './nbd-peers.ts';

const folder = temporary();
const SIZE = 4 * MiB;

/** Whoever else is served must not notice. */
async function stillServes(url: string): Promise<void> {
  const unit = await openNbdUnit(url);
  await unit.read(0, new Uint8Array(4096));
  await unit.close();
}

describe('the handshake', () => {
  it('ends for whoever speaks no NBD, whatever it says', async () => {
    const { socket, url, server } = await serveHere(folder, { disk: memoryExport(SIZE) });
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 20, maxLength: 300 }), async (noise) => {
        const client = new RawClient(socket);
        client.send(Buffer.concat([Buffer.from([0xff]), noise]));
        client.socket.end();
        await client.closed;
      }),
      { numRuns: 30 },
    );
    await stillServes(url());
    await expect.poll(() => server.connections).toBe(0);
  });

  it('ends for flags that nobody offered, and for what is no option', async () => {
    const { socket, troubles } = await serveHere(folder, { disk: memoryExport(SIZE) });
    const flags = new RawClient(socket);
    await flags.greet(0x80000003);
    await flags.closed;
    const magic = new RawClient(socket);
    await magic.greet();
    magic.send(Buffer.alloc(16, 7));
    await magic.closed;
    expect(troubles).toEqual([expect.stringMatching(/client flags/), expect.stringMatching(/IHAVEOPT/)]);
  });

  it('has a time, also for who sends byte after byte', async () => {
    const { socket, server } = await serveHere(
      folder,
      { disk: memoryExport(SIZE) },
      { handshakeSeconds: 0.3 },
    );
    const silent = new RawClient(socket);
    const slow = new RawClient(socket);
    const drip = setInterval(() => slow.send(Buffer.alloc(1)), 20);
    await Promise.all([silent.closed, slow.closed]);
    clearInterval(drip);
    await expect.poll(() => server.connections).toBe(0);
  });

  it('answers options that it does not know, and those that are malformed, and goes on', async () => {
    const { socket } = await serveHere(folder, { disk: memoryExport(SIZE), other: memoryExport(SIZE) });
    const client = new RawClient(socket);
    await client.greet();
    const twelve = Buffer.alloc(12);
    const name = lengthAndText('disk');
    for (const [option, data, type] of [
      [77, Buffer.alloc(5), Reply.unsupported],
      [Option.list, Buffer.alloc(1), Reply.invalid],
      [Option.startTls, Buffer.alloc(0), Reply.policy],
      [Option.structuredReply, Buffer.alloc(1), Reply.invalid],
      [Option.go, Buffer.alloc(0), Reply.invalid],
      [Option.go, Buffer.from([0, 0, 0, 99, 65, 0, 0]), Reply.invalid],
      [Option.go, Buffer.concat([name, Buffer.from([0, 2, 0, 3])]), Reply.invalid],
      [Option.go, Buffer.concat([Buffer.from([0, 0, 0, 2, 0xff, 0xfe]), Buffer.alloc(2)]), Reply.invalid],
      [Option.go, Buffer.concat([lengthAndText('a\0b'), Buffer.alloc(2)]), Reply.invalid],
      [Option.go, Buffer.concat([lengthAndText('x'.repeat(5000)), Buffer.alloc(2)]), Reply.invalid],
      [Option.go, Buffer.concat([lengthAndText('none'), Buffer.alloc(2)]), Reply.unknown],
      [Option.go, Buffer.concat([lengthAndText(''), Buffer.alloc(2)]), Reply.unknown],
      [Option.setMetaContext, Buffer.concat([name, Buffer.alloc(4)]), Reply.invalid],
      [Option.listMetaContext, twelve.fill(0xff), Reply.invalid],
      [Option.setMetaContext, Buffer.concat([name, Buffer.from([0xff, 0xff, 0xff, 0xff])]), Reply.invalid],
      [Option.list, Buffer.alloc(300 * KiB), Reply.tooBig],
    ] as const) {
      client.option(option, data);
      expect(await client.reply()).toMatchObject({ option, type });
    }
    client.option(Option.abort, Buffer.from('bye'));
    expect(await client.reply()).toMatchObject({ option: Option.abort, type: Reply.ack });
    await client.closed;
  });

  it('ends where an export that is not there is chosen without a way to say no', async () => {
    const { socket } = await serveHere(folder, { disk: memoryExport(SIZE) });
    for (const name of ['none', 'x'.repeat(70_000), '\0']) {
      const client = new RawClient(socket);
      await client.greet();
      client.option(Option.exportName, Buffer.from(name));
      await client.closed;
      expect(client.stream.inbox.length).toBe(0);
    }
  });

  it('is not begun with more clients than are allowed', async () => {
    const { socket, server, url } = await serveHere(
      folder,
      { disk: memoryExport(SIZE) },
      { maxConnections: 2 },
    );
    const [one, two] = [new RawClient(socket), new RawClient(socket)];
    await Promise.all([one.enter(), two.enter()]);
    const three = new RawClient(socket);
    await three.closed;
    expect(server.connections).toBe(2);
    one.socket.destroy();
    await expect.poll(() => server.connections).toBe(1);
    await stillServes(url());
    two.socket.destroy();
  });
});

describe('transmission', () => {
  it('ends at what is no request, after what was asked before is answered', async () => {
    const { socket, url } = await serveHere(folder, { disk: memoryExport(SIZE) });
    const client = new RawClient(socket);
    await client.enter();
    client.request({ type: Command.flush, cookie: 5 });
    client.request({ type: Command.flush, magic: 0x12345678 });
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 5 });
    await client.closed;
    await stillServes(url());
  });

  it('swallows the data of writes that it refuses, and goes on behind it', async () => {
    const { socket } = await serveHere(folder, { disk: memoryExport(SIZE) });
    const client = new RawClient(socket);
    await client.enter();
    for (const [request, error] of [
      [{ type: Command.write, offset: SIZE - 1, length: 100_000 }, Errno.ENOSPC],
      [{ type: Command.write, flags: 1 << 9, length: 100_000 }, Errno.EINVAL],
      [{ type: Command.write, length: 33 * MiB }, Errno.ENOSPC],
      [{ type: 99, length: 5 }, Errno.EINVAL],
      [{ type: Command.read, length: 0xffff_ffff }, Errno.EINVAL],
      [{ type: Command.read, offset: 2 ** 53 + 2, length: 512 }, Errno.EINVAL],
      [{ type: Command.read, flags: 4, length: 512 }, Errno.EINVAL],
      [{ type: Command.blockStatus, length: 512 }, Errno.EINVAL],
      [{ type: Command.flush, offset: 1 }, Errno.EINVAL],
    ] as const) {
      client.request(request);
      if (request.type === Command.write) client.send(Buffer.alloc(request.length, 0x55));
      expect([request, await client.simpleReply()]).toEqual([request, { error, cookie: 1 }]);
    }
    client.request({ type: Command.read, length: SIZE });
    expect(await client.simpleReply()).toEqual({ error: 0, cookie: 1 });
    expect((await client.stream.take(SIZE)).every((byte) => byte === 0)).toBe(true);
    client.request({ type: Command.disconnect });
    await client.closed;
  });

  it('refuses what is not aligned to the blocks that an export insists on', async () => {
    const exported = Object.assign(memoryExport(SIZE), { minimumBlock: 4096 });
    const { socket } = await serveHere(folder, { disk: exported });
    const client = new RawClient(socket);
    await client.enter();
    for (const [offset, length, error] of [
      [0, 4096, 0],
      [512, 4096, Errno.EINVAL],
      [4096, 100, Errno.EINVAL],
    ] as const) {
      client.request({ type: Command.trim, offset, length });
      expect(await client.simpleReply()).toMatchObject({ error });
    }
    client.socket.destroy();
  });

  it('serves a client byte by byte, and one that sends all at once and ends its side', async () => {
    const { socket } = await serveHere(folder, { disk: memoryExport(SIZE) });
    const slow = new RawClient(socket);
    await slow.enter();
    const payload = randomBytes(100);
    for (const byte of requestBytes({ type: Command.write, offset: 77, length: 100, payload })) {
      slow.send(Buffer.from([byte]));
      await pause(1);
    }
    expect(await slow.simpleReply()).toEqual({ error: 0, cookie: 1 });
    slow.socket.destroy();
    const quick = new RawClient(socket);
    await quick.enter();
    const reads = Array.from({ length: 1000 }, (_, cookie) =>
      requestBytes({ type: Command.read, offset: 77, length: 100, cookie }),
    );
    quick.send(Buffer.concat(reads));
    quick.socket.end();
    for (let cookie = 0; cookie < 1000; cookie++) {
      expect(await quick.simpleReply()).toEqual({ error: 0, cookie });
      expect(Buffer.compare(await quick.stream.take(100), payload)).toBe(0);
    }
    await quick.closed;
  });

  it('holds a bounded amount for a client that asks and does not listen', async () => {
    let read = 0;
    const inner = memoryExport(64 * MiB);
    const exported: NbdExport = Object.assign(Object.create(inner) as NbdExport, {
      read: (offset: number, target: Uint8Array) => {
        read += target.length;
        return inner.read(offset, target);
      },
    });
    const { socket, server, url } = await serveHere(folder, { disk: exported });
    const client = new RawClient(socket);
    await client.enter();
    client.socket.pause();
    const request = requestBytes({ type: Command.read, length: 1 * MiB });
    client.send(Buffer.concat(Array.from({ length: 4000 }, () => request)));
    await expect.poll(() => read, { timeout: 10_000 }).toBeGreaterThan(32 * MiB);
    await pause(300);
    // What is held, and what the system's socket buffers took.
    expect(read).toBeLessThan(80 * MiB);
    await stillServes(url());
    client.socket.destroy();
    await expect.poll(() => server.connections).toBe(0);
  });

  it('is cut in the middle of a write without writing any of it', async () => {
    const image = createArrayImage({ size: SIZE });
    const { socket, server } = await serveHere(folder, { disk: unitExport(image) });
    const client = new RawClient(socket);
    await client.enter();
    client.request({ type: Command.write, length: 1 * MiB, payload: Buffer.alloc(900_000, 1) });
    await pause(50);
    client.socket.destroy();
    await expect.poll(() => server.connections).toBe(0);
    expect(image.view({ offset: 0, length: 1 * MiB }).every((byte) => byte === 0)).toBe(true);
  });
});

describe('closing the server', () => {
  it('answers what is in flight, and ends all connections', async () => {
    let finish = () => {};
    const inner = memoryExport(SIZE);
    const exported: NbdExport = Object.assign(Object.create(inner) as NbdExport, {
      flush: () =>
        new Promise<undefined>((resolve) => {
          finish = () => resolve(undefined);
        }),
    });
    const { socket, server } = await serveHere(folder, { disk: exported });
    const busy = new RawClient(socket);
    const idle = new RawClient(socket);
    const shaking = new RawClient(socket);
    await Promise.all([busy.enter(), idle.enter(), shaking.greet()]);
    busy.request({ type: Command.flush, cookie: 3 });
    await pause(50);
    const closed = server.close();
    await Promise.all([idle.closed, shaking.closed]);
    busy.request({ type: Command.read, length: 512, cookie: 4 });
    expect(await busy.simpleReply()).toEqual({ error: Errno.ESHUTDOWN, cookie: 4 });
    finish();
    expect(await busy.simpleReply()).toEqual({ error: 0, cookie: 3 });
    await closed;
    await busy.closed;
    expect(server.connections).toBe(0);
  });

  it('cuts off who does not let go', async () => {
    const { socket, server } = await serveHere(folder, { disk: memoryExport(64 * MiB) });
    const client = new RawClient(socket);
    await client.enter();
    client.socket.pause();
    for (let i = 0; i < 60; i++) client.request({ type: Command.read, length: 1 * MiB });
    await pause(100);
    await server.close();
    expect(server.connections).toBe(0);
  });
});

describe('a failing export', () => {
  it('tells the client the kind and nothing of this host, and goes on', async () => {
    const inner = memoryExport(SIZE);
    const exported: NbdExport = Object.assign(Object.create(inner) as NbdExport, {
      read: () => {
        throw Object.assign(new Error('/secret/path: broken'), { code: 'EIO' });
      },
      write: async () => {
        throw new Error('/secret/path: broken too');
      },
    });
    const { url, troubles } = await serveHere(folder, { disk: exported });
    const unit = await openNbdUnit(url(), { write: true });
    const message = async (act: () => Promise<unknown>) => {
      try {
        await act();
        return '';
      } catch (error) {
        return (error as Error).message;
      }
    };
    const texts = [
      await message(() => unit.read(512, new Uint8Array(512))),
      await message(() => unit.write(512, new Uint8Array(512))),
    ];
    for (const text of texts) {
      expect(text).toMatch(/input\/output error/);
      expect(text).toMatch(/at offset 512, length 512/);
      expect(text).not.toMatch(/secret/);
    }
    expect(troubles.join('\n')).toMatch(/input\/output error.*broken too/s);
    await unit.flush();
    await unit.close();
  });
});
