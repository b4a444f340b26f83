import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AsideFile, checkOverwritable } from '../../src/codec/atomic-file.ts';
import { temporary, thrown } from '../tools.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const bytes = (text: string) => new TextEncoder().encode(text);

describe('a file that is written aside', () => {
  it('has its old contents until it is committed, and then all of the new ones', () => {
    writeFileSync(path('a'), 'old');
    chmodSync(path('a'), 0o640);
    symlinkSync(path('a'), path('link'));
    const file = new AsideFile(path('link'));
    file.append(bytes('....'));
    file.append(bytes(' and the rest'));
    file.overwrite(1, bytes('new'));
    expect(file.length).toBe(17);
    expect(readFileSync(path('a'), 'utf8')).toBe('old');
    file.commit();
    expect(readFileSync(path('a'), 'utf8')).toBe('.new and the rest');
    expect(statSync(path('a')).mode & 0o777).toBe(0o640);
    file.discard();
    expect(readFileSync(path('link'), 'utf8')).toBe('.new and the rest');
  });

  it('leaves nothing when it is discarded, also twice', () => {
    const file = new AsideFile(path('b'));
    file.append(bytes('half'));
    file.discard();
    file.discard();
    expect(readdirSync(folder).filter((name) => name === 'b' || name.endsWith('.tmp'))).toEqual([]);
  });

  it('says by its path what is wrong with its place', () => {
    mkdirSync(path('folder'));
    expect(thrown(() => new AsideFile(path('folder')))).toMatchObject({
      kind: 'argument',
      path: path('folder'),
    });
    const nowhere = path('nowhere/file');
    expect(thrown(() => new AsideFile(nowhere))).toMatchObject({ kind: 'not-found', path: nowhere });
  });
});

describe('a name', () => {
  it('may be taken where nothing is, or nothing but a file of the same kind', () => {
    const check = (name: string) => thrown(() => checkOverwritable(path(name), bytes('MAGIC'), 'thing'));
    writeFileSync(path('empty'), '');
    writeFileSync(path('same'), 'MAGIC and more');
    writeFileSync(path('short'), 'MAG');
    writeFileSync(path('other'), 'a disk');
    expect(['free', 'empty', 'same'].map(check)).toEqual([null, null, null]);
    for (const name of ['short', 'other'])
      expect(check(name)).toMatchObject({ kind: 'policy', path: path(name) });
    expect((check('other') as Error).message).toMatch(/is no thing: it is not overwritten/);
    expect(check('.')).toMatchObject({ kind: 'argument' });
  });
});
