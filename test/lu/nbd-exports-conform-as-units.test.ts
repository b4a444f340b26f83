import { mkdtempSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { unitExport } from '../../src/protect/nbd/unit-export.ts';
import { serveHere } from '../protect/nbd-peers.ts';
import { temporary } from '../tools.ts';
import { conformance } from './conformance.ts';

const folder = temporary();

function sparse(size: number): string {
  const path = join(mkdtempSync(join(folder, 'f')), 'disk.raw');
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
}

async function ofOurs(unit: LogicalUnit, write = true): Promise<LogicalUnit> {
  const { url } = await serveHere(folder, { disk: unitExport(unit) });
  return openNbdUnit(url('disk'), { write });
}

conformance({
  title: 'an array image served by driftmap',
  make: (size) => ofOurs(createArrayImage({ size })),
  makeReadOnly: (size) => ofOurs(createArrayImage({ size }), false),
});
conformance({
  title: 'a file served by driftmap',
  make: (size) => ofOurs(openFileUnit(sparse(size), { write: true })),
  makeReadOnly: (size) => ofOurs(openFileUnit(sparse(size))),
});
conformance({
  title: 'an export of driftmap that takes whole blocks only',
  make: async (size) => {
    const unit = unitExport(openFileUnit(sparse(size), { write: true }));
    const { url } = await serveHere(folder, {
      disk: Object.assign(unit, { minimumBlock: 4096, preferredBlock: 8192 }),
    });
    return openNbdUnit(url(), { write: true });
  },
});
