/** What a generation is worth. */

/** Block devices (`device`) and memory (`live`) do not tell of writes; a disk on one of them does not either. */
export function vouchesForNothing(generation: string): boolean {
  return generation.split(' ').some((part) => part === 'device' || part === 'live');
}
