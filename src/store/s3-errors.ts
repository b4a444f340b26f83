/**
 * What went wrong between us and an S3 store, in one line that says what to do. S3 tells it by a code in the answer
 * ("Error responses", Amazon S3 API Reference); answers to HEAD have only a status; and what never became an answer
 * is an error of the system or of the SDK.
 *
 * The SDK's errors carry requests and answers, and with them tokens. So none of them becomes a cause or is shown: of
 * what a store says only a line is kept, and values of credentials are taken out of it.
 */

import { DriftmapError, type ErrorKind } from '../base/errors.ts';
import { STORE_MAX_SAID } from '../base/limits.ts';
import type { Fault } from './retry.ts';

export interface S3Place {
  /** The object's or the store's. */
  readonly path: string;
  /** `put`, `get` … */
  readonly verb: string;
  readonly bucket: string;
  /** The address names it, or the environment; absent: Amazon's. */
  readonly endpoint: string | undefined;
  /** Values that must not be shown. */
  readonly secrets: readonly string[];
}

interface Telling {
  readonly kind: ErrorKind;
  readonly reason: (place: S3Place) => string;
  readonly again?: Fault['again'];
}

/** The part of the SDK's errors that is looked at. */
interface Said {
  readonly name?: string;
  readonly message?: string;
  /** Of the system: ECONNRESET. */
  readonly code?: string;
  /** Of the store. */
  readonly Code?: string;
  readonly Region?: string;
  readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string };
  readonly $response?: { readonly headers?: Readonly<Record<string, string>> };
}

/** Of one of ours: it is meant as it is. */
export function s3Fault(cause: unknown, place: S3Place): Fault {
  if (cause instanceof DriftmapError) return { error: cause, again: 'no' };
  const said = (cause ?? {}) as Said;
  const status = said.$metadata?.httpStatusCode ?? 0;
  const code = said.Code ?? said.code ?? said.name ?? 'Error';
  const { kind, reason, again = 'no' } = telling(said, code, status);
  const told = reason(place);
  const text = told === absent ? told : `${place.verb} failed: ${told}`;
  const id = said.$metadata?.requestId;
  const short = hide(`${code}${status ? `, HTTP ${status}` : ''}${id ? `, request ${id}` : ''}`, place);
  const context = { path: place.path, operation: place.verb, cause: new Error(oneLine(short)) };
  return { error: new DriftmapError(kind, text, context), again };
}

const absent = 'no such object';

function telling(said: Said, code: string, status: number): Telling {
  const region = said.Region ?? said.$response?.headers?.['x-amz-bucket-region'];
  if (code === 'PermanentRedirect' || status === 301 || (region && code === 'AuthorizationHeaderMalformed')) {
    return redirected(region);
  }
  const byCode = codes[code] ?? tlsFault(code);
  if (byCode !== undefined) return byCode;
  if (status === 404) return { kind: 'not-found', reason: () => absent };
  if (status === 403 || status === 401) return denied;
  if (status === 507) return full;
  if (status === 501) {
    return { kind: 'unsupported', reason: () => 'the store says that it cannot do this [501]' };
  }
  if (status >= 200 && status < 300) return noS3;
  const answer = (place: S3Place): string => {
    const message = oneLine(hide(said.message ?? '', place));
    const more = message === '' || message === 'UnknownError' ? '' : `: ${message}`;
    return status ? `the store answers ${status} ${hide(code, place)}${more}` : `${hide(code, place)}${more}`;
  };
  // 408, 409 and 429 say: later. Of the rest of the four hundreds another attempt would be told the same.
  const passes = status >= 500 || [408, 409, 429].includes(status);
  return { kind: 'io', reason: answer, again: passes ? 'while patient' : 'no' };
}

function redirected(region: string | undefined): Telling {
  const where = region === undefined || !/^[\w-]{1,60}$/.test(region) ? 'another region' : region;
  const todo = where === region ? `add region=${region} to the address` : 'add region= to the address';
  return { kind: 'argument', reason: ({ bucket }) => `the bucket '${bucket}' is in ${where}: ${todo}` };
}

const denied: Telling = {
  kind: 'permission',
  reason: ({ verb, bucket }) =>
    `the store refuses: these credentials may not ${verb} in the bucket '${bucket}'`,
};
const full: Telling = { kind: 'io', reason: () => 'the store is full: make room, or raise its quota' };
/** Also of an answer that looks like one and names no bucket. */
export const noS3: Telling = {
  kind: 'argument',
  reason: ({ endpoint }) => `what answers at ${endpoint ?? 'the endpoint'} is no S3: check the address`,
};
const expired: Telling = {
  kind: 'permission',
  reason: () => 'the session of these credentials is over: get new ones',
};
const noCredentials: Telling = {
  kind: 'permission',
  reason: () =>
    'no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile by AWS_PROFILE',
};
const skewed: Telling = {
  kind: 'io',
  reason: () => 'the clocks of this machine and of the store are too far apart: set them right',
  again: 'once',
};
const damaged: Telling = {
  kind: 'io',
  reason: () => 'bytes were damaged on their way to the store',
  again: 'while patient',
};
const certificate: Telling = {
  kind: 'permission',
  reason: ({ endpoint }) =>
    `the certificate of ${endpoint ?? 'the endpoint'} is not one to trust: name its authority by NODE_EXTRA_CA_CERTS=FILE`,
};
const noTls: Telling = {
  kind: 'argument',
  reason: ({ endpoint }) => `${endpoint ?? 'the endpoint'} speaks no TLS that we know: is it http://?`,
};

function passing(what: string): Telling {
  return {
    kind: 'io',
    reason: ({ endpoint }) => `${what}${endpoint === undefined ? '' : ` at ${endpoint}`}`,
    again: 'while patient',
  };
}

const codes: Readonly<Record<string, Telling>> = {
  NoSuchKey: { kind: 'not-found', reason: () => absent },
  NoSuchBucket: {
    kind: 'not-found',
    reason: ({ bucket, endpoint }) => {
      const option = endpoint === undefined ? '' : ` --endpoint-url ${endpoint}`;
      return `no such bucket '${bucket}': make it with 'aws${option} s3 mb s3://${bucket}'`;
    },
  },
  InvalidBucketName: {
    kind: 'argument',
    reason: ({ bucket }) => `the store takes no bucket of the name '${bucket}'`,
  },
  InvalidAccessKeyId: {
    kind: 'permission',
    reason: () => 'the store does not know the access key: check AWS_ACCESS_KEY_ID, or the profile',
  },
  SignatureDoesNotMatch: {
    kind: 'permission',
    reason: () =>
      'the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY, or the profile',
  },
  AccessDenied: denied,
  ExpiredToken: expired,
  ExpiredTokenException: expired,
  TokenRefreshRequired: expired,
  InvalidToken: expired,
  CredentialsProviderError: noCredentials,
  TokenProviderError: noCredentials,
  RequestTimeTooSkewed: skewed,
  RequestExpired: skewed,
  QuotaExceeded: full,
  InsufficientStorage: full,
  XMinioStorageFull: full,
  EntityTooLarge: { kind: 'limit', reason: () => 'the object is larger than the store takes' },
  NotImplemented: { kind: 'unsupported', reason: () => 'the store says that it cannot do this' },
  XAmzContentSHA256Mismatch: damaged,
  BadDigest: damaged,
  IncompleteBody: damaged,
  // Of 400: the client was too slow.
  RequestTimeout: passing('the store waited for us too long'),
  OperationAborted: passing('the store was busy with another change of it'),
  SlowDown: passing('the store says: slower [SlowDown]'),
  TimeoutError: passing('no answer'),
  ETIMEDOUT: passing('no answer'),
  ECONNREFUSED: passing('nobody listens'),
  ECONNRESET: passing('the connection broke'),
  EPIPE: passing('the connection broke'),
  HPE_INVALID_CONSTANT: passing('what answers speaks no HTTP'),
  EHOSTUNREACH: passing('no way to the host'),
  ENETUNREACH: passing('no way to the host'),
  EAI_AGAIN: passing('no name server answers'),
  ENOTFOUND: {
    kind: 'not-found',
    reason: ({ bucket, endpoint }) =>
      `no such host: check the endpoint${endpoint ? ` ${endpoint}` : ''}, and add path-style to the address where it has no name for '${bucket}' of its own`,
  },
};

function tlsFault(code: string): Telling | undefined {
  if (/CERT|UNABLE_TO_VERIFY|ERR_TLS/.test(code)) return certificate;
  return code === 'EPROTO' || code.startsWith('ERR_SSL') ? noTls : undefined;
}

function hide(text: string, { secrets }: S3Place): string {
  let shown = text;
  for (const secret of secrets) if (secret.length > 0) shown = shown.replaceAll(secret, '…');
  return shown;
}

function oneLine(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > STORE_MAX_SAID ? `${line.slice(0, STORE_MAX_SAID)}…` : line;
}
