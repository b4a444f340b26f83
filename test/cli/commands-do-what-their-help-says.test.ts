import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sparseFile } from '../scan/pairs.ts';
import { root } from '../tools.ts';
import { driftmap, driftmapStopped } from './command.ts';

const folder = mkdtempSync(join(tmpdir(), 'driftmap-cli-'));
const path = (name: string) => join(folder, name);
afterAll(() => rmSync(folder, { recursive: true }));

const size = 5 * 2 ** 20 + 1000;
const contents = new Uint8Array(size);
for (let i = 2 ** 20; i < size; i++) contents[i] = (i * 7) >>> 3;

beforeAll(() => {
  sparseFile(path('a.raw'), contents);
  sparseFile(path('same.raw'), contents);
  const changed = contents.slice();
  for (let i = 0; i < 25; i++) changed[i * 131072 + 70_000]! ^= 255;
  changed[size - 1]! ^= 1;
  sparseFile(path('b.raw'), changed);
});

describe('scan', () => {
  it('exits 0 and says equal for equal disks', () => {
    const { status, stdout, stderr } = driftmap(['scan', path('a.raw'), path('same.raw')]);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/result +equal/);
  });

  it('exits 1, prints counts, the first twenty ranges and the drift in one line', () => {
    const { status, stdout } = driftmap(['scan', path('a.raw'), path('b.raw')]);
    expect(status).toBe(1);
    expect(stdout).toMatch(/different: 26 of 81 blocks/);
    expect(stdout.match(/^ +\d+ {2}\d+$/gm)).toHaveLength(20);
    expect(stdout).toMatch(/and 6 more \(--all prints them\)/);
    expect(stdout).toMatch(/^drift +│[·▁-█]+│$/m);
    const all = driftmap(['scan', path('a.raw'), path('b.raw'), '--all']).stdout;
    expect(all.match(/^ +\d+ {2}\d+$/gm)).toHaveLength(26);
  });

  it('prints one JSON object with the promised keys', () => {
    const { status, stdout } = driftmap([
      'scan',
      path('a.raw'),
      path('b.raw'),
      '--json',
      '-b',
      '4K',
      '-s',
      'blake3',
      '-j',
      '3',
    ]);
    expect(status).toBe(1);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({
      size,
      blockSize: 4096,
      signature: 'blake3',
      blocks: Math.ceil(size / 4096),
      markedBlocks: 26,
      workers: 3,
    });
    expect(result.ranges).toHaveLength(26);
    expect(result.ranges.at(-1)).toEqual({ offset: Math.floor(size / 4096) * 4096, length: size % 4096 });
    for (const key of ['comparedBytes', 'readBytes', 'seconds']) expect(typeof result[key]).toBe('number');
  });

  it('writes a bitmap that shows, exports, combines, and bounds another scan', () => {
    expect(driftmap(['scan', path('a.raw'), path('b.raw'), '--bitmap', path('ab.drift')]).status).toBe(1);
    const shown = JSON.parse(driftmap(['bitmap', 'show', path('ab.drift'), '--json']).stdout);
    expect(shown).toMatchObject({ size, markedBlocks: 26, coveredBlocks: 81 });
    const ranges = JSON.parse(driftmap(['bitmap', 'export', path('ab.drift')]).stdout);
    expect(ranges).toEqual(shown.ranges);
    expect(driftmap(['bitmap', 'show', path('ab.drift')]).stdout).toMatch(/marked +26 blocks/);

    const within = JSON.parse(
      driftmap(['scan', path('a.raw'), path('b.raw'), '--within', path('ab.drift'), '--json']).stdout,
    );
    expect(within).toMatchObject({ markedBlocks: 26, coveredBlocks: 26 });

    for (const [operation, marked] of [
      ['or', 26],
      ['and', 26],
      ['andnot', 0],
    ] as const) {
      const result = driftmap([
        'bitmap',
        operation,
        path('ab.drift'),
        path('ab.drift'),
        '-o',
        path('c.drift'),
      ]);
      expect([result.status, result.stderr]).toEqual([0, '']);
      expect(JSON.parse(driftmap(['bitmap', 'show', path('c.drift'), '--json']).stdout).markedBlocks).toBe(
        marked,
      );
    }
    const foreign = driftmap(['scan', path('a.raw'), path('same.raw'), '--within', path('ab.drift')]);
    expect(foreign.status).toBe(2);
    expect(foreign.stderr.trim().split('\n')).toHaveLength(1);
  });

  it('reports sizes that differ and compares the tail with zeros', () => {
    sparseFile(path('longer.raw'), new Uint8Array([...contents, ...new Uint8Array(70_000)]));
    const equal = driftmap(['scan', path('a.raw'), path('longer.raw')]);
    expect(equal.status).toBe(0);
    expect(equal.stdout).toMatch(/differ: replica is longer/);
  });

  it('names what was looked at when it was not everything', () => {
    const { stdout } = driftmap(['scan', path('a.raw'), path('b.raw'), '--within', path('ab.drift')]);
    expect(stdout).toMatch(/looked at +26 of 81 blocks/);
  });
});

describe('Ctrl-C', () => {
  it('exits 130 and leaves a partial bitmap from which a scan resumes to the whole result', async () => {
    const big = new Uint8Array(96 * 2 ** 20).map((_, i) => i >>> 7);
    writeFileSync(path('big-a.raw'), big);
    for (let at = 1; at < big.length; at += 7_000_000) big[at]! ^= 1;
    writeFileSync(path('big-b.raw'), big);
    const arguments_ = ['scan', path('big-a.raw'), path('big-b.raw'), '-s', 'md5', '-b', '4K', '-j', '1'];
    const begun = performance.now();
    const whole = JSON.parse(driftmap([...arguments_, '--json']).stdout);
    const took = performance.now() - begun;
    let interrupted = 0;
    // How far a run gets in a given time depends on the machine: moments from early to late, until two have hit.
    for (let share = 0.3; share < 1 && interrupted < 2; share += 0.05) {
      const result = await driftmapStopped(
        [...arguments_, '--bitmap', path('partial.drift')],
        'SIGINT',
        share * took,
      );
      // Too early or too late: before the scan began, or after it ended.
      if (result.status === 1 || result.status === null || !/kept: go on with --resume/.test(result.stderr))
        continue;
      interrupted++;
      expect(result.status).toBe(130);
      expect(result.stderr.trim().split('\n')).toHaveLength(1);
      const resumed = driftmap([
        ...arguments_,
        '--resume',
        path('partial.drift'),
        '--bitmap',
        path('partial.drift'),
        '--json',
      ]);
      expect(resumed.status).toBe(1);
      expect(JSON.parse(resumed.stdout).ranges).toEqual(whole.ranges);
    }
    expect(interrupted).toBeGreaterThan(0);
    // The file now holds the whole answer: a scan that is stopped does not replace it by less.
    const full = readFileSync(path('partial.drift'));
    for (let share = 0.3; share < 0.8; share += 0.1) {
      const result = await driftmapStopped(
        [...arguments_, '--bitmap', path('partial.drift')],
        'SIGINT',
        share * took,
      );
      if (result.status === 130) expect(readFileSync(path('partial.drift')).equals(full)).toBe(true);
    }
  });
});

describe('map and signatures', () => {
  it('print where bytes lie', () => {
    const runs = JSON.parse(driftmap(['map', path('a.raw'), '--json']).stdout);
    expect(runs[0]).toMatchObject({ start: 0, depth: 0 });
    for (const run of runs)
      for (const key of ['start', 'length', 'depth', 'zero', 'data', 'offset', 'unit'])
        expect(run).toHaveProperty(key);
    expect(runs.reduce((sum: number, { length }: { length: number }) => sum + length, 0)).toBe(size);
    expect(driftmap(['map', path('a.raw')]).stdout).toMatch(/start +length +kind/);
  });

  it('print one signature per block', () => {
    const lines = driftmap(['signatures', path('a.raw'), '-b', '1M'])
      .stdout.trim()
      .split('\n');
    expect(lines).toHaveLength(6);
    const json = JSON.parse(driftmap(['signatures', path('a.raw'), '-b', '1M', '--json']).stdout);
    expect(
      json.blocks.map(
        ({ signature, offset, length }: Record<string, unknown>) => `${signature}  ${offset}  ${length}`,
      ),
    ).toEqual(lines);
    const part = JSON.parse(
      driftmap(['signatures', path('a.raw'), '-b', '1M', '--offset', '1M', '--length', '1', '--json']).stdout,
    );
    expect(part.blocks).toEqual([json.blocks[1]]);
  });
});

describe('trouble', () => {
  it.each([
    ['a missing file', ['scan', '/nowhere/a', '/nowhere/b'], /no such file/],
    ['a directory', ['scan', '/tmp', '/tmp'], /\/tmp/],
    ['a bad block size', ['scan', 'a', 'b', '-b', '3000'], /power of two/],
    ['an unknown signature', ['scan', 'a', 'b', '-s', 'sha7'], /sha7/],
    ['an unknown option', ['scan', 'a', 'b', '--fast'], /unknown option/],
    ['an unknown command', ['scam'], /Did you mean scan|unknown command/],
    ['a missing argument', ['scan', 'a'], /missing required argument/],
    ['a bitmap that is none', ['bitmap', 'show', '/etc/passwd'], /\/etc\/passwd/],
    ['no workers', ['scan', 'a', 'b', '-j', '0'], /1 to 64/],
    ['a bitmap folder that is missing', ['scan', 'a', 'b', '--bitmap', '/nowhere/x.drift'], /nowhere/],
  ])('%s: status 2 and one clear line', (_, args, expected) => {
    const { status, stdout, stderr } = driftmap(args);
    expect(status).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toMatch(expected);
    expect(stderr).toMatch(/^driftmap: /);
    expect(stderr.trim().split('\n').length).toBeLessThanOrEqual(2);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  it('is not a reader that leaves before the answer: the status still says different', () => {
    const command = `"${process.execPath}" dist/lib/main.js scan "${path('a.raw')}" "${path('b.raw')}" --all | true; echo "\${PIPESTATUS[0]}"`;
    expect(spawnSync('bash', ['-c', command], { cwd: root, encoding: 'utf8' }).stdout.trim()).toBe('1');
  });

  it('is a full disk under the messages, and is still 2', () => {
    const command = `"${process.execPath}" dist/lib/main.js scan /nowhere/a /nowhere/b 2> /dev/full`;
    expect(spawnSync('bash', ['-c', command], { cwd: root }).status).toBe(2);
  });

  it('is an export or a bitmap over something that is there', () => {
    writeFileSync(path('image'), 'a disk');
    expect(driftmap(['bitmap', 'export', path('ab.drift'), '-o', path('image')]).status).toBe(2);
    expect(readFileSync(path('image'), 'utf8')).toBe('a disk');
    expect(driftmap(['scan', path('a.raw'), path('b.raw'), '--bitmap', '/dev/null']).stderr).toMatch(
      /regular file/,
    );
  });

  it('is a bitmap path that holds something else, which is kept', () => {
    writeFileSync(path('precious'), 'not a bitmap');
    for (const args of [
      ['scan', path('a.raw'), path('b.raw'), '--bitmap', path('precious')],
      ['bitmap', 'or', path('ab.drift'), path('ab.drift'), '-o', path('precious')],
    ]) {
      const { status, stderr } = driftmap(args);
      expect(status).toBe(2);
      expect(stderr).toMatch(/precious: is there and is no bitmap/);
      expect(readFileSync(path('precious'), 'utf8')).toBe('not a bitmap');
    }
  });

  it('is a full disk under the output', () => {
    const { status } = spawnSync(
      'sh',
      ['-c', `"${process.execPath}" dist/lib/main.js map "${path('a.raw')}" > /dev/full`],
      { cwd: root },
    );
    expect(status).toBe(2);
  });

  it('shows the stack only when asked', () => {
    expect(driftmap(['scan', '/nowhere/a', '/nowhere/b'], { env: { DRIFTMAP_DEBUG: '1' } }).stderr).toMatch(
      /\n\s+at /,
    );
  });

  it('is not caused by a reader that leaves', () => {
    expect(statSync(path('a.raw')).size).toBe(size);
    const { status } = driftmap(['help']);
    expect(status).toBe(0);
  });
});

describe('help', () => {
  it.each([
    [],
    ['scan'],
    ['map'],
    ['signatures'],
    ['bitmap'],
    ['bitmap', 'show'],
    ['bitmap', 'or'],
    ['bitmap', 'export'],
    ['demo'],
    ['completion'],
  ])('of %s %s is printed on standard output with status 0', (...command) => {
    const { status, stdout, stderr } = driftmap([...command, '--help']);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/Usage: driftmap/);
    if (command[0] !== 'bitmap' || command.length > 1) expect(stdout).toMatch(/Example/);
  });

  it('has completions that name every command', () => {
    for (const shell of ['bash', 'zsh', 'fish']) {
      const { stdout, status } = driftmap(['completion', shell]);
      expect(status).toBe(0);
      for (const name of ['scan', 'map', 'signatures', 'bitmap', 'demo', 'andnot', 'within'])
        expect(stdout).toContain(name);
    }
  });

  it('says the version of the package', () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
    expect(driftmap(['--version']).stdout.trim()).toBe(version);
  });
});
