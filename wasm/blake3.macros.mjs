// Text that `scripts/build-kernels.mjs` puts into blake3.ts where it says `//@ name`.

/**
 * Builds of this kernel: the plain one, and `blake3-swizzle`. They differ in how words are rotated by 16 and
 * by 8. A swizzle takes its mask from a register; V8 from 13 on builds the mask anew at every use, in four
 * instructions, where registers are short, and then shuffles of halves and shifts are a third faster. Before
 * 13 the swizzles are 5 % faster.
 */
export const variants = ['swizzle'];

export function rotations(variant) {
  const by16 =
    variant === 'swizzle'
      ? 'i8x16.swizzle(x, i8x16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13))'
      : 'v128.shuffle<u16>(x, x, 1, 0, 3, 2, 5, 4, 7, 6)';
  const by8 =
    variant === 'swizzle'
      ? 'i8x16.swizzle(x, i8x16(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12))'
      : 'v128.or(i32x4.shr_u(x, 8), i32x4.shl(x, 24))';
  const rotation = (bits, body) =>
    `// @ts-ignore: decorator\n@inline\nfunction rotate${bits}(x: v128): v128 {\n  return ${body};\n}`;
  return [rotation(16, by16), rotation(8, by8)].join('\n');
}

const groups = [0, 1];
/** State words of the four column steps and of the four diagonal steps (BLAKE3 paper, section 2.2). */
const halves = [
  [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
  ],
  [
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
  ],
];

/**
 * One round in both groups of four lanes. `round` is the address of a row of 16 message addresses in the
 * round's order. Two steps at a time are what registers hold; their instructions alternate, which hides
 * their latency.
 */
export function round() {
  const lines = [];
  for (const [half, quads] of halves.entries()) {
    for (const group of groups) {
      for (const i of [0, 2]) {
        const one = step('One', group, quads[i], 8 * half + 2 * i);
        const two = step('Two', group, quads[i + 1], 8 * half + 2 * i + 2);
        lines.push('{', ...one.flatMap((line, k) => [line, two[k]]), '}');
      }
    }
  }
  return lines.join('\n');
}

/** The quarter round G of state words a, b, c, d with message words x and x + 1 (section 2.2). */
function step(name, group, quad, x) {
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((word) => word + name);
  const [aAt, bAt, cAt, dAt] = quad.map((word) => 32 * word + 16 * group);
  const message = (i) => `v128.load(load<u32>(round, ${4 * i}), ${16 * group})`;
  return [
    `let ${a} = v128.load(state, ${aAt}), ${b} = v128.load(state, ${bAt});`,
    `${a} = i32x4.add(i32x4.add(${a}, ${message(x)}), ${b});`,
    `let ${d} = rotate16(v128.xor(v128.load(state, ${dAt}), ${a}));`,
    `let ${c} = i32x4.add(v128.load(state, ${cAt}), ${d});`,
    `${b} = rotate12(v128.xor(${b}, ${c}));`,
    `${a} = i32x4.add(i32x4.add(${a}, ${message(x + 1)}), ${b});`,
    `v128.store(state, ${a}, ${aAt});`,
    `${d} = rotate8(v128.xor(${d}, ${a}));`,
    `v128.store(state, ${d}, ${dAt});`,
    `${c} = i32x4.add(${c}, ${d});`,
    `v128.store(state, ${c}, ${cAt});`,
    `v128.store(state, rotate7(v128.xor(${b}, ${c})), ${bAt});`,
  ];
}

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
