import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openReplicaGroup } from '../../../src/protect/replica/open-replica.ts';
import { rollGroup } from '../../../src/protect/replica/roll.ts';
import { randomOf, shapes, writeOf } from '../../journal/sequence-writes.mjs';
import { temporary } from '../../tools.ts';
import { diskBytes, groupFile, until } from './groups.ts';

const KILLS = 8;

/**
 * Runs the victim for so many milliseconds after its first acknowledgement; or, in place of a time, until its disks are
 * worked on. @returns the last acknowledgement
 */
function runAndKill(path: string, seed: number, milliseconds: number | 'rolled'): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'victim.mjs'), path, String(seed)]);
    let [output, errors] = ['', ''];
    child.stdout.on('data', (chunk) => {
      if (output === '' && milliseconds !== 'rolled') setTimeout(() => child.kill('SIGKILL'), milliseconds);
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      errors += chunk;
      if (milliseconds === 'rolled' && errors.includes('rolled')) child.kill('SIGKILL');
    });
    child.on('close', (_code, signal) => {
      if (signal !== 'SIGKILL') reject(new Error(`the victim ended by itself: ${errors}`));
      // The last line may be cut.
      else
        resolve(
          Number(
            output
              .slice(0, Math.max(0, output.lastIndexOf('\n')))
              .split('\n')
              .at(-1),
          ),
        );
    });
  });
}

/** The disks as of a sequence. The first record is the mark by which the group became whole. */
function stateAt(sequence: number): Map<string, Uint8Array> {
  const state = new Map(shapes.map(({ name, size }) => [name, new Uint8Array(size)]));
  for (let at = 2; at <= sequence; at++) {
    if (at % 17 === 0) continue;
    const write = writeOf(at);
    const disk = state.get(write.disk)!;
    if (write.bytes) disk.set(write.bytes, write.offset);
    else disk.fill(0, write.offset, write.offset + write.zeros!);
  }
  return state;
}

it(`after each of ${KILLS} kills every point is exact, wherever the disks were`, async () => {
  const file = groupFile(temporary(), { keep: { bytes: '3M', bookmarks: 'drop' } });
  const sizes = new Map(shapes.map(({ name, size }) => [name, size]));
  const made = await openReplicaGroup(file, { sizes, segmentBytes: 262_144 });
  await made.resume();
  await made.close();
  const random = randomOf(77);
  let last = 0;
  let unfinished = 0;
  for (let kill = 1; kill <= KILLS; kill++) {
    const acknowledged = await runAndKill(file.path, kill, kill % 4 === 0 ? 'rolled' : 100 + random(500));
    const group = await openReplicaGroup(file);
    unfinished += group.warnings.filter((warning) => warning.includes('had not been ended')).length;
    last = group.journal.state().last;
    expect(last).toBeGreaterThanOrEqual(acknowledged);
    const { ranges } = group.points();
    expect(ranges).toHaveLength(1);
    const from = ranges[0]!.from.sequence;
    expect(ranges[0]!.to.sequence).toBe(last);
    const some = Array.from({ length: 3 }, () => from + random(last - from + 1));
    for (const sequence of [from, ...some, last]) {
      const state = stateAt(sequence);
      for (const { name, size } of shapes) {
        const view = group.journal.view(name, { sequence });
        const bytes = new Uint8Array(size);
        await view.read(0, bytes);
        await view.close();
        expect(Buffer.compare(bytes, state.get(name)!), `kill ${kill}: view of ${name} at ${sequence}`).toBe(
          0,
        );
      }
    }
    for (const to of [String(some[0]), 'latest']) {
      const { sequence } = await rollGroup(group, { to });
      const state = stateAt(sequence);
      for (const { name } of shapes)
        expect(
          Buffer.compare(diskBytes(file, name), state.get(name)!),
          `kill ${kill}: ${name} at ${sequence}`,
        ).toBe(0);
    }
    await until('it follows', () => group.state().lag.records === 0);
    await group.close();
  }
  expect(last).toBeGreaterThan(KILLS * 20);
  // Otherwise it has shown nothing of rolled accesses.
  expect(unfinished).toBeGreaterThan(0);
});
