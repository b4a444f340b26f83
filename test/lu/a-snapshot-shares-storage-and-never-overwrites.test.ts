import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { snapshotFile } from '../../src/lu/snapshot.ts';
import { describeWith, temporary, thrown } from '../tools.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const contents = new Uint8Array(4 << 20).fill(7);
writeFileSync(path('lu.img'), contents);

it('refuses what is no file, what is there already, and what is not there, and leaves nothing behind', () => {
  writeFileSync(path('taken'), 'mine');
  mkdirSync(path('folder'));
  const before = readdirSync(folder);
  expect(thrown(() => snapshotFile(path('lu.img'), path('taken')))).toMatchObject({ kind: 'policy' });
  expect(readFileSync(path('taken'), 'utf8')).toBe('mine');
  expect(thrown(() => snapshotFile(path('folder'), path('new')))).toMatchObject({ kind: 'argument' });
  expect(thrown(() => snapshotFile('/dev/null', path('new')))).toMatchObject({ kind: 'argument' });
  expect(thrown(() => snapshotFile(path('gone'), path('new')))).toMatchObject({ kind: 'not-found' });
  expect(thrown(() => snapshotFile(path('lu.img'), path('no/folder')))).toMatchObject({ kind: 'not-found' });
  expect(readdirSync(folder)).toEqual(before);
});

it('without the native door it says what to install, and how else to freeze a unit', async () => {
  // The door is opened once: this needs one that was never tried.
  vi.resetModules();
  vi.stubEnv('DRIFTMAP_NO_NATIVE', '1');
  try {
    const fresh = await import('../../src/lu/snapshot.ts');
    expect(thrown(() => fresh.snapshotFile(path('lu.img'), path('new')))).toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/lu\.img: .*koffi.*lvcreate --snapshot.*zfs snapshot/),
    });
  } finally {
    vi.unstubAllEnvs();
  }
  expect(existsSync(path('new'))).toBe(false);
});

describeWith(['mkfs.xfs', 'mount', 'umount', 'loop devices'], 'on an XFS that makes reflinks', () => {
  const mount = path('xfs');
  beforeAll(() => {
    mkdirSync(mount);
    writeFileSync(path('xfs.img'), '');
    truncateSync(path('xfs.img'), 512 << 20);
    execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', path('xfs.img')]);
    execFileSync('mount', ['-o', 'loop', path('xfs.img'), mount]);
    writeFileSync(join(mount, 'lu.img'), contents);
    execFileSync('sync', ['-f', mount]);
  });
  afterAll(() => {
    execFileSync('umount', [mount]);
  });

  it('keeps the moment: the unit goes on, the snapshot stays; it takes no room', () => {
    const free = statfsSync(mount).bfree;
    expect(snapshotFile(join(mount, 'lu.img'), join(mount, 'lu.snap'))).toBe(contents.length);
    // Less than a tenth of the file: only metadata.
    expect(free - statfsSync(mount).bfree).toBeLessThan(100);
    writeFileSync(join(mount, 'lu.img'), new Uint8Array(contents.length).fill(8), { flag: 'r+' });
    expect(readFileSync(join(mount, 'lu.snap')).equals(contents)).toBe(true);
    expect(readdirSync(mount).sort()).toEqual(['lu.img', 'lu.snap']);
  });

  it('never overwrites, and does not cross file systems', () => {
    writeFileSync(join(mount, 'taken'), 'mine');
    const taken = thrown(() => snapshotFile(join(mount, 'lu.img'), join(mount, 'taken')));
    expect(taken).toMatchObject({ kind: 'policy' });
    expect(readFileSync(join(mount, 'taken'), 'utf8')).toBe('mine');
    const across = thrown(() => snapshotFile(join(mount, 'lu.img'), path('elsewhere')));
    expect(across).toMatchObject({ kind: 'unsupported', message: expect.stringMatching(/one file system/) });
    expect(existsSync(path('elsewhere'))).toBe(false);
  });
});

describeWith(['mkfs.xfs', 'mount', 'umount', 'loop devices'], 'on an XFS that makes none', () => {
  const mount = path('plain');
  beforeAll(() => {
    mkdirSync(mount);
    writeFileSync(path('plain.img'), '');
    truncateSync(path('plain.img'), 512 << 20);
    execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=0', path('plain.img')]);
    execFileSync('mount', ['-o', 'loop', path('plain.img'), mount]);
    writeFileSync(join(mount, 'lu.img'), contents);
  });
  afterAll(() => {
    execFileSync('umount', [mount]);
  });

  it('says so, with advice, and leaves nothing behind', () => {
    expect(thrown(() => snapshotFile(join(mount, 'lu.img'), join(mount, 'snap')))).toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/cannot make reflinks.*lvcreate --snapshot.*docs\/SNAPSHOTS\.md/),
    });
    expect(readdirSync(mount)).toEqual(['lu.img']);
  });
});
