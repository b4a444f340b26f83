// What a local sync cannot be quicker than, as a process: `node scan-and-copy.mjs PRODUCTION REPLICA` scans byte by
// byte, copies the bytes that are marked, and flushes. It keeps no state and survives no crash.
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { openDisk, scan } from '../../dist/lib/index.js';

const paths = process.argv.slice(2);
const disks = [];
for (const path of paths) disks.push(await openDisk(path, { format: 'raw' }));
const [production, replica] = disks;
const { bitmap } = await scan({ production, replica, compare: 'bytes' });
const [from, to] = [openSync(paths[0], 'r'), openSync(paths[1], 'r+')];
const buffer = Buffer.alloc(2 ** 20);
for (const { offset, length } of bitmap.ranges()) {
  for (let at = 0; at < length; at += buffer.length) {
    const count = Math.min(buffer.length, length - at);
    readSync(from, buffer, 0, count, offset + at);
    writeSync(to, buffer, 0, count, offset + at);
  }
}
fsyncSync(to);
for (const file of [from, to]) closeSync(file);
for (const disk of disks) await disk.close();
