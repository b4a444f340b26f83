// What sequence s writes: known to the process that is killed and to the one that looks afterwards.

export const shapes = [
  { name: 'system', size: 300_000 },
  { name: 'data', size: 100_000 },
];

/** Numbers that a seed decides (mulberry32). */
export function randomOf(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

export function writeOf(sequence) {
  const random = randomOf(sequence * 7919);
  const { name, size } = shapes[random(shapes.length)];
  const offset = random(size);
  const length = 1 + random(Math.min(9000, size - offset));
  if (random(5) === 0) return { disk: name, offset, zeros: length };
  return { disk: name, offset, bytes: new Uint8Array(length).fill(1 + (sequence % 255)) };
}
