/**
 * Control structures (headers, manifests, messages) as MessagePack. This is the only file that knows the
 * library.
 *
 * The library trusts counts: an array header of five bytes that claims 2^32−1 elements makes it allocate
 * them. So nothing is handed to it before `skim` has walked the bytes once without allocating: it proves
 * that every claimed element is there, that nothing is nested too deep or too long, that strings are
 * UTF-8, and that the value ends where the bytes end. The library's own limits are set besides.
 * Source: https://github.com/msgpack/msgpack/blob/master/spec.md
 */

import { isUtf8 } from 'node:buffer';
import { decode, encode } from '@msgpack/msgpack';
import { DriftmapError } from '../base/errors.ts';
import {
  MAX_CONTROL_BYTES,
  MAX_CONTROL_DEPTH,
  MAX_CONTROL_ENTRIES,
  MAX_CONTROL_TEXT_BYTES,
} from '../base/limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';

export interface ControlLimits {
  /** Bytes of the whole value. */
  readonly bytes: ByteCount;
  /** Bytes of one string or binary. */
  readonly text: ByteCount;
  /** Elements of one array, or pairs of one map. */
  readonly entries: number;
  /** Arrays and maps inside one another; a plain value has depth 0. */
  readonly depth: number;
}

const defaultLimits: ControlLimits = {
  bytes: MAX_CONTROL_BYTES,
  text: MAX_CONTROL_TEXT_BYTES,
  entries: MAX_CONTROL_ENTRIES,
  depth: MAX_CONTROL_DEPTH,
};

/** Where the bytes came from, for messages: a path, and the offset of the first of them in it. */
export interface ControlSource {
  readonly path?: string | undefined;
  readonly offset?: ByteOffset | undefined;
}

/**
 * Encodes plain data: objects, arrays, strings, numbers, booleans, null, `Uint8Array`. The same value gives
 * the same bytes whatever the order of its keys. A property that is undefined is left out. Whoever passes
 * something else (a function, a bigint, a value that holds itself) gets an `internal` error.
 */
export function encodeControl(value: unknown): Uint8Array {
  try {
    return encode(value, { sortKeys: true, ignoreUndefined: true, maxDepth: MAX_CONTROL_DEPTH + 1 });
  } catch (cause) {
    throw new DriftmapError('internal', `a control structure cannot be encoded: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/**
 * Decodes one value that fills `bytes` wholly; binaries in it are copies. What it is made of is the
 * caller's to check. Anything else is a `malformed` error that begins with `what` (such as "the header")
 * and gives the offset.
 */
export function decodeControl(
  bytes: Uint8Array,
  what: string,
  limits: Partial<ControlLimits> = {},
  source: ControlSource = {},
): unknown {
  const effective = { ...defaultLimits, ...limits };
  skim(bytes, what, effective, source);
  try {
    return decode(bytes.slice(), {
      maxStrLength: effective.text,
      maxBinLength: effective.text,
      maxArrayLength: effective.entries,
      maxMapLength: effective.entries,
      maxExtLength: 0,
    });
  } catch (cause) {
    throw new DriftmapError('malformed', `${what} cannot be decoded: ${messageOf(cause)}`, {
      ...source,
      cause,
    });
  }
}

/** What stands at one byte of MessagePack. `head` counts the type byte and the length field; `body` is raw bytes. */
interface Item {
  readonly kind: 'plain' | 'text' | 'binary' | 'array' | 'map' | 'refused';
  readonly head: number;
  readonly body: number;
  readonly entries: number;
}

const plain = (body: number): Item => ({ kind: 'plain', head: 1, body, entries: 0 });
const refused: Item = { kind: 'refused', head: 1, body: 0, entries: 0 };

/** Types 0xc0 … 0xdf, by the table "Formats" of the specification; lengths are filled in by `itemAt`. */
const sized: Readonly<Record<number, readonly [Item['kind'], width: number]>> = {
  196: ['binary', 1],
  197: ['binary', 2],
  198: ['binary', 4],
  217: ['text', 1],
  218: ['text', 2],
  219: ['text', 4],
  220: ['array', 2],
  221: ['array', 4],
  222: ['map', 2],
  223: ['map', 4],
};
const fixed: Readonly<Record<number, number>> = {
  192: 0, // nil
  194: 0, // false
  195: 0, // true
  202: 4, // float 32
  203: 8, // float 64
  204: 1, // unsigned integers
  205: 2,
  206: 4,
  207: 8,
  208: 1, // signed integers
  209: 2,
  210: 4,
  211: 8,
};

function itemAt(view: DataView, at: number): Item {
  const type = view.getUint8(at);
  if (type < 0x80 || type >= 0xe0) return plain(0);
  if (type < 0x90) return { kind: 'map', head: 1, body: 0, entries: type & 0x0f };
  if (type < 0xa0) return { kind: 'array', head: 1, body: 0, entries: type & 0x0f };
  if (type < 0xc0) return { kind: 'text', head: 1, body: type & 0x1f, entries: 0 };
  const width = fixed[type];
  if (width !== undefined) return plain(width);
  const [kind, lengthBytes] = sized[type] ?? ['refused', 0];
  if (lengthBytes === 0) return refused;
  if (at + 1 + lengthBytes > view.byteLength) return plain(lengthBytes);
  const length =
    lengthBytes === 1
      ? view.getUint8(at + 1)
      : lengthBytes === 2
        ? view.getUint16(at + 1)
        : view.getUint32(at + 1);
  const raw = kind === 'binary' || kind === 'text';
  return { kind, head: 1 + lengthBytes, body: raw ? length : 0, entries: raw ? 0 : length };
}

/** Walks one value without allocating for it; throws unless it is whole, within the limits and alone. */
function skim(bytes: Uint8Array, what: string, limits: ControlLimits, source: ControlSource): void {
  const fail = (at: number, reason: string): never => {
    throw new DriftmapError('malformed', `${what}: ${reason}`, {
      path: source.path,
      offset: (source.offset ?? 0) + at,
    });
  };
  if (bytes.length > limits.bytes) fail(0, `expected at most ${limits.bytes} bytes, got ${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** Values still to come at each depth. */
  const open: number[] = [1];
  let at = 0;
  while (open.length > 0) {
    if (open[open.length - 1] === 0) {
      open.pop();
      continue;
    }
    open[open.length - 1]!--;
    if (at >= bytes.length) fail(at, 'ends in the middle of a value');
    const item = itemAt(view, at);
    if (item.kind === 'refused')
      fail(at, `expected plain data, got MessagePack type 0x${bytes[at]!.toString(16)}`);
    if (item.body > bytes.length - at - item.head) fail(at, 'a value reaches past the end');
    const isRaw = item.kind === 'text' || item.kind === 'binary';
    if (isRaw && item.body > limits.text)
      fail(at, `expected at most ${limits.text} bytes of text, got ${item.body}`);
    if (item.kind === 'text' && !isUtf8(bytes.subarray(at + item.head, at + item.head + item.body))) {
      fail(at, 'expected UTF-8 text');
    }
    if (item.kind === 'array' || item.kind === 'map') {
      if (item.entries > limits.entries)
        fail(at, `expected at most ${limits.entries} entries, got ${item.entries}`);
      if (open.length > limits.depth) fail(at, `expected at most ${limits.depth} levels of nesting`);
      open.push(item.kind === 'map' ? 2 * item.entries : item.entries);
    }
    at += item.head + item.body;
  }
  if (at !== bytes.length) fail(at, `expected the end, got ${bytes.length - at} more bytes`);
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
