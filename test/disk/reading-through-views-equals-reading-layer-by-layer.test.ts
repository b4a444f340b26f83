import fc from 'fast-check';
import { expect, it } from 'vitest';
import { type ExplainedLayer, explain } from '../../src/disk/explain.ts';
import { locate } from '../../src/disk/locate.ts';
import { openDisk } from '../../src/disk/open.ts';
import { type ViewUnit, viewOver } from '../../src/disk/view-unit.ts';
import { type ExtentMap, isZero, Kind } from '../../src/mapping/extent-map.ts';
import { anyPart, type Cell, cellsOfParts, fitted, mapOfParts, type Part } from '../model/extent-map.ts';
import { BytesUnit, readAll } from './images.ts';

const UNIT = 40;
const plainParts = fc.array(
  anyPart.filter((part) => part.stored === undefined),
  { minLength: 1, maxLength: 12 },
);
const onOneUnit = (parts: readonly Part[]) => parts.map((part) => ({ ...part, unit: 0 }));

/** Every byte of a layer from the bytes of what it lies on: one lookup a byte. */
function naiveRead(cells: readonly Cell[], below: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(cells, ({ kind, unit, place }) => (isZero(kind) ? 0 : below[unit]![place]!));
}

interface Layers {
  readonly units: readonly BytesUnit[];
  readonly file: ViewUnit;
  readonly expected: Uint8Array;
}

/** A file on a volume on three units. */
function layers(volumeParts: readonly Part[], fileParts: readonly Part[]): Layers {
  const units = [0, 1, 2].map((index) => {
    const bytes = Uint8Array.from({ length: UNIT }, (_, at) => 1 + index * UNIT + at);
    return new BytesUnit(bytes, { name: `unit${index}` });
  });
  const contents = naiveRead(
    cellsOfParts(volumeParts),
    units.map((unit) => unit.bytes),
  );
  const onVolume = fitted(onOneUnit(fileParts), contents.length);
  const step = { parents: units, map: mapOfParts(volumeParts) };
  const volume = viewOver({ name: 'volume', layer: 'volume', step: 'lvm:v/v', ...step });
  const map = mapOfParts(onVolume);
  const file = viewOver({ name: 'file', layer: 'file', step: 'ext4:/f', map, parents: [volume] });
  return { units, file, expected: naiveRead(cellsOfParts(onVolume), [contents]) };
}

it('gives the same bytes, in reads of any size, here and as a disk', async () => {
  await fc.assert(
    fc.asyncProperty(plainParts, plainParts, fc.nat(40), fc.nat(40), async (volume, parts, from, length) => {
      const { file, expected } = layers(volume, parts);
      const disk = await openDisk(file, { format: 'raw' });
      expect(await readAll(disk)).toEqual(expected);
      // Straight to the units: no view is read on the way.
      expect(disk.units.slice(0, 3).map(({ name }) => name)).not.toContain('volume');
      const start = Math.min(from, expected.length);
      const target = new Uint8Array(Math.min(length, expected.length - start));
      await file.read(start, target);
      expect(target).toEqual(expected.subarray(start, start + target.length));
    }),
    { numRuns: 1000 },
  );
});

it('explains every byte as the composed map has it, layer by layer, in runs that never grow', async () => {
  await fc.assert(
    fc.asyncProperty(plainParts, plainParts, async (volume, parts) => {
      const { file, units, expected } = layers(volume, parts);
      for (let offset = 0; offset < expected.length; ) {
        const { layers: told } = await explain(file, offset, { format: 'raw' });
        checkShape(told, offset);
        const last = told.at(-1)!;
        for (let byte = 0; byte < last.length; byte++) {
          const unit = units.find(({ name }) => name === last.name);
          const isData = last.layer === 'unit' && told.every(({ kind }) => kind === 'data');
          expect(isData ? unit!.bytes[last.offset + byte] : 0).toBe(expected[offset + byte]);
          if (isData) checkPlace(file.map, offset + byte, file.units.indexOf(unit!), last.offset + byte);
        }
        offset += last.length;
      }
    }),
    { numRuns: 150 },
  );
});

function checkShape(told: readonly ExplainedLayer[], offset: number): void {
  const names = ['disk', 'file', 'volume', 'unit'].slice(0, told.length);
  expect(told.map(({ layer }) => layer)).toEqual(names);
  expect(told[0]!.offset).toBe(offset);
  for (const [index, { length }] of told.entries()) {
    expect(length).toBeGreaterThan(0);
    expect(length).toBeLessThanOrEqual(told[index - 1]?.length ?? length);
  }
}

function checkPlace(map: ExtentMap, offset: number, unit: number, place: number): void {
  expect(map.explain(offset)).toMatchObject({ kind: Kind.data, unit, place });
}

it('locates every byte of a range where the composed map has it, and says what lies past the end', async () => {
  await fc.assert(
    fc.asyncProperty(
      plainParts,
      plainParts,
      fc.nat(60),
      fc.nat(60),
      async (volume, parts, offset, length) => {
        const { file, units, expected } = layers(volume, parts);
        const disk = await openDisk(file, { format: 'raw' });
        let at = offset;
        for (const run of locate(disk, { offset, length })) {
          expect(run.offset).toBe(at);
          for (let byte = 0; byte < run.length; byte++) {
            const unit = units.find(({ name }) => name === run.unit);
            const got = run.kind === 'data' ? unit!.bytes[run.place! + byte] : 0;
            expect(got).toBe(expected[run.offset + byte] ?? 0);
            expect(run.kind === 'absent').toBe(run.offset + byte >= expected.length);
          }
          at += run.length;
        }
        expect(at).toBe(offset + length);
      },
    ),
    { numRuns: 500 },
  );
});
