/** The built modules, for threads and processes of their own, which cannot load TypeScript. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** File URL of a module of `dist/`, such as `codec/atomic-file.js`. */
export function built(module: string): string {
  const path = join(import.meta.dirname, '..', '..', 'dist', module);
  if (!existsSync(path)) throw new Error(`dist/${module} is not there: run \`npm run build\` first`);
  return pathToFileURL(path).href;
}
