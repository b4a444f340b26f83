/**
 * The algorithms that come from libraries: by name, slower, for comparing with other tools. The only importer
 * of hash-wasm.
 */

import { createHash } from 'node:crypto';
import { createCRC32 } from 'hash-wasm';
import { DriftmapError } from '../base/errors.ts';
import type { SignatureAlgorithm } from './algorithm.ts';
import type { Signer } from './signer.ts';

/** Digest of some bytes. */
type LibraryHash = (bytes: Uint8Array) => Uint8Array;

/** The polynomial of CRC-32C, bits reversed (RFC 3720, appendix B.4). */
const CASTAGNOLI = 0x82f63b78;

/** A signer of blocks in `memory`, one call of the library a block. */
export async function librarySigner(
  algorithm: SignatureAlgorithm,
  memory: WebAssembly.Memory,
): Promise<Signer> {
  const hash = await libraryHash(algorithm.name);
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

async function libraryHash(name: string): Promise<LibraryHash> {
  switch (name) {
    case 'sha256':
    case 'sha1':
    case 'md5':
      return (bytes) => createHash(name).update(bytes).digest();
    case 'crc32c': {
      const crc32c = await createCRC32(CASTAGNOLI);
      return (bytes) => crc32c.init().update(bytes).digest('binary');
    }
    default:
      throw new DriftmapError('internal', `no library has ${name}`);
  }
}
