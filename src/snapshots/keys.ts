/**
 * The key of a repository: 32 secret bytes, from which a key for each purpose is derived (HKDF-SHA-256, RFC 5869; the
 * salt is the repository's id, so that one file may serve several repositories).
 *
 *   names      keyed BLAKE3 of a signature is the name of an object: a store cannot test for contents that it knows
 *   contents   the root of one key for each object, HMAC-SHA-256 of its kind and name: so that even if two random
 *              nonces were equal one day, they would be under different keys, or seal the same bytes
 *   check      proves that a key is the right one, and that nobody changed the repository's configuration
 */

import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';
import { DriftmapError } from '../base/errors.ts';
import { readBounded } from '../codec/atomic-file.ts';

export const KEY_BYTES = 32;
/** Sixty-four hexadecimal digits, and a line's end. */
const MAX_KEY_FILE_BYTES = 1024;

/** Reads a key file: 32 bytes, or 64 hexadecimal digits. @throws DriftmapError `argument`, `not-found` … */
export function readKeyFile(path: string): Uint8Array {
  const bytes = readBounded(path, MAX_KEY_FILE_BYTES);
  if (bytes.length === KEY_BYTES) return bytes;
  const text = Buffer.from(bytes).toString('latin1').trim();
  if (/^[0-9a-fA-F]{64}$/.test(text)) return new Uint8Array(Buffer.from(text, 'hex'));
  const advice = `make one with 'head -c 32 /dev/urandom > FILE'`;
  const reason = `expected a key of ${KEY_BYTES} bytes or 64 hexadecimal digits, got ${bytes.length} bytes: ${advice}`;
  throw new DriftmapError('argument', reason, { path });
}

export class RepositoryKeys {
  readonly names: Uint8Array;
  private readonly contents: Uint8Array;
  private readonly check: Uint8Array;

  /** @throws DriftmapError `argument` unless the key has 32 bytes */
  constructor(key: Uint8Array, repository: string) {
    if (key.length !== KEY_BYTES)
      throw new DriftmapError('argument', `expected a key of ${KEY_BYTES} bytes, got ${key.length}`);
    const derive = (purpose: string) =>
      new Uint8Array(
        hkdfSync('sha256', key, Buffer.from(repository, 'hex'), `driftmap.snapshots.${purpose}`, KEY_BYTES),
      );
    this.names = derive('names');
    this.contents = derive('contents');
    this.check = derive('check');
  }

  /** The key that seals one object. */
  ofObject(kind: number, name: Uint8Array): Uint8Array {
    return createHmac('sha256', this.contents).update(Uint8Array.of(kind)).update(name).digest();
  }

  proofOf(configuration: Uint8Array): Uint8Array {
    return new Uint8Array(createHmac('sha256', this.check).update(configuration).digest());
  }

  proves(configuration: Uint8Array, proof: Uint8Array): boolean {
    return proof.length === 32 && timingSafeEqual(this.proofOf(configuration), proof);
  }
}
