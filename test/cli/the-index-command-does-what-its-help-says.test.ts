import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { saveBitmap } from '../../src/bitmap/drift-file.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import { buildQcow2, dataEntry } from '../disk/qcow2-builder.ts';
import { changeByte } from '../scan/indexes.ts';
import { sparseFile } from '../scan/pairs.ts';
import { temporary } from '../tools.ts';
import { bin, driftmap } from './command.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const size = 3 * 2 ** 20;

beforeAll(() => {
  const bytes = new Uint8Array(size);
  for (let i = 2 ** 20; i < size; i++) bytes[i] = (i * 7) >>> 3;
  sparseFile(path('a.raw'), bytes);
  bytes[2 ** 21]! ^= 1;
  sparseFile(path('b.raw'), bytes);
  writeFileSync(path('c.qcow2'), buildQcow2({ size, entries: [[dataEntry(0)], [1n]], dataClusters: 1 }));
});

describe('driftmap index', () => {
  it('takes a raw file for a unit, and an image for a disk unless it is told otherwise', () => {
    const subject = (args: readonly string[]) => {
      const { status, stdout, stderr } = driftmap(['index', ...args, '--json']);
      expect([status, stderr]).toEqual([0, '']);
      const { subject: what, size: bytes, blockSize, nonzeroBlocks } = JSON.parse(stdout);
      return [what, bytes, blockSize, nonzeroBlocks];
    };
    expect(subject([path('a.raw'), '-o', path('a.sig')])).toEqual(['unit', size, 65536, 32]);
    expect(subject([path('c.qcow2'), '-o', path('c.sig'), '-b', '1M'])).toEqual(['disk', size, 2 ** 20, 1]);
    const physical = subject([path('c.qcow2'), '-o', path('c-unit.sig'), '--unit']);
    expect(physical).toEqual(['unit', readFileSync(path('c.qcow2')).length, 65536, expect.any(Number)]);
  });

  it('tells what it did in lines', () => {
    const { status, stdout } = driftmap(['index', path('b.raw'), '-o', path('b.sig')]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^of +\S*b\.raw {2}logical unit, physical offsets, 3\.00 MiB$/m);
    expect(stdout).toMatch(/^blocks +48 of 64K, 32 of them not zero$/m);
    expect(stdout).toMatch(/^index +\S*b\.sig/m);
  });

  it('makes scans that read nothing, in blocks of its own size and by blake3 without being told', () => {
    for (const name of ['a', 'b'])
      driftmap(['index', path(`${name}.raw`), '-o', path(`${name}.sig`), '-b', '4K', '-q']);
    const indexes = ['--production-index', path('a.sig'), '--replica-index', path('b.sig')];
    const common = ['scan', path('a.raw'), path('b.raw'), ...indexes];
    const told = driftmap(common);
    expect(told.status).toBe(1);
    expect(told.stdout).toMatch(/by blake3 in blocks of 4K/);
    expect(told.stdout).toMatch(/^indexes +signatures of 4\.00 MiB; bytes read: 0$/m);
    const result = JSON.parse(driftmap([...common, '--json', '--sample', '50%', '--seed', '3']).stdout);
    expect(result).toMatchObject({ markedBlocks: 1, indexedBytes: 2 ** 22 });
    expect(result.sampledBlocks).toBeGreaterThan(0);
    expect(result.readBytes).toBe(result.sampledBlocks * 4096);
    const other = driftmap([...common, '-b', '64K']);
    expect([other.status, other.stderr]).toEqual([2, expect.stringMatching(/scan with a block size of 4K/)]);
  });

  it('and scans refuse what does not fit, with status 2 and one line', () => {
    const refused = (args: readonly string[], reason: RegExp) => {
      const { status, stdout, stderr } = driftmap(args);
      expect([status, stdout]).toEqual([2, '']);
      expect(stderr).toMatch(reason);
      expect(stderr.trim().split('\n')).toHaveLength(1);
    };
    const index = ['index', path('a.raw'), '-o', path('x.sig')];
    refused(['index', path('a.raw')], /required option '-o, --output <file>'/);
    refused(['index', path('a.raw'), '-o', path('b.raw')], /is no signature index: it is not overwritten/);
    refused([...index, '--refresh', path('a.sig')], /--refresh and --within go together/);
    refused([...index, '--within', path('a.drift')], /--refresh and --within go together/);
    refused([...index, '--sample', '1%'], /it goes with --refresh/);
    refused([...index, '--sample', '101%'], /expected a share such as 1% or 0.01/);
    refused([...index, '--seed', '-1'], /expected a whole number/);
    refused([...index, '-b', '3K'], /power of two/);
    const ofImage = ['--refresh', path('c-unit.sig'), '--within', `${path('c.qcow2')}:bitmap=b`];
    refused(
      ['index', path('c.qcow2'), '-o', path('x.sig'), '--unit', ...ofImage],
      /speaks of virtual offsets/,
    );
    const refresh = ['--refresh', path('a.sig'), '--within', path('a.drift'), '-b', '4K'];
    refused([...index, ...refresh], /leave --block-size out/);
    refused(['scan', path('a.raw'), path('b.raw'), '--sample', '1%'], /give one, or leave the sample out/);
    const scan = ['scan', path('a.raw'), path('b.raw'), '--production-index'];
    refused([...scan, path('nowhere.sig')], /no such file/);
    refused([...scan, path('a.raw')], /this is not a signature index/);
    refused([...scan, path('b.sig')], /foreign/);
    refused([...scan, path('a.sig'), '-s', 'nh128'], /use the signature blake3/);
    expect(readdirSync(folder)).not.toContain('x.sig');
  });

  it('refreshes by a bitmap file, and says what it trusts', async () => {
    sparseFile(path('d.raw'), new Uint8Array(size).fill(1));
    sparseFile(path('e.raw'), new Uint8Array(size).fill(1));
    driftmap(['index', path('d.raw'), '-o', path('d.sig')]);
    changeByte(path('d.raw'), 70_000);
    const disk = await openDisk(path('d.raw'), { format: 'raw' });
    const stamp = { identity: disk.identity, size, generation: disk.generation() };
    const sides = { production: stamp, replica: stamp };
    const written = new SyncBitmap({ size, blockSize: 65536, signature: 'none', ...sides });
    written.markRange({ offset: 70_000, length: 1 });
    written.cover({ start: 0, end: written.blocks });
    await disk.close();
    saveBitmap(written, path('d.drift'));
    const refresh = ['--refresh', path('d.sig'), '--within', path('d.drift'), '--sample', '100%'];
    const { status, stdout, stderr } = driftmap(['index', path('d.raw'), '-o', path('d.sig'), ...refresh]);
    expect([status, stderr]).toEqual([0, expect.stringMatching(/trusts that the bitmap marks every write/)]);
    expect(stdout).toMatch(/^kept +47 blocks of the older index; 47 of them verified$/m);
    const scanned = driftmap(['scan', path('d.raw'), path('e.raw'), '--production-index', path('d.sig')]);
    expect(scanned.stdout).toMatch(/different: 1 of 48 blocks/);
  });

  it('is not refreshed by what a scan found: a write that made the disks equal is not in it', () => {
    const contents = new Uint8Array(size).fill(1);
    sparseFile(path('g.raw'), contents);
    sparseFile(path('f.raw'), contents);
    changeByte(path('f.raw'), 70_000);
    driftmap(['index', path('f.raw'), '-o', path('f.sig')]);
    const old = readFileSync(path('f.sig'));
    // Equal from here on, by a write that no comparison sees.
    writeFileSync(path('f.raw'), contents);
    driftmap(['scan', path('f.raw'), path('g.raw'), '--bitmap', path('f.drift')]);
    const refresh = ['--refresh', path('f.sig'), '--within', path('f.drift')];
    const { status, stdout, stderr } = driftmap(['index', path('f.raw'), '-o', path('f.sig'), ...refresh]);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/got a comparison by 'nh128', which tells nothing of what was written/);
    expect(readFileSync(path('f.sig')).equals(old)).toBe(true);
  });

  it('that is stopped leaves nothing behind', async () => {
    writeFileSync(path('large.raw'), new Uint8Array(2 ** 27).fill(7));
    const aside = () => readdirSync(folder).some((name) => name.endsWith('.tmp'));
    const args = ['index', path('large.raw'), '-o', path('large.sig'), '-b', '512', '-j', '1'];
    const child = spawn(process.execPath, [bin, ...args], { stdio: 'ignore' });
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    // When it writes, it is ready to be stopped.
    while (!aside() && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill('SIGINT');
    const status = await ended;
    // A fast machine may be done by then.
    expect([0, 130]).toContain(status);
    expect(aside()).toBe(false);
    if (status === 130) expect(readdirSync(folder)).not.toContain('large.sig');
  });
});
