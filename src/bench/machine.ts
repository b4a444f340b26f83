/** The machine that a bench ran on: figures without it cannot be compared. */

import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import type { ByteCount } from '../base/units.ts';

export interface Machine {
  readonly cpu: string;
  /** Processors that this process may use. */
  readonly cores: number;
  readonly memoryBytes: ByteCount;
  readonly platform: string;
  /** Of the operating system. */
  readonly kernel: string;
  readonly node: string;
  readonly v8: string;
  /** The load average of the last minute when the bench began: how busy others kept the machine. */
  readonly load: number;
}

export function describeMachine(): Machine {
  return {
    cpu: cpuName(),
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch}`,
    kernel: release(),
    node: process.version,
    v8: process.versions.v8 ?? 'unknown',
    load: Math.round(loadavg()[0]! * 100) / 100,
  };
}

/** Whether figures of the two may be compared as they are, and not only as fractions of their limits. */
export function isSameMachine(a: Machine, b: Machine): boolean {
  return a.cpu === b.cpu && a.cores === b.cores && a.memoryBytes === b.memoryBytes && a.node === b.node;
}

function cpuName(): string {
  const named = cpus()[0]?.model.trim();
  if (named && named !== 'unknown') return named;
  try {
    const line = /^(?:model name|Hardware|CPU part)\s*:\s*(.+)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
    return line?.[1] ?? 'unknown';
  } catch {
    return 'unknown';
  }
}
