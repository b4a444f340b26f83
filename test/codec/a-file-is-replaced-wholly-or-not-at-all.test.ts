import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readBounded, writeAtomically } from '../../src/codec/atomic-file.ts';
import { built } from './built.ts';

const bytesOf = (text: string) => new TextEncoder().encode(text);

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'driftmap-atomic-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

let made = 0;
/** A folder of its own for one test. */
function freshFolder(): string {
  const path = join(folder, String(made++));
  mkdirSync(path);
  return path;
}

/** Runs the built `writeAtomically` in a process of its own; returns what it printed. */
function childScript(path: string, length: number): string {
  return `
    const { writeAtomically } = await import(${JSON.stringify(built('codec/atomic-file.js'))});
    try { writeAtomically(${JSON.stringify(path)}, new Uint8Array(${length})); console.log('written'); }
    catch (error) { console.log(error.name, error.kind, error.message); }`;
}

describe('a file', () => {
  it('is created, replaced, and made shorter, leaving nothing beside it', () => {
    const here = freshFolder();
    const path = join(here, 'a');
    for (const text of ['first', 'second and longer', '3', '']) {
      writeAtomically(path, bytesOf(text));
      expect(readFileSync(path, 'utf8')).toBe(text);
      expect(readdirSync(here)).toEqual(['a']);
    }
  });

  it('keeps its mode, and its name may be as long as names may be', () => {
    const path = join(freshFolder(), 'n'.repeat(255));
    writeFileSync(path, 'old');
    chmodSync(path, 0o640);
    writeAtomically(path, bytesOf('new'));
    expect(statSync(path).mode & 0o7777).toBe(0o640);
    expect(readFileSync(path, 'utf8')).toBe('new');
  });

  it('is reached through a symbolic link, which stays one', () => {
    const here = freshFolder();
    mkdirSync(join(here, 'deep'));
    writeFileSync(join(here, 'deep', 'target'), 'old');
    symlinkSync(join('deep', 'target'), join(here, 'link'));
    writeAtomically(join(here, 'link'), bytesOf('new'));
    expect(lstatSync(join(here, 'link')).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(here, 'deep', 'target'), 'utf8')).toBe('new');
    expect(readdirSync(here).sort()).toEqual(['deep', 'link']);
  });

  it('is another file afterwards: whoever has the old one open, or linked, keeps the old contents', () => {
    const here = freshFolder();
    writeFileSync(join(here, 'a'), 'old');
    linkSync(join(here, 'a'), join(here, 'b'));
    writeAtomically(join(here, 'a'), bytesOf('new'));
    expect(readFileSync(join(here, 'b'), 'utf8')).toBe('old');
  });

  it('that is not a regular file is refused', () => {
    const here = freshFolder();
    expect(() => writeAtomically(here, bytesOf('x'))).toThrow(
      expect.objectContaining({ kind: 'argument', path: here }),
    );
    expect(() => writeAtomically('/dev/null', bytesOf('x'))).toThrow(
      expect.objectContaining({ kind: 'argument' }),
    );
    const missing = join(here, 'none', 'a');
    expect(() => writeAtomically(missing, bytesOf('x'))).toThrow(
      expect.objectContaining({ kind: 'not-found', path: missing }),
    );
  });

  it('stays as it was when its folder cannot be written', () => {
    const here = freshFolder();
    const path = join(here, 'a');
    writeFileSync(path, 'old');
    chmodSync(here, 0o555);
    const isRoot = process.geteuid?.() === 0;
    // Permissions do not bind root: become somebody else for the attempt.
    if (isRoot) {
      chmodSync(folder, 0o755);
      chownSync(here, 65534, 65534);
      process.seteuid?.(65534);
    }
    try {
      expect(() => writeAtomically(path, bytesOf('new'))).toThrow(
        expect.objectContaining({ kind: 'permission', path }),
      );
    } finally {
      if (isRoot) process.seteuid?.(0);
      chmodSync(here, 0o755);
    }
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(here)).toEqual(['a']);
  });

  it('stays as it was when writing stops in the middle, and nothing is left beside it', () => {
    const here = freshFolder();
    const path = join(here, 'a');
    writeFileSync(path, 'old');
    // The shell's limit on file size, a few kilobytes, makes the write fail after it has begun.
    const arguments_ = [
      '-c',
      'ulimit -f 4; exec "$0" --input-type=module -e "$1"',
      process.execPath,
      childScript(path, 100_000),
    ];
    const { stdout } = spawnSync('sh', arguments_, { encoding: 'utf8' });
    expect(stdout).toMatch(/DriftmapError io .*write failed.*EFBIG/);
    expect(stdout).toContain(path);
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(here)).toEqual(['a']);
  });

  it('stays as it was when the file system is full', () => {
    const here = freshFolder();
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', here]);
    if (mounted.status !== 0) {
      console.warn('SKIPPED: a full file system (mount -t tmpfs is not allowed here)');
      return;
    }
    try {
      const path = join(here, 'a');
      writeFileSync(path, 'old');
      expect(() => writeAtomically(path, new Uint8Array(200_000))).toThrow(
        /no space left on device \[ENOSPC\]/,
      );
      expect(readFileSync(path, 'utf8')).toBe('old');
      expect(readdirSync(here)).toEqual(['a']);
      writeAtomically(path, bytesOf('there is room for this'));
    } finally {
      spawnSync('umount', [here]);
    }
  });

  it('is the old or the new one when the process is killed at any moment', async () => {
    const path = join(freshFolder(), 'a');
    const length = 300_000;
    writeAtomically(path, new Uint8Array(length).fill(1));
    const script = `
      const { writeAtomically } = await import(${JSON.stringify(built('codec/atomic-file.js'))});
      console.log('ready');
      for (let n = 2; ; n++) writeAtomically(${JSON.stringify(path)}, new Uint8Array(${length}).fill(n % 250 + 1));`;
    const seen = new Set<number>();
    for (let round = 0; round < 12; round++) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await ready(child);
      await new Promise((resolve) => setTimeout(resolve, 3 + round * 5));
      child.kill('SIGKILL');
      await new Promise((resolve) => child.once('close', resolve));
      const bytes = readFileSync(path);
      expect(bytes.length).toBe(length);
      expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
      seen.add(bytes[0]!);
    }
    expect(seen.size).toBeGreaterThan(1);
  });
});

function ready(child: ChildProcess): Promise<unknown> {
  return new Promise((resolve) => child.stdout?.once('data', resolve));
}

describe('reading', () => {
  it('gives the whole file up to its bound', () => {
    const path = join(freshFolder(), 'a');
    writeFileSync(path, 'ten bytes!');
    expect(Buffer.from(readBounded(path, 10)).toString()).toBe('ten bytes!');
    expect(() => readBounded(path, 9)).toThrow(expect.objectContaining({ kind: 'limit', path }));
    writeFileSync(path, '');
    expect(readBounded(path, 0).length).toBe(0);
  });

  it('refuses what is not a regular file, without waiting for it', () => {
    const here = freshFolder();
    expect(() => readBounded(here, 10)).toThrow(expect.objectContaining({ kind: 'argument', path: here }));
    expect(() => readBounded('/dev/zero', 10)).toThrow(expect.objectContaining({ kind: 'argument' }));
    const pipe = join(here, 'pipe');
    expect(spawnSync('mkfifo', [pipe]).status).toBe(0);
    expect(() => readBounded(pipe, 10)).toThrow(expect.objectContaining({ kind: 'argument' }));
    expect(existsSync(pipe)).toBe(true);
    expect(() => readBounded(join(here, 'none'), 10)).toThrow(expect.objectContaining({ kind: 'not-found' }));
  });
});
