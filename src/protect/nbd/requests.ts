/** A request as it arrives, and whether it may be served (proto.md, "Request message", "Request types", "Error values"). */

import { DriftmapError } from '../../base/errors.ts';
import { NBD_MAX_PAYLOAD } from '../../base/limits.ts';
import { isWithin } from '../../base/ranges.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { Command, CommandFlag, Errno, REQUEST_MAGIC, read64 } from '../../lu/nbd/protocol.ts';
import type { MetaContext } from './contexts.ts';
import type { NbdExport } from './nbd-export.ts';
import type { Cookie } from './outbox.ts';

export interface Request {
  readonly flags: number;
  readonly type: number;
  readonly cookie: Cookie;
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

/** What the client is told: a number for its program, words for its people. */
export interface Refusal {
  readonly error: number;
  readonly text: string;
}

/** What requests are measured by. */
export interface Terms {
  readonly exported: NbdExport;
  readonly readOnly: boolean;
  readonly structured: boolean;
  readonly contexts: readonly MetaContext[];
}

/** Null where it does not begin as a request must. */
export function parseRequest(header: Buffer): Request | null {
  if (header.readUInt32BE(0) !== REQUEST_MAGIC) return null;
  return {
    flags: header.readUInt16BE(4),
    type: header.readUInt16BE(6),
    cookie: { high: header.readUInt32BE(8), low: header.readUInt32BE(12) },
    offset: read64(header, 16),
    length: header.readUInt32BE(24),
  };
}

const { fua, noHole, df, reqOne, fastZero } = CommandFlag;
/** Flags that a command takes. FUA is valid with every one of them. */
const knownFlags: Readonly<Record<number, number>> = {
  [Command.read]: fua | df,
  [Command.write]: fua,
  [Command.flush]: fua,
  [Command.trim]: fua,
  [Command.cache]: fua,
  [Command.writeZeroes]: fua | noHole | fastZero,
  [Command.blockStatus]: fua | reqOne,
};
const changing: readonly number[] = [Command.write, Command.writeZeroes, Command.trim];

/** Null for a request that may be served. */
export function refusalOf(request: Request, terms: Terms): Refusal | null {
  const { type, flags, offset, length } = request;
  const known = knownFlags[type];
  const refuse = (error: number, text: string) => ({ error, text });
  if (known === undefined) return refuse(Errno.EINVAL, `this server knows no command ${type}`);
  if ((flags & ~known) !== 0) return refuse(Errno.EINVAL, `flags that do not go with command ${type}`);
  if ((flags & df) !== 0 && !terms.structured) return refuse(Errno.EINVAL, 'DF without structured replies');
  if (type === Command.flush) {
    return offset === 0 && length === 0 ? null : refuse(Errno.EINVAL, 'a flush has no range');
  }
  if (changing.includes(type) && terms.readOnly) return refuse(Errno.EPERM, 'this export is read-only');
  return refusalOfRange(request, terms);
}

function refusalOfRange({ type, offset, length }: Request, terms: Terms): Refusal | null {
  const { size, minimumBlock = 1 } = terms.exported;
  const isWrite = type === Command.write || type === Command.writeZeroes;
  if (!isWithin({ offset, length }, size)) {
    const error = isWrite ? Errno.ENOSPC : Errno.EINVAL;
    return { error, text: `expected a range within the export's ${size} bytes` };
  }
  if (offset % minimumBlock !== 0 || length % minimumBlock !== 0) {
    return { error: Errno.EINVAL, text: `expected a multiple of ${minimumBlock} bytes` };
  }
  if (type === Command.blockStatus && (length === 0 || terms.contexts.length === 0)) {
    return { error: Errno.EINVAL, text: 'expected a range, and metadata contexts agreed on before' };
  }
  if (length <= NBD_MAX_PAYLOAD) return null;
  const text = `expected at most ${NBD_MAX_PAYLOAD} bytes`;
  if (type === Command.write) return { error: Errno.EINVAL, text };
  if (type === Command.cache) return { error: Errno.EOVERFLOW, text };
  if (type === Command.read) return { error: terms.structured ? Errno.EOVERFLOW : Errno.EINVAL, text };
  return null;
}

const noSpace: readonly string[] = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** What went wrong in the export, as far as a stranger may know: paths of this host are none of its business. */
export function refusalFor(cause: unknown, { type, flags }: Request): Refusal {
  if (!(cause instanceof DriftmapError)) return { error: Errno.EIO, text: 'input/output error' };
  if (noSpace.includes((cause.cause as NodeJS.ErrnoException | undefined)?.code ?? '')) {
    return { error: Errno.ENOSPC, text: 'no space left' };
  }
  if (cause.kind === 'permission') return { error: Errno.EPERM, text: 'not permitted' };
  if (cause.kind === 'argument') return { error: Errno.EINVAL, text: 'invalid argument' };
  if (cause.kind === 'unsupported' && type === Command.writeZeroes && (flags & fastZero) !== 0) {
    return { error: Errno.ENOTSUP, text: 'no faster than writing' };
  }
  return { error: Errno.EIO, text: 'input/output error' };
}
