/** Option data as clients send it in the handshake, checked to the last byte (proto.md, "Option types"). */

import { NBD_MAX_TEXT_BYTES } from '../../base/limits.ts';

/** `NBD_OPT_INFO` and `NBD_OPT_GO`. */
export interface InfoRequest {
  readonly name: string;
  readonly wanted: ReadonlySet<number>;
}

/** `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`. */
export interface ContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A string of the protocol; null where it is too long, no UTF-8, or holds a NUL ("Conventions"). */
export function readText(bytes: Buffer): string | null {
  if (bytes.length > NBD_MAX_TEXT_BYTES || bytes.includes(0)) return null;
  try {
    return utf8.decode(bytes);
  } catch {
    return null;
  }
}

/** Takes fields one after the other; whatever does not fit makes `bad` true. */
class Fields {
  bad = false;
  private readonly bytes: Buffer;
  private at = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  number(width: 2 | 4): number {
    if (this.left < width) {
      this.bad = true;
      return 0;
    }
    this.at += width;
    return this.bytes.readUIntBE(this.at - width, width);
  }

  text(): string {
    const length = this.number(4);
    if (this.bad || length > this.left) {
      this.bad = true;
      return '';
    }
    const text = readText(this.bytes.subarray(this.at, this.at + length));
    this.at += length;
    if (text === null) this.bad = true;
    return text ?? '';
  }
}

export function parseInfoRequest(bytes: Buffer): InfoRequest | null {
  const fields = new Fields(bytes);
  const name = fields.text();
  const count = fields.number(2);
  if (fields.bad || fields.left !== 2 * count) return null;
  return { name, wanted: new Set(Array.from({ length: count }, () => fields.number(2))) };
}

export function parseContextRequest(bytes: Buffer): ContextRequest | null {
  const fields = new Fields(bytes);
  const name = fields.text();
  const count = fields.number(4);
  const queries: string[] = [];
  // Each takes four bytes at least, so the option's own length bounds their number.
  while (!fields.bad && queries.length < count) queries.push(fields.text());
  return fields.bad || fields.left !== 0 ? null : { name, queries };
}
