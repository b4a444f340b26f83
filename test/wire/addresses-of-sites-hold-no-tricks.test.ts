import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { isLoopback, parseSite } from '../../src/wire/site.ts';

describe('addresses of sites', () => {
  it('are read', () => {
    expect(parseSite('ssh://host/srv/vm.raw')).toEqual({
      ...{ kind: 'ssh', host: 'host', user: null, port: null, disk: '/srv/vm.raw' },
    });
    expect(parseSite('ssh://me@host:2222/~/vm.raw')).toMatchObject({
      user: 'me',
      port: 2222,
      disk: 'vm.raw',
    });
    expect(parseSite('driftmaps://h.example:7000/vm')).toMatchObject({
      kind: 'tcp',
      tls: true,
      port: 7000,
      disk: 'vm',
    });
    expect(parseSite('driftmap://[::1]/a/b')).toMatchObject({
      tls: false,
      host: '[::1]',
      port: 7117,
      disk: 'a/b',
    });
  });

  it('without a scheme are disks here, whatever they look like', () => {
    for (const path of ['vm.raw', '/dev/sda', 'a,b:gpt2/lvm:vg/vm', 'ssh:/x', 'http://x/y'])
      expect(parseSite(path)).toEqual({ kind: 'local', disk: path });
  });

  it('that would make options of a host or a user are refused', () => {
    for (const bad of [
      'ssh://-oProxyCommand=x/y',
      'ssh://-l@host/y',
      'ssh://a b/y',
      'ssh://host:99999/y',
      'ssh://host',
      'ssh://host/',
      'ssh:///x',
      'ssh://ho$(x)st/y',
      'driftmaps://me@host/vm',
      'driftmap://host/a\0b',
      `driftmap://host/${'x'.repeat(5000)}`,
    ])
      expect(() => parseSite(bad), bad).toThrow(DriftmapError);
  });

  it('are read or refused, and a host never begins with a dash', () => {
    const text = fc.tuple(
      fc.constantFrom('ssh://', 'driftmap://', 'driftmaps://'),
      fc.string({ maxLength: 40 }),
    );
    fc.assert(
      fc.property(text, ([scheme, rest]) => {
        try {
          const site = parseSite(scheme + rest);
          if (site.kind !== 'local') expect(site.host).toMatch(/^[A-Za-z0-9_[]/);
        } catch (error) {
          expect(error).toBeInstanceOf(DriftmapError);
        }
      }),
    );
  });

  it('tell loopback from what others can reach', () => {
    expect(['127.0.0.1', 'localhost', '[::1]', '127.3.2.1'].every(isLoopback)).toBe(true);
    expect(['0.0.0.0', '::', '10.0.0.1', 'localhost.example', '127.0.0.1.example'].some(isLoopback)).toBe(
      false,
    );
  });
});
