import { spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { root, temporary } from '../tools.ts';

const folder = temporary();
const script = join(root, 'scripts', 'regress.mjs');
const smallest = ['--ratios', '1', '--turn', '1'];

function regress(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], {
    encoding: 'utf8',
    cwd: root,
  });
  return { status, stdout, stderr };
}

/** A build of which one module is another. */
function planted(name: string, file: string, change: (text: string) => string): string {
  const path = join(folder, name);
  mkdirSync(path);
  cpSync(join(root, 'dist'), join(path, 'dist'), { recursive: true });
  cpSync(join(root, 'package.json'), join(path, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(path, 'node_modules'));
  const module = join(path, 'dist', ...file.split('/'));
  const text = readFileSync(module, 'utf8');
  const changed = change(text);
  expect(changed).not.toBe(text);
  writeFileSync(module, changed);
  return path;
}

describe('words that make no sense', () => {
  it.each([
    [['--processes', '0.5'], /whole number from 1 on for --processes, got '0\.5'/],
    [['--ratios', '1.5'], /whole number/],
    [['--workers', '0'], /whole number/],
    [['--effect', 'much'], /positive number for --effect/],
    [['--plant-case', 'mapping/lookup'], /needs --plant/],
    [['--json', join('/', 'nowhere', 'at', 'all.json')], /cannot write --json/],
    [['--markdown', root], /it is a directory/],
    [['--nonsense'], /Unknown option/],
  ])('%s: exit 2 and one line, before anything is measured', (args, message) => {
    const { status, stdout, stderr } = regress('.', '.', ...args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  it('names that are no case are refused, also when nothing is left to measure', () => {
    const lookup = ['--case', 'mapping/lookup', '--processes', '1', ...smallest];
    expect(regress('.', '.', '--case', 'mapping/none', ...smallest)).toMatchObject({ status: 2, stdout: '' });
    const changed = regress('.', '.', ...lookup, '--changed', 'mapping/lokup');
    expect(changed).toMatchObject({ status: 2, stdout: '' });
    expect(changed.stderr).toMatch(/no case of this run is called 'mapping\/lokup'/);
    const plant = regress('.', '.', ...lookup, '--plant', '8', '--plant-case', 'lookup');
    expect(plant).toMatchObject({ status: 2, stdout: '' });
  }, 60_000);
});

describe('too little', () => {
  it('is said: of one process nothing can be told', () => {
    const { status, stdout } = regress('.', '.', '--case', 'mapping/lookup', '--processes', '1', ...smallest);
    expect(status).toBe(0);
    expect(stdout).toMatch(/Fewer than 3 processes: nothing can be told of the speed of any case/);
    expect(stdout).not.toMatch(/No regression/);
  }, 60_000);
});

describe('a case that only the base has', () => {
  it('fails unless it is named', () => {
    const base = planted('more', 'bench/mapping-cases.js', (text) =>
      text.replace("add('cursor'", "add('gone'"),
    );
    const options = ['--case', 'mapping/', '--processes', '1', ...smallest];
    const silent = regress(base, '.', ...options);
    expect(silent.status).toBe(1);
    expect(silent.stdout).toContain('only in base: mapping/gone');
    expect(silent.stdout).toContain('only in head: mapping/cursor');
    expect(silent.stdout).toContain('gone, and not said to be: mapping/gone');
    expect(regress(base, '.', ...options, '--changed', 'mapping/gone').status).toBe(0);
  }, 90_000);
});

describe('waiting', () => {
  it('before every scan is seen: a coarse case is measured by the clock of the wall', () => {
    const head = planted('waits', 'bench/scan-cases.js', (text) =>
      text.replace('last = await scanner.scan(', 'await new Promise((go) => setTimeout(go, 30));\n$&'),
    );
    const { status, stdout } = regress('.', head, '--case', 'dispatch/', '--processes', '3', ...smallest);
    expect(stdout).toContain('REGRESSION: slower: dispatch/scan/j1.');
    expect(stdout).toMatch(/dispatch\/scan\/j1 .* 25 % {2}slower/);
    expect(status).toBe(1);
  }, 90_000);
});

describe('a signal', () => {
  it('ends the duel at once and leaves nothing behind', async () => {
    const tmp = join(folder, 'tmp');
    mkdirSync(tmp);
    const args = [script, '.', '.', '--case', 'mapping/lookup', '--ratios', '100000'];
    const gate = spawn(process.execPath, args, { cwd: root, env: { ...process.env, TMPDIR: tmp } });
    const ended = new Promise((resolve) => gate.on('close', resolve));
    const children = () => readFileSync(`/proc/${gate.pid}/task/${gate.pid}/children`, 'utf8').trim();
    // The first child lists the cases; the next one duels.
    const seen = new Set<string>();
    while (seen.size < 2) {
      if (children() !== '') seen.add(children());
      await sleep(10);
    }
    gate.kill('SIGTERM');
    expect(await ended).toBe(2);
    expect(readdirSync(tmp)).toEqual([]);
    for (const id of seen) {
      for (let i = 0; existsSync(`/proc/${id}`) && i < 500; i++) await sleep(10);
      expect(existsSync(`/proc/${id}`), id).toBe(false);
    }
  }, 60_000);
});
