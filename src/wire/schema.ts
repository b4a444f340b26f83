/**
 * What a control message may hold, said once: the same description checks what a peer sent and gives it its
 * type. Fields that a record does not know are passed over, so that a newer peer may say more.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_DISK_SIZE } from '../base/limits.ts';

/** Checks a value and returns it as what it is; throws `malformed` with the field's name. */
export type Check<T> = (value: unknown, where: string) => T;
export type Checked<C> = C extends Check<infer T> ? T : never;

function refuse(where: string, expected: string, value: unknown): never {
  const got = typeof value === 'string' ? `'${value.slice(0, 40)}'` : describe(value);
  throw new DriftmapError('malformed', `${where}: expected ${expected}, got ${got}`);
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return Array.isArray(value) ? 'a list' : `a ${typeof value}`;
}

export function count(most = MAX_DISK_SIZE, least = 0): Check<number> {
  return (value, where) =>
    typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most
      ? value
      : refuse(where, `a whole number from ${least} to ${most}`, value);
}

/** @param most UTF-8 bytes */
export function text(most: number): Check<string> {
  return (value, where) =>
    typeof value === 'string' && Buffer.byteLength(value) <= most
      ? value
      : refuse(where, `text of at most ${most} bytes`, value);
}

export const flag: Check<boolean> = (value, where) =>
  typeof value === 'boolean' ? value : refuse(where, 'true or false', value);

export function bytes(least: number, most: number): Check<Uint8Array> {
  return (value, where) =>
    value instanceof Uint8Array && value.length >= least && value.length <= most
      ? value
      : refuse(where, least === most ? `${least} bytes` : `${least} to ${most} bytes`, value);
}

export function oneOf<const T extends readonly string[]>(...choices: T): Check<T[number]> {
  return (value, where) =>
    typeof value === 'string' && choices.includes(value)
      ? value
      : refuse(where, `one of ${choices.join(', ')}`, value);
}

export function list<T>(item: Check<T>, most: number): Check<T[]> {
  return (value, where) => {
    if (!Array.isArray(value) || value.length > most) refuse(where, `a list of at most ${most}`, value);
    return (value as unknown[]).map((entry, i) => item(entry, `${where}[${i}]`));
  };
}

/** May be absent or null; then it is null. */
export function optional<T>(inner: Check<T>): Check<T | null> {
  return (value, where) => (value === undefined || value === null ? null : inner(value, where));
}

export function record<F extends Record<string, Check<unknown>>>(
  fields: F,
): Check<{ readonly [K in keyof F]: Checked<F[K]> }> {
  return (value, where) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array)
      refuse(where, 'a map', value);
    const given = value as Record<string, unknown>;
    const made: Record<string, unknown> = {};
    for (const [name, check] of Object.entries(fields))
      made[name] = check(Object.hasOwn(given, name) ? given[name] : undefined, `${where}.${name}`);
    return made as { readonly [K in keyof F]: Checked<F[K]> };
  };
}
