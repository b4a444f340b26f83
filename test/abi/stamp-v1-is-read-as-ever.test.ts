import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { newStamp, readStamp, type Stamp } from '../../src/protect/splitter/stamp-file.ts';

/** Of version 1: the stamps of four disks, the second a block device. */
const frozen = join(import.meta.dirname, 'stamp-v1.bin');
const stamp: Stamp = {
  host: '00112233445566778899aabbccddeeff',
  run: Uint8Array.from({ length: 16 }, (_, i) => i + 1),
  records: [
    {
      state: 'writing',
      at: 1_700_000_000_123,
      times: { modified: 1_700_000_000_111_222_333n, changed: 1_700_000_000_111_222_444n },
      durable: 1_699_999_999_000_000_001n,
    },
    null,
    {
      state: 'idle',
      at: 4_294_967_301,
      // Before 1970, as a file from an archive may say.
      times: { modified: -1n, changed: 1_700_000_000_000_000_000n },
      durable: null,
    },
    { state: 'idle', at: 0, times: { modified: 0n, changed: 0n }, durable: 0n },
  ],
};

describe('version 1 of the stamps of a splitter', () => {
  it('is written and read as it always was', () => {
    const { bytes } = newStamp(stamp);
    // Made once, by DRIFTMAP_FREEZE=1; whoever has to make it anew has made version 2.
    if (process.env.DRIFTMAP_FREEZE) writeFileSync(frozen, bytes, { flag: 'wx' });
    const kept = new Uint8Array(readFileSync(frozen));
    expect(Buffer.compare(kept, bytes)).toBe(0);
    expect(readStamp(kept, frozen)).toEqual(stamp);
  });

  it('tells nothing of a record that is damaged, and all of the others', () => {
    const kept = new Uint8Array(readFileSync(frozen));
    for (let at = 128; at < kept.length; at++) {
      const damaged = kept.slice();
      damaged[at]! ^= 0x01;
      const { records } = readStamp(damaged, frozen);
      const disk = Math.floor((at - 128) / 64);
      expect(records).toEqual(stamp.records.map((record, i) => (i === disk ? null : record)));
    }
  });
});
