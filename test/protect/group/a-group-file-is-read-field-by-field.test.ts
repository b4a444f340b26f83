import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { DriftmapError } from '../../../src/base/errors.ts';
import {
  looksLikeGroupFile,
  parseGroupFile,
  productionOf,
  readGroupFile,
  replicaOf,
} from '../../../src/protect/group/group-file.ts';
import { temporary, thrown } from '../../tools.ts';

const whole = {
  group: 'web',
  production: {
    state: 'state',
    disks: {
      system: { disk: '/srv/vm/system.raw', socket: 'run/system.sock' },
      data: { disk: '/dev/vg/data', listen: 'localhost:10810' },
    },
    replica: 'driftmaps://replica.example/web',
    tls: { cert: 'cert.pem', key: 'key.pem', ca: '/etc/ca.pem' },
    token: 'token',
    configuration: '/etc/libvirt/qemu/web.xml',
  },
  replica: {
    journal: '/srv/journal/web',
    disks: { system: '/srv/replica/system.raw', data: 'data.raw' },
    keep: { age: '3d', bytes: '50G', window: '1h30m', bookmarks: 'drop' },
    snapshots: {
      store: '../backup',
      every: '15m',
      keep: { hourly: 24, daily: 7 },
      key: 'web.key',
      limit: '50M',
    },
  },
};

const parse = (value: unknown) => parseGroupFile(JSON.stringify(value), '/etc/driftmap/web.json');
/** What it says of a copy of `whole` that was changed. */
const refusal = (change: (group: typeof whole & Record<string, never>) => unknown): string => {
  const copy = structuredClone(whole) as typeof whole & Record<string, never>;
  change(copy);
  return (thrown(() => parse(copy)) as DriftmapError | null)?.message ?? 'nothing';
};

describe('a group file', () => {
  it('is read whole, relative paths from its own folder', () => {
    const file = parse(whole);
    expect(file).toMatchObject({ path: '/etc/driftmap/web.json', group: 'web' });
    expect(productionOf(file)).toEqual({
      state: '/etc/driftmap/state',
      disks: [
        { name: 'system', disk: '/srv/vm/system.raw', listen: { socket: '/etc/driftmap/run/system.sock' } },
        { name: 'data', disk: '/dev/vg/data', listen: { host: 'localhost', port: 10810 } },
      ],
      replica: {
        address: 'driftmaps://replica.example/web',
        site: { kind: 'tcp', tls: true, host: 'replica.example', port: 7117, disk: 'web' },
        tls: {
          cert: '/etc/driftmap/cert.pem',
          key: '/etc/driftmap/key.pem',
          ca: '/etc/ca.pem',
          servername: undefined,
        },
        token: '/etc/driftmap/token',
      },
      configuration: '/etc/libvirt/qemu/web.xml',
    });
    expect(replicaOf(file)).toEqual({
      journal: '/srv/journal/web',
      disks: [
        { name: 'system', path: '/srv/replica/system.raw' },
        { name: 'data', path: '/etc/driftmap/data.raw' },
      ],
      keep: { age: 3 * 86_400_000, bytes: 50 * 1024 ** 3, window: 5_400_000, bookmarks: 'drop' },
      snapshots: {
        store: '/etc/backup',
        every: 900_000,
        keep: { hourly: 24, daily: 7 },
        key: '/etc/driftmap/web.key',
        limit: 50 * 1024 ** 2,
      },
    });
  });

  it('needs no more than what its side needs', () => {
    const replica = { journal: 'j', disks: { a: 'a.raw' } };
    const there = parse({ group: 'g', replica });
    expect(replicaOf(there)).toEqual({
      journal: '/etc/driftmap/j',
      disks: [{ name: 'a', path: '/etc/driftmap/a.raw' }],
      keep: {},
      snapshots: null,
    });
    expect(thrown(() => productionOf(there))).toMatchObject({ kind: 'argument' });
    const production = { state: 's', disks: { a: { disk: 'p.raw', listen: '[::1]:0' } } };
    const here = parse({ group: 'g', production });
    expect(productionOf(here)).toMatchObject({
      replica: null,
      disks: [{ listen: { host: '::1', port: 0 } }],
    });
    expect(thrown(() => replicaOf(here))).toMatchObject({ kind: 'argument' });
    const s3 = parse({ group: 'g', replica: { ...replica, snapshots: { store: 's3://bucket/web' } } });
    expect(replicaOf(s3).snapshots).toMatchObject({ store: 's3://bucket/web', every: null, keep: null });
    const ssh = parse({ group: 'g', production: { ...production, replica: 'ssh://root@r/~/web.json' } });
    expect(productionOf(ssh).replica?.site).toMatchObject({ kind: 'ssh', user: 'root', disk: 'web.json' });
  });

  it.each<[string, (group: typeof whole & Record<string, never>) => unknown]>([
    ['grupp: no such field; there are: group, production, replica', (g) => Object.assign(g, { grupp: 1 })],
    ['replica.keep.years: no such field', (g) => Object.assign(g.replica.keep, { years: 1 })],
    [
      'production.disks.data.socket: expected either',
      (g) => Object.assign(g.production.disks.data, { socket: 's' }),
    ],
    [
      'production.disks.data.socket: expected either',
      (g) => Object.assign(g.production.disks, { data: { disk: 'x' } }),
    ],
    [
      'production.disks.data.listen: expected HOST:PORT',
      (g) => Object.assign(g.production.disks.data, { listen: 'localhost:99999' }),
    ],
    [
      'production.disks.data: expected an object, got "x"',
      (g) => Object.assign(g.production.disks, { data: 'x' }),
    ],
    [
      'replica.disks.data: expected the path',
      (g) => Object.assign(g.replica.disks, { data: 'nbd://localhost/x' }),
    ],
    [
      'replica.disks.data: expected a text, got an object',
      (g) => Object.assign(g.replica.disks, { data: {} }),
    ],
    [
      "replica.disks: expected a disk 'more'",
      (g) => Object.assign(g.production.disks, { more: { disk: 'm', socket: 's' } }),
    ],
    ["production.disks: expected a disk 'more'", (g) => Object.assign(g.replica.disks, { more: 'm' })],
    [
      'replica.disks: expected each disk at a place of its own',
      (g) => Object.assign(g.replica.disks, { data: '/srv/replica/system.raw' }),
    ],
    ['replica.keep.age: expected a duration', (g) => Object.assign(g.replica.keep, { age: '3 days' })],
    [
      'replica.keep.age: expected a duration such as "15m", got 3',
      (g) => Object.assign(g.replica.keep, { age: 3 }),
    ],
    ['replica.keep.bytes: expected a size', (g) => Object.assign(g.replica.keep, { bytes: 'much' })],
    ['replica.keep.bytes: expected a size', (g) => Object.assign(g.replica.keep, { bytes: -1 })],
    [
      'replica.keep.bookmarks: expected "keep" or "drop"',
      (g) => Object.assign(g.replica.keep, { bookmarks: 'no' }),
    ],
    [
      'replica.snapshots.every: expected a duration of a second',
      (g) => Object.assign(g.replica.snapshots, { every: '1ms' }),
    ],
    [
      'replica.snapshots.keep.daily: expected a whole',
      (g) => Object.assign(g.replica.snapshots.keep, { daily: 1.5 }),
    ],
    [
      'replica.snapshots.keep.last: expected at least one',
      (g) => Object.assign(g.replica.snapshots, { keep: {} }),
    ],
    [
      'replica.snapshots.limit: expected bytes a second',
      (g) => Object.assign(g.replica.snapshots, { limit: 0 }),
    ],
    ['production.replica: expected ssh://', (g) => Object.assign(g.production, { replica: '/srv/web.json' })],
    ['production.replica: ', (g) => Object.assign(g.production, { replica: 'ssh://-oProxy/x' })],
    ['production.tls: expected none with ssh', (g) => Object.assign(g.production, { replica: 'ssh://h/x' })],
    ['production.tls: expected a', (g) => Reflect.deleteProperty(g.production, 'replica')],
    [
      'replica.journal: expected a value, and there is none',
      (g) => Reflect.deleteProperty(g.replica, 'journal'),
    ],
    ['group: expected a name', (g) => Object.assign(g, { group: 'x'.repeat(256) })],
    ['group: expected a text, got a list', (g) => Object.assign(g, { group: [] })],
  ])('is refused: %s', (reason, change) => {
    expect(refusal(change)).toContain(`/etc/driftmap/web.json: ${reason}`);
  });

  it('may not name one disk for both sites of one host', () => {
    const disks = { a: { disk: 'a.raw', socket: 's' } };
    const replica = { journal: 'j', disks: { a: 'a.raw' } };
    const here = { group: 'g', production: { state: 's', disks }, replica };
    expect(thrown(() => parse(here))).toMatchObject({ kind: 'argument' });
    const apart = { ...here, production: { ...here.production, replica: 'ssh://other/g.json' } };
    expect(thrown(() => parse(apart))).toBeNull();
  });

  it.each(['', '[]', 'null', '"x"', '{', '{"group": "g"}', '{"group":"g","production":null}'])(
    'is refused: %s',
    (text) => {
      expect(thrown(() => parseGroupFile(text, '/g.json'))).toMatchObject({
        kind: 'argument',
        path: '/g.json',
      });
    },
  );

  it('may have names that objects have of themselves', () => {
    const text = '{"group":"g","replica":{"journal":"j","disks":{"__proto__":"a","constructor":"b"}}}';
    expect(replicaOf(parseGroupFile(text, '/g.json')).disks).toEqual([
      { name: '__proto__', path: '/a' },
      { name: 'constructor', path: '/b' },
    ]);
    expect(thrown(() => parseGroupFile('{"group":"g","__proto__":{"replica":1}}', '/g.json'))).toMatchObject({
      kind: 'argument',
    });
  });

  it('is told from a disk by its beginning', () => {
    const folder = temporary();
    const file = join(folder, 'web.json');
    writeFileSync(
      file,
      JSON.stringify({ group: 'g', replica: { journal: 'j', disks: { a: 'a' } } }, null, 2),
    );
    expect(looksLikeGroupFile(file)).toBe(true);
    expect(readGroupFile(file)).toMatchObject({ path: file, group: 'g' });
    writeFileSync(join(folder, 'disk.raw'), new Uint8Array(4096));
    expect(looksLikeGroupFile(join(folder, 'disk.raw'))).toBe(false);
    expect(looksLikeGroupFile(join(folder, 'none'))).toBe(false);
    mkdirSync(join(folder, 'folder'));
    expect(thrown(() => readGroupFile(join(folder, 'folder')))).toMatchObject({ kind: 'argument' });
    writeFileSync(join(folder, 'large'), new Uint8Array(1024 * 1024 + 1));
    expect(thrown(() => readGroupFile(join(folder, 'large')))).toMatchObject({ kind: 'limit' });
  });
});
