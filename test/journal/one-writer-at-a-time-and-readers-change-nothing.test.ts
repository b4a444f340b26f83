import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { temporary } from '../tools.ts';
import { Model, memoryDisks, randomOf, randomWrite, viewDifference } from './disks.ts';

const folder = temporary();
const shapes = [{ name: 'disk', size: 10_000 }];
const described = { group: 'vm', disks: shapes, segmentBytes: 4096 };

async function make(name: string) {
  const path = join(folder, name);
  const disks = memoryDisks(shapes);
  const model = new Model(shapes);
  const journal = await createJournal(path, described, { disks });
  const random = randomOf(4);
  const writes = Array.from({ length: 25 }, () => randomWrite(random, shapes, 900));
  for (const write of writes) model.write(write);
  await journal.append(writes).durable;
  return { path, disks, model, journal };
}

/** Names, sizes and bytes of all files. */
function snapshot(path: string): Map<string, string> {
  return new Map(
    readdirSync(path).map((name) => [
      name,
      `${statSync(join(path, name)).mtimeMs} ${readFileSync(join(path, name)).toString('hex')}`,
    ]),
  );
}

describe('a journal on real files', () => {
  it('has one writer; a lock of a dead one is nobody’s', async () => {
    const { path, journal } = await make('locked');
    await expect(openJournal(path)).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/open for writing in this process/),
    });
    const code = `import(process.argv[1]).then(({ openJournal }) => openJournal(process.argv[2])).then(
      () => process.exit(0), (error) => { console.error(error.message); process.exit(9); })`;
    const built = new URL('../../dist/journal/open.js', import.meta.url).href;
    const other = spawnSync(process.execPath, ['-e', code, built, path], { encoding: 'utf8' });
    expect(other).toMatchObject({ status: 9, stderr: expect.stringContaining(`in process ${process.pid}`) });
    await journal.close();
    // A process that opens it and ends without closing.
    expect(spawnSync(process.execPath, ['-e', code, built, path], { encoding: 'utf8' })).toMatchObject({
      status: 0,
    });
    expect(readdirSync(path)).toContain('lock');
    const again = await openJournal(path);
    await again.close();
    await again.close();
    // The same process id, of a process that was started at another time.
    writeFileSync(join(path, 'lock'), `${process.pid} 1 an-older-boot\nabc\n`);
    const third = await openJournal(path);
    await third.close();
    expect(readdirSync(path).filter((name) => name.startsWith('lock'))).toEqual([]);
  });

  it('opened for reading changes no file, reads views, and refuses to be written', async () => {
    const { path, disks, model, journal } = await make('read');
    await journal.apply(12);
    const before = snapshot(path);
    // Beside the writer, whose disks stand still.
    const reader = await openJournal(path, { disks, access: 'read' });
    for (let s = 0; s <= 25; s++) expect(await viewDifference(reader, model, s)).toBeNull();
    expect(reader.points().ranges).toMatchObject([{ from: { sequence: 0 }, to: { sequence: 25 } }]);
    const write = { disk: 'disk', offset: 0, zeros: 1 };
    expect(() => reader.append([write])).toThrow(expect.objectContaining({ kind: 'permission' }));
    await expect(reader.bookmark('x')).rejects.toMatchObject({ kind: 'permission' });
    await expect(reader.rollTo('latest')).rejects.toMatchObject({ kind: 'permission' });
    await expect(reader.retain({})).rejects.toMatchObject({ kind: 'permission' });
    expect(snapshot(path)).toEqual(before);
    // Its views never mix two positions of the disks.
    const view = reader.view('disk', { sequence: 20 });
    await journal.apply(20);
    expect(() => view.read(0, new Uint8Array(10))).toThrow(
      expect.objectContaining({ kind: 'mismatch', message: expect.stringMatching(/open it again/) }),
    );
    await reader.close();
    const again = await openJournal(path, { disks, access: 'read' });
    expect(await viewDifference(again, model, 3)).toBeNull();
    await journal.rollBack(7);
    await expect(viewDifference(again, model, 3)).rejects.toMatchObject({ kind: 'mismatch' });
    await again.close();
    await journal.close();
  });

  it('is not made over another, nor opened where there is none', async () => {
    const { path, journal } = await make('taken');
    await journal.close();
    await expect(createJournal(path, described)).rejects.toMatchObject({ kind: 'policy' });
    mkdirSync(join(folder, 'empty'));
    await expect(openJournal(join(folder, 'empty'))).rejects.toMatchObject({ kind: 'not-found' });
    expect(readdirSync(join(folder, 'empty'))).toEqual([]);
    await expect(openJournal(join(folder, 'nowhere'))).rejects.toMatchObject({ kind: 'not-found' });
  });

  it('refuses a group that cannot be', async () => {
    const disk = { name: 'a', size: 10 };
    for (const wrong of [
      { group: '', disks: [disk] },
      { group: 'vm', disks: [] },
      { group: 'vm', disks: [disk, disk] },
      { group: 'vm', disks: [{ name: '', size: 10 }] },
      { group: 'vm', disks: [{ name: 'a', size: 0 }] },
      { group: 'vm', disks: [{ name: 'a', size: 2 ** 53 }] },
      { group: 'vm', disks: [disk], segmentBytes: 100 },
      { group: 'vm', disks: Array.from({ length: 1025 }, (_, i) => ({ name: `${i}`, size: 10 })) },
    ]) {
      await expect(createJournal(join(folder, 'wrong'), wrong)).rejects.toMatchObject({ kind: 'argument' });
    }
    await expect(
      createJournal(join(folder, 'wrong'), described, { clock: () => Number.NaN }),
    ).rejects.toMatchObject({ kind: 'argument' });
    expect(readdirSync(folder)).not.toContain('group');
  });

  it('does not follow a link that stands in for one of its files', async () => {
    const { path, journal } = await make('linked');
    await journal.close();
    const outside = join(folder, 'outside');
    writeFileSync(outside, 'precious');
    symlinkSync(outside, join(path, 'undo.data.0000000000000001'));
    symlinkSync(outside, join(path, 'undo.meta.0000000000000001'));
    await expect(openJournal(path)).rejects.toMatchObject({ name: 'DriftmapError' });
    expect(readFileSync(outside, 'utf8')).toBe('precious');
  });
});
