// Durable when it returns: what a put promises, asked of a real S3 whose disks are killed.

import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ObjectStore } from '../../src/store/object-store.ts';
import { openObjectStore } from '../../src/store/open-object-store.ts';
import { Ceph, cephTools } from '../lab/s3-labs.ts';
import { describeWith } from '../tools.ts';
import { listed, pattern } from './conformance.ts';

describeWith(cephTools, 'S3 on a disk: every daemon is killed while objects are put', () => {
  let ceph: Ceph;
  let store: ObjectStore;
  beforeAll(async () => {
    ceph = await Ceph.start('bluestore');
    await ceph.makeBucket('kept');
    const { credentials } = ceph;
    store = await openObjectStore(ceph.address('kept/x'), { credentials, silence: 3, patience: 50 });
  });
  afterAll(async () => {
    await store?.close();
    await ceph?.stop();
  });

  it('no put that returned is lost, and the others end well when the store is back', async () => {
    const done: number[] = [];
    const putting = Promise.all(
      Array.from({ length: 40 }, async (_, i) => {
        await store.put(`k/${i % 4}/${i}`, pattern(150_000 + i, i));
        done.push(i);
      }),
    );
    for (let waited = 0; done.length < 8 && waited < 1000; waited++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    ceph.signal('osd', 'SIGKILL');
    ceph.signal('rgw', 'SIGKILL');
    const returned = [...done];
    expect(returned.length).toBeGreaterThan(0);
    await ceph.restart('osd');
    await ceph.restart('rgw');
    for (const i of returned) {
      expect(Buffer.compare(await store.get(`k/${i % 4}/${i}`), pattern(150_000 + i, i))).toBe(0);
    }
    await putting;
    expect(await listed(store, '')).toHaveLength(40);
  });
});
