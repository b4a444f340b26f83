/**
 * LVM2's text metadata as a tree (the grammar of lvm.conf(5), section "Configuration syntax").
 *
 *   section { … }    name = value    # comment to the end of the line
 *   value: an integer, a real number, "a string" with \" and \\, or [ values ]
 *
 * The text comes from a disk that anyone may have written: size, nesting and the number of values are bounded,
 * and a name that stands twice in one section is an error, because readers disagree about which one counts.
 */

import { DriftmapError } from '../../base/errors.ts';
import { LVM_MAX_METADATA_BYTES, LVM_MAX_METADATA_DEPTH, LVM_MAX_METADATA_NODES } from '../../base/limits.ts';
import type { ByteOffset } from '../../base/units.ts';

export type ConfigValue = number | string | readonly ConfigValue[];
export type ConfigNode = ConfigValue | ConfigSection;

/** Names and what they stand for, in the order of the text. */
export class ConfigSection {
  readonly nodes = new Map<string, ConfigNode>();
  /** Where it begins in the text. */
  readonly offset: ByteOffset;

  constructor(offset: ByteOffset) {
    this.offset = offset;
  }
}

/**
 * @param text Latin-1: offsets in errors are indices plus `offset`
 * @throws DriftmapError `malformed`, `limit`
 */
export function parseConfig(text: string, path: string, offset: ByteOffset): ConfigSection {
  if (text.length > LVM_MAX_METADATA_BYTES) {
    const reason = `LVM2 metadata: expected a text of at most ${LVM_MAX_METADATA_BYTES} bytes`;
    throw new DriftmapError('limit', reason, { path, offset, length: text.length });
  }
  return new Parser(text, path, offset).parse();
}

const TAB = 9;
const NEWLINE = 10;
const RETURN = 13;
const SPACE = 32;
const QUOTE = 34;
const HASH = 35;
const BACKSLASH = 92;

class Parser {
  private readonly text: string;
  private readonly path: string;
  private readonly offset: ByteOffset;
  private at = 0;
  private nodes = 0;
  private readonly word = /[A-Za-z0-9_.+/-]+/y;

  constructor(text: string, path: string, offset: ByteOffset) {
    // The text on disk ends with a zero byte, which is counted.
    const end = text.indexOf('\0');
    this.text = end < 0 ? text : text.slice(0, end);
    this.path = path;
    this.offset = offset;
  }

  parse(): ConfigSection {
    const root = new ConfigSection(0);
    this.readNodes(root, 0);
    if (this.at < this.text.length) throw this.malformed('expected a name or the end of the text');
    return root;
  }

  /** Reads `name = value` and `name { … }` up to a closing brace or the end. */
  private readNodes(section: ConfigSection, depth: number): void {
    for (;;) {
      this.skipBlanks();
      const at = this.at;
      if (at === this.text.length || this.text[at] === '}') return;
      const name = this.text.charCodeAt(at) === QUOTE ? this.readString() : this.readWord('a name');
      if (section.nodes.has(name)) throw this.malformed(`the name '${name}' stands twice in one section`, at);
      this.skipBlanks();
      this.count();
      section.nodes.set(name, this.readNode(at, depth));
    }
  }

  private readNode(at: number, depth: number): ConfigNode {
    const mark = this.text[this.at];
    if (mark === '=') {
      this.at++;
      this.skipBlanks();
      return this.readValue(depth);
    }
    if (mark !== '{') throw this.malformed("expected '=' or '{' after a name");
    this.descend(depth);
    this.at++;
    const inner = new ConfigSection(at);
    this.readNodes(inner, depth + 1);
    if (this.text[this.at] !== '}') throw this.malformed(`expected the '}' of this section`, at);
    this.at++;
    return inner;
  }

  private readValue(depth: number): ConfigValue {
    const mark = this.text[this.at];
    if (mark === '"') return this.readString();
    if (mark === '[') return this.readArray(depth);
    const at = this.at;
    const word = this.readWord('a value');
    if (!/^-?\d+(\.\d+)?$/.test(word)) {
      throw this.malformed(`expected a number, a string or an array, got '${word.slice(0, 40)}'`, at);
    }
    return Number(word);
  }

  private readArray(depth: number): readonly ConfigValue[] {
    this.descend(depth);
    this.at++;
    const values: ConfigValue[] = [];
    for (;;) {
      this.skipBlanks();
      if (this.text[this.at] === ']') break;
      if (values.length > 0) {
        if (this.text[this.at] !== ',') throw this.malformed("expected ',' or ']' after a value");
        this.at++;
        this.skipBlanks();
        if (this.text[this.at] === ']') break;
      }
      this.count();
      values.push(this.readValue(depth + 1));
    }
    this.at++;
    return values;
  }

  private readString(): string {
    const start = ++this.at;
    let escaped = false;
    for (; this.at < this.text.length; this.at++) {
      const code = this.text.charCodeAt(this.at);
      if (code === BACKSLASH) {
        escaped = true;
        this.at++;
      } else if (code === QUOTE) {
        const raw = this.text.slice(start, this.at++);
        return escaped ? raw.replace(/\\(["\\])/g, '$1') : raw;
      }
    }
    throw this.malformed('a string has no closing quote', start - 1);
  }

  private readWord(what: string): string {
    this.word.lastIndex = this.at;
    const word = this.word.exec(this.text)?.[0];
    if (word === undefined) throw this.malformed(`expected ${what}`);
    this.at += word.length;
    return word;
  }

  private skipBlanks(): void {
    const { text } = this;
    for (; this.at < text.length; this.at++) {
      const code = text.charCodeAt(this.at);
      if (code === HASH) {
        const end = text.indexOf('\n', this.at);
        this.at = end < 0 ? text.length - 1 : end;
      } else if (code !== SPACE && code !== TAB && code !== NEWLINE && code !== RETURN) {
        return;
      }
    }
  }

  private descend(depth: number): void {
    if (depth < LVM_MAX_METADATA_DEPTH) return;
    throw this.limit(`expected at most ${LVM_MAX_METADATA_DEPTH} levels of sections and arrays`);
  }

  private count(): void {
    if (++this.nodes <= LVM_MAX_METADATA_NODES) return;
    throw this.limit(`expected at most ${LVM_MAX_METADATA_NODES} values and sections`);
  }

  private malformed(reason: string, at = this.at): DriftmapError {
    return new DriftmapError('malformed', `LVM2 metadata: ${reason}`, {
      path: this.path,
      offset: this.offset + at,
    });
  }

  private limit(reason: string): DriftmapError {
    return new DriftmapError('limit', `LVM2 metadata: ${reason}`, {
      path: this.path,
      offset: this.offset + this.at,
    });
  }
}
