// Text that `scripts/build-kernels.mjs` puts into blake3.ts where it says `//@ name`. The two groups of four
// lanes are called a and b; a0 … a15 are the sixteen words of group a's state, one v128 each.

const groups = ['a', 'b'];
const IV = ['IV0', 'IV1', 'IV2', 'IV3', 'IV4', 'IV5', 'IV6', 'IV7'];
const each = (words, line) =>
  groups.flatMap((group, g) => words.map((word) => line(group, word, g))).join('\n');
const first8 = [0, 1, 2, 3, 4, 5, 6, 7];

/** Chaining value of every lane: the key's words (or the IV). */
export const loadKey = () =>
  each(first8, (group, i) => `let ${group}${i} = v128.load32_splat(key, ${4 * i});`);

/** The upper half of the state: constants, counter, block length and flags (BLAKE3 paper, section 2.2). */
export const upperHalf = () =>
  groups
    .map((group, g) =>
      [
        ...[0, 1, 2, 3].map((i) => `let ${group}${8 + i} = i32x4.splat(${IV[i]});`),
        `let ${group}12 = counter${g}, ${group}13 = i32x4.splat(0), ${group}14 = lengthWord, ${group}15 = flagsWord;`,
      ].join('\n'),
    )
    .join('\n');

/**
 * One round: four column steps, four diagonal steps, in both groups. `round` is the address of a row of 16
 * message addresses in the round's order. Instructions of neighbouring steps alternate, which hides their
 * latency (KERNELS §8: keep the order that is written).
 */
export function round() {
  const columns = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
  ];
  const diagonals = [
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
  ];
  const lines = [];
  for (const [half, quads] of [columns, diagonals].entries()) {
    for (const [g, group] of groups.entries()) {
      for (let i = 0; i < 4; i += 2) {
        const [one, two] = [i, i + 1].map((k) => step(group, g, quads[k], 8 * half + 2 * k));
        for (let k = 0; k < one.length; k++) lines.push(one[k], two[k]);
      }
    }
  }
  return lines.join('\n');
}

/** The quarter round G of words a, b, c, d with message words x and x + 1 (section 2.2). */
function step(group, g, quad, x) {
  const [a, b, c, d] = quad.map((i) => `${group}${i}`);
  const message = (i) => `v128.load(load<u32>(round, ${4 * i}), ${16 * g})`;
  return [
    `${a} = i32x4.add(i32x4.add(${a}, ${message(x)}), ${b});`,
    `${d} = rotate16(v128.xor(${d}, ${a}));`,
    `${c} = i32x4.add(${c}, ${d});`,
    `${b} = rotate12(v128.xor(${b}, ${c}));`,
    `${a} = i32x4.add(i32x4.add(${a}, ${message(x + 1)}), ${b});`,
    `${d} = rotate8(v128.xor(${d}, ${a}));`,
    `${c} = i32x4.add(${c}, ${d});`,
    `${b} = rotate7(v128.xor(${b}, ${c}));`,
  ];
}

/** The new chaining value: lower half xor upper half. */
export const feedForward = () =>
  each(first8, (group, i) => `${group}${i} = v128.xor(${group}${i}, ${group}${i + 8});`);

/** Word i of all lanes to `out + 32 i`. */
export const storeLanes = () =>
  each(first8, (group, i, g) => `v128.store(out, ${group}${i}, ${32 * i + 16 * g});`);

/** The seven message orders as rows of addresses: row r, word i is where that word of all lanes lies (table 2). */
export function schedule() {
  const permutation = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
  let order = Array.from({ length: 16 }, (_, i) => i);
  const lines = [];
  for (let r = 0; r < 7; r++) {
    for (let i = 0; i < 16; i++)
      lines.push(
        `store<u32>(scratch, <u32>(scratch + MESSAGE) + ${32 * order[i]}, SCHEDULE + ${64 * r + 4 * i});`,
      );
    order = permutation.map((i) => order[i]);
  }
  return lines.join('\n');
}
