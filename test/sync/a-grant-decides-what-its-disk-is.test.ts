import { readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { verify } from '../../src/sync/compare-sites.ts';
import type { Grant } from '../../src/sync/server.ts';
import { sync } from '../../src/sync/sync.ts';
import { buildQcow2, dataEntry } from '../disk/qcow2-builder.ts';
import { temporary } from '../tools.ts';
import { fileOf, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const CLUSTER = 64 * 1024;
const folder = temporary();
const site = await testServer();
const raw = { type: 0xe2792aca, data: new TextEncoder().encode('raw') };

/** What lies beside the granted disks, and was granted to nobody. */
const secret = noise(CLUSTER, 77);
writeFileSync(join(folder, 'secret.raw'), secret);
/** An image that names it, filled up to the size of a disk. */
const trap = buildQcow2({ entries: [[0n]], backing: 'secret.raw', extensions: [raw] });

let grants = 0;
/** A disk at the server with these contents, and its address. */
function granted(file: string, contents: Uint8Array, more: Partial<Grant> = {}) {
  const path = join(folder, `${grants}-${file}`);
  writeFileSync(path, contents);
  return { path, at: site.grant(`disk${grants++}`, { disk: path, ...more }) };
}

const options = { token: site.token, workers: 1 };

/** Copies a granted disk here, as whoever asks says it is. */
async function take(at: string, format: string | undefined, size = CLUSTER): Promise<Uint8Array> {
  const mine = fileOf(folder, new Uint8Array(size));
  await sync({ ...options, production: at, replica: mine, productionFormat: format, replicaFormat: 'raw' });
  return readFileSync(mine);
}

describe('a peer that writes an image into a raw disk that it was granted', () => {
  it.each([
    ['whose format is not stated', {}],
    ['that is stated as raw', { format: 'raw' }],
  ])('%s gets no file beside it by asking for that image', async (_, more) => {
    const { path, at } = granted('vm.raw', new Uint8Array(trap.length), more);
    const mine = fileOf(folder, trap);
    await sync({ ...options, production: mine, replica: at, productionFormat: 'raw' });
    expect(sameFiles(mine, path)).toBe(true);
    // The reading of it as an image, as production, as a replica that is compared, and as one that is written.
    await expect(take(at, 'qcow2')).rejects.toThrow(/granted as raw.*got qcow2/);
    const zeros = fileOf(folder, new Uint8Array(CLUSTER));
    for (const role of ['production', 'replica'] as const) {
      const [production, replica] = role === 'production' ? [at, zeros] : [zeros, at];
      const format = { [`${role}Format`]: 'qcow2' };
      await expect(verify({ ...options, production, replica, ...format })).rejects.toThrow(
        /granted as raw.*got qcow2/,
      );
    }
    await expect(
      sync({ ...options, production: zeros, replica: at, replicaFormat: 'qcow2' }),
    ).rejects.toThrow(/granted as raw.*got qcow2/);
    // As what it is, it is served.
    expect(Buffer.compare(await take(at, 'raw', trap.length), trap)).toBe(0);
    // Nobody says what it is: nothing is followed, and it is not taken for an image.
    if (Object.keys(more).length > 0)
      expect(Buffer.compare(await take(at, undefined, trap.length), trap)).toBe(0);
    else await expect(take(at, undefined)).rejects.toThrow(/guessed from contents|look like qcow2/);
  });

  it('does not make an image of a file that is named like one either', async () => {
    const { at, path } = granted('vm.qcow2', buildQcow2({ entries: [[dataEntry(0)]], dataClusters: 1 }));
    const before = readFileSync(path);
    const mine = fileOf(folder, trap);
    for (const format of ['raw', 'vmdk'])
      await expect(
        sync({ ...options, production: mine, productionFormat: 'raw', replica: at, replicaFormat: format }),
      ).rejects.toThrow(new RegExp(`granted as qcow2.*got ${format}`));
    expect(readFileSync(path).equals(before)).toBe(true);
    // Also where its state says that it was a raw replica once.
    const once = granted('once.qcow2', new Uint8Array(trap.length));
    const known = { productionFormat: 'raw', replicaFormat: 'raw' };
    await sync({ ...options, production: mine, replica: once.path, ...known });
    writeFileSync(mine, noise(trap.length, 5));
    const header = readFileSync(once.path);
    await expect(
      sync({ ...options, production: mine, productionFormat: 'raw', replica: once.at }),
    ).rejects.toThrow(/look like raw/);
    expect(readFileSync(once.path).equals(header)).toBe(true);
  });

  it('reaches nothing by a name that is a link', async () => {
    const { path } = granted('real.raw', trap);
    const link = join(folder, 'link.qcow2');
    symlinkSync(path, link);
    const at = site.grant('link', { disk: link });
    await expect(take(at, 'qcow2')).rejects.toThrow(/granted as raw/);
    await expect(take(at, undefined)).rejects.toThrow(/look like qcow2|guessed/);
  });
});

describe('an image that is granted', () => {
  const image = buildQcow2({
    entries: [[dataEntry(0)], [0n]],
    dataClusters: 1,
    backing: 'secret.raw',
    extensions: [raw],
  });
  const shown = Buffer.concat([new Uint8Array(CLUSTER).fill(1), new Uint8Array(CLUSTER)]);

  it('by its name is served as what it is, with the files that it names in its folder', async () => {
    const { at } = granted('base.qcow2', image, { readOnly: true });
    for (const format of [undefined, 'qcow2'])
      expect(Buffer.compare(await take(at, format, 2 * CLUSTER), shown), format).toBe(0);
  });

  it('by a stated format is served so, whatever its name', async () => {
    const { at } = granted('base.img', image, { readOnly: true, format: 'qcow2' });
    expect(Buffer.compare(await take(at, undefined, 2 * CLUSTER), shown)).toBe(0);
    await expect(take(at, 'raw')).rejects.toThrow(/granted as qcow2 only: got raw/);
  });

  it('by a name that says nothing is refused, and told how it is granted', async () => {
    const lone = buildQcow2({ entries: [[dataEntry(0)]], dataClusters: 1 });
    const { at } = granted('base.img', lone, { readOnly: true });
    await expect(take(at, undefined)).rejects.toThrow('grant it with format=qcow2');
  });

  it('to whoever may read every file of this user is what that peer says', async () => {
    const { at } = granted('own.img', image, { anyFormat: true });
    expect(Buffer.compare(await take(at, 'qcow2', 2 * CLUSTER), shown)).toBe(0);
  });
});
