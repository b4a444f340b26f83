import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isNbdUrl, nbdUrl, parseNbdUrl } from '../../src/lu/nbd/url.ts';

/** doc/uri.md of NetworkBlockDevice/nbd, "NBD URI export name". */
describe('export names', () => {
  it.each([
    ['nbd://example.com/disk', 'disk'],
    ['nbd+unix:///disk?socket=sock', 'disk'],
    ['nbd://example.com/', ''],
    ['nbd://example.com', ''],
    ['nbd://example.com//disk', '/disk'],
    ['nbd://example.com/hello%20world', 'hello world'],
    ['nbd://example.com/a+b', 'a+b'],
    ['nbd://example.com/%C3%BC', 'ü'],
  ])('%s', (url, name) => {
    expect(parseNbdUrl(url).exportName).toBe(name);
  });
});

describe('places', () => {
  it('are a host and a port, 10809 by default, or a socket', () => {
    expect(parseNbdUrl('nbd://example.com/x')).toMatchObject({
      host: 'example.com',
      port: 10809,
      socket: null,
      tls: null,
    });
    expect(parseNbdUrl('nbd://[::1]:1234')).toMatchObject({
      host: '::1',
      port: 1234,
      name: 'nbd://[::1]:1234/',
    });
    expect(parseNbdUrl('nbd+unix:///?socket=/run/a+b%20c')).toMatchObject({ socket: '/run/a+b c', host: '' });
    expect(parseNbdUrl('nbd+unix://?socket=/s').exportName).toBe('');
  });

  it('have one name however they are written, without the parameters of TLS', () => {
    expect(parseNbdUrl('nbd://EXAMPLE.com:10809/x').name).toBe(parseNbdUrl('nbd://example.com/x').name);
    const { name } = parseNbdUrl('nbds://bob@h/x?tls-psk-file=/secret');
    expect(name).toBe('nbds://h/x');
  });
});

describe('TLS', () => {
  it('comes with nbds, and says whom to be, whom to trust, and how', () => {
    expect(parseNbdUrl('nbds://bob%40home@h/x?tls-psk-file=/k').tls).toEqual({
      user: 'bob@home',
      certificates: null,
      pskFile: '/k',
      hostname: 'h',
      verifyPeer: true,
    });
    expect(
      parseNbdUrl('nbds+unix:///x?socket=/s&tls-certificates=/pki&tls-hostname=n&tls-verify-peer=0').tls,
    ).toEqual({
      user: null,
      certificates: '/pki',
      pskFile: null,
      hostname: 'n',
      verifyPeer: false,
    });
  });
});

describe('what is no address', () => {
  it.each([
    ['/a/path', /expected nbd:/],
    ['nbd://', /host/],
    ['nbd:///x', /host/],
    ['nbd://h:0/x', /port/],
    ['nbd://h:70000/x', /port/],
    ['nbd://h:x/', /expected nbd:/],
    ['nbd+unix:///x', /socket=PATH/],
    ['nbd://h/x?socket=/s', /nbd\+unix/],
    ['nbd://h/x?colour=red', /unknown parameter 'colour'/],
    ['nbd://h/%zz', /percent/],
    ['nbds://%ff@h/', /percent/],
    ['nbds://h/x?tls-verify-peer=maybe', /0 or 1/],
    ['nbds://h/x?tls-psk-file=/k&tls-certificates=/p', /both/],
  ])('%s', (url, message) => {
    expect(() => parseNbdUrl(url)).toThrow(message);
  });

  it('is told from one by its scheme', () => {
    expect(['nbd://h', 'nbds://h', 'nbd+unix:///?socket=s', 'nbds+unix:///'].every(isNbdUrl)).toBe(true);
    expect(['nbd', 'nbd:/h', './nbd://h', 'http://h', 'disk.raw'].some(isNbdUrl)).toBe(false);
  });
});

it('any export and any socket can be named, and are found again', () => {
  const text = fc.string({ unit: 'grapheme', maxLength: 40 }).filter((name) => !name.includes('\0'));
  fc.assert(
    fc.property(text, text, fc.boolean(), (name, path, secure) => {
      const read = parseNbdUrl(nbdUrl({ socket: `/${path}x` }, name, secure));
      expect(read.exportName).toBe(name);
      expect(read.tls !== null).toBe(secure);
      expect(parseNbdUrl(read.name)).toEqual(read);
      const tcp = parseNbdUrl(nbdUrl({ host: 'h', port: 77 }, name, secure));
      expect([tcp.exportName, tcp.port]).toEqual([name, 77]);
    }),
  );
});
