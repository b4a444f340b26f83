/**
 * nh128 on plain integers, word by word from the text of docs/SECURITY.md and for no other purpose than to
 * agree with it. BLAKE3 is hash-wasm's.
 */

import { createBLAKE3 } from 'hash-wasm';

const MASK32 = 0xffff_ffffn;
const MASK64 = 0xffff_ffff_ffff_ffffn;

async function keyedBlake3(key: Uint8Array): Promise<(input: Uint8Array) => Uint8Array> {
  const hasher = await createBLAKE3(256, key);
  return (input) => hasher.init().update(input).digest('binary');
}

/** S, 4512 bytes. */
async function schedule(secret: Uint8Array): Promise<Uint8Array> {
  const blake3 = await keyedBlake3(secret);
  const parts: Uint8Array[] = [];
  for (let i = 0; i <= 140; i++) {
    const input = Buffer.alloc(32);
    input.write('driftmap.nh128.key-schedule.', 'ascii');
    input.writeUInt32LE(i, 28);
    parts.push(blake3(input));
  }
  return Buffer.concat(parts);
}

function words(bytes: Uint8Array): bigint[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / 4 }, (_, i) => BigInt(view.getUint32(4 * i, true)));
}

/** NH(c) under the words of a level key. */
function nh(chunk: Uint8Array, k: readonly bigint[]): Uint8Array {
  const filled = new Uint8Array(Math.ceil(chunk.length / 32) * 32);
  filled.set(chunk);
  const m = words(filled);
  const output = Buffer.alloc(32);
  for (let t = 0; t < 4; t++) {
    let sum = 0n;
    for (let g = 0; g < m.length / 8; g++) {
      for (let j = 0; j < 4; j++) {
        const first = 8 * g + j;
        const second = first + 4;
        sum += ((m[first]! + k[first + 8 * t]!) & MASK32) * ((m[second]! + k[second + 8 * t]!) & MASK32);
      }
    }
    output.writeBigUInt64LE(sum & MASK64, 8 * t);
  }
  return output;
}

export interface Nh128Model {
  /** S: the level keys and the key of the finish. */
  readonly keys: Uint8Array;
  /** The 32 bytes that the levels leave. */
  levels(block: Uint8Array): Uint8Array;
  signature(block: Uint8Array): Uint8Array;
}

export async function nh128Model(secret: Uint8Array): Promise<Nh128Model> {
  const s = await schedule(secret);
  const levelKeys = [0, 1, 2, 3].map((i) => words(s.slice(1120 * i, 1120 * (i + 1))));
  const finish = await keyedBlake3(s.slice(4480, 4512));

  const levels = (block: Uint8Array): Uint8Array => {
    let x = block;
    let level = 0;
    do {
      const outputs: Uint8Array[] = [];
      for (let at = 0; at < x.length; at += 1024)
        outputs.push(nh(x.subarray(at, at + 1024), levelKeys[level]!));
      x = Buffer.concat(outputs);
      level++;
    } while (x.length > 32);
    return x;
  };

  const signature = (block: Uint8Array): Uint8Array => {
    const record = Buffer.alloc(40);
    record.set(levels(block));
    record.writeBigUInt64LE(BigInt(block.length), 32);
    return finish(record).slice(0, 16);
  };

  return { keys: s, levels, signature };
}
