import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { openUnit } from '../../../src/lu/open-unit.ts';
import { readGroupFile } from '../../../src/protect/group/group-file.ts';
import { randomOf } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { run, start } from './commands.ts';
import { until } from './groups.ts';

const MB = 1024 * 1024;
const SIZES = { system: 24 * MB, data: 8 * MB } as const;
const running = new Set<ReturnType<typeof start>>();
afterAll(() => {
  for (const { child } of running) child.kill('SIGKILL');
});

/** Runs `driftmap protect` until it streams. */
async function protect(path: string) {
  const { production } = readGroupFile(path);
  const protecting = start(['protect', path]);
  running.add(protecting);
  await until('it streams', () => protecting.output().includes(' streaming'), 20_000);
  return {
    write: async (disk: string, offset: number, bytes: Uint8Array) => {
      const { listen } = production!.disks.find(({ name }) => name === disk)!;
      const unit = await openUnit(`nbd+unix:///${disk}?socket=${(listen as { socket: string }).socket}`, {
        write: true,
      });
      await unit.write(offset, bytes);
      await unit.flush();
      await unit.close();
    },
    stop: async () => {
      protecting.child.kill('SIGTERM');
      const { status } = await protecting.ended;
      running.delete(protecting);
      expect(status).toBe(0);
    },
  };
}

it('production moves to the replica and back, and each way nothing equal is sent', async () => {
  const folder = temporary();
  const random = randomOf(2027);
  const at = (...parts: string[]) => join(folder, ...parts);
  mkdirSync(at('p'));
  mkdirSync(at('s'));
  for (const [name, size] of Object.entries(SIZES)) {
    const bytes = Buffer.alloc(size);
    for (let i = 0; i < size / 2; i += 4) bytes.writeUInt32LE(random(2 ** 31), i);
    writeFileSync(at('p', `${name}.raw`), bytes);
  }
  const disks = Object.keys(SIZES);
  const web = at('web.json');
  writeFileSync(
    web,
    JSON.stringify({
      group: 'web',
      production: {
        state: 'state',
        disks: Object.fromEntries(
          disks.map((name) => [name, { disk: `p/${name}.raw`, socket: `s/${name}.sock` }]),
        ),
      },
      replica: {
        journal: 'journal',
        disks: Object.fromEntries(disks.map((name) => [name, `r/${name}.raw`])),
      },
    }),
  );
  const here = (name: string) => readFileSync(at('p', `${name}.raw`));
  const there = (name: string) => readFileSync(at('r', `${name}.raw`));
  const journalBytes = async (path: string) =>
    JSON.parse((await run('points', path, '--json')).stdout).bytes as number;

  const first = await protect(web);
  await first.write('system', 3 * MB, Buffer.alloc(5000, 1));
  await first.stop();
  const over = JSON.parse((await run('failover', web, '--json')).stdout);
  expect(over).toMatchObject({ wasConsistent: true });
  expect(over.newest.sequence).toBe(over.sequence);
  for (const name of disks) expect(there(name).equals(here(name)), name).toBe(true);

  // The old production comes back: its stream is refused, and its guest is not held up.
  const old = start(['protect', web]);
  await until('it is refused', () => old.output().includes('failed over'), 20_000);
  old.child.kill('SIGTERM');
  await old.ended;

  const back = at('back.json');
  expect(await run('failback', web, '--reverse', back)).toMatchObject({ status: 0 });
  const second = await protect(back);
  await second.write('data', 1 * MB, Buffer.alloc(70_000, 2));
  await second.write('system', 12 * MB, Buffer.alloc(100, 3));
  await second.stop();
  expect(await run('failover', back)).toMatchObject({ status: 0 });
  for (const name of disks) expect(here(name).equals(there(name)), name).toBe(true);
  expect(await journalBytes(back)).toBeLessThan(2 * MB);

  expect(await run('failback', web, '--finish')).toMatchObject({ status: 0 });
  const third = await protect(web);
  await third.write('data', 0, Buffer.alloc(512, 4));
  await third.stop();
  const rolled = await run('roll', web, '--to', 'latest');
  expect(rolled).toMatchObject({ status: 0 });
  for (const name of disks) expect(there(name).equals(here(name)), name).toBe(true);
  expect(await journalBytes(web)).toBeLessThan(2 * MB);
  expect(
    here('data')
      .subarray(0, 512)
      .every((byte) => byte === 4),
  ).toBe(true);
  expect(
    here('data')
      .subarray(MB, MB + 70_000)
      .every((byte) => byte === 2),
  ).toBe(true);
});
