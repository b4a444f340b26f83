/** A small group of disks, and a model of it: every state that it ever had. */

import type { Journal, JournalWrite } from '../../src/journal/journal.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { SimDisk } from './sim-folder.ts';

export const names = ['system', 'data'] as const;

export interface Shape {
  readonly name: string;
  readonly size: number;
}

/** Disks of zeros in memory. */
export function memoryDisks(shapes: readonly Shape[]): Map<string, LogicalUnit> {
  return new Map(shapes.map(({ name, size }) => [name, createArrayImage({ name, size })]));
}

export function contents(unit: LogicalUnit): Uint8Array {
  if (unit instanceof SimDisk) return unit.bytes;
  const bytes = new Uint8Array(unit.size);
  unit.read(0, bytes);
  return bytes;
}

/** Every state of the disks by sequence: `states[s]` is the disks with all writes up to `s`. */
export class Model {
  readonly states: Map<string, Uint8Array>[];

  constructor(shapes: readonly Shape[]) {
    this.states = [new Map(shapes.map(({ name, size }) => [name, new Uint8Array(size)]))];
  }

  get last(): number {
    return this.states.length - 1;
  }

  write(write: JournalWrite): void {
    const before = this.states.at(-1)!;
    const disk = before.get(write.disk)!.slice();
    if ('bytes' in write) disk.set(write.bytes, write.offset);
    else disk.fill(0, write.offset, write.offset + write.zeros);
    this.states.push(new Map([...before, [write.disk, disk]]));
  }

  mark(): void {
    this.states.push(this.states.at(-1)!);
  }

  /** Forgets what came after a sequence. */
  cut(sequence: number): void {
    this.states.length = sequence + 1;
  }

  at(sequence: number, disk: string): Uint8Array {
    return this.states[sequence]!.get(disk)!;
  }
}

/** The first sequence and disk at which they differ from the model at a sequence; null when they are equal. */
export function difference(
  disks: ReadonlyMap<string, LogicalUnit>,
  model: Model,
  sequence: number,
): string | null {
  for (const [name, unit] of disks) {
    if (Buffer.compare(contents(unit), model.at(sequence, name)) !== 0) {
      const state = model.states.findIndex((_, s) => Buffer.compare(contents(unit), model.at(s, name)) === 0);
      return `disk '${name}' is not as of ${sequence}, ${state < 0 ? 'nor as of any other' : `but as of ${state}`}`;
    }
  }
  return null;
}

/** Reads all disks as of a point through views; the first that differs from the model. */
export async function viewDifference(
  journal: Journal,
  model: Model,
  sequence: number,
): Promise<string | null> {
  for (const { name, size } of journal.disks) {
    const view = journal.view(name, { sequence });
    const bytes = new Uint8Array(size);
    await view.read(0, bytes);
    await view.close();
    if (Buffer.compare(bytes, model.at(sequence, name)) !== 0) return `the view of '${name}' at ${sequence}`;
  }
  return null;
}

export { randomOf } from './sequence-writes.mjs';

/** A write that is unlike all others. */
export function randomWrite(
  random: (below: number) => number,
  shapes: readonly Shape[],
  most = 3000,
): JournalWrite {
  const { name, size } = shapes[random(shapes.length)]!;
  const offset = random(size);
  const length = 1 + random(Math.min(most, size - offset));
  if (random(4) === 0) return { disk: name, offset, zeros: length };
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = random(256);
  return { disk: name, offset, bytes };
}
