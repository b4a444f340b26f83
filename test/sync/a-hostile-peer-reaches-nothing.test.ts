import { readFileSync, statSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { encodeControl } from '../../src/codec/control.ts';
import { openDisk } from '../../src/disk/open.ts';
import { sendBitmap } from '../../src/sync/bitmap-parts.ts';
import { ProductionSession } from '../../src/sync/production-session.ts';
import { SyncTotals } from '../../src/sync/progress.ts';
import type { DiskWriter } from '../../src/sync/replica-disk.ts';
import { infoOf, ReplicaSession } from '../../src/sync/replica-session.ts';
import { serveSession } from '../../src/sync/server.ts';
import { openTarget } from '../../src/sync/target.ts';
import { Connection } from '../../src/wire/connection.ts';
import { greet } from '../../src/wire/greeting.ts';
import { MessageType } from '../../src/wire/message-types.ts';
import {
  Encoding,
  encodeBitmapPart,
  encodeData,
  encodeDiffer,
  encodeEqual,
  encodeNodes,
  encodePlaced,
  encodeSignatures,
  encodeTops,
} from '../../src/wire/messages.ts';
import { memoryPair } from '../../src/wire/transport.ts';
import { temporary } from '../tools.ts';
import { changed, connections, fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { randomOf } from './simulated.ts';

const folder = temporary();
const BLOCK = 64 * KiB;
const bytes = noise(2 * MiB, 1);
const open = { blockSize: BLOCK, signature: 'blake3', bySignature: true, job: 'sync' } as const;
const totals = () => new SyncTotals(() => 0, undefined);
const keys = { key: null, nodeKey: new Uint8Array(32) };

type Script = (peer: Connection) => Promise<void>;

/** A replica session whose production is a script. Returns its error, and what the replica's file holds then. */
async function againstReplica(script: Script, replicaBytes = changed(bytes, [3, 9])) {
  const production = await openDisk(fileOf(folder, bytes), { format: 'raw' });
  const replica = fileOf(folder, replicaBytes);
  const [peer, ours] = connections();
  const { blockSize, signature } = open;
  const target = await openTarget({ replica, format: 'raw', blockSize, signature }, infoOf(production));
  const { disk, size, compare } = target;
  const session = new ReplicaSession({
    ...{ connection: ours, disk, production: infoOf(production), size, open, workers: 0, compare, target },
    ...{ totals: totals(), warnings: [] },
  });
  const running = session.run().catch((error) => error);
  const talk = async () => {
    try {
      expect((await peer.receive()).type).toBe(MessageType.ready);
      await script(peer);
    } catch {
      // It was cut off: that is what is expected.
    }
  };
  const talking = talk();
  const error = await running;
  peer.fail(new DriftmapError('io', 'enough'));
  await talking;
  await Promise.all([peer.close(), ours.close(), target.close(), production.close()]);
  return { error, unchanged: Buffer.compare(readFileSync(replica), replicaBytes) === 0, replica };
}

/** A production session whose replica is a script. */
async function againstProduction(script: Script, ready: object = {}) {
  const path = fileOf(folder, bytes);
  const disk = await openDisk(path, { format: 'raw' });
  const [ours, peer] = connections();
  const session = new ProductionSession({
    ...{ connection: ours, disk, open, codec: null, compression: 'never', workers: 0, totals: totals() },
  });
  const running = session.run().catch((error) => error);
  const talk = async () => {
    try {
      const replica = { format: 'raw', size: bytes.length, identity: 'x', generation: 'y', lineage: null };
      const honest = { replica, size: bytes.length, compare: 'all', places: true, warnings: [] };
      await peer.sendControl(MessageType.ready, { ...honest, ...ready });
      await script(peer);
    } catch {
      // It was cut off.
    }
  };
  const talking = talk();
  const error = await running;
  peer.fail(new DriftmapError('io', 'enough'));
  await talking;
  await Promise.all([peer.close(), ours.close(), disk.close()]);
  expect(statSync(path).size).toBe(bytes.length);
  return error as unknown;
}

function expectRefused(error: unknown, words: RegExp): void {
  expect(error).toBeInstanceOf(DriftmapError);
  expect((error as DriftmapError).message).toMatch(words);
}

const plain = (offset: number, length: number) =>
  encodeData({ offset, length, encoding: Encoding.plain, stored: new Uint8Array(length).fill(7) });

/** Takes part in the first comparison as far as saying that block 3 differs. */
const markOne: Script = async (peer) => {
  await peer.sendControl(MessageType.compare, { what: 'first', ...keys });
  await peer.send(MessageType.tops, encodeTops([{ first: 0, end: 1, digest: new Uint8Array(16) }]));
  const nodes = await peer.receive();
  expect(nodes.type).toBe(MessageType.nodes);
  let level = nodes.payload[4]!;
  let parents = [0];
  while (level > 0) {
    const children = 32 / 16 ** level < 1 ? 1 : 32 / 16 ** level;
    parents = Array.from({ length: Math.ceil(children) }, (_, i) => i);
    const digests = new Uint8Array(32 * 16);
    await peer.send(
      MessageType.nodes,
      ...encodeNodes({ window: 0, level: 0, parentLevel: level, parents, digests }),
    );
    level = 0;
    const differ = await peer.receive();
    expect(differ.type).toBe(MessageType.differ);
    await peer.send(MessageType.compared);
    return;
  }
  await peer.send(MessageType.differ, encodeDiffer(0, [3]));
  await peer.send(MessageType.compared);
};

describe('hostile production', () => {
  const cases: [string, Script, RegExp][] = [
    ['writes before it has compared', (peer) => peer.send(MessageType.data, ...plain(0, 100)), /not marked/],
    [
      'places before it has compared',
      (peer) =>
        peer.send(
          MessageType.signatures,
          ...encodeSignatures({ runs: [{ start: 0, end: 1 }], digests: new Uint8Array(32) }),
        ),
      /not marked/,
    ],
    [
      'writes past the end of the disk',
      (peer) => peer.send(MessageType.data, ...plain(bytes.length - 50, 100)),
      /expected bytes of a disk/,
    ],
    [
      'sends tops of windows that are not there',
      async (peer) => {
        await peer.sendControl(MessageType.compare, { what: 'first', ...keys });
        await peer.send(MessageType.tops, encodeTops([{ first: 0, end: 9, digest: new Uint8Array(16) }]));
      },
      /expected ascending windows/,
    ],
    [
      'says compared when nothing was',
      async (peer) => {
        await peer.sendControl(MessageType.compare, { what: 'first', ...keys });
        await peer.send(MessageType.compared);
      },
      /expected the message 'nodes', got 'compared'/,
    ],
    [
      'sends a key that does not belong',
      (peer) => peer.sendControl(MessageType.compare, { what: 'first', ...keys, key: new Uint8Array(32) }),
      /its key do not fit/,
    ],
    ['sends what is the replica’s to send', (peer) => peer.send(MessageType.ready), /expected/],
    [
      'sends a bitmap larger than the disk could have',
      (peer) =>
        peer.send(
          MessageType.bitmap,
          ...encodeBitmapPart({ total: 0xffffffff, offset: 0, bytes: new Uint8Array(9) }),
        ),
      /expected a bitmap of at most/,
    ],
    [
      'sends a bitmap that is none',
      (peer) =>
        peer.send(MessageType.bitmap, ...encodeBitmapPart({ total: 9, offset: 0, bytes: new Uint8Array(9) })),
      /not a driftmap bitmap/,
    ],
    [
      'sends a control message that is none',
      (peer) => peer.send(MessageType.finish, new Uint8Array(50)),
      /finish/,
    ],
    [
      'sends a control message with wrong fields',
      (peer) => peer.send(MessageType.finish, encodeControl({ generation: 5 })),
      /finish.generation: expected text/,
    ],
    [
      'takes a checkpoint for something else',
      (peer) => peer.send(MessageType.checkpoint, new Uint8Array(3)),
      /expected 4 bytes, got 3/,
    ],
  ];
  it.each(cases)('that %s is refused, and nothing is written', async (_, script, words) => {
    const { error, unchanged } = await againstReplica(script);
    expectRefused(error, words);
    expect(unchanged).toBe(true);
  });

  it('reaches marked blocks only, and no byte beside them', async () => {
    const { error, replica } = await againstReplica(async (peer) => {
      await markOne(peer);
      await peer.send(MessageType.data, ...plain(3 * BLOCK, BLOCK));
      await peer.send(MessageType.data, ...plain(bytes.length, 1));
    });
    expectRefused(error, /expected bytes of a disk/);
    const now = readFileSync(replica);
    const before = changed(bytes, [3, 9]);
    for (let block = 0; block < 32; block++) {
      const [from, to] = [block * BLOCK, (block + 1) * BLOCK];
      if (block === 3) expect(now[from]).toBe(7);
      else if (Buffer.compare(now.subarray(from, to), before.subarray(from, to)) !== 0) expect(block).toBe(3);
    }
  });

  it('that sends compressed data of another length, or a bomb, is refused before it is unpacked whole', async () => {
    const { deflateRawSync } = await import('node:zlib');
    const bomb = deflateRawSync(new Uint8Array(50 * MiB));
    const { error } = await againstReplica(async (peer) => {
      await markOne(peer);
      const data = { offset: 3 * BLOCK, length: BLOCK, encoding: Encoding.deflate, stored: bomb };
      await peer.send(MessageType.data, ...encodeData(data));
    });
    expectRefused(error, /cannot be unpacked|stored bytes/);
  });
});

describe('a hostile replica', () => {
  const compared: Script = async (peer) => {
    for (;;) {
      const { type } = await peer.receive();
      if (type === MessageType.tops) break;
    }
  };
  const cases: [string, Script, RegExp, object?][] = [
    ['names another size', async () => undefined, /expected a session about/, { size: 10 }],
    [
      'settles windows that are not there',
      async (peer) => {
        await compared(peer);
        await peer.send(MessageType.equal, encodeEqual([{ first: 0, end: 2 }]));
      },
      /expected ascending windows/,
    ],
    [
      'says where a window differs without having been asked',
      async (peer) => {
        await compared(peer);
        await peer.send(MessageType.differ, encodeDiffer(0, [1]));
      },
      /was not asked about/,
    ],
    [
      'descends from a level that it was not told',
      async (peer) => {
        await compared(peer);
        const digests = new Uint8Array(16 * 16);
        await peer.send(
          MessageType.nodes,
          ...encodeNodes({ window: 0, level: 0, parentLevel: 1, parents: [0], digests }),
        );
      },
      /below level 4, got 1/,
    ],
    [
      'sends marks of a disk of another size',
      async (peer) => {
        const stamp = { identity: 'x', size: 5 * BLOCK, generation: 'y' };
        const header = {
          size: 5 * BLOCK,
          blockSize: BLOCK,
          signature: 'none',
          production: stamp,
          replica: stamp,
        };
        await sendBitmap(peer, new SyncBitmap(header));
      },
      /a bitmap of a disk of another size/,
      { compare: 'known' },
    ],
    [
      'asks for marks that nobody keeps',
      async () => undefined,
      /marks that are not kept/,
      { compare: 'yours' },
    ],
    [
      'says that all was placed, unasked',
      (peer) => peer.send(MessageType.placed, encodePlaced(new Uint8Array(32).fill(1))),
      /expected the message/,
    ],
  ];
  it.each(cases)('that %s is refused', async (_, script, words, ready) => {
    const error = await againstProduction(script, ready);
    expectRefused(error, words);
  });

  it('that lies about what it placed is found out, and gets the data', async () => {
    const production = fileOf(folder, Buffer.concat([bytes.subarray(BLOCK), bytes.subarray(0, BLOCK)]));
    const replica = fileOf(folder, bytes);
    const disk = await openDisk(production, { format: 'raw' });
    const [there, here] = connections();
    const { blockSize, signature } = open;
    const target = await openTarget({ replica, format: 'raw', blockSize, signature }, infoOf(disk));
    let forgotten = 0;
    let placing = true;
    const liar = {
      write: async (offset: number, source: Uint8Array) => {
        // Placed blocks are written one at a time; five of them never get there.
        if (placing && forgotten < 5) {
          forgotten++;
          return;
        }
        await target.writer.write(offset, source);
      },
      zero: (range: { offset: number; length: number }) => target.writer.zero(range),
      flush: () => target.writer.flush(),
    } as unknown as DiskWriter;
    const common = { production: infoOf(disk), size: bytes.length, open, workers: 0, warnings: [] };
    const lead = new ProductionSession({
      ...{ connection: there, disk, open, codec: null, compression: 'never', workers: 0, totals: totals() },
    });
    const follow = new ReplicaSession({
      ...{ connection: here, disk: target.disk, compare: target.compare, totals: totals(), ...common },
      target: { writer: liar, keeper: target.keeper },
      onCheckpoint: () => {
        placing = false;
      },
    });
    await Promise.all([lead.run(), follow.run()]);
    await Promise.all([there.close(), here.close(), target.close(), disk.close()]);
    expect(forgotten).toBe(5);
    expect(lead.consistent).toBe(true);
    expect(sameFiles(production, replica)).toBe(true);
  });
});

describe('a server', () => {
  it('opens no path that is not a grant, whatever tricks are in the name', async () => {
    const secret = fileOf(folder, noise(1000, 2));
    const asked: string[] = [];
    for (const name of ['../x', '/etc/passwd', secret, '__proto__', 'constructor', '', 'vm\0', 'vm/../x']) {
      const [client, server] = memoryPair();
      const grants = new Map([['vm', { disk: secret }]]);
      const serving = serveSession(server, {
        grant: (wanted) => {
          asked.push(wanted);
          return grants.get(wanted);
        },
      }).catch((error) => error);
      const connection = new Connection(client);
      await greet(connection);
      const flags = { resize: false, shrink: false, full: false, adopt: false, discard: false };
      await connection.sendControl(MessageType.open, {
        ...{ ...open, ...flags, disk: name, role: 'production', job: 'scan', bySignature: false },
        ...{ codecs: [], production: null, format: null },
      });
      const error = await connection.receive().catch((cause) => cause);
      expect(String(error)).toContain('no disk is granted');
      expect(await serving).toBeInstanceOf(DriftmapError);
      await connection.close();
    }
    expect(asked).toHaveLength(8);
  });

  it('gives nothing to a client that does not greet, or greets for ever', async () => {
    const [client, server] = memoryPair();
    let opened = 0;
    const serving = serveSession(server, {
      grant: () => {
        opened++;
        return undefined;
      },
    }).catch((error) => error);
    client.writable.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(10));
    expect(await serving).toBeInstanceOf(DriftmapError);
    expect(opened).toBe(0);
  });
});

const FUZZ_SECONDS = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 4);

describe('random messages', () => {
  /** Any message with a random payload, or one that is nearly right. */
  const randomMessage = (random: () => number): [number, Uint8Array] => {
    const types = Object.values(MessageType).filter((type) => type < 7 || type > 11);
    const type = types[Math.floor(random() * types.length)]!;
    const length = Math.floor(random() ** 3 * 3000);
    const payload = new Uint8Array(length);
    const small = random() < 0.5;
    for (let i = 0; i < length; i++) payload[i] = Math.floor(random() * (small ? 4 : 256));
    if (random() < 0.3) {
      const nearly: Uint8Array[] = [
        encodeControl({ what: 'first', ...keys }),
        encodeControl({ what: 'placed', key: new Uint8Array(32), nodeKey: new Uint8Array(32) }),
        encodeControl({ generation: 'g', quiesced: true }),
        encodeTops([{ first: 0, end: 1, digest: new Uint8Array(16) }]),
        encodeEqual([{ first: 0, end: 1 }]),
        encodeDiffer(0, [1, 2, 3]),
      ];
      return [type, nearly[Math.floor(random() * nearly.length)]!];
    }
    return [type, payload];
  };

  it(
    'end a session with our error, and change nothing that is not marked',
    async () => {
      const latest = performance.now() + FUZZ_SECONDS * 1000;
      const first = Number(process.env.DRIFTMAP_SEED ?? 1);
      let sessions = 0;
      for (let seed = first; performance.now() < latest; seed++) {
        const random = randomOf(seed);
        const script: Script = async (peer) => {
          if (random() < 0.4) await peer.sendControl(MessageType.compare, { what: 'first', ...keys });
          for (let i = 0; i < 30; i++) await peer.send(...randomMessage(random));
          peer.fail(new DriftmapError('io', 'enough'));
        };
        const { error, unchanged } = await againstReplica(script);
        if (error !== undefined) expect(error, `seed ${seed}`).toBeInstanceOf(DriftmapError);
        if (error instanceof DriftmapError)
          expect(error.kind, `seed ${seed}: ${error.message}`).not.toBe('internal');
        expect(unchanged, `seed ${seed}`).toBe(true);
        const other = await againstProduction(script);
        expect(other, `seed ${seed}`).toBeInstanceOf(DriftmapError);
        expect((other as DriftmapError).kind, `seed ${seed}: ${other}`).not.toBe('internal');
        sessions += 2;
      }
      expect(sessions).toBeGreaterThan(4);
    },
    (FUZZ_SECONDS + 60) * 1000,
  );
});
