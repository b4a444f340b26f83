/**
 * Kernels that a worker keeps from task to task: to instantiate them anew over every memory would cost more
 * than a scan that is kept warm may take to start. A kept kernel keeps its memory, so only the last few are.
 */

import { MAX_CACHED_KERNELS } from '../base/limits.ts';
import { type KernelModules, Kernels } from '../signature/kernels.ts';

/** Least recently used first. */
const cache = new Map<string, Kernels>();

/**
 * @param key the same for the same place in the same memory, whatever object stands for the memory: a memory
 *   that is posted twice is two objects
 */
export function kernelsOver(
  key: string,
  modules: KernelModules,
  memory: WebAssembly.Memory,
  scratch: number,
): Kernels {
  const kernels = cache.get(key) ?? new Kernels(modules, memory, scratch);
  cache.delete(key);
  cache.set(key, kernels);
  for (const oldest of cache.keys()) {
    if (cache.size <= MAX_CACHED_KERNELS) break;
    cache.delete(oldest);
  }
  return kernels;
}
