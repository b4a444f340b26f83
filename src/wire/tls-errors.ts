/** What went wrong with TLS, in words that say what to do. OpenSSL's own name its source files. */

import { DriftmapError } from '../base/errors.ts';

/** What the peer's alerts say of us (RFC 8446, section 6.2), and what a handshake trips over. */
const causes: readonly (readonly [RegExp, string])[] = [
  [/ALERT_CERTIFICATE_REQUIRED/, 'the other site asks for a certificate: give --tls-cert and --tls-key'],
  [/PEER_DID_NOT_RETURN_A_CERTIFICATE/, 'it showed no certificate, which --tls-ca asks for'],
  [
    /ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_|UNSUPPORTED_CERTIFICATE)/,
    'the other site does not trust our certificate: give one that its --tls-ca has signed',
  ],
  [
    /WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|UNKNOWN_PROTOCOL/,
    'what came is no TLS: one side speaks it (driftmaps://), the other does not (driftmap://)',
  ],
  [/UNSUPPORTED_PROTOCOL|ALERT_PROTOCOL_VERSION/, 'expected TLS 1.3'],
];
const untrusted = /CERT|SELF_SIGNED|UNABLE_TO/;

/**
 * @param ca whether a file says who may have signed the peer's certificate
 * @returns null for what is not about TLS
 */
export function tlsError(cause: unknown, path: string | undefined, ca: boolean): DriftmapError | null {
  const code = String((cause as NodeJS.ErrnoException | null)?.code ?? '');
  const known = causes.find(([pattern]) => pattern.test(code));
  if (known) return new DriftmapError('permission', `${known[1]} [${code}]`, { path, cause });
  if (/ALTNAME/.test(code)) {
    const reason = `its certificate is of another name than the address: use a name that it has [${code}]`;
    return new DriftmapError('permission', reason, { path, cause });
  }
  if (/EXPIRED|NOT_YET_VALID/.test(code))
    return new DriftmapError('permission', `its certificate is not valid now [${code}]`, { path, cause });
  if (!code.startsWith('ERR_SSL') && untrusted.test(code)) {
    const advice = ca
      ? 'the file of --tls-ca does not have who signed it'
      : 'give --tls-ca, a file that has who signed it';
    const reason = `its certificate is not trusted: ${advice} [${code}]`;
    return new DriftmapError('permission', reason, { path, cause });
  }
  if (!/^ERR_(SSL|TLS)|^EPROTO/.test(code)) return null;
  return new DriftmapError('io', `TLS failed [${code}]`, { path, cause });
}

/** Of a handshake that a server has not finished. @param untrustedBy what its own check of the certificate said */
export function handshakeError(cause: Error, untrustedBy: unknown, path: string | undefined): DriftmapError {
  const checked = typeof untrustedBy === 'string' ? tlsError({ code: untrustedBy }, path, true) : null;
  const error = checked ?? tlsError(cause, path, true);
  if (error !== null) return error;
  const reason = 'hung up in the middle of the handshake of TLS: it may not trust our certificate';
  return new DriftmapError('permission', reason, { path, cause });
}
