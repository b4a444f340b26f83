/** Pairs of disks for the tests of sessions. Contents are random by seed, so nothing is alike by accident. */

import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Connection } from '../../src/wire/connection.ts';
import { memoryPair, type Transport } from '../../src/wire/transport.ts';

export const KiB = 1024;
export const MiB = 1024 * KiB;

/** Bytes that look random and are the same for one seed (xorshift32). */
export function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const words = new Uint32Array(bytes.buffer, 0, length >>> 2);
  let x = (Math.imul(seed, 2654435761) >>> 0) | 1;
  const next = () => {
    x ^= x << 13;
    x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5;
    x >>>= 0;
    return x;
  };
  for (let i = 0; i < words.length; i++) words[i] = next();
  for (let i = words.length * 4; i < length; i++) bytes[i] = next();
  return bytes;
}

/** Writes a file of which the zero pages are holes. */
export function writeSparse(path: string, bytes: Uint8Array): string {
  const file = openSync(path, 'w');
  ftruncateSync(file, bytes.length);
  for (let at = 0; at < bytes.length; at += 4096) {
    const page = bytes.subarray(at, at + 4096);
    if (page.some((byte) => byte !== 0)) writeSync(file, page, 0, page.length, at);
  }
  closeSync(file);
  return path;
}

let files = 0;

export function fileOf(folder: string, bytes: Uint8Array): string {
  const path = join(folder, `disk-${files++}.raw`);
  writeFileSync(path, bytes);
  return path;
}

/** A copy with one changed byte in each of some blocks. */
export function changed(bytes: Uint8Array, blocks: readonly number[], blockSize = 64 * KiB): Uint8Array {
  const copy = bytes.slice();
  for (const block of blocks) copy[block * blockSize + (block % 1000)]! ^= 0x5a;
  return copy;
}

export function sameFiles(a: string, b: string): boolean {
  return Buffer.compare(readFileSync(a), readFileSync(b)) === 0;
}

export function token(): Uint8Array {
  return randomBytes(32);
}

/** Two connections that have greeted one another, and the transports below. */
export function connections(): [Connection, Connection, [Transport, Transport]] {
  const transports = memoryPair();
  const [a, b] = transports.map((transport) => new Connection(transport)) as [Connection, Connection];
  a.trust();
  b.trust();
  return [a, b, transports];
}
