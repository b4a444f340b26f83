/** Certificates and pre-shared keys for tests: an authority, a server called `localhost`, a client. */

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

function openssl(folder: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync('openssl', args, { cwd: folder, encoding: 'utf8' });
  if (status !== 0) throw new Error(`openssl ${args.join(' ')}: ${stderr}`);
}

/** A folder as QEMU and libnbd want it. */
export function makeCertificates(folder: string, name = 'pki'): string {
  const made = join(folder, name);
  mkdirSync(made);
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const authority = [
    '-x509',
    '-days',
    '2',
    '-subj',
    `/CN=${name}`,
    '-keyout',
    'ca-key.pem',
    '-out',
    'ca-cert.pem',
  ];
  openssl(made, ['req', ...key, ...authority, '-addext', 'keyUsage=critical,keyCertSign']);
  for (const [who, usage] of [
    ['server', 'serverAuth'],
    ['client', 'clientAuth'],
  ] as const) {
    const request = ['-subj', '/CN=localhost', '-keyout', `${who}-key.pem`, '-out', `${who}.csr`];
    openssl(made, ['req', ...key, ...request]);
    const extensions = `subjectAltName=DNS:localhost\nextendedKeyUsage=${usage}\nkeyUsage=critical,digitalSignature\n`;
    writeFileSync(join(made, 'extensions'), extensions);
    const sign = ['-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem', '-CAcreateserial', '-days', '2'];
    const files = ['-in', `${who}.csr`, '-out', `${who}-cert.pem`, '-extfile', 'extensions'];
    openssl(made, ['x509', '-req', ...sign, ...files]);
  }
  return made;
}

/** The same folder without the client's certificate. */
export function anonymous(folder: string): string {
  const without = `${folder}-anonymous`;
  mkdirSync(without);
  cpSync(join(folder, 'ca-cert.pem'), join(without, 'ca-cert.pem'));
  return without;
}

export function makePskFile(folder: string, users: readonly string[], name = 'keys.psk'): string {
  const path = join(folder, name);
  writeFileSync(path, users.map((user) => `${user}:${randomBytes(32).toString('hex')}\n`).join(''), {
    mode: 0o600,
  });
  return path;
}
