/**
 * Two small disks for the demonstration: a production disk as a qcow2 image, and its replica as a raw file
 * that has drifted. Their contents are made from a fixed seed, so that everybody sees the same.
 */

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import type { ByteRange } from '../base/units.ts';
import { KiB, MiB } from '../base/units.ts';

const CLUSTER = 64 * KiB;
export const DEMO_SIZE = 256 * MiB;

/** Which parts of the production disk hold data; the rest was never written. */
const written: readonly ByteRange[] = [
  { offset: 0, length: 24 * MiB },
  { offset: 64 * MiB, length: 40 * MiB },
  { offset: 160 * MiB, length: 12 * MiB },
  { offset: 248 * MiB, length: 8 * MiB },
];

/** What happened to the replica since it was equal: each is a reason that real copies drift. */
export const drift: readonly (ByteRange & {
  readonly what: string;
  readonly with: 'noise' | 'zeros' | 'byte';
})[] = [
  { what: 'one byte of the boot sector', offset: 446, length: 1, with: 'byte' },
  { what: 'a log file that grew', offset: 70 * MiB + 5 * KiB, length: 3 * MiB, with: 'noise' },
  ...[80, 83.5, 91, 97.25].map((at) => ({
    what: 'a database page',
    offset: at * MiB + 8 * KiB,
    length: 8 * KiB,
    with: 'noise' as const,
  })),
  { what: 'a file trimmed at the production site', offset: 120 * MiB, length: 1 * MiB, with: 'noise' },
  { what: 'blocks that never arrived', offset: 164 * MiB, length: 2 * MiB, with: 'zeros' },
];

export function makeDemoDisks(production: string, replica: string): void {
  writeQcow2(production);
  const fd = openSync(replica, 'wx');
  try {
    ftruncateSync(fd, DEMO_SIZE);
    for (const { offset, length } of written)
      for (let at = offset; at < offset + length; at += CLUSTER) write(fd, cluster(at), at);
    for (const { offset, length, with: what } of drift) write(fd, changed(offset, length, what), offset);
  } finally {
    closeSync(fd);
  }
}

function changed(offset: number, length: number, what: 'noise' | 'zeros' | 'byte'): Buffer {
  if (what === 'zeros') return Buffer.alloc(length);
  if (what === 'noise') return noise(length, offset + 1);
  return Buffer.from([cluster(0)[offset]! ^ 0xff]);
}

/**
 * A qcow2 version 3 image: header, refcount table, one refcount block, L1, one L2 table, then the data
 * clusters (qcow2 specification, "Header", "Cluster mapping", "Host cluster management").
 */
function writeQcow2(path: string): void {
  const clusters = written.flatMap(({ offset, length }) =>
    Array.from({ length: length / CLUSTER }, (_, i) => offset / CLUSTER + i),
  );
  const [refcountTable, refcountBlock, l1, l2, firstData] = [1, 2, 3, 4, 5];
  const header = Buffer.alloc(104);
  header.write('QFI\u00fb', 0, 'latin1');
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(Math.log2(CLUSTER), 20);
  header.writeBigUInt64BE(BigInt(DEMO_SIZE), 24);
  header.writeUInt32BE(1, 36);
  header.writeBigUInt64BE(BigInt(l1 * CLUSTER), 40);
  header.writeBigUInt64BE(BigInt(refcountTable * CLUSTER), 48);
  header.writeUInt32BE(1, 56);
  header.writeUInt32BE(4, 96);
  header.writeUInt32BE(104, 100);
  const refcounts = Buffer.alloc(CLUSTER);
  for (let i = 0; i < firstData + clusters.length; i++) refcounts.writeUInt16BE(1, 2 * i);
  const entries = Buffer.alloc(CLUSTER);
  const fd = openSync(path, 'wx');
  try {
    clusters.forEach((index, i) => {
      const host = (firstData + i) * CLUSTER;
      entries.set(tableEntry(host, true), 8 * index);
      write(fd, cluster(index * CLUSTER), host);
    });
    write(fd, header, 0);
    write(fd, tableEntry(refcountBlock * CLUSTER, false), refcountTable * CLUSTER);
    write(fd, refcounts, refcountBlock * CLUSTER);
    write(fd, tableEntry(l2 * CLUSTER, true), l1 * CLUSTER);
    write(fd, entries, l2 * CLUSTER);
  } finally {
    closeSync(fd);
  }
}

/** A big-endian offset; bit 63 says that the cluster's refcount is one (L1 and L2 entries). */
function tableEntry(offset: number, copied: boolean): Buffer {
  const entry = Buffer.alloc(8);
  entry.writeBigUInt64BE(BigInt(offset) | (copied ? 1n << 63n : 0n));
  return entry;
}

/** The production disk's contents at an aligned offset. */
function cluster(offset: number): Buffer {
  return noise(CLUSTER, offset + 7);
}

/** Bytes that look random and are always the same for a seed (xorshift32). */
function noise(length: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return Buffer.from(words.buffer, 0, length);
}

function write(fd: number, bytes: Uint8Array, offset: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}
