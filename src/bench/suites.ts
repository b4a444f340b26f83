/** The suites by name: the one entry to everything that is measured. */

import { DriftmapError } from '../base/errors.ts';
import type { Suite, SuiteOptions } from './bench-case.ts';
import { openBitmapSuite } from './bitmap-cases.ts';
import { openKernelSuite } from './kernel-cases.ts';
import { openMachineSuite } from './limits.ts';
import { openMappingSuite } from './mapping-cases.ts';
import { openRangeSuite } from './range-cases.ts';
import { openArrayScanSuite, openDispatchSuite, openFileScanSuite } from './scan-cases.ts';

export { benchFormat } from './bench-case.ts';

const suites = {
  machine: openMachineSuite,
  kernels: openKernelSuite,
  mapping: openMappingSuite,
  bitmap: openBitmapSuite,
  range: openRangeSuite,
  'array-scan': openArrayScanSuite,
  'file-scan': openFileScanSuite,
  dispatch: openDispatchSuite,
} as const;

export type SuiteName = keyof typeof suites;
export const suiteNames = Object.keys(suites) as SuiteName[];

/** Makes what a suite's cases work on; `close` lets it go. */
export function openSuite(name: SuiteName, options: SuiteOptions): Promise<Suite> {
  return suites[name](options);
}

/** @throws DriftmapError `argument` for a name that is no suite's */
export function suiteByName(name: string): SuiteName {
  const found = suiteNames.find((suite) => suite === name);
  if (found === undefined) {
    throw new DriftmapError('argument', `unknown suite '${name}': expected one of ${suiteNames.join(', ')}`);
  }
  return found;
}
