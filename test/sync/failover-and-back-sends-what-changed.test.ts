import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { failover, openMarked } from '../../src/sync/failover.ts';
import { loadState, saveState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { root, temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const workers = 1;
const BLOCK = 64 * KiB;

async function replicated() {
  const production = fileOf(folder, noise(32 * MiB, 1));
  const replica = fileOf(folder, changed(noise(32 * MiB, 1), [5, 100]));
  await sync({ production, replica, workers });
  return { production, replica };
}

function write(path: string, offset: number, text: string): void {
  const unit = openFileUnit(path, { write: true });
  unit.write(offset, Buffer.from(text));
  unit.close();
}

describe('failover', () => {
  it('turns the direction round: the way back compares and sends only what was marked since', async () => {
    const { production, replica } = await replicated();
    const state = await failover({ replica });
    expect(state).toMatchObject({ status: 'failed-over', epoch: 2 });
    await expect(sync({ production, replica, workers })).rejects.toThrow(
      'synchronize in the other direction',
    );
    const disk = await openMarked(replica);
    await disk.write(10 * MiB + 5, Buffer.from('written at the replica site'));
    await disk.write(31 * MiB, Buffer.from('and once more'));
    await disk.close();
    const far = site.grant('back', { disk: production });
    const back = await sync({ production: replica, replica: far, token: site.token, workers });
    expect(back.consistent).toBe(true);
    // Two parts of 4 MiB were marked, of 32 MiB.
    expect(back.comparedBytes).toBe(8 * MiB);
    expect(back.dataBytes).toBe(2 * BLOCK);
    expect(sameFiles(production, replica)).toBe(true);

    // And home: the old production is production again, under the youngest epoch.
    await failover({ replica: production });
    expect(loadState(statePath(production))).toMatchObject({ status: 'failed-over', epoch: 3 });
    write(production, 100, 'at home');
    const home = await sync({ production, replica, workers });
    expect(home.consistent).toBe(true);
    expect(home.dataBytes).toBe(BLOCK);
    expect(sameFiles(production, replica)).toBe(true);
    expect(loadState(statePath(replica))).toMatchObject({ status: 'consistent', epoch: 3 });
  });

  it('of a disk whose writes nobody marked compares all, and sends what differs', async () => {
    const { production, replica } = await replicated();
    await failover({ replica });
    write(replica, 7 * BLOCK, 'unmarked');
    const back = await sync({ production: replica, replica: production, workers });
    expect(back.comparedBytes).toBe(32 * MiB);
    expect(back.dataBytes).toBe(BLOCK);
    expect(sameFiles(production, replica)).toBe(true);
  });

  it('finds a split brain by the generations, and lets nobody win by accident', async () => {
    const { production, replica } = await replicated();
    await failover({ replica });
    write(replica, 3 * BLOCK, 'here');
    write(production, 9 * BLOCK, 'there');
    const [a, b] = [readFileSync(production), readFileSync(replica)];
    await expect(sync({ production: replica, replica: production, workers })).rejects.toThrow('split brain');
    await expect(sync({ production, replica, workers })).rejects.toThrow('--discard');
    expect(readFileSync(production).equals(a) && readFileSync(replica).equals(b)).toBe(true);
    const chosen = await sync({ production: replica, replica: production, discard: true, workers });
    expect(chosen.consistent).toBe(true);
    expect(readFileSync(production).equals(b)).toBe(true);
  });

  it('given up: production overwrites what was written to the replica, when the user says so', async () => {
    const { production, replica } = await replicated();
    await failover({ replica });
    write(replica, 3 * BLOCK, 'a test of the failover');
    await sync({ production, replica, discard: true, workers });
    expect(sameFiles(production, replica)).toBe(true);
    expect(loadState(statePath(replica))!.status).toBe('consistent');
  });

  it('is refused for what is no replica, not consistent, or failed over already', async () => {
    const stranger = fileOf(folder, noise(1000, 4));
    await expect(failover({ replica: stranger })).rejects.toThrow('never been a replica');
    const { replica } = await replicated();
    const state = loadState(statePath(replica))!;
    saveState({ ...state, status: 'synchronizing' }, statePath(replica));
    await expect(failover({ replica })).rejects.toThrow('--force');
    await failover({ replica, force: true });
    await expect(failover({ replica })).rejects.toThrow('failed over already');
  });

  it('with marks that a crash left unfinished does not trust them', async () => {
    const { production, replica } = await replicated();
    await failover({ replica });
    const disk = await openMarked(replica);
    await disk.write(1 * MiB, Buffer.from('a'));
    // Killed here: nothing is closed, and somebody writes without marks. The lock is that of this process.
    write(replica, 20 * MiB, 'unmarked');
    const copy = `${replica}.copy`;
    writeFileSync(copy, readFileSync(statePath(replica)));
    const back = await sync({ production: replica, replica: production, workers });
    expect(back.comparedBytes).toBe(32 * MiB);
    expect(sameFiles(production, replica)).toBe(true);
    await disk.close();
  });

  it.each([
    ['flushed, and not written to since: only marked blocks are compared', false],
    ['written to since its last flush: all is compared', true],
  ])('of a disk whose writer was killed: %s', async (_, writesAgain) => {
    const { production, replica } = await replicated();
    await failover({ replica });
    const script = `
      import { openMarked } from ${JSON.stringify(join(root, 'dist/lib/index.js'))};
      const disk = await openMarked(${JSON.stringify(replica)});
      await disk.write(${9 * MiB}, Buffer.from('before'));
      await disk.flush();
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (${writesAgain}) await disk.write(${9 * MiB + 5}, Buffer.from('after'));
      console.log('written');
      setInterval(() => undefined, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
    const back = await sync({ production: replica, replica: production, workers });
    expect(back.comparedBytes).toBe(writesAgain ? 32 * MiB : 4 * MiB);
    expect(sameFiles(production, replica)).toBe(true);
  });
});
