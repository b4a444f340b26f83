import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, linkSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compareSites } from '../../src/sync/compare-sites.ts';
import { serve } from '../../src/sync/serve.ts';
import { statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { describeWith, root, temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, sameFiles, token } from './disks.ts';
import { sshdNeeds, withSshd } from './sshd.ts';

const folder = temporary();
const command = join(root, 'dist', 'cli', 'main.js');
const remoteCommand = `${process.execPath} ${command} serve --stdio`;
const workers = 1;
const bytes = noise(3 * MiB, 1);
const pair = () => ({
  production: fileOf(folder, bytes),
  replica: fileOf(folder, changed(bytes, [1, 20, 40])),
});

describe('ssh', () => {
  const ssh = join(folder, 'ssh');
  writeFileSync(ssh, '#!/bin/sh\necho "$@" > "$0.args"\nfor last; do :; done\nexec sh -c "$last"\n');
  chmodSync(ssh, 0o755);

  it('carries a session in either direction', async () => {
    const push = pair();
    const to = `ssh://me@host:2222${push.replica}`;
    const result = await sync({ production: push.production, replica: to, ssh, remoteCommand, workers });
    expect(result.dataBytes).toBe(3 * 64 * KiB);
    expect(sameFiles(push.production, push.replica)).toBe(true);
    expect(execFileSync('cat', [`${ssh}.args`], { encoding: 'utf8' })).toContain('-p 2222 -l me host ');
    const pull = pair();
    await sync({
      production: `ssh://host${pull.production}`,
      replica: pull.replica,
      ssh,
      remoteCommand,
      workers,
    });
    expect(sameFiles(pull.production, pull.replica)).toBe(true);
  });

  it('that leads back to production itself, by any name, is refused', async () => {
    const { production } = pair();
    const before = readFileSync(production);
    symlinkSync(production, `${production}.link`);
    linkSync(production, `${production}.hard`);
    for (const name of [production, `${production}.link`, `${production}.hard`]) {
      const there = `ssh://host${name}`;
      const push = sync({ production, replica: there, ssh, remoteCommand, workers });
      await expect(push).rejects.toThrow('production and replica are the same disk');
      const pull = sync({ production: there, replica: production, ssh, remoteCommand, workers });
      await expect(pull).rejects.toThrow('production and replica are the same disk');
    }
    expect(readFileSync(production).equals(before)).toBe(true);
    expect(existsSync(statePath(production))).toBe(false);
  });

  it('that fails says why', async () => {
    const { production, replica } = pair();
    const to = `ssh://host${replica}`;
    const away = sync({ production, replica: to, ssh, remoteCommand: 'exit 127', workers });
    await expect(away).rejects.toThrow('driftmap is not in the PATH there');
    const noise = sync({
      production,
      replica: to,
      ssh,
      remoteCommand: 'echo Welcome to this host; sleep 1',
      workers,
    });
    await expect(noise).rejects.toThrow(/expected|frame/);
    await expect(sync({ production, replica: to, ssh: '/nowhere/ssh', workers })).rejects.toThrow(
      'no such file',
    );
  });

  it('with a forced command reaches what is granted, and nothing else', async () => {
    const { production, replica } = pair();
    const forced = `${remoteCommand} --grant vm=${replica}`;
    const refused = sync({
      production,
      replica: `ssh://host${replica}`,
      ssh,
      remoteCommand: forced,
      workers,
    });
    await expect(refused).rejects.toThrow('no disk is granted');
    await sync({ production, replica: 'ssh://host/~/vm', ssh, remoteCommand: forced, workers });
    expect(sameFiles(production, replica)).toBe(true);
  });
});

describeWith(sshdNeeds, 'a real sshd', () => {
  it('on loopback carries a session', async () => {
    await withSshd(folder, async ({ ssh, address }) => {
      const { production, replica } = pair();
      const to = `${address}${replica}`;
      const result = await sync({ production, replica: to, ssh, remoteCommand, workers });
      expect(result.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
    });
  });
});

async function waitFor(met: () => boolean): Promise<void> {
  for (let i = 0; i < 100 && !met(); i++) await new Promise((resolve) => setTimeout(resolve, 20));
}

describeWith(['openssl'], 'TLS', () => {
  const certificates = (name: string) => {
    const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' });
    const subject = ['-subj', `/CN=${name}`, '-days', '2', '-nodes', '-newkey', 'rsa:2048'];
    openssl('req', '-x509', ...subject, '-keyout', `${name}.key`, '-out', `${name}.pem`);
    for (const who of ['server', 'client']) {
      const mine = `${name}-${who}`;
      const names = ['-subj', `/CN=${who}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'];
      openssl(
        'req',
        '-nodes',
        '-newkey',
        'rsa:2048',
        ...names,
        '-keyout',
        `${mine}.key`,
        '-out',
        `${mine}.csr`,
      );
      const signed = [
        '-CA',
        `${name}.pem`,
        '-CAkey',
        `${name}.key`,
        '-CAcreateserial',
        '-copy_extensions',
        'copy',
      ];
      openssl('x509', '-req', '-in', `${mine}.csr`, ...signed, '-days', '2', '-out', `${mine}.pem`);
    }
    const file = (who: string) => ({
      cert: join(folder, `${name}-${who}.pem`),
      key: join(folder, `${name}-${who}.key`),
      ca: join(folder, `${name}.pem`),
    });
    return { server: file('server'), client: file('client') };
  };

  it('of both sides carries a session; a stranger gets nowhere', async () => {
    const ours = certificates('ours');
    const strangers = certificates('strangers');
    const { production, replica } = pair();
    const errors: string[] = [];
    const server = await serve({
      ...{ host: '127.0.0.1', port: 0, tls: ours.server, workers },
      onError: (error) => errors.push(String(error)),
      grant: (name) => (name === 'vm' ? { disk: replica } : undefined),
    });
    try {
      const to = `driftmaps://127.0.0.1:${server.port}/vm`;
      const tls = ours.client;
      const result = await sync({ production, replica: to, tls, workers });
      expect(result.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
      // Without a certificate, with one that a stranger signed, to a server that a stranger would have to trust.
      // Each is told in one line of ours, at both ends, without the source files of OpenSSL.
      const refused = async (files: object, words: RegExp) => {
        const error = await sync({ production, replica: to, tls: files }).then(
          () => null,
          (cause: Error) => cause,
        );
        expect(error?.message).toMatch(words);
        expect(error?.message).not.toMatch(/\n|openssl|SSL routines/);
      };
      await refused({ ca: tls.ca }, /asks? for a certificate.*--tls-cert and --tls-key/);
      await refused({ ...strangers.client, ca: tls.ca }, /hung up.*it may not trust our certificate/);
      await refused(strangers.client, /not trusted: the file of --tls-ca does not have who signed it/);
      await refused({}, /not trusted: give --tls-ca/);
      await waitFor(() => errors.length === 4);
      for (const error of errors) expect(error).not.toMatch(/\n|openssl|SSL routines|hang up|undefined/);
      expect(errors[0]).toContain('showed no certificate');
      expect(errors[1]).toContain('is not trusted: the file of --tls-ca');
      expect(errors[2]).toContain('in the middle of the handshake');
      expect(server.metrics.text()).toContain('driftmap_sessions_ended_total 1\n');
    } finally {
      await server.close(0);
    }
  });

  it('of the server alone is completed by a token, which is bound to the channel', async () => {
    const { server: tls, client } = certificates('tokens');
    const { production, replica } = pair();
    const secret = token();
    const { cert, key } = tls;
    const server = await serve({
      ...{ host: '127.0.0.1', port: 0, tls: { cert, key }, token: secret, workers },
      grant: () => ({ disk: replica }),
    });
    try {
      const to = `driftmaps://localhost:${server.port}/vm`;
      const options = { production, replica: to, tls: { ca: client.ca }, workers };
      await expect(sync({ ...options, token: token() })).rejects.toThrow('the token is not the right one');
      await expect(sync(options)).rejects.toThrow('--token-file');
      await sync({ ...options, token: secret });
      expect(sameFiles(production, replica)).toBe(true);
    } finally {
      await server.close(0);
    }
  });
});

describe('a server', () => {
  it('that anybody could use is not started', async () => {
    const grant = () => undefined;
    const open = { host: '127.0.0.1', port: 0, tls: null, grant };
    await expect(serve(open)).rejects.toThrow('nobody would have to prove who he is');
    await expect(serve({ ...open, host: '0.0.0.0', token: token() })).rejects.toThrow('expected TLS');
    await expect(serve({ ...open, tls: {}, token: token() })).rejects.toThrow('TLS needs a certificate');
  });

  it('is not reached in plain text on another machine', async () => {
    const { production } = pair();
    const far = compareSites({ production, replica: 'driftmap://192.0.2.1/vm', token: token() });
    await expect(far).rejects.toThrow('expected TLS to another machine');
  });

  it('serves several sessions at one time, counts them, and ends them cleanly', async () => {
    const pairs = [pair(), pair(), pair()];
    const secret = token();
    const server = await serve({
      ...{ host: '127.0.0.1', port: 0, tls: null, token: secret, workers },
      grant: (name) => ({ disk: pairs[Number(name)]!.replica }),
    });
    const all = pairs.map(({ production }, i) =>
      sync({ production, replica: `driftmap://127.0.0.1:${server.port}/${i}`, token: secret, workers }),
    );
    await Promise.all(all);
    for (const { production, replica } of pairs) expect(sameFiles(production, replica)).toBe(true);
    await server.close();
    const text = server.metrics.text();
    expect(text).toContain('driftmap_sessions_ended_total 3\n');
    expect(text).toContain('driftmap_sessions 0\n');
    expect(text).toMatch(/^driftmap_data_bytes_total 589824$/m);
    await expect(
      sync({
        production: pairs[0]!.production,
        replica: `driftmap://127.0.0.1:${server.port}/0`,
        token: secret,
      }),
    ).rejects.toThrow('nobody listens there');
  });
});
