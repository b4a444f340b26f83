/**
 * The shape of the tree of bits that private and shared marks have in common.
 *
 * Bits lie in pages of 512: 16 words, one cache line of 64 bytes, so threads that write different pages
 * never fight for a line. Above the pages stand nodes of 128 handles. A node of pages spans 2^16 bits, one
 * *chapter*, which is also what a roaring container holds; each level above spans 128 times more. A handle
 * is one Int32:
 *
 *    0   nothing below is set
 *   −1   everything below is set
 *   >0   where the page or node lies in the pool, in words
 *
 * So an empty or a full petabyte is one word, and a scattered mark costs one page and one node.
 * Bit numbers reach 2^44 (a disk of 2^53 bytes in blocks of 512): they are divided, never shifted, until
 * what remains is a place within a page.
 */

export const PAGE_BITS = 512;
export const PAGE_WORDS = 16;
export const NODE_SLOTS = 128;
export const CHAPTER_BITS = PAGE_BITS * NODE_SLOTS;
export const CHAPTER_WORDS = CHAPTER_BITS / 32;

export const EMPTY = 0;
export const FULL = -1;

/** Bits below one handle of a level: level 0 holds pages, level 1 chapters. */
export function spanOf(level: number): number {
  return SPANS[level]!;
}
const SPANS = Array.from({ length: 7 }, (_, level) => PAGE_BITS * NODE_SLOTS ** level);

/** The level whose one handle spans `bits`; at least that of a chapter. */
export function topLevel(bits: number): number {
  let level = 1;
  while (spanOf(level) < bits) level++;
  return level;
}

/** Words of a page or a node. */
export function wordsAt(level: number): number {
  return level === 0 ? PAGE_WORDS : NODE_SLOTS;
}

/**
 * The bits of word `word` of a page that lie within `[from, to)`; both count from the page's first bit.
 * As an Int32.
 */
export function maskOf(word: number, from: number, to: number): number {
  const low = Math.max(from - 32 * word, 0);
  const high = Math.min(to - 32 * word, 32);
  if (low >= high) return 0;
  const below = high === 32 ? -1 : (1 << high) - 1;
  return below & (-1 << low);
}

/** Set bits of a 32-bit word. */
export function bitsIn(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Position of the lowest set bit of a word that is not zero. */
export function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}
