/** What may be a key of an object, and what may be the beginning of one. Both become parts of paths: nothing leads out. */

import { DriftmapError } from '../base/errors.ts';
import { STORE_MAX_KEY_BYTES, STORE_MAX_OBJECT_BYTES } from '../base/limits.ts';

/** File systems end a name at 255 bytes. */
const part = '[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}';
const keyForm = new RegExp(`^${part}(/${part})*$`);
const prefixForm = new RegExp(`^(${part}/)*(${part})?$`);

export function isKey(text: string): boolean {
  return text.length <= STORE_MAX_KEY_BYTES && keyForm.test(text);
}

/** @param name the store's */
export function checkKey(key: string, name: string): void {
  if (!isKey(key)) throw wrong('a key', key, name);
}

export function checkPrefix(prefix: string, name: string): void {
  if (prefix.length > STORE_MAX_KEY_BYTES || !prefixForm.test(prefix)) throw wrong('a prefix', prefix, name);
}

/** @throws DriftmapError `limit` */
export function checkObjectBytes(bytes: number, path: string): void {
  if (bytes <= STORE_MAX_OBJECT_BYTES) return;
  const reason = `expected an object of at most ${STORE_MAX_OBJECT_BYTES} bytes, got ${bytes}`;
  throw new DriftmapError('limit', reason, { path });
}

export function checkAborted(signal: AbortSignal | undefined, path: string): void {
  if (signal?.aborted) throw abortedError(signal, path);
}

/** The error of everything that the caller's signal ends. */
export function abortedError(signal: AbortSignal | undefined, path: string): DriftmapError {
  return new DriftmapError('aborted', 'was stopped', { path, cause: signal?.reason });
}

function wrong(what: string, text: string, name: string): DriftmapError {
  const rule =
    'letters, digits, -, _, . and / between parts, none of which is empty, begins with a dot or is longer than 255';
  const reason = `expected ${what} of at most ${STORE_MAX_KEY_BYTES} bytes (${rule}), got ${JSON.stringify(text.slice(0, 100))}`;
  return new DriftmapError('argument', reason, { path: name });
}
