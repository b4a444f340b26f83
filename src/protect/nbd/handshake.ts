/**
 * The server's side of the handshake: fixed newstyle (proto.md, "Newstyle negotiation" to "Option types").
 *
 * The client sends options, one at a time, until one chooses an export. With TLS configured the server insists on it
 * (the specification's FORCEDTLS): before that it answers STARTTLS and ABORT and nothing else, and names no export.
 * What was agreed before TLS is forgotten, and bytes that came with STARTTLS before its answer end the connection:
 * they were sent in the clear by who knows whom, and must not be taken for what the client says under TLS.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NBD_MAX_OPTION_BYTES, NBD_MAX_PAYLOAD } from '../../base/limits.ts';
import type { ByteStream } from '../../lu/nbd/byte-stream.ts';
import {
  EXPORT_NAME_PADDING,
  EXPORT_NAME_REPLY_BYTES,
  HandshakeFlag,
  hasMagic,
  Info,
  lengthAndText,
  Magic,
  OPTION_HEADER_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  Option,
  Reply,
  TransmissionFlag,
  write64,
  writeMagic,
} from '../../lu/nbd/protocol.ts';
import { contextsOf, listed, type MetaContext, selected } from './contexts.ts';
import type { NbdExport } from './nbd-export.ts';
import { parseContextRequest, parseInfoRequest, readText } from './options.ts';

export interface HandshakeOptions {
  readonly exports: ReadonlyMap<string, NbdExport>;
  /** Serves every export for reading only. */
  readonly readOnly: boolean;
  /** Begins TLS on the stream and returns the encrypted one; null where the server has none. */
  readonly startTls: ((stream: ByteStream) => Promise<ByteStream>) | null;
  /** Polled before each option: a server that is being shut down agrees to nothing more. */
  readonly isClosing: () => boolean;
}

/** What was agreed. */
export interface Agreement {
  /** The encrypted one, where there was TLS. */
  readonly stream: ByteStream;
  readonly exported: NbdExport;
  readonly readOnly: boolean;
  readonly structured: boolean;
  readonly contexts: readonly MetaContext[];
}

interface IncomingOption {
  readonly option: number;
  readonly data: Buffer;
}

/**
 * @returns what was agreed; null when the client said goodbye
 * @throws DriftmapError `malformed` where the client breaks the protocol in a way that has no answer, `io`
 */
export async function shakeHands(stream: ByteStream, options: HandshakeOptions): Promise<Agreement | null> {
  return new Handshake(stream, options).run();
}

export function transmissionFlags(exported: NbdExport, readOnly: boolean, structured: boolean): number {
  const { hasFlags, flush, cache, multiConn, df, fua, trim, writeZeroes, fastZero } = TransmissionFlag;
  let flags = hasFlags | flush | cache;
  if (structured) flags |= df;
  if (exported.isShared ?? true) flags |= multiConn;
  return readOnly ? flags | TransmissionFlag.readOnly : flags | fua | trim | writeZeroes | fastZero;
}

class Handshake {
  private stream: ByteStream;
  private readonly options: HandshakeOptions;
  private padded = true;
  private secure = false;
  private structured = false;
  private contexts: { readonly name: string; readonly chosen: readonly MetaContext[] } | null = null;

  constructor(stream: ByteStream, options: HandshakeOptions) {
    this.stream = stream;
    this.options = options;
  }

  async run(): Promise<Agreement | null> {
    await this.greet();
    for (;;) {
      const incoming = await this.nextOption();
      if (incoming === null) continue;
      const { option } = incoming;
      if (option === Option.abort) {
        await this.reply(option, Reply.ack);
        return null;
      }
      if (option === Option.exportName) return this.toExportName(incoming);
      const agreed = await this.answer(incoming);
      if (agreed !== null) return agreed;
    }
  }

  private async greet(): Promise<void> {
    const greeting = Buffer.alloc(18);
    writeMagic(greeting, Magic.init, 0);
    writeMagic(greeting, Magic.option, 8);
    greeting.writeUInt16BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 16);
    await this.stream.send(greeting);
    const flags = (await this.stream.take(4)).readUInt32BE(0);
    if ((flags & ~(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)) !== 0) {
      throw this.broken(`expected the client flags 1 and 2 at most, got 0x${flags.toString(16)}`);
    }
    // Without the first flag a client may only name its export: the other options need not be refused to it.
    this.padded = (flags & HandshakeFlag.noZeroes) === 0;
  }

  /** Null where the option was too long, and was answered so. */
  private async nextOption(): Promise<IncomingOption | null> {
    const header = await this.stream.take(OPTION_HEADER_BYTES);
    if (!hasMagic(header, 0, Magic.option)) throw this.broken('expected an option, beginning with IHAVEOPT');
    const option = header.readUInt32BE(8);
    const length = header.readUInt32BE(12);
    if (length <= NBD_MAX_OPTION_BYTES) return { option, data: await this.stream.take(length) };
    if (option === Option.exportName) throw this.broken('the name of an export is too long');
    await this.stream.skip(length);
    await this.refuse(option, Reply.tooBig, `expected an option of at most ${NBD_MAX_OPTION_BYTES} bytes`);
    return null;
  }

  private async answer(incoming: IncomingOption): Promise<Agreement | null> {
    const { option, data } = incoming;
    if (this.options.isClosing()) {
      await this.refuse(option, Reply.shutdown, 'the server is being shut down');
    } else if (option === Option.startTls) {
      await this.toStartTls(data);
    } else if (this.mustSecure()) {
      await this.refuse(option, Reply.tlsRequired, 'this server requires TLS');
    } else if (option === Option.list) {
      await this.toList(data);
    } else if (option === Option.structuredReply) {
      await this.toStructuredReply(data);
    } else if (option === Option.info || option === Option.go) {
      return this.toInfo(incoming);
    } else if (option === Option.listMetaContext || option === Option.setMetaContext) {
      await this.toContexts(incoming);
    } else {
      await this.refuse(option, Reply.unsupported, `this server knows no option ${option}`);
    }
    return null;
  }

  private mustSecure(): boolean {
    return this.options.startTls !== null && !this.secure;
  }

  private async toStartTls(data: Buffer): Promise<void> {
    const { startTls } = this.options;
    const option = Option.startTls;
    if (startTls === null) return this.refuse(option, Reply.policy, 'this server is set up without TLS');
    if (this.secure) return this.refuse(option, Reply.invalid, 'TLS is running already');
    if (data.length > 0) return this.refuse(option, Reply.invalid, 'expected no data with STARTTLS');
    if (this.stream.inbox.length > 0) {
      throw this.broken(
        'expected nothing after STARTTLS before its answer: something was slipped in before TLS',
      );
    }
    await this.reply(option, Reply.ack);
    this.stream = await startTls(this.stream);
    this.secure = true;
    this.structured = false;
    this.contexts = null;
  }

  private async toList(data: Buffer): Promise<void> {
    if (data.length > 0) return this.refuse(Option.list, Reply.invalid, 'expected no data with LIST');
    for (const [name, { description }] of this.options.exports) {
      const about = description === undefined ? [] : [Buffer.from(description, 'utf8')];
      await this.reply(Option.list, Reply.server, Buffer.concat([lengthAndText(name), ...about]));
    }
    await this.reply(Option.list, Reply.ack);
  }

  private async toStructuredReply(data: Buffer): Promise<void> {
    const option = Option.structuredReply;
    if (data.length > 0) return this.refuse(option, Reply.invalid, 'expected no data with STRUCTURED_REPLY');
    this.structured = true;
    await this.reply(option, Reply.ack);
  }

  private async toContexts({ option, data }: IncomingOption): Promise<void> {
    const isSet = option === Option.setMetaContext;
    // Whatever was selected before is gone, also when this fails.
    if (isSet) this.contexts = null;
    const request = parseContextRequest(data);
    if (request === null) return this.refuse(option, Reply.invalid, 'expected an export name and queries');
    if (!this.structured) return this.refuse(option, Reply.invalid, 'ask for structured replies first');
    const exported = this.find(request.name);
    if (exported === null) return this.refuseUnknown(option);
    const all = contextsOf(exported);
    const chosen = isSet ? selected(all, request.queries) : listed(all, request.queries);
    for (const { id, name } of chosen) {
      const payload = Buffer.concat([Buffer.alloc(4), Buffer.from(name, 'utf8')]);
      payload.writeUInt32BE(isSet ? id : 0, 0);
      await this.reply(option, Reply.metaContext, payload);
    }
    if (isSet) this.contexts = { name: request.name, chosen };
    await this.reply(option, Reply.ack);
  }

  private async toInfo({ option, data }: IncomingOption): Promise<Agreement | null> {
    const request = parseInfoRequest(data);
    if (request === null) {
      await this.refuse(option, Reply.invalid, 'expected an export name and information requests');
      return null;
    }
    const exported = this.find(request.name);
    if (exported === null) {
      await this.refuseUnknown(option);
      return null;
    }
    for (const payload of this.information(exported, request.wanted)) {
      await this.reply(option, Reply.info, payload);
    }
    await this.reply(option, Reply.ack);
    return option === Option.go ? this.agree(exported, request.name) : null;
  }

  private information(exported: NbdExport, wanted: ReadonlySet<number>): Buffer[] {
    const about = Buffer.alloc(12);
    about.writeUInt16BE(Info.export, 0);
    write64(about, exported.size, 2);
    about.writeUInt16BE(this.flags(exported), 10);
    const found = [about];
    const text = (type: number, value: string) => {
      const payload = Buffer.concat([Buffer.alloc(2), Buffer.from(value, 'utf8')]);
      payload.writeUInt16BE(type, 0);
      found.push(payload);
    };
    if (wanted.has(Info.name)) text(Info.name, this.canonicalName(exported));
    if (wanted.has(Info.description) && exported.description !== undefined) {
      text(Info.description, exported.description);
    }
    if (wanted.has(Info.blockSize)) {
      const { minimumBlock = 1, preferredBlock = 4096 } = exported;
      const sizes = Buffer.alloc(14);
      sizes.writeUInt16BE(Info.blockSize, 0);
      sizes.writeUInt32BE(minimumBlock, 2);
      sizes.writeUInt32BE(Math.max(preferredBlock, minimumBlock, 512), 6);
      sizes.writeUInt32BE(NBD_MAX_PAYLOAD, 10);
      found.push(sizes);
    }
    return found;
  }

  /** It cannot be refused in words: who may not have the export loses the connection. */
  private async toExportName({ data }: IncomingOption): Promise<Agreement> {
    const name = readText(data);
    if (this.mustSecure()) throw this.broken('asked for an export before TLS');
    if (this.options.isClosing())
      throw this.broken('asked for an export while the server is being shut down');
    const exported = name === null ? null : this.find(name);
    if (name === null || exported === null) throw this.broken('asked for an export that is not there');
    const answer = Buffer.alloc(EXPORT_NAME_REPLY_BYTES + (this.padded ? EXPORT_NAME_PADDING : 0));
    write64(answer, exported.size, 0);
    answer.writeUInt16BE(this.flags(exported), 8);
    await this.stream.send(answer);
    return this.agree(exported, name);
  }

  private agree(exported: NbdExport, name: string): Agreement {
    const { stream, structured, contexts } = this;
    const readOnly = this.isReadOnly(exported);
    return {
      stream,
      exported,
      readOnly,
      structured,
      contexts: contexts?.name === name ? contexts.chosen : [],
    };
  }

  /** The empty name means the only export, where there is one. */
  private find(name: string): NbdExport | null {
    const { exports } = this.options;
    const named = exports.get(name);
    if (named !== undefined) return named;
    return name === '' && exports.size === 1 ? [...exports.values()][0]! : null;
  }

  private canonicalName(exported: NbdExport): string {
    return [...this.options.exports].find(([, other]) => other === exported)?.[0] ?? '';
  }

  private isReadOnly(exported: NbdExport): boolean {
    return this.options.readOnly || !exported.canWrite;
  }

  private flags(exported: NbdExport): number {
    return transmissionFlags(exported, this.isReadOnly(exported), this.structured);
  }

  private reply(option: number, type: number, payload: Buffer = Buffer.alloc(0)): Promise<void> {
    const message = Buffer.allocUnsafe(OPTION_REPLY_HEADER_BYTES + payload.length);
    writeMagic(message, Magic.optionReply, 0);
    message.writeUInt32BE(option, 8);
    message.writeUInt32BE(type, 12);
    message.writeUInt32BE(payload.length, 16);
    payload.copy(message, OPTION_REPLY_HEADER_BYTES);
    return this.stream.send(message);
  }

  private refuse(option: number, type: number, why: string): Promise<void> {
    return this.reply(option, type, Buffer.from(why, 'utf8'));
  }

  private refuseUnknown(option: number): Promise<void> {
    return this.refuse(option, Reply.unknown, 'no such export');
  }

  private broken(reason: string): DriftmapError {
    return new DriftmapError('malformed', reason, { path: this.stream.name, operation: 'handshake' });
  }
}
