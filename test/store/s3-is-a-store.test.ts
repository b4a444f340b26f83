// Against a real S3: Ceph's RADOS gateway.

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { ObjectStore, OpenStoreOptions } from '../../src/store/object-store.ts';
import { openObjectStore } from '../../src/store/open-object-store.ts';
import { Ceph, cephTools } from '../lab/s3-labs.ts';
import { describeWith, root, temporary } from '../tools.ts';
import { conformance, failure, listed, names, pattern } from './conformance.ts';

const folder = temporary();

describeWith([...cephTools, 'radosgw-admin'], 'S3, by Ceph', () => {
  let ceph: Ceph;
  const opened: ObjectStore[] = [];

  beforeAll(async () => {
    ceph = await Ceph.start();
    await ceph.makeBucket('lab');
  });
  afterAll(async () => {
    for (const store of opened) await store.close();
    await ceph?.stop();
  });

  async function open(address: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
    const store = await openObjectStore(address, { credentials: ceph.credentials, ...options });
    opened.push(store);
    return store;
  }

  conformance('a bucket', () => open(ceph.address('lab')), { runs: 3, many: 1040 });
  conformance('a prefix of a bucket', () => open(ceph.address('lab/deep/er/')), { runs: 1, many: 20 });

  it('keeps to its prefix: stores beside each other in a bucket do not see each other', async () => {
    const [a, b] = [await open(ceph.address('lab/pre/a')), await open(ceph.address('lab/pre/ab'))];
    await a.put('x', pattern(1, 1));
    await b.put('x', pattern(2, 2));
    await b.put('y', pattern(3, 3));
    expect(names(await listed(a, ''))).toEqual(['x']);
    expect(names(await listed(b, ''))).toEqual(['x', 'y']);
    await a.remove(['x', 'y']);
    expect(names(await listed(b, ''))).toEqual(['x', 'y']);
    expect([a.name, b.name]).toEqual(['s3://lab/pre/a', 's3://lab/pre/ab']);
  });

  describe('finds credentials, region and endpoint where the clients of S3 do', () => {
    const bare = 's3://lab/chain?path-style';

    it('in the environment', async () => {
      const { accessKeyId, secretAccessKey } = ceph.credentials;
      vi.stubEnv('AWS_ACCESS_KEY_ID', accessKeyId);
      vi.stubEnv('AWS_SECRET_ACCESS_KEY', secretAccessKey);
      vi.stubEnv('AWS_ENDPOINT_URL', ceph.endpoint);
      vi.stubEnv('AWS_CONFIG_FILE', join(folder, 'none'));
      await proves(await openObjectStore(bare));
      vi.unstubAllEnvs();
    });

    it('in a profile', async () => {
      const { accessKeyId, secretAccessKey } = ceph.credentials;
      writeFileSync(
        join(folder, 'credentials'),
        `[lab]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`,
      );
      writeFileSync(
        join(folder, 'config'),
        `[profile lab]\nregion = default\nendpoint_url = ${ceph.endpoint}\n`,
      );
      vi.stubEnv('AWS_PROFILE', 'lab');
      vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', join(folder, 'credentials'));
      vi.stubEnv('AWS_CONFIG_FILE', join(folder, 'config'));
      await proves(await openObjectStore(bare));
      vi.unstubAllEnvs();
    });

    it('nowhere, and says what to set', async () => {
      vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
      vi.stubEnv('AWS_CONFIG_FILE', join(folder, 'none'));
      vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', join(folder, 'none'));
      const error = await failure(openObjectStore(ceph.address('lab')), 'permission');
      expect(error.message).toBe(
        's3://lab: open failed: no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile by AWS_PROFILE',
      );
      vi.unstubAllEnvs();
    });

    async function proves(store: ObjectStore): Promise<void> {
      await store.put('proof', pattern(10, 1));
      expect(await store.get('proof')).toEqual(pattern(10, 1));
      await store.close();
    }
  });

  describe('says in one line what is wrong', () => {
    it('a wrong secret key', async () => {
      const secretAccessKey = 'WRONG-SECRET-VALUE';
      const credentials = { ...ceph.credentials, secretAccessKey };
      const error = await failure(open(ceph.address('lab'), { credentials }), 'permission');
      expect(error.message).toBe(
        's3://lab: open failed: the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY, or the profile',
      );
      expect(inspect(error, { depth: 9 })).not.toContain(secretAccessKey);
    });

    it('an access key that nobody knows, and nothing of the credentials', async () => {
      const credentials = {
        accessKeyId: 'NOBODYSKEY',
        secretAccessKey: 'hidden-secret',
        sessionToken: 'tok-en',
      };
      const error = await failure(open(ceph.address('lab'), { credentials }), 'permission');
      expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch(/NOBODYSKEY|hidden-secret|tok-en/);
    });

    it('a bucket that is not there, and how to make it', async () => {
      const error = await failure(open(ceph.address('none-such/x')), 'not-found');
      expect(error.message).toBe(
        `s3://none-such/x: open failed: no such bucket 'none-such': make it with 'aws --endpoint-url ${ceph.endpoint} s3 mb s3://none-such'`,
      );
    });

    it('a bucket of somebody else', async () => {
      ceph.admin(
        'user',
        'create',
        '--uid=other',
        '--display-name=other',
        '--access-key=OTHERKEY',
        '--secret-key=o',
      );
      const credentials = { accessKeyId: 'OTHERKEY', secretAccessKey: 'o' };
      const error = await failure(open(ceph.address('lab'), { credentials }), 'permission');
      expect(error.message).toContain("these credentials may not open in the bucket 'lab'");
    });

    it('a quota that is full; what was there stays', async () => {
      await ceph.makeBucket('small');
      const store = await open(ceph.address('small'));
      await store.put('first', pattern(50_000, 1));
      ceph.admin('quota', 'set', '--quota-scope=bucket', '--bucket=small', '--max-size=100000');
      ceph.admin('quota', 'enable', '--quota-scope=bucket', '--bucket=small');
      const error = await failure(store.put('second', pattern(150_000, 2)), 'io');
      expect(error.message).toBe(
        's3://small/second: put failed: the store is full: make room, or raise its quota',
      );
      expect(names(await listed(store, ''))).toEqual(['first']);
      expect(await store.get('first')).toEqual(pattern(50_000, 1));
    });

    it('a clock that is an hour off is corrected by what the store says', () => {
      // The process that asks has the wrong clock, so it is another one.
      const script = `
        const { openObjectStore } = await import(${JSON.stringify(new URL('../../dist/store/open-object-store.js', import.meta.url).href)});
        const real = Date.now;
        Date.now = () => real() + 3600000;
        const RealDate = Date;
        globalThis.Date = class extends RealDate { constructor(...a) { if (a.length) super(...a); else super(RealDate.now()); } };
        globalThis.Date.now = () => real() + 3600000;
        const store = await openObjectStore(process.argv[1], { credentials: JSON.parse(process.argv[2]) });
        await store.put('clock/x', new Uint8Array([1, 2]));
        console.log((await store.get('clock/x')).join());
        await store.close();`;
      const command = ['--input-type=module', '-e', script];
      const given = [ceph.address('lab'), JSON.stringify(ceph.credentials)];
      const { stdout, stderr } = spawnSync(process.execPath, [...command, ...given], {
        encoding: 'utf8',
        cwd: root,
      });
      // Nothing on the error stream: also no word of the SDK about versions of Node.
      expect([stdout, stderr]).toEqual(['1,2\n', '']);
    });
  });

  it('refuses bytes that were damaged on their way, and the put is made again', async () => {
    let flips = 2;
    const proxy = await flipping(ceph.endpoint, () => flips-- > 0);
    const store = await open(`s3://lab/flip?endpoint=${proxy.endpoint}&path-style`);
    const bytes = new Uint8Array(200_000).fill(7);
    await store.put('x', bytes);
    expect(flips).toBeLessThan(1);
    expect(Buffer.compare(await store.get('x'), bytes)).toBe(0);
    flips = Number.POSITIVE_INFINITY;
    const impatient = await open(`s3://lab/flip?endpoint=${proxy.endpoint}&path-style`, { patience: 0.5 });
    const error = await failure(impatient.put('y', bytes), 'io');
    expect(error.message).toMatch(
      /^s3:\/\/lab\/flip\/y: put failed: bytes were damaged on their way to the store \(tried \d+ times in \d\.\d s\)$/,
    );
    expect(await store.has('y')).toBe(false);
    proxy.server.close();
  });

  describe('a store that stops', () => {
    it('is an error after the time for it, for every verb, and serves again when it goes on', async () => {
      const store = await open(ceph.address('lab/stop'), { silence: 0.5, patience: 1 });
      await store.put('a', pattern(9, 1));
      ceph.signal('rgw', 'SIGSTOP');
      try {
        const started = performance.now();
        const tried = [
          failure(store.put('b', pattern(2_000_000, 2)), 'io'),
          failure(store.get('a'), 'io'),
          failure(store.has('a'), 'io'),
          failure(listed(store, ''), 'io'),
          failure(store.remove(['a']), 'io'),
        ];
        for (const error of await Promise.all(tried)) {
          expect(error.message).toMatch(
            / failed: no answer at http:\/\/127\.0\.0\.1:\d+ \(tried (once|\d+ times)/,
          );
        }
        // A bound of the store's own making: patience, and the silence of the last attempt.
        expect(performance.now() - started).toBeLessThan(10_000);
        await failure(
          openObjectStore(ceph.address('lab'), { credentials: ceph.credentials, silence: 0.3, patience: 0 }),
          'io',
        );
        const stop = new AbortController();
        setTimeout(() => stop.abort(), 100);
        await failure(store.get('a', { signal: stop.signal }), 'aborted');
      } finally {
        ceph.signal('rgw', 'SIGCONT');
      }
      await store.put('c', pattern(9, 3));
      expect(await store.get('c')).toEqual(pattern(9, 3));
    });

    it('is waited for: puts go on over a stop and a restart of the gateway', async () => {
      const store = await open(ceph.address('lab/wait'), { silence: 0.5, patience: 30 });
      const putting = Promise.all(
        Array.from({ length: 30 }, (_, i) => store.put(`k/${i}`, pattern(300_000, i))),
      );
      ceph.signal('rgw', 'SIGKILL');
      await ceph.restart('rgw');
      await putting;
      ceph.signal('rgw', 'SIGSTOP');
      setTimeout(() => ceph.signal('rgw', 'SIGCONT'), 1200);
      const all = await Promise.all(Array.from({ length: 30 }, (_, i) => store.get(`k/${i}`)));
      for (const [i, bytes] of all.entries()) expect(Buffer.compare(bytes, pattern(300_000, i))).toBe(0);
    });

    it('is told when nobody listens', async () => {
      const store = await open(ceph.address('lab/gone'), { patience: 0.3 });
      ceph.signal('rgw', 'SIGKILL');
      const error = await failure(store.put('x', pattern(1, 1)), 'io');
      expect(error.message).toMatch(/put failed: (nobody listens|the connection broke) at http:\/\/127/);
      await ceph.restart('rgw');
      await store.put('x', pattern(1, 1));
    });
  });
});

/** A proxy that changes one byte in the middle of a body of sevens where it is told to. */
async function flipping(endpoint: string, hit: () => boolean): Promise<{ server: Server; endpoint: string }> {
  const { hostname, port } = new URL(endpoint);
  const sevens = Buffer.alloc(1000, 7);
  const server = createServer((near) => {
    const far = connect(Number(port), hostname);
    let done = true;
    near.on('data', (piece) => {
      if (piece.includes('PUT ')) done = false;
      const at = piece.indexOf(sevens);
      if (!done && at >= 0) {
        done = true;
        if (hit()) piece[at + 500] = 9;
      }
      far.write(piece);
    });
    far.pipe(near);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port: own } = server.address() as { port: number };
  return { server, endpoint: `http://127.0.0.1:${own}` };
}
