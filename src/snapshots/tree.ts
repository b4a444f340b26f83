/** Walks trees of pages, and holds the pages that are needed again. */

import type { BlockIndex, ByteCount } from '../base/units.ts';
import type { StoreOptions } from '../store/object-store.ts';
import type { SnapshotDisk } from './manifest.ts';
import { PAGE_BLOCKS, type Page, placesOfPage, placesOfRoot, treeShape } from './page.ts';
import type { GetOptions, Repository } from './repository.ts';

/** A disk's tree, as manifests and drafts name it. */
export type Tree = Pick<SnapshotDisk, 'size' | 'roots'>;

/** The root's page, and each page below it, of one disk; pages of zeros are null. */
export class TreeReader {
  private readonly repository: Repository;
  private readonly tree: Tree;
  private readonly options: GetOptions;
  private readonly kept = new Map<string, Promise<Page>>();
  private readonly most: number;

  /** @param most pages that are kept */
  constructor(repository: Repository, tree: Tree, most: number, options: GetOptions = {}) {
    this.repository = repository;
    this.tree = tree;
    this.most = most;
    this.options = options;
  }

  async root(root: number): Promise<Page | null> {
    const signature = this.tree.roots[root] ?? null;
    return signature === null ? null : this.load(signature, placesOfRoot(this.shape(), root));
  }

  async page(page: number): Promise<Page | null> {
    const root = await this.root(Math.floor(page / PAGE_BLOCKS));
    const signature = root?.at(page % PAGE_BLOCKS) ?? null;
    return signature === null ? null : this.load(signature, placesOfPage(this.shape(), page));
  }

  private shape() {
    return treeShape(this.tree.size, this.repository.blockSize);
  }

  /** The least recently used goes first. */
  private load(signature: Uint8Array, places: number): Promise<Page> {
    const name = Buffer.from(signature).toString('latin1');
    const found = this.kept.get(name);
    if (found !== undefined) {
      this.kept.delete(name);
      this.kept.set(name, found);
      return found;
    }
    const page = this.repository.page(signature, places, this.options);
    this.kept.set(name, page);
    page.catch(() => this.kept.delete(name));
    for (const oldest of this.kept.keys()) {
      if (this.kept.size <= this.most) break;
      this.kept.delete(oldest);
    }
    return page;
  }
}

/** What a walk comes by. `page` is asked before a page is loaded: false passes over all below it. */
export interface Visitor {
  page(signature: Uint8Array): boolean;
  blocks(page: Page, first: BlockIndex, places: number): unknown;
  /** A page cannot be had; what is below it is passed over. Without this the walk ends with the error. */
  lost?(signature: Uint8Array, error: unknown): void;
}

/** Pages of one root that are on their way at a time. */
const PAGES_AHEAD = 16;

/**
 * All pages of a tree, each before what is below it; those below one root are fetched many at a time and visited in
 * order. @throws what `Repository.page` throws
 */
export async function walkTree(
  repository: Repository,
  tree: Tree,
  visitor: Visitor,
  options: StoreOptions = {},
): Promise<undefined> {
  const shape = treeShape(tree.size, repository.blockSize);
  const load = async (signature: Uint8Array, places: number): Promise<Page | null> => {
    if (visitor.lost === undefined) return repository.page(signature, places, options);
    try {
      return await repository.page(signature, places, options);
    } catch (error) {
      visitor.lost(signature, error);
      return null;
    }
  };
  for (const [root, signature] of tree.roots.entries()) {
    if (signature === null || !visitor.page(signature)) continue;
    const places = placesOfRoot(shape, root);
    const upper = await load(signature, places);
    const ahead: { readonly page: number; readonly loading: Promise<Page | null> }[] = [];
    const visitNext = async () => {
      const { page, loading } = ahead.shift()!;
      const lower = await loading;
      if (lower !== null) await visitor.blocks(lower, page * PAGE_BLOCKS, placesOfPage(shape, page));
    };
    for (let i = 0; upper !== null && i < places; i++) {
      const below = upper.at(i);
      if (below === null || !visitor.page(below)) continue;
      const page = root * PAGE_BLOCKS + i;
      const loading = load(below, placesOfPage(shape, page));
      // Whoever comes to it gets the error.
      loading.catch(() => undefined);
      ahead.push({ page, loading });
      if (ahead.length >= PAGES_AHEAD) await visitNext();
    }
    while (ahead.length > 0) await visitNext();
  }
  return undefined;
}

/** Bytes of a block: the last one of a disk may be short. */
export function lengthOfBlock(block: BlockIndex, blockSize: ByteCount, size: ByteCount): ByteCount {
  return Math.min(blockSize, size - block * blockSize);
}
