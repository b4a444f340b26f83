/**
 * The one error class. Its kinds are few and stable: callers branch on `kind`, people read `message`,
 * and both find the place in the context.
 */

export type ErrorKind =
  /** The caller's words are off: an option, a size, an address. */
  | 'argument'
  /** A file, device or peer that is not there. */
  | 'not-found'
  /** The operating system does not let us. */
  | 'permission'
  /** A read or a write failed. */
  | 'io'
  /** Bytes that break their own format: a damaged image, bitmap or frame. */
  | 'malformed'
  /** A format or feature that is recognised and that driftmap does not handle. */
  | 'unsupported'
  /** Refused for safety unless the user allows it. */
  | 'policy'
  /** Two things that do not belong together: identities, sizes, block sizes, generations. */
  | 'mismatch'
  /** Larger than a cap of `base/limits.ts`. */
  | 'limit'
  /** Stopped by the caller's signal. */
  | 'aborted'
  /** A worker thread died or threw something that is not one of ours. */
  | 'worker'
  /** A promise of our own code was broken; always a bug in driftmap. */
  | 'internal';

/** Where it happened. Offsets and lengths are in bytes. */
export interface ErrorContext {
  readonly path?: string | undefined;
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
  readonly operation?: string | undefined;
  readonly cause?: unknown;
}

export class DriftmapError extends Error {
  override readonly name = 'DriftmapError';
  readonly kind: ErrorKind;
  readonly path: string | undefined;
  readonly offset: number | undefined;
  readonly length: number | undefined;
  readonly operation: string | undefined;

  /**
   * @param reason what is wrong and, where there is something to do, what to do ("expected X, got Y").
   *   The message shown to people is `path: reason (at offset N, length M)`.
   */
  constructor(kind: ErrorKind, reason: string, context: ErrorContext = {}) {
    super(describe(reason, context), context.cause === undefined ? undefined : { cause: context.cause });
    this.kind = kind;
    this.path = context.path;
    this.offset = context.offset;
    this.length = context.length;
    this.operation = context.operation;
  }

  /** A plain object that survives a thread boundary; `fromPlain` is its inverse. */
  toPlain(): PlainError {
    const { kind, message, path, offset, length, operation } = this;
    return { kind, message, path, offset, length, operation };
  }

  static fromPlain(plain: PlainError): DriftmapError {
    const { path, offset, length, operation } = plain;
    const error = new DriftmapError(plain.kind, '', { path, offset, length, operation });
    error.message = plain.message;
    return error;
  }
}

export interface PlainError {
  readonly kind: ErrorKind;
  readonly message: string;
  readonly path: string | undefined;
  readonly offset: number | undefined;
  readonly length: number | undefined;
  readonly operation: string | undefined;
}

function describe(reason: string, { path, offset, length }: ErrorContext): string {
  const place: string[] = [];
  if (offset !== undefined) place.push(`at offset ${offset}`);
  if (length !== undefined) place.push(`length ${length}`);
  return `${path === undefined ? '' : `${path}: `}${reason}${place.length ? ` (${place.join(', ')})` : ''}`;
}

const kindOfCode: Readonly<Record<string, ErrorKind>> = {
  ENOENT: 'not-found',
  ENOTDIR: 'not-found',
  ECONNREFUSED: 'not-found',
  ENOTFOUND: 'not-found',
  EHOSTUNREACH: 'not-found',
  EACCES: 'permission',
  EPERM: 'permission',
  EROFS: 'permission',
  EISDIR: 'argument',
  EEXIST: 'policy',
};

/** Wraps what the operating system threw; passes one of ours through unchanged. */
export function systemError(cause: unknown, context: ErrorContext): DriftmapError {
  if (cause instanceof DriftmapError) return cause;
  const code = (cause as NodeJS.ErrnoException | undefined)?.code ?? '';
  const reasons: Readonly<Record<string, string>> = {
    ENOENT: 'no such file or directory',
    ENOTDIR: 'a part of the path is not a directory',
    EACCES: 'permission denied',
    EPERM: 'operation not permitted',
    EROFS: 'read-only file system',
    EISDIR: 'is a directory',
    EEXIST: 'is there already and is not overwritten: remove it first, or name another file',
    EIO: 'input/output error',
    ENOSPC: 'no space left on device',
    EMFILE: 'too many open files',
    ECONNREFUSED: 'nobody listens there',
    ENOTFOUND: 'no such host',
    EADDRINUSE: 'somebody listens there already',
  };
  const text = reasons[code] ?? (cause instanceof Error ? cause.message : String(cause));
  const verb = context.operation === undefined ? '' : `${context.operation} failed: `;
  return new DriftmapError(kindOfCode[code] ?? 'io', `${verb}${text}${code ? ` [${code}]` : ''}`, {
    ...context,
    cause,
  });
}

/** Says what must hold; throws an `internal` error, with the place, when it does not. */
export function assert(condition: boolean, reason: string, context?: ErrorContext): asserts condition {
  if (!condition) throw new DriftmapError('internal', `assertion failed: ${reason}`, context);
}
