/**
 * The NBD protocol as constants, shared by the client (here) and the server (`protect/nbd`).
 * Source: doc/proto.md of NetworkBlockDevice/nbd, whose names are kept without their `NBD_`. All integers are
 * big-endian; the numbers of its section "Values".
 */

/** Section "Newstyle negotiation": each magic number of 64 bits as its two halves. */
export const Magic = {
  /** `NBDMAGIC` in ASCII. */
  init: [0x4e42444d, 0x41474943],
  /** `IHAVEOPT` in ASCII. */
  option: [0x49484156, 0x454f5054],
  /** What an old server says instead of it ("Oldstyle negotiation"). */
  oldStyle: [0x00004202, 0x81861253],
  optionReply: [0x0003e889, 0x045565a9],
} as const;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Port assigned by IANA. */
export const NBD_PORT = 10809;

/** Handshake flags and client flags have the same two bits. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const TransmissionFlag = {
  hasFlags: 1,
  readOnly: 1 << 1,
  flush: 1 << 2,
  fua: 1 << 3,
  trim: 1 << 5,
  writeZeroes: 1 << 6,
  df: 1 << 7,
  multiConn: 1 << 8,
  cache: 1 << 10,
  fastZero: 1 << 11,
} as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;

const ERROR_REPLY = 0x8000_0000;
export const Reply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: ERROR_REPLY + 1,
  policy: ERROR_REPLY + 2,
  invalid: ERROR_REPLY + 3,
  platform: ERROR_REPLY + 4,
  tlsRequired: ERROR_REPLY + 5,
  unknown: ERROR_REPLY + 6,
  shutdown: ERROR_REPLY + 7,
  blockSizeRequired: ERROR_REPLY + 8,
  tooBig: ERROR_REPLY + 9,
} as const;

export function isErrorReply(type: number): boolean {
  return type >= ERROR_REPLY;
}

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16 } as const;

export const CHUNK_DONE = 1;
const ERROR_CHUNK = 0x8000;
export const Chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  error: ERROR_CHUNK + 1,
  errorOffset: ERROR_CHUNK + 2,
} as const;

export function isErrorChunk(type: number): boolean {
  return type >= ERROR_CHUNK;
}

/** Flags of an extent in `base:allocation`. */
export const State = { hole: 1, zero: 2 } as const;
export const ALLOCATION = 'base:allocation';
/** QEMU's contexts (docs/interop/nbd.txt of QEMU): one flag, bit 0: the extent is dirty. */
export const DIRTY_BITMAP = 'qemu:dirty-bitmap:';
export const DIRTY = 1;

/** Section "Error values": the only ones that may be sent. */
export const Errno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** What `EXPORT_NAME` is answered with: size, transmission flags; and zeros, unless both sides know better. */
export const EXPORT_NAME_REPLY_BYTES = 10;
export const EXPORT_NAME_PADDING = 124;

const HIGH = 2 ** 32;

/**
 * An unsigned number of 64 bits. Past 2^53−1 it comes out rounded, and still past it: a range check refuses it.
 */
export function read64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * HIGH + bytes.readUInt32BE(at + 4);
}

export function write64(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32BE(Math.floor(value / HIGH), at);
  bytes.writeUInt32BE(value % HIGH, at + 4);
}

export function hasMagic(bytes: Buffer, at: number, [high, low]: readonly [number, number]): boolean {
  return bytes.readUInt32BE(at) === high && bytes.readUInt32BE(at + 4) === low;
}

export function writeMagic(bytes: Buffer, [high, low]: readonly [number, number], at: number): void {
  bytes.writeUInt32BE(high, at);
  bytes.writeUInt32BE(low, at + 4);
}

/** A string of the protocol with its length of 32 bits before it. */
export function lengthAndText(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  const framed = Buffer.allocUnsafe(4 + bytes.length);
  framed.writeUInt32BE(bytes.length, 0);
  bytes.copy(framed, 4);
  return framed;
}

/** A message of the peer's as it may be shown to people: short, on one line, without control characters. */
export function strangersWords(text: string): string {
  return (
    text
      .slice(0, 200)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed
      .replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ')
      .trim()
  );
}
