import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith, thrown } from '../tools.ts';
import { workshop } from './files.ts';

const { path } = workshop();

function refusal(name: string, write = false): unknown {
  return thrown(() => openFileUnit(name, { write }).close());
}

/** Descriptors of this process, by what they are open on. */
const open = () =>
  readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });

describe('what is refused at once, for reading and for writing', () => {
  it.each([
    ['a directory', () => mkdirSync(path('folder')), 'folder'],
    ['a character device', () => symlinkSync('/dev/zero', path('zero')), 'zero'],
    ['a character device', () => symlinkSync('/dev/null', path('null')), 'null'],
  ])('%s', (what, make, name) => {
    make();
    for (const write of [false, true]) {
      const error = refusal(path(name), write);
      expect(error).toMatchObject({
        name: 'DriftmapError',
        kind: 'argument',
        path: path(name),
        operation: 'open',
      });
      expect((error as Error).message).toContain(`got ${what}`);
    }
    expect(open().some((target) => target === '/dev/zero')).toBe(false);
  });

  it('a socket', async () => {
    const server = createServer().listen(path('socket'));
    await new Promise((resolve) => server.once('listening', resolve));
    const error = refusal(path('socket'));
    server.close();
    expect(error).toMatchObject({ name: 'DriftmapError', kind: 'argument', path: path('socket') });
    expect((error as Error).message).toContain('got a socket');
  });
});

describeWith(['mkfifo', 'sh'], 'a FIFO', () => {
  it('is refused without waiting for anybody at its other end', () => {
    execFileSync('mkfifo', [path('fifo')]);
    for (const write of [false, true]) {
      expect(refusal(path('fifo'), write)).toMatchObject({ kind: 'argument', path: path('fifo') });
    }
  });

  it('is not opened: who waits to write to it goes on waiting', async () => {
    execFileSync('mkfifo', [path('waited-for')]);
    const writer = spawn('sh', ['-c', `echo begun; exec 3> '${path('waited-for')}'; echo opened`]);
    let told = '';
    writer.stdout.on('data', (bytes) => {
      told += bytes;
    });
    while (!told.includes('begun')) await sleep(10);
    await sleep(100);
    expect(refusal(path('waited-for'))).toMatchObject({ kind: 'argument' });
    await sleep(100);
    writer.kill('SIGKILL');
    expect(told).toBe('begun\n');
  });
});

describe('the system says no', () => {
  it.each([
    ['nothing there', () => {}, 'nothing', 'not-found', /no such file/],
    [
      'a file for a folder',
      () => writeFileSync(path('file'), ''),
      'file/below',
      'not-found',
      /not a directory/,
    ],
    ['a link to itself', () => symlinkSync(path('loop'), path('loop')), 'loop', 'io', /ELOOP/],
    ['a name with no end', () => {}, 'x'.repeat(300), 'io', /ENAMETOOLONG/],
  ])('%s', (_, make, name, kind, message) => {
    make();
    const error = refusal(path(name));
    expect(error).toMatchObject({ name: 'DriftmapError', kind, path: path(name), operation: 'open' });
    expect((error as Error).message).toMatch(message);
  });

  it('permission, for reading and for writing', () => {
    writeFileSync(path('secret'), 'x');
    chmodSync(path('secret'), 0o000);
    writeFileSync(path('fixed'), 'x');
    chmodSync(path('fixed'), 0o444);
    const errors = asNobody(() => [
      refusal(path('secret')),
      refusal(path('fixed'), true),
      refusal(path('fixed')),
    ]);
    expect(errors.slice(0, 2)).toMatchObject([
      { name: 'DriftmapError', kind: 'permission', path: path('secret') },
      { name: 'DriftmapError', kind: 'permission', path: path('fixed') },
    ]);
    expect(errors[2]).toBeNull();
  });
});

it('a refusal leaves no descriptor open', () => {
  writeFileSync(path('whole'), 'x');
  const before = open().length;
  for (let i = 0; i < 50; i++) {
    refusal(path('nothing'));
    refusal('/dev/zero');
    openFileUnit(path('whole')).close();
  }
  expect(open().length).toBe(before);
});

/** Root may read everything, so root becomes somebody else for a moment. */
function asNobody<T>(act: () => T): T {
  if (process.geteuid!() !== 0) return act();
  chmodSync(path('.'), 0o755);
  process.seteuid!(65534);
  try {
    return act();
  } finally {
    process.seteuid!(0);
  }
}
