import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openIndex } from '../../src/signature/index-file.ts';
import { encodePage, type IndexHeader, PAGE_BLOCKS } from '../../src/signature/index-table.ts';
import { IndexWriter } from '../../src/signature/index-writer.ts';
import { temporary } from '../tools.ts';

interface Frozen {
  readonly header: IndexHeader;
  readonly blocks: number;
  /** Half-open runs of blocks that have a signature; with a step, every step-th block of it. */
  readonly signed: readonly { start: number; end: number; step?: number }[];
}

const path = join(import.meta.dirname, 'index-v1.sig');
const frozen: Frozen = JSON.parse(readFileSync(join(import.meta.dirname, 'index-v1.json'), 'utf8'));
const folder = temporary();

/** Any 32 bytes do: this test is about where they lie. */
function signatureOf(block: number): Buffer {
  return createHash('sha256').update(`block ${block}`).digest();
}

const signed = new Set<number>();
for (const { start, end, step = 1 } of frozen.signed)
  for (let block = start; block < end; block += step) signed.add(block);

describe('the frozen index of version 1', () => {
  it('is read as what it has always been', () => {
    const index = openIndex(path);
    expect(index.header).toEqual(frozen.header);
    expect(index.blocks).toBe(frozen.blocks);
    expect(index.signatures).toBe(signed.size);
    const reader = index.reader();
    for (let block = 0; block < index.blocks; block++) {
      const expected = signed.has(block) ? Uint8Array.from(signatureOf(block)) : 'zero';
      expect(reader.signature(block)).toEqual(expected);
    }
    index.close();
  });

  it('is written to the same bytes as ever', () => {
    const target = join(folder, 'again.sig');
    const writer = new IndexWriter(target, frozen.header);
    for (let page = 0; page * PAGE_BLOCKS < frozen.blocks; page++) {
      const nonzero = new Uint8Array(PAGE_BLOCKS);
      const digests = new Uint8Array(PAGE_BLOCKS * 32);
      for (let i = 0; i < PAGE_BLOCKS; i++) {
        if (!signed.has(page * PAGE_BLOCKS + i)) continue;
        nonzero[i] = 1;
        digests.set(signatureOf(page * PAGE_BLOCKS + i), i * 32);
      }
      const bytes = encodePage(nonzero, digests);
      if (bytes) writer.add(page, bytes);
    }
    expect(writer.commit()).toBe(readFileSync(path).length);
    expect(Buffer.compare(readFileSync(target), readFileSync(path))).toBe(0);
  });
});
