import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { inspect, promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ErrorKind } from '../../src/base/errors.ts';
import type { ObjectStore, OpenStoreOptions } from '../../src/store/object-store.ts';
import { openObjectStore } from '../../src/store/open-object-store.ts';
import { waitAfter } from '../../src/store/retry.ts';
import { describeWith, temporary } from '../tools.ts';
import { conformance, failure, listed, names, pattern } from './conformance.ts';
import { wrapStore } from './filters.ts';
import { type Mishap, S3Fake, s3Answer } from './s3-fake.ts';

const credentials = { accessKeyId: 'KEYID', secretAccessKey: 'the-secret', sessionToken: 'the-token' };
let fake: S3Fake;
let address: string;
const opened: ObjectStore[] = [];

beforeEach(async () => {
  fake = new S3Fake();
  address = await fake.start();
});
afterEach(async () => {
  for (const store of opened.splice(0)) await store.close();
  fake.stop();
});

async function open(options: OpenStoreOptions = {}): Promise<ObjectStore> {
  const store = await openObjectStore(address, { credentials, silence: 0.4, patience: 20, ...options });
  opened.push(store);
  fake.seen.length = 0;
  return store;
}

describe('the fake itself', () => {
  const own = new S3Fake();
  own.page = 50;
  const openOwn = async () => {
    const store = await openObjectStore(await own.start(), { credentials });
    const close = async () => {
      own.stop();
      return await store.close();
    };
    return { ...wrapStore(store, {}), close };
  };
  conformance('a fake without mishaps', openOwn, { runs: 3, many: 260 });
});

const passing: readonly (readonly [string, Mishap])[] = [
  ['500', s3Answer(500, 'InternalError')],
  ['502 of a proxy', { kind: 'answer', status: 502, body: '<html><body>Bad gateway</body></html>' }],
  ['503, slow down', s3Answer(503, 'SlowDown')],
  ['503 without a word', { kind: 'answer', status: 503 }],
  ['504', { kind: 'answer', status: 504, body: 'no' }],
  ['429', { kind: 'answer', status: 429 }],
  ['408', { kind: 'answer', status: 408 }],
  ['400, the request timed out', s3Answer(400, 'RequestTimeout')],
  ['409, aborted', s3Answer(409, 'OperationAborted')],
  ['a reset', { kind: 'reset' }],
  ['a reset after it was done', { kind: 'reset after' }],
  ['a hang', { kind: 'hang' }],
  ['half an answer', { kind: 'half', ending: 'close' }],
  ['half an answer and a hang', { kind: 'half', ending: 'hang' }],
];

async function everyVerb(mishap: Mishap): Promise<void> {
  const own = new S3Fake();
  const options = { credentials, silence: 0.4, patience: 20 };
  const store = await openObjectStore(await own.start(), options);
  own.objects.set('p/there', Buffer.from(pattern(100_000, 1)));
  const again = async <T>(act: () => Promise<T>): Promise<T> => {
    own.script.push(mishap);
    const before = own.seen.length;
    const answer = await act();
    expect(own.seen.length - before).toBe(2);
    return answer;
  };
  try {
    // Half of nothing is whole: that answer has no body.
    if (mishap.kind !== 'half') await again(() => store.put('new', pattern(70_000, 2)));
    else await store.put('new', pattern(70_000, 2));
    expect(own.objects.get('p/new')?.equals(pattern(70_000, 2))).toBe(true);
    expect(Buffer.compare(await again(() => store.get('there')), pattern(100_000, 1))).toBe(0);
    expect(names(await again(() => listed(store, '')))).toEqual(['new', 'there']);
    // An answer to HEAD is its status alone: it cannot be half, and 400 means anything.
    const tells = mishap.kind !== 'half' && !(mishap.kind === 'answer' && mishap.status === 400);
    if (tells) expect(await again(() => store.has('there'))).toBe(true);
    await again(() => store.remove(['there', 'new']));
    expect(own.objects.size).toBe(0);
  } finally {
    await store.close();
    own.stop();
  }
}

describe('what passes is tried again', () => {
  describe.concurrent('by every verb', () => {
    for (const [name, mishap] of passing) it(name, () => everyVerb(mishap));
  });

  it('for the time that was given and no longer, and then says how often', async () => {
    const store = await open({ patience: 1 });
    fake.always = s3Answer(503, 'SlowDown');
    const error = await failure(store.put('x', pattern(1, 1)), 'io');
    expect(error.message).toMatch(
      /^s3:\/\/fake\/p\/x: put failed: the store says: slower \[SlowDown\] at http:\/\/127\.0\.0\.1:\d+ \(tried [345] times in \d\.\d s\)$/,
    );
    const impatient = await openObjectStore(address, { credentials, patience: 0 }).catch((e: unknown) => e);
    expect(impatient).toMatchObject({ kind: 'io', message: expect.stringMatching(/\(tried once\)$/) });
  });

  it('after waits that double, up to a bound, at random', () => {
    for (let attempts = 1; attempts < 60; attempts++) {
      const longest = Math.min(0.1 * 2 ** (attempts - 1), 8);
      const waits = Array.from({ length: 50 }, () => waitAfter(attempts));
      expect(Math.min(...waits)).toBeGreaterThanOrEqual(longest / 2);
      expect(Math.max(...waits)).toBeLessThanOrEqual(longest);
      expect(new Set(waits).size).toBeGreaterThan(40);
    }
  });

  it('within a listing: the page that failed is asked for again, not the listing', async () => {
    for (let i = 0; i < 25; i++) fake.objects.set(`p/${i}`, Buffer.alloc(i));
    fake.page = 10;
    const store = await open();
    fake.script.push(null, s3Answer(500, 'InternalError'), null, { kind: 'half', ending: 'close' });
    expect(await listed(store, '')).toHaveLength(25);
    expect(fake.seen).toHaveLength(5);
  });

  it('for the keys of a removal that are left', async () => {
    const store = await open();
    for (const key of ['a', 'b', 'c']) fake.objects.set(`p/${key}`, Buffer.alloc(1));
    const part =
      '<DeleteResult><Error><Key>p/b</Key><Code>InternalError</Code></Error><Error><Key>p/z</Key><Code>NoSuchKey</Code></Error></DeleteResult>';
    fake.script.push({ kind: 'answer', status: 200, body: part });
    await store.remove(['a', 'b', 'c', 'z']);
    expect(fake.seen).toHaveLength(2);
    expect([...fake.objects.keys()]).toEqual(['p/a', 'p/c']);
    const refused = part.replace('InternalError', 'AccessDenied');
    fake.script.push({ kind: 'answer', status: 200, body: refused });
    await failure(store.remove(['a', 'b']), 'permission');
  });

  it('until the caller stops it, also while it waits', async () => {
    const store = await open();
    for (const always of [s3Answer(500, 'InternalError'), { kind: 'hang' } as const]) {
      fake.always = always;
      const stop = new AbortController();
      setTimeout(() => stop.abort(), 150);
      const started = performance.now();
      await failure(store.get('x', { signal: stop.signal }), 'aborted');
      expect(performance.now() - started).toBeLessThan(5000);
    }
  });
});

const told: readonly (readonly [string, Mishap, ErrorKind, RegExp])[] = [
  [
    'denied',
    s3Answer(403, 'AccessDenied'),
    'permission',
    /these credentials may not put in the bucket 'fake'$/,
  ],
  ['expired', s3Answer(400, 'ExpiredToken'), 'permission', /the session of these credentials is over/],
  ['full', { kind: 'answer', status: 507 }, 'io', /the store is full: make room/],
  ['full by quota', s3Answer(403, 'QuotaExceeded'), 'io', /the store is full/],
  ['too large', s3Answer(400, 'EntityTooLarge'), 'limit', /larger than the store takes/],
  ['501', s3Answer(501, 'NotImplemented'), 'unsupported', /cannot do this/],
  [
    'another region',
    s3Answer(301, 'PermanentRedirect'),
    'argument',
    /the bucket 'fake' is in another region: add region= to the address$/,
  ],
  [
    'a region by name',
    s3Answer(400, 'AuthorizationHeaderMalformed', '<Region>eu-north-1</Region>'),
    'argument',
    /the bucket 'fake' is in eu-north-1: add region=eu-north-1 to the address$/,
  ],
  [
    'a region by header',
    { kind: 'answer', status: 301, headers: { 'x-amz-bucket-region': 'ap-east-1' } },
    'argument',
    /is in ap-east-1: add region=ap-east-1/,
  ],
  [
    'a word that nobody knows',
    s3Answer(418, 'Teapot', '<Message>short\nand stout</Message>'),
    'io',
    /the store answers 418 Teapot: short and stout$/,
  ],
];

describe('what does not pass is told at once, in a line', () => {
  for (const [name, mishap, kind, words] of told) {
    it(name, async () => {
      const store = await open();
      fake.script.push(mishap);
      const error = await failure(store.put('x', pattern(1, 1)), kind);
      expect(error.message).toMatch(words);
      expect(error.message).toMatch(/^s3:\/\/fake\/p\/x: put failed: [^\n]*$/);
      expect(fake.seen).toHaveLength(1);
    });
  }

  it('a clock that stays wrong, after one more attempt', async () => {
    const store = await open();
    fake.always = s3Answer(403, 'RequestTimeTooSkewed');
    const error = await failure(store.put('x', pattern(1, 1)), 'io');
    expect(error.message).toContain('clocks of this machine and of the store are too far apart');
    expect(fake.seen).toHaveLength(2);
  });

  it('an answer that is no S3', async () => {
    for (const body of ['<html><body>Welcome</body></html>', '{"hello": 1}', '', '<a><b></a>']) {
      fake.always = { kind: 'answer', status: 200, body };
      const error = await failure(open({ patience: 0 }), 'argument');
      expect(error.message).toContain('is no S3: check the address');
    }
  });

  it('a listing that never ends', async () => {
    const store = await open();
    const page =
      '<ListBucketResult><Name>fake</Name><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>';
    fake.always = { kind: 'answer', status: 200, body: page };
    const error = await failure(listed(store, ''), 'io');
    expect(error.message).toContain('the store never comes to the end');
    fake.always = { kind: 'answer', status: 200, body: page.replace(/<Next.*Token>/, '') };
    await failure(listed(store, ''), 'io');
  });

  it('an object that is larger than any of ours', async () => {
    const store = await open();
    fake.script.push({ kind: 'answer', status: 200, headers: { 'content-length': '99999999999' } });
    const error = await failure(store.get('x'), 'limit');
    expect(error.message).toContain('expected an object of at most 268435456 bytes, got 99999999999');
  });

  it('hosts that are not there, and ports where nobody listens', async () => {
    const nowhere = 's3://fake/p?endpoint=http://store.invalid&region=here';
    const error = await failure(openObjectStore(nowhere, { credentials, patience: 0 }), 'not-found');
    expect(error.message).toContain('add path-style to the address');
    fake.stop();
    const refused = await failure(openObjectStore(address, { credentials, patience: 0.2 }), 'io');
    expect(refused.message).toMatch(/open failed: nobody listens at http:\/\/127\.0\.0\.1:\d+ \(tried \d/);
  });
});

describeWith(['openssl'], 'TLS', () => {
  const folder = temporary();

  it('tells of a certificate that nobody vouches for, and takes it when its authority is named', async () => {
    const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    const files = ['-keyout', key, '-out', certificate];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', ...files, ...subject], {
      stdio: 'ignore',
    });
    const list = '<ListBucketResult><Name>fake</Name><IsTruncated>false</IsTruncated></ListBucketResult>';
    const hashes: unknown[] = [];
    const server = createServer(
      { key: readFileSync(key), cert: readFileSync(certificate) },
      (request, response) => {
        hashes.push(request.headers['x-amz-content-sha256']);
        request.resume().on('end', () => response.end(list));
      },
    );
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const secure = `s3://fake/p?endpoint=https://localhost:${port}&region=here&path-style`;
    const error = await failure(openObjectStore(secure, { credentials, patience: 0 }), 'permission');
    expect(error.message).toContain(`the certificate of https://localhost:${port} is not one to trust`);
    const dist = new URL('../../dist/store/open-object-store.js', import.meta.url).href;
    const script = `
      const { openObjectStore } = await import(${JSON.stringify(dist)});
      const store = await openObjectStore(process.argv[1], { credentials: JSON.parse(process.argv[2]) });
      await store.put('x', new Uint8Array(1000));
      console.log(store.name);
      await store.close();`;
    const args = ['--input-type=module', '-e', script, secure, JSON.stringify(credentials)];
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: certificate };
    const { stdout } = await promisify(execFile)(process.execPath, args, { env });
    expect(stdout).toBe('s3://fake/p\n');
    // Under TLS too the bytes are part of what is signed.
    expect(hashes.at(-1)).toBe(createHash('sha256').update(new Uint8Array(1000)).digest('hex'));
    server.close();
  });

  it('tells of an endpoint that has none', async () => {
    const secure = address.replace('http://', 'https://');
    const error = await failure(openObjectStore(secure, { credentials, patience: 0 }), 'argument');
    expect(error.message).toMatch(
      /https:\/\/127\.0\.0\.1:\d+ speaks no TLS that we know: is it http:\/\/\?$/,
    );
  });
});

it('shows no credential, whatever the store says of them', async () => {
  const store = await open();
  const said = '<Message>KEYID and the-secret with the-token</Message><AWSAccessKeyId>KEYID</AWSAccessKeyId>';
  for (const [kind, mishap] of [
    ['permission', s3Answer(403, 'AccessDenied', said)],
    ['permission', s3Answer(403, 'SignatureDoesNotMatch', `${said}<StringToSign>KEYID</StringToSign>`)],
    ['io', s3Answer(418, 'the-secret', said)],
    ['io', s3Answer(400, 'Odd', said)],
  ] as const) {
    fake.script.push(mishap);
    const error = await failure(store.put('x', pattern(1, 1)), kind);
    const shown = `${inspect(error, { depth: 20, showHidden: true })}${error.stack}${JSON.stringify(error.toPlain())}`;
    expect(shown).not.toMatch(/KEYID|the-secret|the-token/);
  }
  expect(inspect(store.name)).not.toMatch(/KEYID|the-secret|the-token/);
});

it('asks for nothing that some stores have not: no conditions, no trailers, no continuation', async () => {
  const store = await open();
  await store.put('a', pattern(3_000_000, 1));
  await store.get('a');
  await store.remove(['a']);
  for (const headers of fake.headers) {
    const unusual = Object.keys(headers).filter((name) =>
      /^if-|^expect$|trailer|^x-amz-sdk-checksum/.test(name),
    );
    // The SDK's own checksum of a removal is required of it, and goes beside the digest that all stores know.
    expect(unusual.filter((name) => name !== 'x-amz-sdk-checksum-algorithm')).toEqual([]);
    expect(headers['transfer-encoding']).toBeUndefined();
  }
  const removal = fake.headers.at(-1)!;
  expect(removal['content-md5']).toMatch(/^[A-Za-z0-9+/]{22}==$/);
  // The bytes of a put are part of what is signed.
  expect(fake.headers.at(-3)!['x-amz-content-sha256']).toMatch(/^[0-9a-f]{64}$/);
});

it('has as many requests under way as was said, and the others wait without growing old', async () => {
  const store = await open({ connections: 3, silence: 0.6, patience: 0 });
  fake.most = 0;
  fake.script.push(...Array.from({ length: 40 }, () => ({ kind: 'trickle', milliseconds: 25 }) as const));
  for (let i = 0; i < 40; i++) fake.objects.set(`p/${i}`, Buffer.alloc(4, i));
  const all = await Promise.all(Array.from({ length: 40 }, (_, i) => store.get(`${i}`)));
  expect(all.map((bytes) => bytes[0])).toEqual(Array.from({ length: 40 }, (_, i) => i));
  expect(fake.most).toBe(3);
});

describe('an address', () => {
  const wrong: readonly (readonly [string, RegExp])[] = [
    ['', /got nothing/],
    ['s3://', /name of a bucket/],
    ['s3:///x', /name of a bucket/],
    ['s3:bucket', /expected s3:\/\/BUCKET/],
    ['s3://b', /name of a bucket/],
    ['s3://buc ket/x', /name of a bucket/],
    ['s3://bucket/../x', /expected a prefix/],
    ['s3://bucket/a//b', /expected a prefix/],
    ['s3://bucket/x#y', /expected s3:\/\/BUCKET/],
    ['s3://bucket?endpoint=localhost:9000', /expected endpoint=https/],
    ['s3://bucket?endpoint=ftp://x', /expected endpoint=https/],
    ['s3://bucket?region=a b', /expected region=NAME/],
    ['s3://bucket?path-style=perhaps', /expected path-style/],
    ['s3://bucket?region=a&region=b', /expected 'region' once/],
    ['gs://bucket/x', /got gs:\/\//],
    ['file://host/x', /expected file:\/\/\/PATH/],
  ];
  for (const [text, words] of wrong) {
    it(`${text || 'of nothing'} is refused`, async () => {
      expect((await failure(openObjectStore(text), 'argument')).message).toMatch(words);
    });
  }

  it('with a secret in it is refused, and the secret is not repeated', async () => {
    for (const text of [
      's3://AKIAKEY:SECRETVALUE@bucket/x',
      's3://bucket/x?endpoint=https://AKIAKEY:SECRETVALUE@host',
      's3://bucket/x?secret-key=SECRETVALUE',
    ]) {
      const error = await failure(openObjectStore(text), 'argument');
      expect(inspect(error)).not.toMatch(/SECRETVALUE|AKIAKEY/);
    }
  });

  it('of numbers that are none is refused', async () => {
    for (const options of [
      { connections: 0 },
      { connections: 2000 },
      { patience: -1 },
      { silence: Number.NaN },
    ]) {
      await failure(openObjectStore(address, options), 'argument');
    }
  });
});
