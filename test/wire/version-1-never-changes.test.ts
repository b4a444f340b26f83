import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { encodeControl } from '../../src/codec/control.ts';
import { encodeFrameHead, FrameReader } from '../../src/wire/frame.ts';
import { MessageType, NOTE, OPTIONAL_FROM } from '../../src/wire/message-types.ts';
import {
  Encoding,
  encodeBitmapPart,
  encodeData,
  encodeDiffer,
  encodeEqual,
  encodeNodes,
  encodeNumber,
  encodePlaced,
  encodeRefine,
  encodeSignatures,
  encodeTops,
} from '../../src/wire/messages.ts';
import { root } from '../tools.ts';

const fixture = join(root, 'test', 'abi', 'wire-v1.json');
const bytes = (length: number, first: number) => Uint8Array.from({ length }, (_, i) => (first + i) & 255);
const disk = {
  format: 'raw',
  size: 3_000_000_000_000,
  identity: 'raw:3:abc',
  generation: '3@17',
  lineage: null,
};
const flags = { resize: false, shrink: false, full: true, adopt: false, discard: false };

/** One of each message, as version 1 writes it. */
const messages: Record<string, [number, ...Uint8Array[]]> = {
  hello: [
    MessageType.hello,
    encodeControl({ magic: 'driftmap', lowest: 1, highest: 1, nonce: bytes(16, 1), software: 'driftmap' }),
  ],
  welcome: [
    MessageType.welcome,
    encodeControl({ version: 1, nonce: bytes(16, 40), token: true, software: 'driftmap' }),
  ],
  auth: [MessageType.auth, encodeControl({ proof: bytes(32, 7) })],
  authed: [MessageType.authed, encodeControl({ proof: bytes(32, 9) })],
  open: [
    MessageType.open,
    encodeControl({
      ...{
        disk: 'vm',
        role: 'replica',
        job: 'sync',
        blockSize: 65536,
        signature: 'blake3',
        bySignature: true,
      },
      ...{ codecs: ['zstd', 'deflate'], production: disk, format: null, ...flags },
    }),
  ],
  opened: [MessageType.opened, encodeControl({ production: null, codecs: ['deflate'], warnings: ['w'] })],
  error: [MessageType.error, encodeControl({ kind: 'policy', message: 'no' })],
  bye: [MessageType.bye],
  credit: [MessageType.credit, encodeNumber(4_000_000)],
  ping: [MessageType.ping],
  pong: [MessageType.pong],
  ready: [
    MessageType.ready,
    encodeControl({ replica: disk, size: disk.size, compare: 'all', places: true, warnings: [] }),
  ],
  bitmap: [MessageType.bitmap, ...encodeBitmapPart({ total: 9, offset: 3, bytes: bytes(6, 1) })],
  compare: [MessageType.compare, encodeControl({ what: 'first', key: bytes(32, 3), nodeKey: bytes(32, 5) })],
  tops: [MessageType.tops, ...[encodeTops([{ first: 3, end: 9, digest: bytes(16, 200) }])]],
  equal: [MessageType.equal, encodeEqual([{ first: 3, end: 9 }])],
  nodes: [
    MessageType.nodes,
    ...encodeNodes({ window: 3, level: 0, parentLevel: 1, parents: [7], digests: bytes(256, 0) }),
  ],
  differ: [MessageType.differ, encodeDiffer(3, [112, 115])],
  compared: [MessageType.compared],
  signatures: [
    MessageType.signatures,
    ...encodeSignatures({ runs: [{ start: 5_000_000_000, end: 5_000_000_001 }], digests: bytes(32, 0) }),
  ],
  place: [MessageType.place],
  placed: [MessageType.placed, encodePlaced(Uint8Array.of(1, 0, 1, 1, 0, 0, 0, 0, 1))],
  data: [
    MessageType.data,
    ...encodeData({ offset: 5_000_000_000_000, length: 4, encoding: Encoding.plain, stored: bytes(4, 1) }),
  ],
  zeros: [
    MessageType.data,
    ...encodeData({ offset: 65536, length: 1 << 20, encoding: Encoding.zero, stored: bytes(0, 0) }),
  ],
  checkpoint: [MessageType.checkpoint, encodeNumber(1)],
  durable: [MessageType.durable, encodeNumber(1)],
  finish: [MessageType.finish, encodeControl({ generation: '3@17', quiesced: true })],
  finished: [MessageType.finished, encodeControl({ consistent: true })],
  refine: [
    MessageType.refine,
    ...encodeRefine({
      runs: [{ start: 9, end: 10 }],
      piece: 4096,
      key: bytes(32, 1),
      digests: bytes(256, 0),
    }),
  ],
  refined: [MessageType.refined, encodePlaced(Uint8Array.of(0, 1, 0))],
};

function stream(): Record<string, string> {
  let sequence = 0;
  return Object.fromEntries(
    Object.entries(messages).map(([name, [type, ...parts]]) => {
      const frame = Buffer.concat([encodeFrameHead(type, sequence++, parts), ...parts]);
      return [name, frame.toString('hex')];
    }),
  );
}

describe('version 1 of the protocol', () => {
  it('writes each message as it always did', () => {
    // Made once, by DRIFTMAP_FREEZE=1; whoever has to make it anew has made version 2.
    if (process.env.DRIFTMAP_FREEZE && !existsSync(fixture))
      writeFileSync(fixture, `${JSON.stringify(stream(), null, 2)}\n`);
    expect(stream()).toEqual(JSON.parse(readFileSync(fixture, 'utf8')));
  });

  it('reads what it wrote', () => {
    const reader = new FrameReader('fixture', 1 << 20);
    const types: number[] = [];
    for (const hex of Object.values(JSON.parse(readFileSync(fixture, 'utf8')) as Record<string, string>))
      reader.push(Buffer.from(hex, 'hex'), ({ type }) => types.push(type));
    expect(types).toEqual(Object.values(messages).map(([type]) => type));
  });

  it('keeps its numbers', () => {
    expect(MessageType).toEqual({
      ...{ hello: 1, welcome: 2, auth: 3, authed: 4, open: 5, opened: 6 },
      ...{ error: 7, bye: 8, credit: 9, ping: 10, pong: 11 },
      ...{ ready: 16, bitmap: 17, compare: 18, tops: 19, equal: 20, nodes: 21, differ: 22, compared: 23 },
      ...{
        signatures: 32,
        place: 33,
        placed: 34,
        data: 35,
        checkpoint: 36,
        durable: 37,
        finish: 38,
        finished: 39,
      },
      ...{ refine: 40, refined: 41 },
      ...{ follow: 64, following: 65, writes: 66, mark: 67, marked: 68, journaled: 69 },
      ...{ probe: 70, probed: 71, ask: 72, answer: 73 },
    });
    expect([OPTIONAL_FROM, NOTE]).toEqual([0x8000, 0x8001]);
  });
});
