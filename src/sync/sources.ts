/** What a replica may copy blocks from, besides itself: other disks, and stores of blocks. */

import type { BlockIndex, ByteCount } from '../base/units.ts';
import { blockCount, KiB } from '../base/units.ts';
import { openDisk } from '../disk/open.ts';
import { signatures } from '../scan/signatures.ts';
import { BlockStore } from '../store/block-store.ts';
import type { SignatureTable } from '../store/signature-table.ts';
import type { SessionSource as Source } from './replica-session.ts';

export interface OpenSource extends Source {
  close(): Promise<void>;
}

const STORE = 'store:';

/** @param address a disk's path or address, or `store:FOLDER` */
export async function openSource(address: string): Promise<OpenSource> {
  return address.startsWith(STORE) ? storeSource(address.slice(STORE.length)) : diskSource(address);
}

async function diskSource(address: string): Promise<OpenSource> {
  const disk = await openDisk(address);
  let blockSize: ByteCount = 64 * KiB;
  return {
    name: address,
    expected: blockCount(disk.size, blockSize),
    async addTo(table: SignatureTable, number: number, size: ByteCount) {
      blockSize = size;
      for await (const { block, signature } of signatures(disk, { blockSize }))
        table.add(signature, 0, number, block);
    },
    async read(block: BlockIndex, target: Uint8Array) {
      if (block * blockSize + target.length > disk.size) return false;
      await disk.read(block * blockSize, target);
      return true;
    },
    close: async () => {
      await disk.close();
    },
  };
}

/** A store is asked by signature, when the table has nothing. */
function storeSource(folder: string): OpenSource {
  const store = new BlockStore(folder);
  return {
    name: `${STORE}${folder}`,
    expected: 0,
    addTo: async () => undefined,
    read: async () => false,
    async take(signature: Uint8Array, target: Uint8Array) {
      const bytes = store.get(signature);
      if (bytes === null || bytes.length !== target.length) return false;
      target.set(bytes);
      return true;
    },
    close: async () => undefined,
  };
}
