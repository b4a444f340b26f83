/**
 * One connection to an NBD server after the handshake: requests go out as they are made, up to a window, and replies
 * come in any order. An error of one request is that request's own; what breaks the connection fails them all.
 */

import { DriftmapError, type ErrorKind } from '../../base/errors.ts';
import { NBD_CLIENT_IN_FLIGHT, NBD_SILENCE_SECONDS } from '../../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import type { ByteStream } from './byte-stream.ts';
import { Command, Errno, REQUEST_BYTES, REQUEST_MAGIC, strangersWords, write64 } from './protocol.ts';
import { type Pending, ReplyReader, type StatusRun } from './replies.ts';
import type { Agreed, NbdTerms } from './terms.ts';

interface Call extends Pending {
  readonly resolve: (pending: Pending) => void;
  readonly reject: (error: DriftmapError) => void;
}

interface Order {
  readonly type: number;
  readonly flags?: number;
  readonly offset?: ByteOffset;
  readonly length?: ByteCount;
  readonly target?: Uint8Array;
  /** Data of a write; must not change until it is answered. */
  readonly payload?: Uint8Array;
}

const operations: Readonly<Record<number, string>> = {
  [Command.read]: 'read',
  [Command.write]: 'write',
  [Command.flush]: 'flush',
  [Command.writeZeroes]: 'zero',
  [Command.blockStatus]: 'extents',
};

const errors: Readonly<Record<number, readonly [ErrorKind, string]>> = {
  [Errno.EPERM]: ['permission', 'operation not permitted'],
  [Errno.EIO]: ['io', 'input/output error'],
  [Errno.ENOMEM]: ['io', 'the server is out of memory'],
  [Errno.EINVAL]: ['io', 'the server takes the request for invalid'],
  [Errno.ENOSPC]: ['io', 'no space left'],
  [Errno.EOVERFLOW]: ['io', 'the request is too large for the server'],
  [Errno.ENOTSUP]: ['unsupported', 'not supported'],
  [Errno.ESHUTDOWN]: ['io', 'the server is being shut down'],
};

export class NbdConnection {
  readonly terms: NbdTerms;
  private readonly stream: ByteStream;
  private readonly reader: ReplyReader;
  private readonly calls = new Map<number, Call>();
  /** Calls that wait for room in the window. */
  private readonly queue: (() => void)[] = [];
  private broken: DriftmapError | null = null;
  private isClosing = false;
  private lastCookie = 0;
  private isCorked = false;
  private lastHeard = 0;
  private silence: NodeJS.Timeout | null = null;

  constructor({ stream, terms }: Agreed) {
    this.stream = stream;
    this.terms = terms;
    this.reader = new ReplyReader(stream.inbox, {
      structured: terms.structured,
      find: (cookie) => this.calls.get(cookie),
      onDone: (cookie, pending) => this.settle(cookie, pending),
    });
    stream.pourInto(() => this.hear());
  }

  /** One request: at most `maximumPayload` bytes, in whole minimum blocks. */
  async read(offset: ByteOffset, target: Uint8Array): Promise<void> {
    await this.call({ type: Command.read, offset, length: target.length, target });
  }

  async write(offset: ByteOffset, source: Uint8Array): Promise<void> {
    // What the system sends from must not be shared memory.
    const payload = source.buffer instanceof SharedArrayBuffer ? Uint8Array.from(source) : source;
    await this.call({ type: Command.write, offset, length: source.length, payload });
  }

  async zero({ offset, length }: ByteRange): Promise<void> {
    await this.call({ type: Command.writeZeroes, offset, length });
  }

  async flush(): Promise<void> {
    await this.call({ type: Command.flush });
  }

  /** Runs of a context, from `offset` on: at least one, not always to the end of the range, and maybe past it. */
  async status({ offset, length }: ByteRange, context: number): Promise<readonly StatusRun[]> {
    const { runs } = await this.call({ type: Command.blockStatus, offset, length });
    const found = runs.get(context);
    if (found !== undefined) return found;
    const reason = 'the server breaks the protocol: it said nothing of the context that it was asked about';
    throw this.failure('malformed', reason, { offset, length, operation: 'extents' });
  }

  /** Says goodbye once every answer is there. */
  async close(): Promise<undefined> {
    if (this.isClosing) return undefined;
    this.isClosing = true;
    const { socket } = this.stream;
    while (this.calls.size > 0 && this.broken === null) await this.idle();
    if (socket.destroyed) return undefined;
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const impatience = setTimeout(() => socket.destroy(), 1000);
    if (this.broken === null) socket.write(header({ type: Command.disconnect }, 0));
    socket.end();
    await closed;
    clearTimeout(impatience);
    return undefined;
  }

  private readonly idlers: (() => void)[] = [];
  private idle(): Promise<void> {
    return new Promise((resolve) => this.idlers.push(resolve));
  }

  private call(order: Order): Promise<Pending> {
    return new Promise((resolve, reject) => {
      const { type, offset = 0, length = 0, target = null } = order;
      const call: Call = {
        type,
        offset,
        length,
        target,
        parts: [],
        runs: new Map(),
        error: null,
        resolve,
        reject,
      };
      if (this.calls.size < NBD_CLIENT_IN_FLIGHT) this.send(order, call);
      else this.queue.push(() => this.send(order, call));
    });
  }

  private send(order: Order, call: Call): void {
    if (this.broken !== null || this.isClosing) {
      call.reject(
        this.failureOf(call, this.broken ?? this.failure('argument', 'the connection is closed', {})),
      );
      return;
    }
    this.lastCookie = (this.lastCookie % 0xffff_ffff) + 1;
    this.calls.set(this.lastCookie, call);
    if (this.silence === null) this.listen();
    const { socket } = this.stream;
    this.cork();
    socket.write(header(order, this.lastCookie));
    if (order.payload && order.payload.length > 0) socket.write(order.payload);
  }

  /** What is sent in one turn leaves together. */
  private cork(): void {
    if (this.isCorked) return;
    this.isCorked = true;
    this.stream.socket.cork();
    process.nextTick(() => {
      this.isCorked = false;
      this.stream.socket.uncork();
    });
  }

  private hear(): void {
    this.lastHeard = performance.now();
    try {
      this.reader.readAll();
    } catch (cause) {
      this.fail(
        cause instanceof DriftmapError
          ? this.failure(cause.kind, cause.message, {})
          : (cause as DriftmapError),
      );
      return;
    }
    if (!this.stream.ended) return;
    this.fail(this.stream.failure ?? this.failure('io', 'the server closed the connection', {}));
  }

  private settle(cookie: number, pending: Pending): void {
    const call = pending as Call;
    this.calls.delete(cookie);
    if (call.error === null) call.resolve(call);
    else call.reject(this.refusal(call, call.error));
    this.queue.shift()?.();
    if (this.calls.size > 0) return;
    if (this.silence !== null) clearTimeout(this.silence);
    this.silence = null;
    for (const wake of this.idlers.splice(0)) wake();
  }

  /** A server that owes an answer and says nothing is given up. */
  private listen(): void {
    this.lastHeard = performance.now();
    const most = NBD_SILENCE_SECONDS * 1000;
    const check = () => {
      const left = most - (performance.now() - this.lastHeard);
      if (left > 0) this.silence = setTimeout(check, left);
      else this.fail(this.failure('io', `the server has said nothing for ${NBD_SILENCE_SECONDS} s`, {}));
    };
    this.silence = setTimeout(check, most);
  }

  private fail(error: DriftmapError): void {
    if (this.broken !== null) return;
    this.broken = error;
    if (this.silence !== null) clearTimeout(this.silence);
    this.silence = null;
    const calls = [...this.calls.values()];
    this.calls.clear();
    for (const call of calls) call.reject(this.failureOf(call, error));
    for (const refused of this.queue.splice(0)) refused();
    for (const wake of this.idlers.splice(0)) wake();
    this.stream.socket.destroy();
  }

  private refusal(call: Call, { code, text }: NonNullable<Pending['error']>): DriftmapError {
    const [kind, reason] = errors[code] ?? ['io', `error ${code}`];
    const words = strangersWords(text);
    return this.failureOf(call, this.failure(kind, words === '' ? reason : `${reason}: ${words}`, {}));
  }

  /** An error with the place of the request that it hit. */
  private failureOf({ type, offset, length }: Call, error: DriftmapError): DriftmapError {
    const operation = operations[type];
    const reason = error.message.replace(`${this.stream.name}: `, '');
    const place = type === Command.flush ? {} : { offset, length };
    return this.failure(error.kind, `${operation} failed: ${reason}`, { ...place, operation });
  }

  private failure(
    kind: ErrorKind,
    reason: string,
    place: { offset?: number; length?: number; operation?: string | undefined },
  ): DriftmapError {
    return new DriftmapError(kind, reason, { path: this.stream.name, ...place });
  }
}

function header({ type, flags = 0, offset = 0, length = 0 }: Order, cookie: number): Buffer {
  const bytes = Buffer.allocUnsafe(REQUEST_BYTES);
  bytes.writeUInt32BE(REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeUInt32BE(0, 8);
  bytes.writeUInt32BE(cookie, 12);
  write64(bytes, offset, 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}
