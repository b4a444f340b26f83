import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { ByteStream } from '../../src/lu/nbd/byte-stream.ts';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { Magic, Option, Reply, write64, writeMagic } from '../../src/lu/nbd/protocol.ts';
import { temporary } from '../tools.ts';

const folder = temporary();
const SIZE = 65_536;
let sockets = 0;

const endings: (() => void)[] = [];
afterAll(() => {
  for (const end of endings) end();
});

/** A server whose every word is the test's. */
async function serve(talk: (stream: ByteStream) => Promise<void>): Promise<string> {
  const path = join(folder, `s${sockets++}`);
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    talk(new ByteStream(socket, 'client')).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  endings.push(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return `nbd+unix:///disk?socket=${path}`;
}

function greeting(flags = 3): Buffer {
  const bytes = Buffer.alloc(18);
  writeMagic(bytes, Magic.init, 0);
  writeMagic(bytes, Magic.option, 8);
  bytes.writeUInt16BE(flags, 16);
  return bytes;
}

function optionReply(
  option: number,
  type: number,
  data: Buffer = Buffer.alloc(0),
  claimed = data.length,
): Buffer {
  const head = Buffer.alloc(20);
  writeMagic(head, Magic.optionReply, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(claimed, 16);
  return Buffer.concat([head, data]);
}

function info(size = SIZE, flags = 0x5): Buffer {
  const data = Buffer.alloc(12);
  write64(data, size, 2);
  data.writeUInt16BE(flags, 10);
  return data;
}

/** A handshake as it should be: structured replies, `base:allocation` as context 7. */
async function shake(
  stream: ByteStream,
  about: Buffer = info(),
  blocks: Buffer | null = null,
): Promise<void> {
  const { socket } = stream;
  socket.write(greeting());
  await stream.take(4);
  for (;;) {
    const head = await stream.take(16);
    const option = head.readUInt32BE(8);
    await stream.take(head.readUInt32BE(12));
    if (option === Option.setMetaContext) {
      const context = Buffer.concat([Buffer.from([0, 0, 0, 7]), Buffer.from('base:allocation')]);
      socket.write(optionReply(option, Reply.metaContext, context));
    }
    if (option === Option.go) {
      socket.write(optionReply(option, Reply.info, about));
      if (blocks) socket.write(optionReply(option, Reply.info, blocks));
    }
    socket.write(optionReply(option, Reply.ack));
    if (option === Option.go) return;
  }
}

function chunk(
  type: number,
  payload: Buffer,
  { cookie = 1, flags = 1, claimed = payload.length } = {},
): Buffer {
  const head = Buffer.alloc(20);
  head.writeUInt32BE(0x668e33ef, 0);
  head.writeUInt16BE(flags, 4);
  head.writeUInt16BE(type, 6);
  head.writeUInt32BE(cookie, 12);
  head.writeUInt32BE(claimed, 16);
  return Buffer.concat([head, payload]);
}

function data(offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(8 + length, 0x61);
  write64(bytes, offset, 0);
  return bytes;
}

function hole(offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(12);
  write64(bytes, offset, 0);
  bytes.writeUInt32BE(length, 8);
  return bytes;
}

function status(context: number, ...runs: (readonly [number, number])[]): Buffer {
  const bytes = Buffer.alloc(4 + 8 * runs.length);
  bytes.writeUInt32BE(context, 0);
  for (const [i, [length, flags]] of runs.entries()) {
    bytes.writeUInt32BE(length, 4 + 8 * i);
    bytes.writeUInt32BE(flags, 8 + 8 * i);
  }
  return bytes;
}

function simple(error: number, cookie = 1): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32BE(0x67446698, 0);
  head.writeUInt32BE(error, 4);
  head.writeUInt32BE(cookie, 12);
  return head;
}

async function failure(act: () => Promise<unknown>): Promise<unknown> {
  try {
    await act();
    return null;
  } catch (error) {
    return error;
  }
}

describe('a handshake', () => {
  const bad: readonly (readonly [string, (stream: ByteStream) => Promise<void>, string, RegExp])[] = [
    [
      'that is HTTP',
      async ({ socket }) => void socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'),
      'malformed',
      /no NBD server/,
    ],
    [
      'of the old style',
      async ({ socket }) => {
        const bytes = Buffer.alloc(152);
        writeMagic(bytes, Magic.init, 0);
        writeMagic(bytes, Magic.oldStyle, 8);
        socket.write(bytes);
      },
      'unsupported',
      /old style/,
    ],
    ['that ends at once', async ({ socket }) => void socket.end(), 'io', /closed the connection/],
    [
      'that answers another option',
      async (stream) => {
        stream.socket.write(greeting());
        await stream.take(20);
        stream.socket.write(optionReply(77, Reply.ack));
      },
      'malformed',
      /expected a reply to option 8/,
    ],
    [
      'with a reply of gigabytes',
      async (stream) => {
        stream.socket.write(greeting());
        await stream.take(20);
        stream.socket.write(optionReply(Option.structuredReply, Reply.ack, Buffer.alloc(0), 0xffff_ffff));
      },
      'malformed',
      /4294967295 bytes/,
    ],
    ['with a size past 2^53', (stream) => shake(stream, info(2 ** 60)), 'limit', /2\^53/],
    ['without flags', (stream) => shake(stream, info(SIZE, 4)), 'malformed', /no flags/],
    [
      'that says nothing of the export',
      (stream) => shake(stream, Buffer.alloc(3)),
      'malformed',
      /said nothing/,
    ],
    [
      'with blocks of three bytes',
      (stream) => {
        const blocks = Buffer.from([0, 3, 0, 0, 0, 3, 0, 0, 16, 0, 2, 0, 0, 0]);
        return shake(stream, info(), blocks);
      },
      'malformed',
      /impossible sizes/,
    ],
    [
      'that never stops listing',
      async (stream) => {
        stream.socket.write(greeting());
        await stream.take(20);
        stream.socket.write(optionReply(Option.structuredReply, Reply.ack));
        await stream.take(16);
        const one = optionReply(Option.setMetaContext, Reply.metaContext, Buffer.from('\0\0\0\x01x:y'));
        stream.socket.write(Buffer.concat(Array.from({ length: 10_001 }, () => one)));
      },
      'limit',
      /10000 replies/,
    ],
  ];
  it.each(bad)('%s', async (_title, talk, kind, message) => {
    const url = await serve(talk);
    const error = await failure(() => openNbdUnit(url));
    expect(error).toMatchObject({ name: 'DriftmapError', kind, message: expect.stringMatching(message) });
    expect((error as Error).message).toContain('nbd+unix:///disk?socket=');
  });
});

/** What a server answers to the one request, a read of 1000 bytes at 100. */
const reads: readonly (readonly [string, Buffer, string, RegExp])[] = [
  ['noise', Buffer.alloc(40, 0x20), 'malformed', /expected a reply/],
  ['a reply to nobody', chunk(1, data(100, 1000), { cookie: 9 }), 'malformed', /not made/],
  ['a simple reply to a read', Buffer.concat([simple(0), Buffer.alloc(1000)]), 'malformed', /simple reply/],
  ['data before the range', chunk(1, data(99, 1000)), 'malformed', /outside/],
  ['data past the range', chunk(1, data(101, 1000)), 'malformed', /outside/],
  ['more data than was asked for', chunk(1, data(100, 1001)), 'malformed', /chunk of type 1 and 1009/],
  ['a part of the data', chunk(1, data(100, 999)), 'malformed', /in part/],
  ['nothing', chunk(0, Buffer.alloc(0)), 'malformed', /in part/],
  [
    'a gap',
    Buffer.concat([chunk(1, data(100, 400), { flags: 0 }), chunk(2, hole(600, 500))]),
    'malformed',
    /gaps/,
  ],
  [
    'one part twice',
    Buffer.concat([chunk(1, data(100, 500), { flags: 0 }), chunk(1, data(100, 500))]),
    'malformed',
    /twice/,
  ],
  ['an empty hole', chunk(2, hole(100, 0)), 'malformed', /outside/],
  [
    'a chunk of gigabytes',
    chunk(1, Buffer.alloc(0), { claimed: 0xffff_0000 }),
    'malformed',
    /chunk of type 1/,
  ],
  [
    'an error of gigabytes',
    chunk(0x8001, Buffer.alloc(0), { claimed: 0xffff_0000 }),
    'malformed',
    /chunk of type/,
  ],
  ['an error without a number', chunk(0x8001, Buffer.alloc(6)), 'malformed', /without a number/],
  ['a chunk of an unknown type', chunk(77, Buffer.alloc(9)), 'malformed', /chunk of type 77/],
  ['a status for a read', chunk(5, status(7, [4096, 0])), 'malformed', /chunk of type 5/],
  [
    'an error',
    chunk(0x8001, Buffer.from('\0\0\0\x05\0\x05no\x1b[m')),
    'io',
    /read failed: input\/output error: no \[m/,
  ],
  ['an error of an unknown kind', chunk(0x8009, Buffer.from('\0\0\0\x1c\0\0xx')), 'io', /no space left/],
];

describe('an answer to a read', () => {
  it.each(reads)('that is %s', async (_title, answer, kind, message) => {
    const url = await serve(async (stream) => {
      await shake(stream);
      await stream.take(28);
      stream.socket.write(answer);
      await stream.take(28);
    });
    const unit = await openNbdUnit(url);
    const error = await failure(() => unit.read(100, new Uint8Array(1000)));
    expect(error).toMatchObject({ kind, operation: 'read', offset: 100, length: 1000 });
    expect((error as Error).message).toMatch(message);
    await unit.close();
  });

  it('may come in parts, in any order and cut anywhere, and still be whole', async () => {
    const parts = [
      chunk(2, hole(900, 200), { flags: 0 }),
      chunk(1, data(100, 300), { flags: 0 }),
      chunk(1, data(400, 500)),
    ];
    const bytes = Buffer.concat(parts);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(bytes.length), { maxLength: 8 }), async (cuts) => {
        const url = await serve(async (stream) => {
          await shake(stream);
          await stream.take(28);
          const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
          for (let i = 1; i < at.length; i++) {
            stream.socket.write(bytes.subarray(at[i - 1], at[i]));
            await new Promise((resolve) => setImmediate(resolve));
          }
        });
        const unit = await openNbdUnit(url);
        const target = new Uint8Array(1000).fill(1);
        await unit.read(100, target);
        expect(target.subarray(0, 800).every((byte) => byte === 0x61)).toBe(true);
        expect(target.subarray(800).every((byte) => byte === 0)).toBe(true);
        await unit.close();
      }),
      { numRuns: 25 },
    );
  });

  it('that never comes because the server went away fails everything in flight, and what follows', async () => {
    const url = await serve(async (stream) => {
      await shake(stream);
      await stream.take(28);
      stream.socket.end();
    });
    const unit = await openNbdUnit(url);
    const calls = [0, 1, 2].map((i) => failure(() => unit.read(i * 512, new Uint8Array(512))));
    for (const error of [
      ...(await Promise.all(calls)),
      await failure(() => unit.read(0, new Uint8Array(1))),
    ]) {
      expect(error).toMatchObject({ kind: 'io', message: expect.stringMatching(/closed the connection/) });
    }
    await unit.close();
  });
});

describe('a server that owes an answer and says nothing', () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  it('is given up after two minutes, and not while it still says something', async () => {
    const server: { stream: ByteStream | null } = { stream: null };
    const url = await serve(async (stream) => {
      await shake(stream);
      await stream.take(2 * 28);
      server.stream = stream;
    });
    const unit = await openNbdUnit(url);
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    const [first, second] = [0, 512].map((offset) => failure(() => unit.read(offset, new Uint8Array(512))));
    while (server.stream === null) await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(100_000);
    server.stream.socket.write(chunk(1, data(0, 512)));
    expect(await first).toBe(null);
    vi.advanceTimersByTime(100_000);
    vi.advanceTimersByTime(30_000);
    expect(await second).toMatchObject({
      kind: 'io',
      message: expect.stringMatching(/said nothing for 120 s/),
    });
    vi.useRealTimers();
    await unit.close();
  });
});

describe('an answer about extents', () => {
  const answer = async (bytes: Buffer) => {
    const url = await serve(async (stream) => {
      await shake(stream);
      await stream.take(28);
      stream.socket.write(bytes);
      await stream.take(28);
    });
    const unit = await openNbdUnit(url);
    const found = await failure(async () => {
      throw { extents: await unit.extents({ offset: 4096, length: 8192 }) };
    });
    await unit.close();
    return found;
  };

  it('is taken as the specification means it: past the range, in equal neighbours, with unknown flags', async () => {
    expect(
      await answer(chunk(5, status(7, [1000, 0x13], [24, 3], [3072, 0xf0], [1, 1], [4095, 2], [99_999, 0]))),
    ).toEqual({
      extents: [
        { offset: 4096, length: 1024, kind: 'unallocated' },
        { offset: 5120, length: 3073, kind: 'data' },
        { offset: 8193, length: 4095, kind: 'zero' },
      ],
    });
  });

  it.each([
    ['of no extent', chunk(5, status(7)), /chunk of type 5/],
    ['of no length', chunk(5, status(7, [0, 3])), /no length/],
    ['of another context', chunk(5, status(8, [4096, 3])), /said nothing of the context/],
    ['without contents', chunk(0, Buffer.alloc(0)), /said nothing of the context/],
    ['cut short', chunk(5, Buffer.alloc(13)), /chunk of type 5/],
    ['of data', chunk(1, data(4096, 512)), /chunk of type 1/],
  ])('that is %s is refused', async (_title, bytes, message) => {
    expect(await answer(bytes)).toMatchObject({ kind: 'malformed', message: expect.stringMatching(message) });
  });
});
