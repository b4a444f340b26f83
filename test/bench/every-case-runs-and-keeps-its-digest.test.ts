import { describe, expect, it, vi } from 'vitest';
import type { Suite } from '../../src/bench/bench-case.ts';
import { openSuite, type SuiteName, suiteByName, suiteNames } from '../../src/bench/suites.ts';
import { suites as commandSuites } from '../../src/cli/bench-command.ts';
import { Kernels } from '../../src/signature/kernels.ts';

/** Runs every case twice, in turn with the others; its name and digests. */
async function digests({ cases }: Suite): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (let run = 0; run < 2; run++) {
    for (const one of cases) {
      await one.run();
      const digest = one.digest();
      expect(digest, one.name).toMatch(/^[0-9a-f]{16}$/);
      expect(found.get(one.name) ?? digest, `${one.name} twice`).toBe(digest);
      found.set(one.name, digest);
    }
  }
  return found;
}

describe.each(suiteNames)('suite %s, in smoke size', (name: SuiteName) => {
  it('runs every case, with the same digests in every run and in every opening', async () => {
    const options = { scale: 'smoke', workers: [1, 2] } as const;
    const first = await openSuite(name, options);
    const second = await openSuite(name, options);
    try {
      const found = await digests(first);
      expect(found.size).toBe(first.cases.length);
      expect(await digests(second)).toEqual(found);
      for (const one of first.cases) {
        expect(one.name.startsWith(`${name}/`)).toBe(true);
        expect(one.bytes > 0).not.toBe(one.operations > 0);
      }
    } finally {
      await first.close();
      await second.close();
    }
  });
});

describe('scans', () => {
  it('come to the same marks by every algorithm and number of workers, from memory and from files', async () => {
    const seen = new Set<string>();
    for (const name of ['array-scan', 'file-scan'] as const) {
      const suite = await openSuite(name, { scale: 'smoke', workers: [1, 2] });
      for (const digest of (await digests(suite)).values()) seen.add(digest);
      await suite.close();
    }
    expect(seen.size).toBe(1);
  });
});

describe('limits', () => {
  it('that cases are held against are measured', async () => {
    const options = { scale: 'smoke', workers: [1, 2] } as const;
    const opened = await Promise.all(suiteNames.map((name) => openSuite(name, options)));
    const cases = opened.flatMap((suite) => suite.cases);
    const names = new Set(cases.map(({ name }) => name));
    const limits = cases.flatMap(({ limit }) => limit ?? []);
    expect(limits.length).toBeGreaterThan(10);
    for (const limit of limits) expect(names).toContain(limit);
    for (const suite of opened) await suite.close();
  });
});

describe('the digest of a kernel', () => {
  it('covers what every call of a run leaves, not the last one alone', async () => {
    const suite = await openSuite('kernels', { scale: 'smoke', workers: [1] });
    const wrong = await openSuite('kernels', { scale: 'smoke', workers: [1] });
    const [right, other] = [suite, wrong].map(
      ({ cases }) => cases.find(({ name }) => name === 'kernels/zero/64K')!,
    );
    const { zeroBlocks } = Kernels.prototype;
    let calls = 0;
    const spy = vi.spyOn(Kernels.prototype, 'zeroBlocks');
    await right!.run();
    const perRun = spy.mock.calls.length;
    expect(perRun).toBeGreaterThan(1);
    spy.mockImplementation(function (this: Kernels, at, block, count, flags) {
      const found = zeroBlocks.call(this, at, block, count, flags);
      // The first call of a run leaves something else; the last one does not.
      const { memory } = this as unknown as { memory: WebAssembly.Memory };
      if (calls++ % perRun === 0) new Uint8Array(memory.buffer)[flags]! ^= 1;
      return found;
    });
    await other!.run();
    const changed = other!.digest();
    spy.mockRestore();
    expect(right!.digest()).not.toBe(changed);
    expect(right!.digest()).toBe(right!.digest());
    await suite.close();
    await wrong.close();
  });
});

describe('names of suites', () => {
  it('are those that the command offers', () => {
    expect(commandSuites).toEqual(suiteNames);
    expect(suiteByName('bitmap')).toBe('bitmap');
    expect(() => suiteByName('none')).toThrow(/unknown suite 'none': expected one of machine, kernels/);
  });
});
