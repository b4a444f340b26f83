/**
 * Finds the parent of an image that does not name a file. The format says how a file's first bytes tell (`match`);
 * the image's home says which files may be looked at. What cannot be read is passed over: somebody else's files
 * may lie in the folder. Two files that both are the parent may differ, and nothing tells which of them is meant.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { SoughtImage } from './formats/image.ts';
import type { Home, Reference, Referrer } from './references.ts';

/**
 * @param known what the parent is known by
 * @throws DriftmapError `not-found`, `mismatch` for two of them, and as `Home.candidates`
 */
export async function findSought(
  home: Home,
  known: string,
  { extension, headBytes, match }: SoughtImage,
  from: Referrer,
): Promise<Reference> {
  const candidates = await home.candidates('parent', known, extension, from);
  const matching: Reference[] = [];
  const changed: Reference[] = [];
  let unread = 0;
  for (const candidate of candidates) {
    const head = await headOf(candidate, headBytes);
    if (head === null) unread++;
    else {
      const answer = match(head);
      if (answer === 'yes') matching.push(candidate);
      else if (answer === 'changed') changed.push(candidate);
    }
  }
  const [first, second] = matching;
  if (first !== undefined && second !== undefined) {
    const reason = `expected one parent ${known}, got ${first.path} and ${second.path}: move the one that is not meant into another folder`;
    throw new DriftmapError('mismatch', reason, { path: from.image });
  }
  const found = first ?? changed[0];
  if (found !== undefined) return found;
  throw missing(known, extension, { looked: candidates.length, unread }, from);
}

function missing(
  known: string,
  extension: string,
  { looked, unread }: { readonly looked: number; readonly unread: number },
  { image, allowOutside }: Referrer,
): DriftmapError {
  const where = allowOutside ? "the image's folder and the one above it" : "the image's folder";
  const failed = unread === 0 ? '' : `, of which ${unread} could not be read`;
  const advice = allowOutside
    ? 'bring it there'
    : 'bring it there, or use --allow-outside (allowOutside: true in the library) to look in the folder above as well';
  const reason = `the parent ${known} that the image names is not among the ${looked} ${extension} files in ${where}${failed}: ${advice}`;
  return new DriftmapError('not-found', reason, { path: image });
}

/** Files inside a unit are the same reference in every search (`references.ts`), and are read once. */
const heads = new WeakMap<Reference, Promise<Uint8Array | null>>();

/** Null where the file cannot be read. */
function headOf(reference: Reference, most: ByteCount): Promise<Uint8Array | null> {
  const head = heads.get(reference) ?? readHead(reference, most);
  heads.set(reference, head);
  return head;
}

async function readHead(reference: Reference, most: ByteCount): Promise<Uint8Array | null> {
  try {
    const unit = await reference.open();
    try {
      const head = new Uint8Array(Math.min(most, unit.size));
      const pending = unit.read(0, head);
      if (pending) await pending;
      return head;
    } finally {
      await unit.close();
    }
  } catch (error) {
    if (!(error instanceof DriftmapError) || error.kind === 'internal') throw error;
    return null;
  }
}
