import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { NH128_SCRATCH_BYTES, nh128Signer } from '../../src/signature/nh128.ts';
import { hex, KernelMemory } from './xxh3-nh128-blocks-memory.ts';

const { signatures } = JSON.parse(readFileSync(new URL('../abi/nh128.json', import.meta.url), 'utf8')) as {
  signatures: { key: string; length: number; signature: string }[];
};

const MiB = 1024 * 1024;
const SCRATCH = 65_536;
const OUT = MiB;
const DATA = 2 * MiB;

describe('the frozen signatures', () => {
  const kernel = new KernelMemory(DATA + 16 * MiB);
  const nh = kernel.instance('nh');
  const blake3 = kernel.instance('blake3');
  const room = { pointer: SCRATCH, bytes: NH128_SCRATCH_BYTES };
  for (let i = 0; i < 16 * MiB; i++) kernel.bytes[DATA + i] = i % 251;

  it.each(signatures)('of $length bytes under $key', ({ key, length, signature }) => {
    const signer = nh128Signer(nh, blake3, kernel.memory, room, Buffer.from(key, 'hex'));
    signer.sign(DATA, length, 1, OUT);
    expect(hex(kernel.take(OUT, 16))).toBe(signature);
  });
});
