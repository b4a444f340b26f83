/** The client's side of the handshake (proto.md, "Newstyle negotiation" to "Option reply types"). */

import { DriftmapError, type ErrorKind } from '../../base/errors.ts';
import {
  MAX_DISK_SIZE,
  NBD_MAX_OPTION_BYTES,
  NBD_MAX_OPTION_REPLIES,
  NBD_MAX_PAYLOAD,
} from '../../base/limits.ts';
import { isPowerOfTwo, KiB } from '../../base/units.ts';
import type { ByteStream } from './byte-stream.ts';
import {
  EXPORT_NAME_PADDING,
  EXPORT_NAME_REPLY_BYTES,
  HandshakeFlag,
  hasMagic,
  Info,
  isErrorReply,
  lengthAndText,
  Magic,
  OPTION_HEADER_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  Option,
  Reply,
  read64,
  strangersWords,
  TransmissionFlag,
  writeMagic,
} from './protocol.ts';
import type { Agreed, NbdTerms } from './terms.ts';

interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

const kinds: Readonly<Record<number, ErrorKind>> = {
  [Reply.unsupported]: 'unsupported',
  [Reply.policy]: 'permission',
  [Reply.platform]: 'unsupported',
  [Reply.tlsRequired]: 'permission',
  [Reply.unknown]: 'not-found',
};

/** One handshake; its methods are called in the order in which they stand. */
export class ClientHandshake {
  private stream: ByteStream;
  private handshakeFlags = 0;
  private structured = false;
  private contexts: ReadonlyMap<string, number> = new Map();

  constructor(stream: ByteStream) {
    this.stream = stream;
  }

  /** @throws DriftmapError `malformed` where it is no NBD server, `unsupported` for one of the old style, `io` */
  async greet(): Promise<void> {
    const magic = await this.stream.take(16);
    if (!hasMagic(magic, 0, Magic.init)) throw this.broken('this is no NBD server');
    if (hasMagic(magic, 8, Magic.oldStyle)) {
      throw this.failure('unsupported', 'the server speaks the old style of NBD: start it in the new style');
    }
    if (!hasMagic(magic, 8, Magic.option)) throw this.broken('this is no NBD server of a known kind');
    const offered = (await this.stream.take(2)).readUInt16BE(0);
    this.handshakeFlags = offered & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes);
    const flags = Buffer.alloc(4);
    flags.writeUInt32BE(this.handshakeFlags, 0);
    await this.stream.send(flags);
  }

  /** Insists on TLS. @param upgrade begins it on the stream, and returns the encrypted one */
  async secure(upgrade: (stream: ByteStream) => Promise<ByteStream>): Promise<void> {
    if (!this.isFixed())
      throw this.failure('permission', 'the server cannot do TLS: this address asks for it');
    await this.send(Option.startTls);
    const { type, data } = await this.reply(Option.startTls);
    if (type !== Reply.ack) {
      throw this.failure('permission', `the server refuses TLS, which this address asks for${words(data)}`);
    }
    if (this.stream.inbox.length > 0)
      throw this.broken('the server went on in the clear after it agreed to TLS');
    this.stream = await upgrade(this.stream);
  }

  /** Asks for structured replies, and then for contexts; a server may grant none. */
  async askFor(exportName: string, contexts: readonly string[]): Promise<void> {
    if (!this.isFixed()) return;
    await this.send(Option.structuredReply);
    const { type, data } = await this.reply(Option.structuredReply);
    if (type === Reply.tlsRequired) throw this.refused(type, data, exportName);
    this.structured = type === Reply.ack;
    if (!this.structured || contexts.length === 0) return;
    const granted = await this.contextReplies(Option.setMetaContext, exportName, contexts);
    if (granted !== null) this.contexts = granted;
  }

  /** Names of the contexts that match; none where the server knows nothing of contexts. */
  async listContexts(exportName: string, queries: readonly string[]): Promise<string[]> {
    if (!this.structured) return [];
    const found = await this.contextReplies(Option.listMetaContext, exportName, queries);
    return found === null ? [] : [...found.keys()];
  }

  /** Says goodbye instead of choosing an export. */
  async abort(): Promise<void> {
    if (this.isFixed()) await this.send(Option.abort);
    this.stream.socket.end();
  }

  /**
   * Chooses the export.
   * @throws DriftmapError `not-found`, `permission`, `unsupported`, `limit` (too large for us), `malformed`, `io`
   */
  async go(exportName: string): Promise<Agreed> {
    if (!this.isFixed()) return this.goByName(exportName);
    const request = Buffer.alloc(4);
    request.writeUInt16BE(1, 0);
    request.writeUInt16BE(Info.blockSize, 2);
    await this.send(Option.go, Buffer.concat([lengthAndText(exportName), request]));
    let about: Buffer | null = null;
    let sizes: Buffer | null = null;
    for (let count = 0; ; count++) {
      const { type, data } = await this.countedReply(Option.go, count);
      if (type === Reply.ack) break;
      if (type === Reply.unsupported) return this.goByName(exportName);
      if (isErrorReply(type)) throw this.refused(type, data, exportName);
      if (type !== Reply.info || data.length < 2) throw this.broken(`an unexpected reply ${type} to GO`);
      const kind = data.readUInt16BE(0);
      if (kind === Info.export && data.length === 12) about = data;
      if (kind === Info.blockSize && data.length === 14) sizes = data;
    }
    if (about === null) throw this.broken('the server said nothing of the export it granted');
    return this.agree(read64(about, 2), about.readUInt16BE(10), sizes);
  }

  /** What servers of old understand; it says no by closing the connection. */
  private async goByName(exportName: string): Promise<Agreed> {
    await this.send(Option.exportName, Buffer.from(exportName, 'utf8'));
    let answer: Buffer;
    try {
      answer = await this.stream.take(EXPORT_NAME_REPLY_BYTES);
    } catch (cause) {
      if (this.stream.failure !== null) throw cause;
      const reason = `the server closed the connection: it may have no export '${exportName}'`;
      throw new DriftmapError('not-found', reason, { path: this.stream.name, operation: 'open', cause });
    }
    if ((this.handshakeFlags & HandshakeFlag.noZeroes) === 0) await this.stream.skip(EXPORT_NAME_PADDING);
    return this.agree(read64(answer, 0), answer.readUInt16BE(8), null);
  }

  private agree(size: number, flags: number, sizes: Buffer | null): Agreed {
    if (size > MAX_DISK_SIZE) throw this.failure('limit', 'larger than 2^53−1 bytes');
    if ((flags & TransmissionFlag.hasFlags) === 0) throw this.broken('the export has no flags');
    const { structured, contexts } = this;
    // What every server takes, where this one says nothing ("Size constraints").
    const [minimumBlock, maximum] =
      sizes === null ? [1, NBD_MAX_PAYLOAD] : [sizes.readUInt32BE(2), sizes.readUInt32BE(10)];
    if (!isPowerOfTwo(minimumBlock) || minimumBlock > 64 * KiB || maximum < Math.max(minimumBlock, 512)) {
      throw this.broken(`impossible sizes: blocks of ${minimumBlock} bytes, requests of at most ${maximum}`);
    }
    const maximumPayload = Math.min(maximum, NBD_MAX_PAYLOAD);
    const terms: NbdTerms = {
      size,
      flags,
      structured,
      contexts,
      minimumBlock,
      maximumPayload: maximumPayload - (maximumPayload % minimumBlock),
    };
    return { stream: this.stream, terms };
  }

  /** Ids by name; null where the server knows nothing of contexts. */
  private async contextReplies(
    option: number,
    exportName: string,
    queries: readonly string[],
  ): Promise<Map<string, number> | null> {
    const count = Buffer.alloc(4);
    count.writeUInt32BE(queries.length, 0);
    await this.send(option, Buffer.concat([lengthAndText(exportName), count, ...queries.map(lengthAndText)]));
    const found = new Map<string, number>();
    for (let replies = 0; ; replies++) {
      const { type, data } = await this.countedReply(option, replies);
      if (type === Reply.ack) return found;
      if (type === Reply.unknown) throw this.refused(type, data, exportName);
      if (isErrorReply(type)) return null;
      if (type !== Reply.metaContext || data.length < 4)
        throw this.broken(`an unexpected reply ${type} about contexts`);
      found.set(data.toString('utf8', 4), data.readUInt32BE(0));
    }
  }

  private isFixed(): boolean {
    return (this.handshakeFlags & HandshakeFlag.fixedNewstyle) !== 0;
  }

  private send(option: number, data: Buffer = Buffer.alloc(0)): Promise<void> {
    const message = Buffer.alloc(OPTION_HEADER_BYTES + data.length);
    writeMagic(message, Magic.option, 0);
    message.writeUInt32BE(option, 8);
    message.writeUInt32BE(data.length, 12);
    data.copy(message, OPTION_HEADER_BYTES);
    return this.stream.send(message);
  }

  private countedReply(option: number, before: number): Promise<OptionReply> {
    if (before < NBD_MAX_OPTION_REPLIES) return this.reply(option);
    throw this.failure('limit', `expected at most ${NBD_MAX_OPTION_REPLIES} replies to one option`);
  }

  private async reply(option: number): Promise<OptionReply> {
    const header = await this.stream.take(OPTION_REPLY_HEADER_BYTES);
    if (!hasMagic(header, 0, Magic.optionReply)) throw this.broken('expected a reply to an option');
    if (header.readUInt32BE(8) !== option) {
      throw this.broken(`expected a reply to option ${option}, got one to ${header.readUInt32BE(8)}`);
    }
    const length = header.readUInt32BE(16);
    if (length > NBD_MAX_OPTION_BYTES) throw this.broken(`a reply of ${length} bytes to an option`);
    return { type: header.readUInt32BE(12), data: await this.stream.take(length) };
  }

  private refused(type: number, data: Buffer, exportName: string): DriftmapError {
    const reason =
      type === Reply.unknown
        ? `the server has no export '${exportName}'`
        : type === Reply.tlsRequired
          ? 'the server requires TLS: use nbds:// or nbds+unix://'
          : `the server refuses the export '${exportName}' (reply 0x${type.toString(16)})`;
    return this.failure(kinds[type] ?? 'io', reason + words(data));
  }

  private broken(reason: string): DriftmapError {
    return this.failure('malformed', reason);
  }

  private failure(kind: ErrorKind, reason: string): DriftmapError {
    return new DriftmapError(kind, reason, { path: this.stream.name, operation: 'open' });
  }
}

/** The server's own words, where it has any. */
function words(data: Buffer): string {
  const text = strangersWords(data.toString('utf8'));
  return text === '' ? '' : `: ${text}`;
}
