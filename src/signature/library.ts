/** The algorithms that come from libraries: by name, slower, for comparing with other tools. The only importer of hash-wasm. */

import { createHash } from 'node:crypto';
import { createCRC32 } from 'hash-wasm';
import { DriftmapError } from '../base/errors.ts';
import type { SignatureAlgorithm } from './algorithm.ts';
import type { Signer } from './signer.ts';

/** Digest of some bytes. */
export type LibraryHash = (bytes: Uint8Array) => Uint8Array;

/** The polynomial of CRC-32C, bits reversed (RFC 3720, appendix B.4). */
const CASTAGNOLI = 0x82f63b78;

let loaded: Promise<ReadonlyMap<string, LibraryHash>> | undefined;

/** Every library algorithm, ready to be called; made once per thread. */
export function loadLibraries(): Promise<ReadonlyMap<string, LibraryHash>> {
  loaded ??= load();
  return loaded;
}

async function load(): Promise<ReadonlyMap<string, LibraryHash>> {
  const crc32c = await createCRC32(CASTAGNOLI);
  const openssl = (name: string): [string, LibraryHash] => [
    name,
    (bytes) => createHash(name).update(bytes).digest(),
  ];
  return new Map([
    ...['sha256', 'sha1', 'md5'].map(openssl),
    ['crc32c', (bytes) => crc32c.init().update(bytes).digest('binary')],
  ]);
}

export function librarySigner(
  algorithm: SignatureAlgorithm,
  memory: WebAssembly.Memory,
  libraries: ReadonlyMap<string, LibraryHash>,
): Signer {
  const hash = libraries.get(algorithm.name);
  if (!hash) throw new DriftmapError('internal', `no library has ${algorithm.name}`);
  const bytes = new Uint8Array(memory.buffer);
  return {
    algorithm,
    sign(pointer, blockLength, count, out) {
      for (let i = 0; i < count; i++) {
        const block = bytes.subarray(pointer + i * blockLength, pointer + (i + 1) * blockLength);
        bytes.set(hash(block), out + i * algorithm.digestLength);
      }
    },
  };
}
