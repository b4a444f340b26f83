/** All objects that snapshots, and uploads under way, refer to. */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_MAX_NAMES } from '../base/protection-limits.ts';
import type { StoreOptions } from '../store/object-store.ts';
import { listSnapshots } from './catalog.ts';
import { type DraftContents, readDraft } from './draft.ts';
import { NameSet } from './name-set.ts';
import { ObjectKind } from './object-format.ts';
import type { Repository } from './repository.ts';
import { listNamed } from './sweep.ts';
import { type Tree, walkTree } from './tree.ts';

export interface References {
  readonly blocks: NameSet;
  readonly pages: NameSet;
}

export class ReferenceCollector implements References {
  readonly blocks = new NameSet(SNAPSHOT_MAX_NAMES);
  readonly pages = new NameSet(SNAPSHOT_MAX_NAMES);
  private readonly repository: Repository;
  private readonly options: StoreOptions;
  private readonly onPage: () => Promise<undefined> | undefined;

  /** @param onPage after each page of blocks */
  constructor(
    repository: Repository,
    options: StoreOptions,
    onPage: () => Promise<undefined> | undefined = () => undefined,
  ) {
    this.repository = repository;
    this.options = options;
    this.onPage = onPage;
  }

  /**
   * What a tree has. Pages that were come by before are not loaded again.
   * @param isDraft pages may be gone: its upload died, or is about to put them again
   * @throws what `walkTree` throws
   */
  async add(tree: Tree, isDraft = false): Promise<undefined> {
    const { repository, blocks, pages, onPage } = this;
    return walkTree(
      repository,
      tree,
      {
        page: (signature) => pages.add(repository.nameOf(signature)),
        blocks(page, _first, places) {
          for (let i = 0; i < places; i++) {
            const signature = page.at(i);
            if (signature !== null) blocks.add(repository.nameOf(signature));
          }
          return onPage();
        },
        ...(isDraft ? { lost: passOverMissing } : {}),
      },
      this.options,
    );
  }
}

export interface FoundDraft extends DraftContents {
  readonly key: string;
  readonly modified: number;
}

export interface CollectOptions extends StoreOptions {
  /** A draft for which this is false counts no more. */
  readonly isAlive?: ((draft: FoundDraft) => boolean) | undefined;
  /** After each page, and when the manifests are read. */
  readonly onPage?: (() => Promise<undefined> | undefined) | undefined;
}

/**
 * Drafts are looked at before manifests, and once more after them: an upload puts its manifest before it removes its
 * draft, and its draft before it makes sure of its parent (`prune.ts`).
 * @throws DriftmapError when any manifest or page of them cannot be read: then nobody knows what it refers to
 */
export async function collectReferences(
  repository: Repository,
  { isAlive = () => true, onPage = () => undefined, ...options }: CollectOptions = {},
): Promise<{ readonly references: References; readonly drafts: readonly FoundDraft[] }> {
  const before = await readDrafts(repository, options);
  const snapshots = await listSnapshots(repository, options);
  await onPage();
  const after = await readDrafts(repository, options);
  const drafts = new Map([...before, ...after].map((draft) => [draft.key, draft]));
  const collector = new ReferenceCollector(repository, options, onPage);
  for (const { disks } of snapshots) for (const disk of disks) await collector.add(disk);
  // A draft that was renewed holds something else: both count.
  for (const draft of [...before, ...after])
    if (isAlive(draft)) for (const tree of draft.trees) await collector.add(tree, true);
  return { references: collector, drafts: [...drafts.values()] };
}

function passOverMissing(_: Uint8Array, error: unknown): void {
  if (!(error instanceof DriftmapError) || error.kind !== 'not-found') throw error;
}

/** All drafts there are. */
export async function readDrafts(repository: Repository, options: StoreOptions = {}): Promise<FoundDraft[]> {
  const drafts: FoundDraft[] = [];
  for (const { key, name, modified } of await listNamed(repository, ObjectKind.draft, options)) {
    const contents = await readDraft(repository, name, options);
    if (contents !== null) drafts.push({ ...contents, key, modified });
  }
  return drafts;
}
