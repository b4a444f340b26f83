import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { blake3 } from 'hash-wasm';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { DriftmapError } from '../../../src/base/errors.ts';
import { failOver } from '../../../src/protect/replica/failover.ts';
import type { Follower } from '../../../src/protect/replica/replica-group.ts';
import { rollGroup } from '../../../src/protect/replica/roll.ts';
import { temporary } from '../../tools.ts';
import { diskDifference, groupFile, Modelled, until } from './groups.ts';

class Peer implements Follower {
  readonly peer: string;
  readonly told: string[] = [];
  constructor(peer: string) {
    this.peer = peer;
  }
  failed(why: DriftmapError) {
    this.told.push(`failed: ${why.message}`);
  }
  recovered() {
    this.told.push('recovered');
  }
  ended(why: DriftmapError) {
    this.told.push(`ended: ${why.message}`);
  }
}

const { write } = fs;
afterEach(() => {
  fs.write = write;
  syncBuiltinESMExports();
  vi.restoreAllMocks();
});

/** Whatever is written without holding up the thread finds the disk full: the journal. */
function fillDisk(): () => void {
  const full = ((...args: unknown[]) => {
    const callback = args.at(-1) as (error: Error) => void;
    setImmediate(() => callback(Object.assign(new Error('no space'), { code: 'ENOSPC' })));
  }) as unknown as typeof fs.write;
  fs.write = full;
  syncBuiltinESMExports();
  return () => {
    fs.write = write;
    syncBuiltinESMExports();
  };
}

describe('a replica group', () => {
  it('whose journal cannot be written tells the stream, and takes writes again by itself', async () => {
    const file = groupFile(temporary());
    const modelled = await Modelled.create(file, 31);
    const { group, model } = modelled;
    const peer = new Peer('production');
    group.follow(peer);
    await modelled.write(5);
    const freed = fillDisk();
    const lost = group.append([{ disk: 'data', offset: 0, bytes: Buffer.alloc(100, 9) }]);
    await expect(lost.durable).rejects.toMatchObject({ kind: 'io' });
    await until('the stream is told', () => peer.told.length > 0);
    expect(peer.told[0]).toContain('no space left on device');
    expect(group.refusal).not.toBeNull();
    expect(() => group.append([{ disk: 'data', offset: 0, zeros: 1 }])).toThrow('no space left');
    expect(group.state().trouble.join()).toContain('the journal takes nothing');
    freed();
    await until('it is mended', () => peer.told.includes('recovered'));
    model.mark();
    expect(group.state()).toMatchObject({ consistent: false, trouble: [] });
    await modelled.write(3);
    await group.resume();
    model.mark();
    const { suspensions, ranges } = group.points();
    expect(suspensions.at(-1)!.reason).toContain('the journal failed');
    expect(ranges).toHaveLength(2);
    await until('the disks follow', () => group.state().lag.records === 0);
    expect(diskDifference(file, model, model.last)).toBeNull();
    await group.close();
    expect(peer.told.at(-1)).toContain('ended: ');
  });

  it('whose disks cannot be written journals on, says so, and follows when they can', async () => {
    const file = groupFile(temporary());
    const modelled = await Modelled.create(file, 32);
    const { group, model } = modelled;
    const disk = group.disks.get('system')!.unit;
    const broken = vi.spyOn(disk, 'write').mockImplementation(() => {
      throw new DriftmapError('io', 'planted', { path: disk.name });
    });
    await modelled.write(20);
    await until('it is told', () => group.state().trouble.length > 0);
    expect(group.state().trouble[0]).toContain('the disks do not follow');
    await modelled.write(20);
    broken.mockRestore();
    await until('the disks follow', () => group.state().lag.records === 0);
    await until('it is no trouble any more', () => group.state().trouble.length === 0);
    expect(diskDifference(file, model, model.last)).toBeNull();
    await group.close();
  });

  it('takes no more than it may while its disks are held, and goes on when they follow', async () => {
    const file = groupFile(temporary(), { keep: { bytes: '400K' } });
    const modelled = await Modelled.create(file, 33);
    const { group, model } = modelled;
    const peer = new Peer('production');
    group.follow(peer);
    await modelled.write(10);
    await rollGroup(group, { to: '2' });
    for (let i = 0; i < 10; i++) await modelled.write(10);
    await until('it is full', () => group.refusal !== null);
    expect(peer.told[0]).toContain('the disks are held: rolled to 2');
    expect(() => group.append([{ disk: 'data', offset: 0, zeros: 1 }])).toThrow(/more than the 409600/);
    await rollGroup(group, { to: 'latest' });
    await until('it goes on', () => peer.told.includes('recovered'));
    await modelled.write(1);
    await until('the disks follow', () => group.state().lag.records === 0);
    expect(diskDifference(file, model, model.last)).toBeNull();
    await group.close();
  });

  it('has one stream: the newer one takes over, and a failover ends it', async () => {
    const file = groupFile(temporary());
    const { group } = await Modelled.create(file, 34);
    const [one, two] = [new Peer('one'), new Peer('two')];
    const leave = group.follow(one);
    group.follow(two);
    leave();
    expect(one.told).toHaveLength(1);
    expect(group.state().stream).toBe('two');
    await expect(failOver(group, {})).rejects.toMatchObject({ kind: 'policy' });
    expect(group.state().role).toBe('replica');
    await failOver(group, { force: true });
    expect(two.told[0]).toContain('ended: ');
    expect(() => group.follow(one)).toThrow(/failed over/);
    await group.close();
  });

  it('says of blocks whether they differ, as of all that was appended', async () => {
    const file = groupFile(temporary());
    const modelled = await Modelled.create(file, 35);
    const { group, model } = modelled;
    await modelled.write(30);
    const blockSize = 65_536;
    const disk = model.at(model.last, 'data');
    const blocks = [0, 1, 2, 3, 4];
    const pieces = blocks.map((block) => disk.subarray(block * blockSize, (block + 1) * blockSize));
    const digests = await Promise.all(pieces.map(async (piece) => Buffer.from(await blake3(piece), 'hex')));
    const signatures = Buffer.concat(digests);
    expect(await group.probe({ disk: 'data', blockSize, blocks, signatures })).toEqual(
      blocks.map(() => false),
    );
    group.append([
      { disk: 'data', offset: 2 * blockSize + 5, bytes: Buffer.of(disk[2 * blockSize + 5]! ^ 1) },
    ]);
    expect(await group.probe({ disk: 'data', blockSize, blocks, signatures })).toEqual([
      false,
      false,
      true,
      false,
      false,
    ]);
    // In a suspension too.
    await group.suspend('a gap');
    group.append([{ disk: 'data', offset: 5, bytes: Buffer.of(disk[5]! ^ 1) }]);
    expect((await group.probe({ disk: 'data', blockSize, blocks, signatures }))[0]).toBe(true);
    for (const wrong of [
      { blocks: [5], signatures: signatures.subarray(0, 32) },
      { blocks: [-1], signatures: signatures.subarray(0, 32) },
      { blocks: [0, 1], signatures: signatures.subarray(0, 32) },
      { blocks: Array(5000).fill(0), signatures: new Uint8Array(5000 * 32) },
    ])
      await expect(group.probe({ disk: 'data', blockSize, ...wrong })).rejects.toBeInstanceOf(DriftmapError);
    await group.close();
  });
});
