/** Reading JSON objects field by field: every one is checked, and one that nobody knows is refused by its name. */

import { DriftmapError } from '../../base/errors.ts';
import { parseDuration } from '../../base/time.ts';
import { parseSize } from '../../base/units.ts';

export class Fields {
  /** Where it stands, as `replica.keep`; empty for the outermost. */
  private readonly at: string;
  private readonly path: string;
  private readonly values: Record<string, unknown>;
  private readonly seen = new Set<string>();

  /** @param path of the file, for errors @throws DriftmapError `argument` when it is no object */
  constructor(value: unknown, path: string, at = '') {
    this.path = path;
    this.at = at;
    if (!isObject(value)) {
      const where = at === '' ? '' : `${at}: `;
      throw new DriftmapError('argument', `${where}expected an object, got ${kindOf(value)}`, { path });
    }
    this.values = value;
  }

  has(name: string): boolean {
    return Object.hasOwn(this.values, name);
  }

  /** The names that are there: for objects whose fields are named by the user. */
  names(): string[] {
    return Object.keys(this.values);
  }

  text(name: string): string {
    const value = this.take(name);
    if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
    throw this.wrong(name, `a text, got ${kindOf(value)}`);
  }

  object(name: string): Fields {
    const value = this.take(name);
    return new Fields(value, this.path, this.nameOf(name));
  }

  /** A number of bytes, or a text such as `50G`. */
  size(name: string): number {
    const value = this.take(name);
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
    if (typeof value !== 'string') throw this.wrong(name, `a size such as "50G", got ${kindOf(value)}`);
    return this.reading(name, () => parseSize(value));
  }

  /** Milliseconds, of a text such as `15m`. */
  duration(name: string): number {
    const value = this.take(name);
    if (typeof value !== 'string') throw this.wrong(name, `a duration such as "15m", got ${kindOf(value)}`);
    return this.reading(name, () => parseDuration(value));
  }

  count(name: string): number {
    const value = this.take(name);
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
    throw this.wrong(name, `a whole number, got ${kindOf(value)}`);
  }

  flag(name: string): boolean {
    const value = this.take(name);
    if (typeof value === 'boolean') return value;
    throw this.wrong(name, `true or false, got ${kindOf(value)}`);
  }

  choice<T extends string>(name: string, choices: readonly T[]): T {
    const value = this.take(name);
    const found = choices.find((choice) => choice === value);
    if (found !== undefined) return found;
    const known = choices.map((choice) => `"${choice}"`).join(' or ');
    throw this.wrong(name, `${known}, got ${kindOf(value)}`);
  }

  /** @throws DriftmapError `argument` for a field that nobody asked for */
  done(): void {
    const unknown = this.names().find((name) => !this.seen.has(name));
    if (unknown === undefined) return;
    const known = [...this.seen].sort().join(', ');
    const reason = `${this.nameOf(unknown)}: no such field; there are: ${known}`;
    throw new DriftmapError('argument', reason, { path: this.path });
  }

  /** Says that a field may be there, for the list of those that are known. */
  optional<T>(name: string, read: (fields: this) => T): T | null {
    this.seen.add(name);
    return this.has(name) ? read(this) : null;
  }

  /** An error about one field. @param expected after "expected" */
  wrong(name: string, expected: string): DriftmapError {
    return new DriftmapError('argument', `${this.nameOf(name)}: expected ${expected}`, { path: this.path });
  }

  nameOf(name: string): string {
    return this.at === '' ? name : `${this.at}.${name}`;
  }

  /** Names the field in what a parser throws. */
  reading<T>(name: string, read: () => T): T {
    try {
      return read();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new DriftmapError('argument', `${this.nameOf(name)}: ${reason}`, { path: this.path });
    }
  }

  private take(name: string): unknown {
    this.seen.add(name);
    if (!this.has(name)) throw this.wrong(name, 'a value, and there is none');
    return this.values[name];
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'an object';
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
