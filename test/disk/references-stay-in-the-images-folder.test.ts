import { copyFileSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MAX_CHAIN_DEPTH } from '../../src/base/limits.ts';
import { openDisk } from '../../src/disk/open.ts';
import { BytesUnit, readAll, temporaryFolder } from './images.ts';
import { buildQcow2, dataEntry } from './qcow2-builder.ts';

const raw = { type: 0xe2792aca, data: new TextEncoder().encode('raw') };
const qcow2 = { type: 0xe2792aca, data: new TextEncoder().encode('qcow2') };
const folder = temporaryFolder();
const home = join(folder, 'home');
mkdirSync(join(home, 'sub'), { recursive: true });
mkdirSync(join(folder, 'home2'));
for (const place of ['home/base.raw', 'home/sub/base.raw', 'secret.raw', 'home2/base.raw', 'home/a:b.raw']) {
  writeFileSync(join(folder, place), new Uint8Array(65536).fill(7));
}
symlinkSync(join(folder, 'secret.raw'), join(home, 'link-out'));
symlinkSync('base.raw', join(home, 'link-in'));
symlinkSync(folder, join(home, 'folder-out'));
symlinkSync(home, join(folder, 'door'));

/** An image with a backing name, in a file of its own. */
function image(name: string, backing: string, format = raw): string {
  const path = join(home, name);
  writeFileSync(path, buildQcow2({ entries: [[0n]], backing, extensions: [format] }));
  return path;
}
function dataImage(name: string, dataFile: string): string {
  const path = join(home, name);
  const extensions = [{ type: 0x44415441, data: new TextEncoder().encode(dataFile) }];
  writeFileSync(path, buildQcow2({ entries: [[1n << 63n]], incompatible: 4n, extensions }));
  return path;
}
async function firstByte(path: string, options = {}): Promise<number> {
  const disk = await openDisk(path, options);
  try {
    return (await readAll(disk))[0]!;
  } finally {
    await disk.close();
  }
}

describe.each([
  ['backing file', image],
  ['data file', dataImage],
])('a %s', (what, make) => {
  it.each([
    'base.raw',
    './base.raw',
    'sub/base.raw',
    'sub/../base.raw',
    'file:base.raw',
    'link-in',
    './a:b.raw',
    join(home, 'base.raw'),
  ])('inside: %s', async (name) => {
    const path = make('in.qcow2', name);
    expect(await firstByte(path)).toBe(7);
    // The same by another way to the folder.
    expect(await firstByte(join(folder, 'door', basename(path)))).toBe(7);
  });

  it.each([
    '../secret.raw',
    '../home2/base.raw',
    join(folder, 'secret.raw'),
    'link-out',
    'folder-out/secret.raw',
    'file:../secret.raw',
    'sub/../../secret.raw',
  ])('outside: %s, only when allowed', async (name) => {
    const path = make('out.qcow2', name);
    await expect(openDisk(path)).rejects.toMatchObject({
      kind: 'policy',
      path,
      message: expect.stringMatching(new RegExp(`the ${what} .*outside the image's folder.*--allow-outside`)),
    });
    expect(await firstByte(path, { allowOutside: true })).toBe(7);
  });

  it('outside and not there: the error does not tell which', async () => {
    const there = await openDisk(make('probe.qcow2', '../secret.raw')).catch((error: Error) => error.message);
    const missing = await openDisk(make('probe.qcow2', '../absent.raw')).catch(
      (error: Error) => error.message,
    );
    expect(String(missing).replace('absent', 'secret')).toBe(there);
  });

  it('inside and not there: not found', async () => {
    await expect(openDisk(make('gone.qcow2', 'gone.raw'))).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/'gone\.raw'.*is not there/),
    });
  });

  it.each([
    'nbd://127.0.0.1:10809/x',
    'nbd:unix:/tmp/s',
    'http://example.com/x',
    'json:{"driver":"file","filename":"/etc/passwd"}',
    'fd:3',
    'file:nbd:x',
    'host_device:/dev/sda',
  ])('by a protocol, never: %s', async (name) => {
    const path = make('protocol.qcow2', name);
    for (const allowOutside of [false, true]) {
      await expect(openDisk(path, { allowOutside })).rejects.toMatchObject({
        kind: 'policy',
        path,
        message: expect.stringMatching(/not a file name but the protocol/),
      });
    }
  });

  it('a folder is no disk', async () => {
    await expect(openDisk(make('folder.qcow2', 'sub'))).rejects.toMatchObject({ kind: 'policy' });
    await expect(openDisk(make('folder.qcow2', 'sub'), { allowOutside: true })).rejects.toMatchObject({
      kind: 'argument',
    });
  });

  it('the image itself is a loop', async () => {
    await expect(openDisk(make('self.qcow2', 'self.qcow2'))).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/loop/),
    });
  });

  it('is not followed where the format was guessed from what a guest can write', async () => {
    const path = join(home, 'disk.img');
    copyFileSync(make('guess.qcow2', 'base.raw'), path);
    await expect(openDisk(path)).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/guessed/),
    });
    expect(await firstByte(path, { format: 'qcow2' })).toBe(7);
    expect(await firstByte(path, { format: 'raw' })).toBe(0x51);
  });
});

describe('chains', () => {
  it('a loop of two, by way of a hard link', async () => {
    image('loop-a.qcow2', 'loop-b.qcow2', qcow2);
    image('loop-b.qcow2', 'loop-c.qcow2', qcow2);
    linkSync(join(home, 'loop-a.qcow2'), join(home, 'loop-c.qcow2'));
    await expect(openDisk(join(home, 'loop-a.qcow2'))).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/the chain is a loop/),
    });
  });

  it(`of ${MAX_CHAIN_DEPTH} backing files, and of one more`, async () => {
    writeFileSync(join(home, 'deep-0.qcow2'), buildQcow2({ entries: [[dataEntry(0)]], dataClusters: 1 }));
    for (let i = 1; i <= MAX_CHAIN_DEPTH + 1; i++) image(`deep-${i}.qcow2`, `deep-${i - 1}.qcow2`, qcow2);
    expect(await firstByte(join(home, `deep-${MAX_CHAIN_DEPTH}.qcow2`))).toBe(1);
    await expect(openDisk(join(home, `deep-${MAX_CHAIN_DEPTH + 1}.qcow2`))).rejects.toMatchObject({
      kind: 'limit',
      message: expect.stringMatching(/at most 64 backing files/),
    });
  });

  it('a backing format that is not read is refused by name', async () => {
    const qed = { type: 0xe2792aca, data: new TextEncoder().encode('qed') };
    await expect(openDisk(image('over-qed.qcow2', 'base.raw', qed))).rejects.toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/qed/),
    });
  });

  it('a unit that lies in no folder names no files', async () => {
    const bytes = buildQcow2({ entries: [[0n]], backing: 'base.raw', extensions: [raw] });
    await expect(openDisk(new BytesUnit(bytes), { format: 'qcow2' })).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/lies in no folder/),
    });
  });

  it('names are printed without their control characters', async () => {
    const error = await openDisk(image('evil.qcow2', '../\u001b[2Jx')).catch((caught: Error) => caught);
    expect((error as Error).message).toMatch(/\?\[2Jx/);
  });
});
