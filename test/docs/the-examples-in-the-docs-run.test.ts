import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
// Inside the package, so that `import 'driftmap'` finds the package itself.
mkdirSync(join(root, 'build'), { recursive: true });
const folder = mkdtempSync(join(root, 'build', 'examples-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** The JavaScript blocks of a document, each with the heading above it. */
function examples(document: string): { title: string; code: string }[] {
  const found: { title: string; code: string }[] = [];
  let title = '';
  for (const [, heading, code] of readFileSync(join(root, 'docs', document), 'utf8').matchAll(
    /^## (.+)$|^```js\n([\s\S]*?)^```$/gm,
  )) {
    if (heading !== undefined) title = heading;
    else found.push({ title, code: code! });
  }
  return found;
}

/** `console.log(…); // expected output`: what the document promises must be printed, in that order. */
function promises(code: string): string[] {
  return [...code.matchAll(/console\.log\(.*\); \/\/ (.+)$/gm)].map(([, text]) => text!.split(';')[0]!);
}

describe.each(examples('LIBRARY.md'))('docs/LIBRARY.md: $title', ({ code }) => {
  it('runs and prints what it says', () => {
    const file = join(folder, `example-${Math.random().toString(36).slice(2)}.mjs`);
    writeFileSync(file, code);
    const { status, stdout, stderr } = spawnSync(process.execPath, [file], { cwd: folder, encoding: 'utf8' });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    let rest = stdout;
    for (const promise of promises(code)) {
      expect(rest).toContain(promise);
      rest = rest.slice(rest.indexOf(promise) + promise.length);
    }
  });
});
