/** A guest at work on the disks of an access. */

import { expect } from 'vitest';
import type { GroupFile } from '../../../src/protect/group/group-file.ts';
import { type Access, startAccess } from '../../../src/protect/replica/access.ts';
import type { ReplicaGroup } from '../../../src/protect/replica/replica-group.ts';
import { diskBytes, type Modelled, shapes } from './groups.ts';

/** Writes of a guest, and the disks as they are with them. */
export async function work(access: Access, group: ReplicaGroup, before: ReadonlyMap<string, Uint8Array>) {
  const { units } = access;
  const after = new Map([...before].map(([name, bytes]) => [name, bytes.slice()]));
  for (const [i, { name, size }] of shapes.entries()) {
    const unit = units.get(name)!;
    for (const at of [0, 70_000 + i, size - 3000]) {
      await unit.write(at, Buffer.alloc(3000, 0xee - i));
      after.get(name)!.fill(0xee - i, at, at + 3000);
    }
    await unit.zero({ offset: 140_000, length: 20_000 });
    after.get(name)!.fill(0, 140_000, 160_000);
  }
  expect(group.state().accesses[0]!.writtenBytes).toBeGreaterThan(0);
  return after;
}

export function stateOf(modelled: Modelled, sequence: number) {
  return new Map(shapes.map(({ name }) => [name, modelled.model.at(sequence, name)]));
}

export const sameDisks = (file: GroupFile, state: ReadonlyMap<string, Uint8Array>) =>
  [...state].every(([name, bytes]) => Buffer.compare(diskBytes(file, name), bytes) === 0);

export const rolled = (group: ReplicaGroup, sequence: number, folder: string) =>
  startAccess(group, {
    at: String(sequence),
    kind: 'rolled',
    place: { socketFolder: folder },
  });
