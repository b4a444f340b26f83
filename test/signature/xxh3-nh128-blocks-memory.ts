/** A small shared memory with kernels over it, for the tests of XXH3, nh128 and the block tests. */

import { readFileSync } from 'node:fs';
import { expect } from 'vitest';

const PAGE = 65_536;

/** All bytes that no kernel call may change are set to this before and looked at after. */
const GUARD = 0xa5;

export class KernelMemory {
  readonly memory: WebAssembly.Memory;
  readonly bytes: Uint8Array;

  constructor(size: number) {
    const pages = Math.ceil(size / PAGE);
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.bytes = new Uint8Array(this.memory.buffer);
  }

  /** An instance of `dist/wasm/<name>.wasm` over this memory. */
  instance(name: string): WebAssembly.Instance {
    const file = new URL(`../../dist/wasm/${name}.wasm`, import.meta.url);
    const module = new WebAssembly.Module(readFileSync(file));
    return new WebAssembly.Instance(module, { env: { memory: this.memory } });
  }

  put(at: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, at);
  }

  /** A copy outside shared memory. */
  take(at: number, length: number): Uint8Array {
    return Uint8Array.from(this.bytes.subarray(at, at + length));
  }

  /** Runs `call`, which may write only to `[at, at + length)`, and returns what is there then. */
  output(at: number, length: number, call: () => void): Uint8Array {
    const margin = 64;
    this.bytes.fill(GUARD, at - margin, at + length + margin);
    call();
    const guards = [...this.take(at - margin, margin), ...this.take(at + length, margin)];
    expect(
      guards.findIndex((byte) => byte !== GUARD),
      'a guard byte beside the output was changed',
    ).toBe(-1);
    return this.take(at, length);
  }
}

export function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** Reproducible bytes without structure: xorshift32. */
export function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state >>> 11;
  }
  return bytes;
}
