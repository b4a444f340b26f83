import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { encodeControl } from '../../src/codec/control.ts';
import { verify } from '../../src/sync/compare-sites.ts';
import { connect } from '../../src/sync/site-connection.ts';
import { sync } from '../../src/sync/sync.ts';
import { Connection } from '../../src/wire/connection.ts';
import { encodeFrameHead } from '../../src/wire/frame.ts';
import { greet } from '../../src/wire/greeting.ts';
import { MessageType } from '../../src/wire/message-types.ts';
import { encodeDiffer, encodeEqual, encodeNodes, encodeTops } from '../../src/wire/messages.ts';
import { connectTcp } from '../../src/wire/tcp.ts';
import type { Transport } from '../../src/wire/transport.ts';
import { bin } from '../cli/command.ts';
import { temporary } from '../tools.ts';
import { changed, KiB, MiB, noise } from './disks.ts';
import { randomOf } from './simulated.ts';

const FUZZ_SECONDS = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 3);
const SEED = Number(process.env.DRIFTMAP_SEED ?? 1);
const BLOCK = 64 * KiB;
const outside = temporary();
const folder = join(outside, 'served');
mkdirSync(folder);
const bytes = noise(2 * MiB, 1);
const file = (name: string, contents: Uint8Array) => {
  writeFileSync(join(folder, name), contents);
  return join(folder, name);
};
const vm = file('vm.raw', changed(bytes, [3, 9]));
const kept = file('kept.raw', bytes);
const secret = file('secret.raw', noise(MiB, 7));
const token = noise(32, 99);
writeFileSync(join(outside, 'token'), token);
chmodSync(join(outside, 'token'), 0o600);
const grants = ['--grant', `vm=${vm}`, '--grant', `kept=${kept},ro`];

const keys = { key: new Uint8Array(32).fill(1), nodeKey: new Uint8Array(32).fill(2) };
type Random = () => number;
const pick = <T>(random: Random, list: readonly T[]): T => list[Math.floor(random() * list.length)]!;

/** What a client asks for: mostly in order, with numbers and names that are not. */
function randomOpen(random: Random): object {
  const sizes = [bytes.length, 0, 1, 5 * BLOCK + 3, 2 ** 40, 2 ** 53 - 1, bytes.length + 512];
  const size = random() < 0.6 ? bytes.length : pick(random, sizes);
  const generation = pick(random, ['live', 'g', '']);
  return {
    disk:
      random() < 0.8
        ? pick(random, ['vm', 'kept'])
        : pick(random, ['../secret.raw', secret, '', 'vm\0', '__proto__']),
    role: pick(random, ['production', 'replica', 'replica']),
    job: pick(random, ['scan', 'verify', 'sync', 'sync']),
    blockSize: random() < 0.7 ? BLOCK : pick(random, [512, 16 * MiB, 513, 4096]),
    signature: pick(random, ['nh128', 'blake3', 'blake3', 'xxh3-128', 'sha256', 'none']),
    bySignature: random() < 0.5,
    refine: random() < 0.8 ? null : pick(random, [512, 4096, BLOCK, 7]),
    codecs: pick(random, [[], ['zstd'], ['deflate', 'zstd'], ['lzma']]),
    production:
      random() < 0.9
        ? { format: 'raw', size, identity: pick(random, ['x', '']), generation, lineage: null }
        : null,
    // What a replica may be made to be is the user's to allow: here it stays as it is.
    ...{ resize: false, shrink: false, full: random() < 0.5, adopt: true, discard: random() < 0.5 },
    format: random() < 0.9 ? 'raw' : pick(random, ['qcow2', 'vmdk', 'x']),
    narrow: random() < 0.8 ? null : true,
  };
}

function randomMessage(random: Random): [number, ...Uint8Array[]] {
  const nearly: (() => [number, ...Uint8Array[]])[] = [
    () => [
      MessageType.compare,
      encodeControl({ what: pick(random, ['first', 'marked', 'placed', 'all']), ...keys }),
    ],
    () => [MessageType.compare, encodeControl({ what: 'first', key: null, nodeKey: keys.nodeKey })],
    () => [MessageType.tops, encodeTops([{ first: 0, end: 1, digest: noise(16, Math.ceil(random() * 9)) }])],
    () => [MessageType.equal, encodeEqual([{ first: 0, end: 1 }])],
    () => [MessageType.differ, encodeDiffer(0, [1, 2, 3])],
    () => [
      MessageType.nodes,
      ...encodeNodes({ window: 0, level: 0, parentLevel: 4, parents: [0], digests: noise(32 * 16, 5) }),
    ],
    () => [MessageType.compared],
    () => [MessageType.place],
    () => [MessageType.checkpoint, new Uint8Array([1, 0, 0, 0])],
    () => [MessageType.finish, encodeControl({ generation: 'g', quiesced: true })],
    () => [MessageType.open, encodeControl(randomOpen(random))],
    () => [MessageType.ready, encodeControl({ replica: 5, size: -1 })],
  ];
  const [type, ...parts] = pick(random, nearly)();
  if (random() < 0.4) return [type, ...parts];
  const types = Object.values(MessageType).filter((one) => one < 7 || one > 11);
  if (random() < 0.5) {
    // One that was right, with some bytes changed or cut off.
    const payload = Buffer.concat(parts);
    for (let i = 0; payload.length > 0 && i < 1 + random() * 4; i++)
      payload[Math.floor(random() * payload.length)] = Math.floor(random() * 256);
    return [
      type,
      payload.subarray(0, random() < 0.7 ? payload.length : Math.floor(random() * payload.length)),
    ];
  }
  const payload = noise(Math.floor(random() ** 3 * 5000), Math.ceil(random() * 1e6));
  return [pick(random, types), payload];
}

/** A peer who knows the protocol and does not keep to it. */
async function misbehave(transport: Transport, random: Random, withToken: boolean): Promise<void> {
  const connection = new Connection(transport);
  try {
    await greet(connection, withToken ? { token } : {});
    if (random() < 0.9) await connection.sendControl(MessageType.open, randomOpen(random));
    const reading = (async () => {
      for (;;) await connection.receive();
    })().catch(() => undefined);
    for (let i = 0; i < 25 && connection.isOpen; i++) {
      await Promise.race([connection.send(...randomMessage(random)), pause(200)]);
      if (random() < 0.3) await pause(Math.floor(random() * 20));
    }
    await Promise.race([reading, pause(300)]);
  } catch (cause) {
    if (!(cause instanceof DriftmapError)) throw cause;
  } finally {
    connection.fail(new DriftmapError('io', 'enough'));
    transport.destroy();
  }
}

/** Bytes that are no session at all, or a session's frames beyond what was allowed. */
function rawBytes(random: Random): Uint8Array {
  const head = (type: number, payload: Uint8Array, sequence = 0) =>
    Buffer.concat([encodeFrameHead(type, sequence, [payload]), payload]);
  const forms: (() => Uint8Array)[] = [
    () => noise(Math.floor(random() * 70_000), Math.ceil(random() * 1e6)),
    () => Buffer.from('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(50)),
    () => Buffer.concat([Buffer.from([0xff, 0xff, 0xff, 0xff]), new Uint8Array(200_000)]),
    () => new Uint8Array(300_000),
    // More than the first credit, in frames that are right.
    () =>
      Buffer.concat(Array.from({ length: 40 }, (_, i) => head(MessageType.hello, new Uint8Array(60_000), i))),
    () =>
      head(
        MessageType.hello,
        encodeControl({
          magic: 'driftmap',
          lowest: 1,
          highest: 65535,
          nonce: new Uint8Array(16),
          software: 'x',
        }),
      ),
    // An array that claims more elements than there are bytes.
    () => head(MessageType.hello, Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])),
    // Pings without end, whose answers nobody reads.
    () => Buffer.concat(Array.from({ length: 5000 }, (_, i) => head(MessageType.ping, new Uint8Array(0), i))),
  ];
  return pick(random, forms)();
}

function startServer(): Promise<{ child: ChildProcess; port: number; log: () => string }> {
  const args = [bin, 'serve', '--listen', '127.0.0.1:0', ...grants, '--token-file', join(outside, 'token')];
  const child = spawn(process.execPath, [...args, '--workers', '1'], { stdio: ['ignore', 'ignore', 'pipe'] });
  afterAll(() => child.kill('SIGKILL'));
  let text = '';
  return new Promise((resolve, reject) => {
    child.once('exit', (status) => reject(new Error(`the server ended with ${status}: ${text}`)));
    child.stderr!.on('data', (more) => {
      text += more;
      const port = /listening on 127\.0\.0\.1:(\d+)/.exec(text)?.[1];
      if (port !== undefined) resolve({ child, port: Number(port), log: () => text });
    });
  });
}

/** Most memory that a process has had, in bytes; null where the system does not tell. */
function peakMemory(pid: number): number | null {
  try {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024;
  } catch {
    return null;
  }
}

const before = new Map(['kept.raw', 'secret.raw'].map((name) => [name, readFileSync(join(folder, name))]));
const ours = /^(?:vm|kept|secret)\.raw$|^vm\.raw\.driftstate(?:\.lock|\.comparing)?$/;

function expectNothingBeyondTheGrant(): void {
  for (const [name, contents] of before) expect(readFileSync(join(folder, name)).equals(contents)).toBe(true);
  expect(readdirSync(folder).filter((name) => !ours.test(name))).toEqual([]);
  expect(statSync(vm).size).toBe(bytes.length);
}

/** Whoever reads these in a log has found a bug of ours. */
const bugs =
  /assertion failed|TypeError|RangeError|ReferenceError|unexpected error|is not a function|of undefined|of null|heap/;

describe('a server over TCP', () => {
  it(
    'outlives every peer, in bounded memory, and serves honest ones after it',
    async () => {
      const { child, port, log } = await startServer();
      const latest = performance.now() + FUZZ_SECONDS * 1000;
      let peers = 0;
      for (let seed = SEED; performance.now() < latest; seed += 3) {
        await Promise.all(
          [seed, seed + 1, seed + 2].map(async (one) => {
            const random = randomOf(one);
            peers++;
            if (random() < 0.8) {
              const transport = await connectTcp({ host: '127.0.0.1', port, tls: null });
              await misbehave(transport, random, random() < 0.95);
              return;
            }
            const socket = connectSocket(port, '127.0.0.1').on('error', () => undefined);
            const closed = new Promise((resolve) => socket.once('close', resolve));
            socket.write(rawBytes(random));
            await Promise.race([closed, pause(500)]);
            socket.destroy();
          }),
        );
        expect(child.exitCode, `seed ${seed}: ${log()}`).toBe(null);
        expect(log().match(bugs)?.[0], `seed ${seed}: ${log().slice(-600)}`).toBe(undefined);
      }
      expect(peers).toBeGreaterThan(5);
      expectNothingBeyondTheGrant();
      const memory = peakMemory(child.pid!);
      if (memory !== null) expect(memory / MiB).toBeLessThan(700);
      const there = await connect(`driftmap://127.0.0.1:${port}`, { token });
      const options = { production: kept, replica: there.disk('vm'), workers: 1, adopt: true, discard: true };
      for (let tries = 0; ; tries++) {
        // Sessions of peers that have gone may hold the replica for a moment.
        const ended = await sync({ ...options, full: true }).catch((error) => error as DriftmapError);
        if (!(ended instanceof Error)) break;
        expect(tries, ended.message).toBeLessThan(50);
        await pause(200);
      }
      expect((await verify({ ...options })).markedBlocks).toBe(0);
      await there.close();
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      expect(await Promise.race([gone, pause(35_000, 'still there')])).toBe(0);
    },
    (FUZZ_SECONDS + 90) * 1000,
  );
});

/** Passes frames on, and changes the payload of one of them, with a checksum that is right. */
function changeOne(from: Socket, to: Socket, random: Random, at: number): void {
  let rest = Buffer.alloc(0);
  let count = 0;
  from.on('data', (more) => {
    rest = Buffer.concat([rest, more]);
    while (rest.length >= 16) {
      const length = rest.readUInt32LE(0);
      if (rest.length < 16 + length) return;
      const frame = rest.subarray(0, 16 + length);
      rest = rest.subarray(16 + length);
      if (count++ !== at) {
        to.write(frame);
        continue;
      }
      let payload = Buffer.from(frame.subarray(16));
      for (let i = 0; payload.length > 0 && i < 1 + random() * 3; i++)
        payload[Math.floor(random() * Math.min(payload.length, 60))]! ^= 1 << Math.floor(random() * 8);
      if (random() < 0.2) payload = payload.subarray(0, Math.floor(random() * payload.length));
      if (random() < 0.1) payload = Buffer.concat([payload, noise(1 + Math.floor(random() * 40), 3)]);
      const type = random() < 0.85 ? frame.readUInt16LE(4) : pick(random, Object.values(MessageType));
      to.write(encodeFrameHead(type, frame.readUInt32LE(8), [payload]));
      to.write(payload);
    }
  });
  from.on('end', () => to.end());
  from.on('close', () => to.destroy());
}

/** A way to a server on which one frame is changed, in one direction. */
async function changingWay(port: number, random: Random): Promise<{ port: number; close(): Promise<void> }> {
  const [outward, at] = [random() < 0.6, Math.floor(random() * 24)];
  const server = createServer((client) => {
    const onward = connectSocket(port, '127.0.0.1');
    for (const socket of [client, onward]) socket.on('error', () => undefined);
    changeOne(client, onward, random, outward ? at : -1);
    changeOne(onward, client, random, outward ? -1 : at);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => new Promise<void>((resolve) => server.close(() => resolve()));
  return { port: (server.address() as AddressInfo).port, close };
}

describe('an honest session of which one frame is changed on its way', () => {
  it(
    'ends on both sides, well or with an error of ours, and reaches nothing else',
    async () => {
      const { child, port, log } = await startServer();
      const latest = performance.now() + FUZZ_SECONDS * 1000;
      const own = join(outside, 'own.raw');
      const ended = { well: 0, badly: 0 };
      for (let seed = SEED + 2000; performance.now() < latest || ended.badly === 0; seed++) {
        const random = randomOf(seed);
        const way = await changingWay(port, random);
        const address = (name: string) => `driftmap://127.0.0.1:${way.port}/${name}`;
        writeFileSync(own, changed(bytes, [1, 2, 3, 9, 30]));
        const common = { token, workers: 0, signal: AbortSignal.timeout(20_000), full: true } as const;
        const sides = { production: own, replica: address('vm'), adopt: true, discard: true } as const;
        const refine = random() < 0.3 ? 4096 : undefined;
        const session = pick(random, [
          () => sync({ ...common, ...sides, refine }),
          () => sync({ ...common, ...sides, bySignature: false, refine }),
          () => sync({ ...common, production: address('kept'), replica: own, adopt: true }),
          () => verify({ ...common, production: address('kept'), replica: own }),
          () => verify({ ...common, production: own, replica: address('kept') }),
        ]);
        const result = await session().catch((error) => error);
        await way.close();
        if (result instanceof Error) {
          expect(result, `seed ${seed}`).toBeInstanceOf(DriftmapError);
          const { kind, message } = result as DriftmapError;
          expect(['internal', 'aborted', 'worker'], `seed ${seed}: ${message}`).not.toContain(kind);
          ended.badly++;
        } else ended.well++;
        expect(child.exitCode, `seed ${seed}: ${log()}`).toBe(null);
        expect(log().match(bugs)?.[0], `seed ${seed}: ${log().slice(-600)}`).toBe(undefined);
      }
      expect(ended.badly).toBeGreaterThan(0);
      expectNothingBeyondTheGrant();
      const memory = peakMemory(child.pid!);
      if (memory !== null) expect(memory / MiB).toBeLessThan(700);
      child.kill('SIGTERM');
    },
    (FUZZ_SECONDS + 90) * 1000,
  );
});

describe('serve --stdio', () => {
  it(
    'ends by itself, whatever comes in, and writes nothing beyond the grant',
    async () => {
      const latest = performance.now() + FUZZ_SECONDS * 1000;
      let sessions = 0;
      for (let seed = SEED + 1000; performance.now() < latest; seed++) {
        const random = randomOf(seed);
        const child = spawn(process.execPath, [bin, 'serve', '--stdio', ...grants, '--workers', '1'], {
          stdio: ['pipe', 'pipe', 'pipe'],
          env: { ...process.env, DRIFTMAP_DEBUG: '1' },
        });
        afterAll(() => child.kill('SIGKILL'));
        let text = '';
        child.stderr.on('data', (more) => {
          text += more;
        });
        child.stdin.on('error', () => undefined);
        const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
        if (random() < 0.7) {
          const transport: Transport = {
            name: '<fuzzed>',
            readable: child.stdout,
            writable: child.stdin,
            secure: true,
            binding: null,
            destroy: () => child.stdin.end(),
          };
          await misbehave(transport, random, false);
        } else {
          child.stdout.resume();
          child.stdin.end(rawBytes(random));
        }
        const status = await Promise.race([ended, pause(30_000, 'still there')]);
        expect([0, 2], `seed ${seed}: ${text}`).toContain(status);
        expect(text.match(bugs)?.[0], `seed ${seed}: ${text}`).toBe(undefined);
        sessions++;
      }
      expect(sessions).toBeGreaterThan(1);
      expectNothingBeyondTheGrant();
    },
    (FUZZ_SECONDS + 90) * 1000,
  );
});
