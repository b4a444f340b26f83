import { spawn } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { temporary } from '../tools.ts';
import { randomOf, shapes, writeOf } from './sequence-writes.mjs';

const KILLS = 6;
const folder = temporary();

/** Runs the victim for so many milliseconds after its first acknowledgement. @returns the last one */
function runAndKill(seed: number, milliseconds: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'victim.mjs'), folder, String(seed)]);
    let output = '';
    let errors = '';
    child.stdout.on('data', (chunk) => {
      if (output === '') setTimeout(() => child.kill('SIGKILL'), milliseconds);
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    child.on('close', (_code, signal) => {
      if (signal !== 'SIGKILL') reject(new Error(`the victim ended by itself: ${errors}`));
      // The last line may be cut.
      else resolve(Number(output.slice(0, output.lastIndexOf('\n')).split('\n').at(-1)));
    });
  });
}

/** The disks as of ascending sequences. */
function* statesAt(sequences: readonly number[]): Generator<Map<string, Uint8Array>> {
  const state = new Map(shapes.map(({ name, size }) => [name, new Uint8Array(size)]));
  let at = 0;
  for (const sequence of sequences) {
    for (; at < sequence; ) {
      at++;
      if (at % 17 === 0) continue;
      const write = writeOf(at);
      const disk = state.get(write.disk)!;
      if (write.bytes) disk.set(write.bytes, write.offset);
      else disk.fill(0, write.offset, write.offset + write.zeros!);
    }
    yield state;
  }
}

it(`after each of ${KILLS} kills every point is exact, and the next writer goes on`, async () => {
  for (const { name, size } of shapes) {
    const file = openSync(join(folder, `${name}.img`), 'w');
    ftruncateSync(file, size);
    closeSync(file);
  }
  const disks = () =>
    new Map(shapes.map(({ name }) => [name, openFileUnit(join(folder, `${name}.img`), { write: true })]));
  const described = [...disks()].map(([name, { size, identity }]) => ({ name, size, identity }));
  const made = await createJournal(join(folder, 'journal'), {
    group: 'vm',
    disks: described,
    segmentBytes: 262_144,
  });
  await made.close();
  const random = randomOf(2026);
  let last = 0;
  for (let kill = 1; kill <= KILLS; kill++) {
    const acknowledged = await runAndKill(kill, 30 + random(500));
    const units = disks();
    const journal = await openJournal(join(folder, 'journal'), { disks: units });
    expect(journal.warnings).toEqual([]);
    expect(journal.state().last).toBeGreaterThanOrEqual(acknowledged);
    expect(journal.state().last).toBeGreaterThan(last);
    last = journal.state().last;
    const { ranges, bookmarks } = journal.points();
    expect(ranges).toHaveLength(1);
    for (const { name, sequence } of bookmarks) expect(name).toBe(`at ${sequence}`);
    const { from, to } = ranges[0]!;
    expect(to.sequence).toBe(last);
    const some = Array.from({ length: 6 }, () => from.sequence + random(last - from.sequence + 1));
    const sequences = [from.sequence, ...some, last].sort((a, b) => a - b);
    const states = statesAt(sequences);
    for (const sequence of sequences) {
      const state = states.next().value!;
      for (const { name, size } of shapes) {
        const bytes = new Uint8Array(size);
        await journal.view(name, { sequence }).read(0, bytes);
        expect(Buffer.compare(bytes, state.get(name)!), `view of ${name} at ${sequence}`).toBe(0);
      }
    }
    // What the killed roll left is finished by another.
    const to2 = some[0]!;
    await journal.rollTo({ sequence: to2 });
    await journal.close();
    const state = statesAt([to2]).next().value!;
    for (const { name } of shapes) {
      const file = readFileSync(join(folder, `${name}.img`));
      expect(Buffer.compare(file, state.get(name)!), `${name} at ${to2}`).toBe(0);
    }
    for (const unit of units.values()) unit.close();
  }
});
