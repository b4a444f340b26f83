/** Which point somebody means: `latest`, a sequence, a bookmark or a time. */

import { DriftmapError } from '../../base/errors.ts';
import { parseMoment } from '../../base/time.ts';
import type { Journal } from '../../journal/journal.ts';
import type { Found, Target } from '../../journal/points.ts';

/**
 * `latest`; digits are a sequence; a bookmark's name; else a time (`parseMoment`). `bookmark:NAME` says that a
 * bookmark is meant, whatever it looks like.
 * @throws DriftmapError `argument`, `not-found`; as `Journal.find`
 */
export function findTarget(journal: Journal, text: string, now: number): Found {
  return journal.find(targetOf(journal, text, now));
}

function targetOf(journal: Journal, text: string, now: number): Target {
  if (text === 'latest') return 'latest';
  if (text.startsWith('bookmark:')) return { bookmark: text.slice('bookmark:'.length) };
  if (/^\d+$/.test(text)) return { sequence: Number(text) };
  const { bookmarks } = journal.points();
  if (bookmarks.some(({ name }) => name === text)) return { bookmark: text };
  try {
    return { time: parseMoment(text, now) };
  } catch {
    const names = bookmarks.slice(-8).map(({ name }) => `'${name}'`);
    const known = names.length === 0 ? 'none' : names.join(', ');
    const reason = `expected a time (2026-03-01T14:02:07, 14:02:07, -10m), a bookmark (there are: ${known}), a sequence or 'latest', got '${text}'`;
    throw new DriftmapError('argument', reason, { path: journal.path });
  }
}
