/**
 * The greeting: both sides say which versions of the protocol they speak, and prove who they are where the
 * transport has not done so.
 *
 *   client → hello     versions from … to, a random nonce
 *   server → welcome   the version that is spoken from now on, a nonce, and whether a token is asked for
 *   client → auth      HMAC-SHA-256(token, "driftmap client" ‖ transcript)
 *   server → authed    HMAC-SHA-256(token, "driftmap server" ‖ transcript)
 *
 * The transcript is both nonces and the channel's binding (RFC 9266, `tls-exporter`), so a proof is worth
 * nothing in another session or over another channel, and the token itself never travels. The client checks the
 * server's proof too: on a plain loopback port anybody may listen.
 */

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { DriftmapError } from '../base/errors.ts';
import type { Connection } from './connection.ts';
import { MessageType } from './message-types.ts';
import { bytes, count, flag, oneOf, record, text } from './schema.ts';

/** The versions that this driftmap speaks. */
export const VERSIONS = { lowest: 1, highest: 1 } as const;
const NONCE_BYTES = 16;
const PROOF_BYTES = 32;

const helloShape = record({
  magic: oneOf('driftmap'),
  lowest: count(0xffff, 1),
  highest: count(0xffff, 1),
  nonce: bytes(NONCE_BYTES, NONCE_BYTES),
  software: text(100),
});
const welcomeShape = record({
  version: count(0xffff, 1),
  nonce: bytes(NONCE_BYTES, NONCE_BYTES),
  token: flag,
  software: text(100),
});
const proofShape = record({ proof: bytes(PROOF_BYTES, PROOF_BYTES) });

export interface GreetingOptions {
  /** The secret that both sites share, where no certificate or ssh proves who the peer is. */
  readonly token?: Uint8Array | undefined;
  readonly software?: string | undefined;
  /** For frozen fixtures. */
  readonly nonce?: Uint8Array | undefined;
}

/** The client's part. Returns the version. */
export async function greet(connection: Connection, options: GreetingOptions = {}): Promise<number> {
  const { token, software = 'driftmap', nonce = randomBytes(NONCE_BYTES) } = options;
  await connection.sendControl(MessageType.hello, { magic: 'driftmap', ...VERSIONS, nonce, software });
  const welcome = await connection.expect(MessageType.welcome, welcomeShape);
  if (welcome.version < VERSIONS.lowest || welcome.version > VERSIONS.highest)
    throw noCommonVersion(connection, `version ${welcome.version}`);
  if (welcome.token) {
    if (!token)
      throw new DriftmapError('permission', 'the other site asks for a token: give --token-file', {
        path: connection.peer,
      });
    const transcript = [nonce, welcome.nonce, connection.transport.binding ?? new Uint8Array(0)];
    await connection.sendControl(MessageType.auth, { proof: proofOf(token, 'client', transcript) });
    const { proof } = await connection.expect(MessageType.authed, proofShape);
    checkProof(connection, proof, proofOf(token, 'server', transcript));
  } else if (token) {
    // Whoever does not ask for the token has not shown that he knows it.
    throw new DriftmapError(
      'permission',
      'the other site did not ask for the token: it may not be who it says',
      {
        path: connection.peer,
      },
    );
  }
  connection.trust();
  return welcome.version;
}

/** The server's part. Returns the version. */
export async function welcome(connection: Connection, options: GreetingOptions = {}): Promise<number> {
  const { token, software = 'driftmap', nonce = randomBytes(NONCE_BYTES) } = options;
  const hello = await connection.expect(MessageType.hello, helloShape);
  const version = Math.min(hello.highest, VERSIONS.highest);
  if (version < Math.max(hello.lowest, VERSIONS.lowest))
    throw noCommonVersion(connection, `versions ${hello.lowest} to ${hello.highest}`);
  await connection.sendControl(MessageType.welcome, { version, nonce, token: token !== undefined, software });
  if (token) {
    const transcript = [hello.nonce, nonce, connection.transport.binding ?? new Uint8Array(0)];
    const { proof } = await connection.expect(MessageType.auth, proofShape);
    checkProof(connection, proof, proofOf(token, 'client', transcript));
    await connection.sendControl(MessageType.authed, { proof: proofOf(token, 'server', transcript) });
  }
  connection.trust();
  return version;
}

function proofOf(token: Uint8Array, who: 'client' | 'server', transcript: readonly Uint8Array[]): Uint8Array {
  const hmac = createHmac('sha256', token).update(`driftmap ${who}`);
  for (const part of transcript) hmac.update(part);
  return hmac.digest();
}

function checkProof(connection: Connection, got: Uint8Array, expected: Uint8Array): void {
  if (got.length === expected.length && timingSafeEqual(got, expected)) return;
  throw new DriftmapError('permission', 'the token is not the right one', { path: connection.peer });
}

function noCommonVersion(connection: Connection, theirs: string): DriftmapError {
  const ours = `this driftmap speaks versions ${VERSIONS.lowest} to ${VERSIONS.highest} of the protocol`;
  return new DriftmapError('unsupported', `${ours}, the other site ${theirs}: use the same release at both`, {
    path: connection.peer,
  });
}
