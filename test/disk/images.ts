/** Disk images for the disk room's tests: samples, images made by QEMU, and units over plain bytes. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { blockStatus } from '../../src/disk/block-status.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../../src/lu/logical-unit.ts';
import { describeWith as describeWithTools, tool } from '../tools.ts';

export { corpus, temporary as temporaryFolder } from '../tools.ts';
export const hasQemu = tool('qemu-img') !== null && tool('qemu-io') !== null;

export function describeWith(need: 'corpus' | 'qemu', title: string, body: () => void): void {
  describeWithTools(need === 'qemu' ? ['qemu-img', 'qemu-io'] : [need], title, body);
}

/** Unpacks a sample, leaving holes where it has whole 64 KiB pieces of zeros, as it had them when it was made. */
export function unpack(from: string, to: string): void {
  const bytes = gunzipSync(readFileSync(from));
  const fd = openSync(to, 'w');
  ftruncateSync(fd, bytes.length);
  const piece = 65536;
  const zeros = Buffer.alloc(piece);
  for (let at = 0; at < bytes.length; at += piece) {
    const part = bytes.subarray(at, at + piece);
    if (!part.equals(zeros.subarray(0, part.length))) writeSync(fd, part, 0, part.length, at);
  }
  closeSync(fd);
}

export function qemuImg(...words: string[]): string {
  return execFileSync('qemu-img', words, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 2 ** 28,
  });
}

/** Runs qemu-io commands over an image, one process for all of them. */
export function qemuIo(image: string, commands: readonly string[], options: readonly string[] = []): void {
  const words = [...options, ...commands.flatMap((command) => ['-c', command]), image];
  const output = execFileSync('qemu-io', words, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  if (/failed|error|invalid/i.test(output)) throw new Error(`qemu-io ${words.join(' ')}\n${output}`);
}

export async function readAll(disk: VirtualDisk, piece = 1 << 20): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  for (let at = 0; at < bytes.length; at += piece) {
    await disk.read(at, bytes.subarray(at, Math.min(at + piece, bytes.length)));
  }
  return bytes;
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** One run as the sample's manifest writes it: start, length, depth, zero, data, offset. */
export type Run = readonly [number, number, number, number, number, number | null];

export async function runsOf(disk: VirtualDisk): Promise<Run[]> {
  const found: Run[] = [];
  for await (const { start, length, depth, zero, data, offset } of blockStatus(disk)) {
    found.push([start, length, depth, Number(zero), Number(data), offset ?? null]);
  }
  return found;
}

interface QemuRun {
  start: number;
  length: number;
  depth: number;
  zero: boolean;
  data: boolean;
  offset?: number;
}

export function qemuRuns(image: string, format: string): Run[] {
  const runs = JSON.parse(qemuImg('map', '--output=json', '-f', format, image)) as QemuRun[];
  return runs.map(({ start, length, depth, zero, data, offset }) => [
    start,
    length,
    depth,
    Number(zero),
    Number(data),
    offset ?? null,
  ]);
}

/** A unit over plain bytes. `wait` makes it one that answers later; `holes` tells zeros of whole 4 KiB pages. */
export class BytesUnit implements LogicalUnit {
  readonly name: string;
  readonly canWrite = false;
  readonly bytes: Uint8Array;
  readonly identity: string;
  private readonly wait: boolean;
  private readonly holes: boolean;
  reads = 0;
  questions = 0;
  closed = false;

  constructor(bytes: Uint8Array, { name = '<bytes>', wait = false, holes = false } = {}) {
    this.bytes = bytes;
    this.name = name;
    this.identity = `bytes:${name}`;
    this.wait = wait;
    this.holes = holes;
  }
  get size(): number {
    return this.bytes.length;
  }
  generation(): string {
    return 'still';
  }
  read(offset: number, target: Uint8Array): Completion {
    if (offset < 0 || offset + target.length > this.size) throw new Error(`read past the end: ${offset}`);
    this.reads++;
    const act = () => target.set(this.bytes.subarray(offset, offset + target.length));
    if (!this.wait) return void act();
    return new Promise((done) => setImmediate(() => done(void act())));
  }
  write(): Completion {
    throw new Error('not for writing');
  }
  zero(): Completion {
    throw new Error('not for writing');
  }
  flush(): Completion {
    return undefined;
  }
  extents(
    range: { offset: number; length: number },
    limit = 64,
  ): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    this.questions++;
    const answer = this.holes ? this.pages(range, limit) : [{ ...range, kind: 'data' as const }];
    return this.wait ? Promise.resolve(answer) : answer;
  }
  private pages({ offset, length }: { offset: number; length: number }, limit: number): UnitExtent[] {
    const found: { offset: number; length: number; kind: 'data' | 'zero' }[] = [];
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const next = Math.min(at - (at % 4096) + 4096, end);
      const page = this.bytes.subarray(at - (at % 4096), at - (at % 4096) + 4096);
      const kind = page.every((byte) => byte === 0) ? 'zero' : 'data';
      const last = found.at(-1);
      if (last?.kind === kind) last.length += next - at;
      else if (found.length === limit) return found;
      else found.push({ offset: at, length: next - at, kind });
      at = next;
    }
    return found;
  }
  handle(): UnitHandle {
    return { kind: 'filter', filter: 'bytes', options: null, inner: null as never };
  }
  close(): Completion {
    this.closed = true;
    return undefined;
  }
}
