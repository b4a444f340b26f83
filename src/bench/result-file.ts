/** Result files: written by `--json`, read by comparing. What is read is checked: it may be anybody's. */

import { DriftmapError } from '../base/errors.ts';
import { MAX_BENCH_FILE_BYTES } from '../base/limits.ts';
import { readBounded } from '../codec/atomic-file.ts';
import { benchFormat } from './bench-case.ts';
import type { BenchResult, CaseResult } from './run.ts';

/**
 * @throws DriftmapError `malformed` for what is no result, `unsupported` for one of another format, `argument`
 *   for what is no regular file
 */
export function loadResult(path: string): BenchResult {
  return parseResult(Buffer.from(readBounded(path, MAX_BENCH_FILE_BYTES)).toString('utf8'), path);
}

export function parseResult(text: string, path: string): BenchResult {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new DriftmapError('malformed', 'expected JSON as `driftmap bench --json` writes it', {
      path,
      cause,
    });
  }
  const refuse = (reason: string): never => {
    throw new DriftmapError('malformed', reason, { path });
  };
  if (!isRecord(value) || value.tool !== 'driftmap bench') {
    return refuse('expected a result of `driftmap bench --json`, got other JSON');
  }
  if (value.format !== benchFormat) {
    const reason = `expected a bench result of format ${benchFormat}, got ${String(value.format)}: run both with one version`;
    throw new DriftmapError('unsupported', reason, { path });
  }
  if (!isMachine(value.machine))
    return refuse('expected a machine with its processor, cores, memory and Node');
  if (!Array.isArray(value.cases) || value.cases.length === 0) return refuse('expected a list of cases');
  const names = new Set<string>();
  for (const one of value.cases) {
    if (!isCase(one)) {
      const expected =
        'a name, a digest, positive seconds by round, and bytes or operations, of which one is positive';
      return refuse(`expected of every case ${expected}`);
    }
    if (names.has(one.name)) return refuse(`expected cases of different names, got '${one.name}' twice`);
    names.add(one.name);
  }
  return value as unknown as BenchResult;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isMachine(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const texts = [value.cpu, value.platform, value.kernel, value.node, value.v8];
  const numbers = [value.cores, value.memoryBytes, value.load];
  return texts.every((text) => typeof text === 'string') && numbers.every(Number.isFinite);
}

function isCase(value: unknown): value is CaseResult {
  if (!isRecord(value)) return false;
  const { name, suite, digest, limit, rounds } = value;
  const texts = [name, suite, digest].every((text) => typeof text === 'string');
  const { bytes, operations, threads } = value;
  const works = isCount(bytes) && isCount(operations) && (bytes > 0 || operations > 0);
  if (
    !texts ||
    !works ||
    !isCount(threads) ||
    !(limit === null || typeof limit === 'string') ||
    !Array.isArray(rounds)
  )
    return false;
  return (
    rounds.length > 0 &&
    rounds.every((round) => Array.isArray(round) && round.length > 0 && round.every(isPositive))
  );
}

function isCount(value: unknown): value is number {
  return Number.isFinite(value) && (value as number) >= 0;
}

function isPositive(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value > 0;
}
