import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { blake3 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import { BlockStore } from '../../src/store/block-store.ts';
import { SignatureTable } from '../../src/store/signature-table.ts';
import { BlockHasher } from '../../src/sync/block-hasher.ts';
import { Placing } from '../../src/sync/placing.ts';
import { sync } from '../../src/sync/sync.ts';
import { temporary } from '../tools.ts';
import { fileOf, KiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const BLOCK = 64 * KiB;
const folder = temporary();
const site = await testServer();
const workers = 1;

/** A disk whose blocks are those of another, in this order; −n is a new block. */
function arranged(bytes: Uint8Array, order: readonly number[]): Uint8Array {
  const made = new Uint8Array(order.length * BLOCK);
  order.forEach((from, to) => {
    made.set(
      from < 0 ? noise(BLOCK, 1000 - from) : bytes.subarray(from * BLOCK, (from + 1) * BLOCK),
      to * BLOCK,
    );
  });
  return made;
}

async function pushed(production: Uint8Array, replica: Uint8Array, name: string) {
  const [a, b] = [fileOf(folder, production), fileOf(folder, replica)];
  const to = site.grant(name, { disk: b });
  const result = await sync({ production: a, replica: to, token: site.token, workers });
  expect(sameFiles(a, b)).toBe(true);
  return result;
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i);

describe('moved blocks', () => {
  const bytes = noise(64 * BLOCK, 1);

  it('of a file that was copied inside the guest cost signatures', async () => {
    const order = upTo(64).map((i) => (i >= 40 && i < 60 ? i - 40 : i));
    const result = await pushed(arranged(bytes, order), bytes, 'copied');
    expect(result.placedBlocks).toBe(20);
    expect(result.dataBytes).toBe(0);
    expect(result.sentBytes + result.receivedBytes).toBeLessThan(16 * KiB);
  });

  it('of a disk that was defragmented, reversed, or shifted by one block cost signatures', async () => {
    const orders = [
      upTo(64).map((i) => (i * 5) % 64),
      upTo(64).reverse(),
      upTo(64).map((i) => (i + 63) % 64),
      upTo(64).map((i) => (i + 1) % 64),
    ];
    for (const [i, order] of orders.entries()) {
      const result = await pushed(arranged(bytes, order), bytes, `moved-${i}`);
      expect(result.dataBytes, `order ${i}`).toBe(0);
    }
  });

  it('and new ones are told apart: only the new ones travel', async () => {
    const order = upTo(64).map((i) => (i % 8 === 0 ? -1 - i : (i + 9) % 64));
    const result = await pushed(arranged(bytes, order), bytes, 'mixed');
    expect(result.dataBytes).toBe(8 * BLOCK);
    expect(result.storedBytes).toBeGreaterThan(0);
  });

  it('are taken from other disks and from stores that are granted, and from no others', async () => {
    const [a, b] = [noise(4 * BLOCK, 20), noise(4 * BLOCK, 21)];
    const production = fileOf(folder, Buffer.concat([a, b]));
    const other = fileOf(folder, a);
    mkdirSync(join(folder, 'store'));
    const store = new BlockStore(join(folder, 'store'));
    for (let i = 0; i < 4; i++) {
      const block = b.slice(i * BLOCK, (i + 1) * BLOCK);
      store.put(Buffer.from(await blake3(block), 'hex'), block);
    }
    const replica = () => fileOf(folder, noise(8 * BLOCK, 22));
    const options = { production, bySignature: true, workers };
    const alone = await sync({ ...options, replica: replica() });
    expect(alone.dataBytes).toBe(8 * BLOCK);
    const target = replica();
    const helped = await sync({
      ...options,
      replica: target,
      sources: [other, `store:${join(folder, 'store')}`],
    });
    expect(helped.placedBlocks).toBe(8);
    expect(helped.dataBytes).toBe(0);
    expect(sameFiles(production, target)).toBe(true);
    const granted = replica();
    const to = site.grant('sources', { disk: granted, sources: [other] });
    const far = await sync({ production, replica: to, token: site.token, workers });
    expect(far.placedBlocks).toBe(4);
    expect(sameFiles(production, granted)).toBe(true);
  });
});

describe('blocks of which little differs', () => {
  it('cost the pieces that differ, at the end of the disk too', async () => {
    const bytes = noise(40 * BLOCK + 5000, 30);
    const other = bytes.slice();
    for (const at of [0, 3 * BLOCK + 4095, 3 * BLOCK + 9000, 40 * BLOCK + 4999]) other[at]! ^= 1;
    // One block wholly, so that pieces in a row are sent as one.
    other.fill(9, 20 * BLOCK, 21 * BLOCK);
    for (const far of [false, true]) {
      const [production, replica] = [fileOf(folder, bytes), fileOf(folder, other)];
      const to = far ? site.grant('refined', { disk: replica }) : replica;
      const result = await sync({ production, replica: to, refine: 4 * KiB, token: site.token, workers });
      expect(result.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
      expect(result.dataBytes).toBe(3 * 4 * KiB + BLOCK + (5000 - 4096));
      expect(result.equalBytes).toBe(3 * BLOCK + 5000 - result.dataBytes);
    }
  });
});

describe('placing', () => {
  const size = 512;
  const blockOf = (value: number) => new Uint8Array(size).fill(value);
  const signatures = new Map<number, Uint8Array>();
  const sign = async (value: number) => {
    let known = signatures.get(value);
    if (known === undefined) {
      known = Buffer.from(await blake3(blockOf(value)), 'hex');
      signatures.set(value, known);
    }
    return known;
  };

  /** Places `wanted` on a disk that holds `held`; returns the disk afterwards, and which were placed. */
  async function place(held: readonly number[], wanted: readonly number[], heldBytes?: number) {
    const disk = held.map(blockOf);
    const table = new SignatureTable(held.length);
    for (const [i, value] of held.entries()) table.add(await sign(value), 0, 0, i);
    const blocks = upTo(held.length).filter((i) => held[i] !== wanted[i]);
    const all = await Promise.all(blocks.map((block) => sign(wanted[block]!)));
    const hasher = await BlockHasher.create();
    const placing = new Placing({
      ...{ blocks, signatures: Buffer.concat(all), table, hasher, heldBytes },
      sources: [
        {
          read: async (block, target) => {
            target.set(disk[block]!);
            return true;
          },
        },
      ],
      lengthOf: () => size,
      write: async (block, bytes) => {
        disk[block] = bytes.slice();
      },
      keep: () => undefined,
    });
    const answers = await placing.run();
    hasher.close();
    const placed = new Set(blocks.filter((_, i) => answers[i] === 1));
    return { disk: disk.map((bytes) => bytes[0]!), placed };
  }

  const values = fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 2, maxLength: 24 });

  it('places every block whose contents are anywhere on the disk, in whatever order that takes', async () => {
    await fc.assert(
      fc.asyncProperty(values, values, async (held, other) => {
        const wanted = held.map((value, i) => other[i % other.length] ?? value);
        const { disk, placed } = await place(held, wanted);
        held.forEach((value, i) => {
          const there = held.includes(wanted[i]!);
          expect(disk[i]).toBe(there || value === wanted[i] ? wanted[i] : value);
          expect(placed.has(i)).toBe(there && value !== wanted[i]);
        });
      }),
      { numRuns: 300 },
    );
  });

  it('with too little memory for a circle says absent, and never claims what is not so', async () => {
    await fc.assert(
      fc.asyncProperty(values, async (held) => {
        const wanted = held.map((_, i) => held[(i + 1) % held.length]!);
        const { disk, placed } = await place(held, wanted, 0);
        for (const i of placed) expect(disk[i]).toBe(wanted[i]);
      }),
      { numRuns: 200 },
    );
  });
});

describe('a table of signatures', () => {
  it('finds what was added, and refuses what it has no room for', () => {
    const table = new SignatureTable(2000);
    const all = noise(5000 * 32, 77);
    for (let i = 0; i < 5000; i++) table.add(all, i * 32, i % 3, i);
    expect(table.count + table.refused).toBe(5000);
    expect(table.count).toBe(2048);
    for (let i = 0; i < 2048; i++) expect(table.find(all, i * 32)).toEqual({ source: i % 3, block: i });
    expect(table.find(all, 4000 * 32)).toBeNull();
    expect(table.bytes).toBe(9 * 4096);
  });
});

describe('a store of blocks', () => {
  it('keeps a block whole, under its name, and is not asked for a folder that is none', () => {
    const path = join(folder, 'store');
    const store = new BlockStore(path);
    const signature = noise(32, 5);
    expect(store.get(signature)).toBeNull();
    store.put(signature, Uint8Array.of(1, 2, 3));
    store.put(signature, Uint8Array.of(9));
    expect([...store.get(signature)!]).toEqual([1, 2, 3]);
    const name = Buffer.from(signature).toString('hex');
    expect([...readFileSync(join(path, name.slice(0, 2), name.slice(2, 4), name))]).toEqual([1, 2, 3]);
    expect(() => new BlockStore(join(folder, 'nowhere'))).toThrow('no such file');
    expect(() => new BlockStore(fileOf(folder, new Uint8Array(1)))).toThrow('expected a folder');
  });
});
