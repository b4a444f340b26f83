import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ExtentMap } from '../../src/mapping/extent-map.ts';
import { mapOfParts, someParts } from '../model/extent-map.ts';

/** Sends the handle back with every place one further, written where it lies. */
const moveEveryPlace = `
  const { parentPort, workerData } = require('node:worker_threads');
  for (let i = 0; i < workerData.places.length; i++) workerData.places[i] += 1;
  parentPort.postMessage(workerData);
`;

function inWorker(map: ExtentMap): Promise<ExtentMap> {
  const worker = new Worker(moveEveryPlace, { eval: true, workerData: map.handle() });
  return new Promise((resolve, reject) => {
    worker.once('message', (handle) => resolve(ExtentMap.fromHandle(handle)));
    worker.once('error', reject);
  });
}

describe("a map's handle", () => {
  it('makes the same map again', () => {
    fc.assert(
      fc.property(someParts, (parts) => {
        const map = mapOfParts(parts);
        const again = ExtentMap.fromHandle(structuredClone(map.handle()));
        expect([...again.extents()]).toEqual([...map.extents()]);
        expect({ size: again.size, count: again.count }).toEqual({ size: map.size, count: map.count });
      }),
      { numRuns: 200 },
    );
  });

  it('is the same memory in a worker thread and back: nothing is copied', async () => {
    for (const parts of fc.sample(someParts, { numRuns: 5, seed: 5 })) {
      const map = mapOfParts(parts);
      const before = [...map.extents()];
      const back = await inWorker(map);
      expect([...map.places]).toEqual(before.map((extent) => extent.place + 1));
      expect([...back.extents()]).toEqual([...map.extents()]);
      back.places.fill(0);
      expect(map.places.every((place) => place === 0)).toBe(true);
    }
  });

  it('holds shared arrays only', () => {
    fc.assert(
      fc.property(someParts, (parts) => {
        for (const array of Object.values(mapOfParts(parts).handle())) {
          if (array !== null) expect(array.buffer).toBeInstanceOf(SharedArrayBuffer);
        }
      }),
      { numRuns: 50 },
    );
  });
});
