import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
// @ts-expect-error a plain script without types
import { findings as untyped } from '../../scripts/tidy.mjs';

const findings = untyped as (root: string) => string[];
const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

describe('the house', () => {
  it('has no upward import, circle, dead file, second door to a library, or overlong file', () => {
    expect(findings(root)).toEqual([]);
  });
});

describe('tidy notices', () => {
  const folders: string[] = [];
  afterEach(() => {
    for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
  });

  /** A small tree with only the given files below src. */
  function tree(files: Record<string, string>): string {
    const folder = mkdtempSync(join(tmpdir(), 'driftmap-tidy-'));
    folders.push(folder);
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, 'src', name)), { recursive: true });
      writeFileSync(join(folder, 'src', name), text);
    }
    return folder;
  }

  it.each([
    [
      'an upward import',
      { 'index.ts': "import './base/a.ts';", 'base/a.ts': "import { b } from '../lu/b.ts';", 'lu/b.ts': '' },
      /imports go down/,
    ],
    [
      'an import across one floor',
      {
        'index.ts': "import './lu/a.ts';",
        'lu/a.ts': "import type { B } from '../bitmap/b.ts';",
        'bitmap/b.ts': '',
      },
      /imports go down/,
    ],
    [
      'a circle',
      {
        'index.ts': "import './lu/a.ts';",
        'lu/a.ts': "import './b.ts';",
        'lu/b.ts': "export { a } from './a.ts';",
      },
      /circle/,
    ],
    ['a dead file', { 'index.ts': '', 'lu/a.ts': '' }, /nothing imports it/],
    [
      'a second importer of piscina',
      { 'index.ts': "import './lu/a.ts';", 'lu/a.ts': "import { Piscina } from 'piscina';" },
      /only scan\/pool\.ts may/,
    ],
    [
      'a second importer of msgpack',
      { 'index.ts': "import './bitmap/a.ts';", 'bitmap/a.ts': "import { encode } from '@msgpack/msgpack';" },
      /only codec\/control\.ts may/,
    ],
    [
      'a library without a door',
      { 'index.ts': "import './lu/a.ts';", 'lu/a.ts': "const x = await import('lodash');" },
      /has no door/,
    ],
    ['an overlong file', { 'index.ts': '\n'.repeat(501) }, /split it by noun/],
  ])('%s', (_, files, expected) => {
    expect(findings(tree(files)).join('\n')).toMatch(expected);
  });

  it('nothing in a tidy tree', () => {
    expect(
      findings(
        tree({
          'index.ts': "export { a } from './lu/a.ts';",
          'lu/a.ts': "import '../base/b.ts';",
          'base/b.ts': '',
        }),
      ),
    ).toEqual([]);
  });
});
