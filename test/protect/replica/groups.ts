/** Small replica groups on real files, and a model of all that they ever were. */

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JournalWrite } from '../../../src/journal/journal.ts';
import { type GroupFile, readGroupFile } from '../../../src/protect/group/group-file.ts';
import { openReplicaGroup } from '../../../src/protect/replica/open-replica.ts';
import type { ReplicaGroup } from '../../../src/protect/replica/replica-group.ts';
import { Model, randomOf, randomWrite } from '../../journal/disks.ts';

export const shapes = [
  { name: 'system', size: 900_000 },
  { name: 'data', size: 300_001 },
] as const;

export const sizes = new Map<string, number>(shapes.map(({ name, size }) => [name, size]));

export function groupFile(folder: string, replica: object = {}): GroupFile {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'web.json');
  const disks = { system: 'replica/system.raw', data: 'replica/data.raw' };
  writeFileSync(path, JSON.stringify({ group: 'web', replica: { journal: 'journal', disks, ...replica } }));
  return readGroupFile(path);
}

/** A group and its model: what is appended through this is in both. */
export class Modelled {
  readonly group: ReplicaGroup;
  readonly model = new Model(shapes);
  private readonly random: (below: number) => number;

  constructor(group: ReplicaGroup, seed: number) {
    this.group = group;
    this.random = randomOf(seed);
  }

  /** A new group that is whole. */
  static async create(file: GroupFile, seed = 1, clock?: () => number): Promise<Modelled> {
    const group = await openReplicaGroup(file, { sizes, segmentBytes: 65_536, ...(clock && { clock }) });
    const made = new Modelled(group, seed);
    await group.resume();
    made.model.mark();
    return made;
  }

  /** Appends some random writes, durably. */
  async write(count: number, most = 20_000): Promise<void> {
    const writes: JournalWrite[] = [];
    for (let i = 0; i < count; i++) {
      const write = randomWrite(this.random, shapes, most);
      writes.push(write);
      this.model.write(write);
    }
    await this.group.append(writes).durable;
  }

  async bookmark(name: string): Promise<number> {
    const { sequence } = await this.group.bookmark(name);
    this.model.mark();
    return sequence;
  }
}

export function diskBytes(file: GroupFile, name: string): Buffer {
  return readFileSync(file.replica!.disks.find((disk) => disk.name === name)!.path);
}

/** The first disk that is not as the model at a sequence; null when all are. */
export function diskDifference(file: GroupFile, model: Model, sequence: number): string | null {
  for (const { name } of shapes)
    if (Buffer.compare(diskBytes(file, name), model.at(sequence, name)) !== 0)
      return `disk '${name}' is not as of ${sequence}`;
  return null;
}

/** As if the process had been killed: nothing more is written, and the lock is nobody's. */
export function abandon(group: ReplicaGroup): void {
  clearInterval((group as unknown as { timer: NodeJS.Timeout }).timer);
  void group.applier.hold();
  group.claims.release();
  rmSync(join(group.side.journal, 'lock'), { force: true });
}

export async function until(what: string, holds: () => boolean, milliseconds = 10_000): Promise<void> {
  const end = Date.now() + milliseconds;
  while (!holds()) {
    if (Date.now() > end) throw new Error(`not within ${milliseconds} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
