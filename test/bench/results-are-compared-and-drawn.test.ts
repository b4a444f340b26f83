import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { compareResults } from '../../src/bench/compare.ts';
import { resultAsHtml } from '../../src/bench/report-html.ts';
import { comparisonAsMarkdown } from '../../src/bench/report-markdown.ts';
import { describeComparison, describeResult } from '../../src/bench/report-text.ts';
import { parseResult } from '../../src/bench/result-file.ts';
import { type BenchResult, runBench } from '../../src/bench/run.ts';
import { root, temporary, thrown } from '../tools.ts';

const folder = temporary();
let result: BenchResult;

beforeAll(async () => {
  const suites = ['kernels', 'bitmap', 'file-scan'] as const;
  const measured = await runBench({ suites, scale: 'smoke', workers: [1, 2], rounds: 2, milliseconds: 1 });
  // Times of smoke runs are anything: here they are steady, so that a verdict is no matter of luck.
  const cases = measured.cases.map((one) => {
    const middle = one.rounds[0]![0]!;
    return { ...one, rounds: [1, 1.01, 0.99].map((by) => [0.98, 1, 1.02].map((each) => middle * by * each)) };
  });
  result = { ...measured, cases };
});

/** The same result with some cases' times multiplied. */
function slowed(factor: number, name: RegExp): BenchResult {
  const cases = result.cases.map((one) =>
    name.test(one.name)
      ? { ...one, rounds: one.rounds.map((round) => round.map((seconds) => seconds * factor)) }
      : one,
  );
  return { ...result, cases };
}

function driftmap(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(root, 'dist', 'lib', 'main.js'), 'bench', ...args],
    { encoding: 'utf8' },
  );
  return { status, stdout, stderr };
}

function save(name: string, value: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(value));
  return path;
}

describe('a result', () => {
  it('carries the machine, all samples, and figures that are numbers', () => {
    expect(result.machine.cores).toBeGreaterThan(0);
    for (const one of result.cases) {
      expect(one.rounds).toHaveLength(3);
      for (const round of one.rounds) for (const seconds of round) expect(seconds).toBeGreaterThan(0);
    }
    const text = describeResult(result);
    expect(text).toContain('kernels/nh128/64K');
    expect(text).toMatch(/\d % of memory-read\/1/);
    expect(text).not.toMatch(/NaN|Infinity|undefined/);
  });

  it('is read again as it was written, and refused when it is of another version or no result', () => {
    const text = JSON.stringify(result);
    expect(parseResult(text, 'r.json')).toEqual(result);
    const refused = (value: unknown) => thrown(() => parseResult(JSON.stringify(value), 'r.json'));
    expect(refused({ ...result, format: 3 })).toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/^r.json: expected a bench result of format 2, got 3/),
    });
    for (const other of [
      null,
      [],
      {},
      { ...result, tool: 'x' },
      { ...result, cases: [] },
      { ...result, machine: {} },
    ])
      expect(refused(other)).toMatchObject({ kind: 'malformed' });
    for (const rounds of [[], [[]], [[0]], [['1']], [[null]], 7]) {
      const cases = [{ ...result.cases[0], rounds }];
      expect(refused({ ...result, cases })).toMatchObject({ kind: 'malformed' });
    }
    expect(thrown(() => parseResult('{', 'r.json'))).toMatchObject({ kind: 'malformed' });
    const none = { bytes: 0, operations: 0 };
    for (const work of [none, { bytes: -1, operations: 1 }, { bytes: 1, operations: -1 }]) {
      const cases = [{ ...result.cases[0], ...work }];
      expect(refused({ ...result, cases })).toMatchObject({ kind: 'malformed' });
    }
    const twice = [...result.cases, result.cases[0]];
    expect(refused({ ...result, cases: twice })).toMatchObject({ message: expect.stringMatching(/twice/) });
  });
});

describe('comparing', () => {
  it('finds nothing between a result and itself, and the case that became slower or faster', () => {
    expect(compareResults(result, result).passed).toBe(true);
    const slower = compareResults(result, slowed(10, /^bitmap\/or$/));
    expect(slower.passed).toBe(false);
    expect(slower.cases.filter(({ verdict }) => verdict !== 'unchanged').map(({ name }) => name)).toEqual([
      'bitmap/or',
    ]);
    expect(compareResults(slowed(10, /^bitmap\/or$/), result)).toMatchObject({ passed: true });
    expect(describeComparison(slower)).toContain('REGRESSION: slower: bitmap/or.');
  });

  it('holds results of two machines against their limits: half a machine at the same fraction is no regression', () => {
    const other = {
      ...slowed(2, /^(machine|kernels|file-scan)\//),
      machine: { ...result.machine, cpu: 'another' },
    };
    const comparison = compareResults(result, other);
    expect(comparison.by).toBe('limit');
    expect(comparison.passed).toBe(true);
    expect(comparison.notes.join()).toMatch(/machines differ/);
    expect(comparison.cases.some(({ name }) => name.startsWith('bitmap/'))).toBe(false);
    for (const { ratio } of comparison.cases) expect(ratio.estimate).toBeCloseTo(1, 9);
    expect(comparison.cases.length).toBeGreaterThan(5);
  });

  it('refuses results of different scales', () => {
    expect(thrown(() => compareResults(result, { ...result, scale: 'full' }))).toMatchObject({
      kind: 'mismatch',
    });
  });

  it('refuses results without a case in common, also when they lack the limits that two machines need', () => {
    const only = (part: string) => ({
      ...result,
      cases: result.cases.filter(({ name }) => name.startsWith(part)),
    });
    const mismatch = expect.objectContaining({ kind: 'mismatch' });
    expect(thrown(() => compareResults(only('kernels/'), only('bitmap/')))).toEqual(mismatch);
    // Without its limit a case of another machine is told nothing of: a limit of 1 second is made of air.
    const other = { ...only('kernels/'), machine: { ...result.machine, cpu: 'another' } };
    expect(thrown(() => compareResults(result, other))).toEqual(mismatch);
  });

  it('takes other work for a change of meaning, and tells nothing of two rounds', () => {
    const changed = result.cases.map((one) =>
      one.name === 'bitmap/or' ? { ...one, operations: one.operations * 2 } : one,
    );
    const found = compareResults(result, { ...result, cases: changed });
    expect(found.cases.find(({ name }) => name === 'bitmap/or')!.verdict).toBe('meaning changed');
    const slower = slowed(10, /^bitmap\//);
    const short = {
      ...slower,
      cases: slower.cases.map((one) => ({ ...one, rounds: one.rounds.slice(0, 2) })),
    };
    const told = compareResults(result, short);
    expect(told.passed).toBe(true);
    expect(describeComparison(told)).toMatch(/Fewer than 3 rounds: nothing can be told/);
    expect(describeComparison(told)).not.toMatch(/No regression/);
  });

  it('names what only one side has, and escapes names in Markdown', () => {
    const renamed = { ...result.cases[result.cases.length - 1]!, name: 'x|<b>y' };
    const head = { ...result, cases: [...result.cases.slice(0, -1), renamed] };
    const comparison = compareResults(result, head);
    expect(comparison.added).toEqual(['x|<b>y']);
    expect(comparison.removed).toHaveLength(1);
    expect(comparisonAsMarkdown(comparison)).toContain('x\\|\\<b\\>y');
  });
});

describe('the page', () => {
  it('is balanced, needs nothing from elsewhere, runs nothing, and escapes what it shows', () => {
    const cpu = '<script>alert("x")</script> & co';
    const page = resultAsHtml({ ...result, machine: { ...result.machine, cpu } });
    expect(page).toContain('&lt;script&gt;');
    expect(page).not.toMatch(/<script|href=|src=|url\(|@import|https?:|NaN|undefined|Infinity/);
    const open: string[] = [];
    for (const [, close, tag, empty] of page.matchAll(/<(\/?)([a-z0-9]+)[^>]*?(\/?)>/g)) {
      if (close) expect(open.pop()).toBe(tag);
      else if (!empty) open.push(tag!);
    }
    expect(open).toEqual([]);
    expect(page.match(/<svg/g)).toHaveLength(4);
  });
});

describe('the command', () => {
  it('measures, writes JSON and a page, and compares with exit statuses', () => {
    const [json, html] = [join(folder, 'a.json'), join(folder, 'a.html')];
    const measured = driftmap(
      '--quick',
      '--suite',
      'mapping',
      '--rounds',
      '2',
      '--time',
      '1',
      '--json',
      json,
      '--html',
      html,
    );
    expect(measured).toMatchObject({ status: 0, stderr: '' });
    expect(measured.stdout).toMatch(/mapping\/lookup +\d/);
    expect(readFileSync(html, 'utf8')).toContain('</html>');
    expect(driftmap('compare', json, json).status).toBe(0);
  }, 30_000);

  it('exits 1 for a regression and 2 for what it cannot read', () => {
    const base = save('base.json', result);
    const head = save('head.json', slowed(10, /^bitmap\//));
    const compared = driftmap('compare', base, head, '--as', 'markdown');
    expect(compared.status).toBe(1);
    expect(compared.stdout).toContain('| bitmap/or | +900.0 %');
    expect(JSON.parse(driftmap('compare', base, head, '--as', 'json').stdout)).toMatchObject({
      passed: false,
    });
    expect(driftmap('compare', base, save('old.json', { ...result, format: 0 })).status).toBe(2);
    expect(driftmap('compare', base, join(folder, 'none.json')).status).toBe(2);
    expect(driftmap('--suite', 'nothing').status).toBe(2);
  }, 30_000);
});

describe('the command, before it measures', () => {
  it('refuses outputs that cannot be written, one file for both, and a TMPDIR that is not there', () => {
    const [json, gone] = [join(folder, 'same.json'), join(folder, 'gone')];
    const refused = (...args: string[]) => {
      const { status, stdout, stderr } = driftmap('--quick', '--suite', 'bitmap', ...args);
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
      return stderr;
    };
    expect(refused('--json', join(gone, 'a.json'))).toMatch(/writing the result failed: no such/);
    expect(refused('--html', folder)).toMatch(/regular file/);
    expect(refused('--json', json, '--html', `${folder}/./same.json`)).toMatch(/one for both/);
    expect(refused('--rounds', '2.5')).toMatch(/whole number/);
    const line = [join(root, 'dist', 'lib', 'main.js'), 'bench', '--quick', '--suite', 'bitmap'];
    const env = { ...process.env, TMPDIR: gone };
    const { status, stderr } = spawnSync(process.execPath, line, { encoding: 'utf8', env });
    expect(status).toBe(2);
    expect(stderr).toMatch(/gone: making a temporary folder \(TMPDIR says where\) failed: no such/);
  }, 60_000);

  it('compares regular files alone', () => {
    const { status, stderr } = driftmap('compare', '/dev/zero', save('regular.json', result));
    expect(status).toBe(2);
    expect(stderr).toMatch(/expected a regular file/);
    const kernels = { ...result, cases: result.cases.filter(({ suite }) => suite === 'kernels') };
    const bitmap = { ...result, cases: result.cases.filter(({ suite }) => suite === 'bitmap') };
    expect(driftmap('compare', save('k.json', kernels), save('b.json', bitmap)).status).toBe(2);
  }, 30_000);

  it('leaves no folder behind when it is stopped twice', async () => {
    const tmp = join(folder, 'stopped');
    mkdirSync(tmp);
    const line = [join(root, 'dist', 'lib', 'main.js'), 'bench', '--suite', 'file-scan'];
    const child = spawn(process.execPath, line, { env: { ...process.env, TMPDIR: tmp } });
    const ended = new Promise((resolve) => child.on('close', resolve));
    while (readdirSync(tmp).length === 0) await sleep(20);
    child.kill('SIGINT');
    await sleep(50);
    child.kill('SIGINT');
    expect(await ended).toBe(130);
    expect(readdirSync(tmp)).toEqual([]);
  }, 60_000);
});

describe('the workflow', () => {
  it('names scripts that exist and is indented as YAML is', () => {
    const text = readFileSync(join(root, 'docs', 'ci-speed-gate.yml'), 'utf8');
    const scripts = [...text.matchAll(/node (scripts\/[\w-]+\.mjs)/g)].map(([, script]) => script!);
    expect(scripts).toContain('scripts/regress.mjs');
    for (const script of scripts) expect(existsSync(join(root, script)), script).toBe(true);
    for (const line of text
      .split('\n')
      .filter((each) => each.trim() !== '' && !each.trim().startsWith('#'))) {
      expect(line).toMatch(/^(?: {2})*(?:- )?(?:[\w-]+:(?: .+)?|node scripts.*|--json .*)$/);
    }
  });
});
