import { randomBytes } from 'node:crypto';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../../src/base/units.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { readServerCredentials } from '../../src/lu/nbd/credentials.ts';
import { openNbdUnit } from '../../src/lu/nbd/nbd-unit.ts';
import { Option, Reply } from '../../src/lu/nbd/protocol.ts';
import { unitExport } from '../../src/protect/nbd/unit-export.ts';
import { describeWith, temporary } from '../tools.ts';
import { anonymous, makeCertificates, makePskFile } from './nbd-keys.ts';
import { memoryExport, must, nbdkit, qemuNbd, RawClient, run, serveHere } from './nbd-peers.ts';

const folder = temporary();
const SIZE = 1 * MiB;
const contents = randomBytes(SIZE);

function exported() {
  return unitExport(createArrayImage({ size: SIZE, bytes: contents }));
}

function secure(socket: string, parameters: string, user = ''): string {
  return `nbds+unix://${user}/disk?socket=${socket}&${parameters}`;
}

async function refusal(url: string): Promise<unknown> {
  try {
    const unit = await openNbdUnit(url);
    await unit.close();
    return null;
  } catch (error) {
    return error;
  }
}

async function readsAll(url: string): Promise<void> {
  const unit = await openNbdUnit(url);
  const bytes = new Uint8Array(SIZE);
  await unit.read(0, bytes);
  await unit.close();
  expect(Buffer.compare(bytes, contents)).toBe(0);
}

describeWith(['openssl'], 'certificates', () => {
  const pki = makeCertificates(folder);
  const strangers = makeCertificates(folder, 'strangers');
  const nobody = anonymous(pki);
  const trust = 'tls-hostname=localhost';

  it('lead to the disk, and not where the other side is not who it should be', async () => {
    const tls = readServerCredentials({ certificates: pki, verifyPeer: true });
    const { socket, troubles } = await serveHere(folder, { disk: exported() }, { tls });
    await readsAll(secure(socket, `tls-certificates=${pki}&${trust}`));
    expect(await refusal(secure(socket, `tls-certificates=${strangers}&${trust}`))).toMatchObject({
      kind: 'permission',
    });
    expect(await refusal(secure(socket, `tls-certificates=${pki}&tls-hostname=elsewhere`))).toMatchObject({
      kind: 'permission',
      message: expect.stringMatching(/altnames/),
    });
    // Without a certificate of its own a client learns at its first word that it is not wanted.
    expect(await refusal(secure(socket, `tls-certificates=${nobody}&${trust}`))).toMatchObject({
      name: 'DriftmapError',
    });
    expect(await refusal(`nbd+unix:///disk?socket=${socket}`)).toMatchObject({
      kind: 'permission',
      message: expect.stringMatching(/requires TLS: use nbds/),
    });
    expect(troubles.join('\n')).toMatch(/TLS failed/);
  });

  it('of the server alone suffice where clients need none', async () => {
    const { socket } = await serveHere(
      folder,
      { disk: exported() },
      { tls: readServerCredentials({ certificates: pki }) },
    );
    await readsAll(secure(socket, `tls-certificates=${nobody}&${trust}`));
    await readsAll(secure(socket, 'tls-verify-peer=0'));
    expect(await refusal(secure(socket, trust))).toMatchObject({ kind: 'permission' });
  });

  describeWith(['nbdinfo', 'qemu-img', 'nbdkit', 'qemu-nbd'], 'of other programs', () => {
    it('are taken by nbdinfo and qemu-img', async () => {
      const tls = readServerCredentials({ certificates: pki, verifyPeer: true });
      const { socket } = await serveHere(folder, { disk: exported() }, { tls });
      const info = await must('nbdinfo', [secure(socket, `tls-certificates=${pki}&${trust}`)]);
      expect(info).toMatch(/with TLS/);
      const raw = join(folder, 'tls.raw');
      writeFileSync(raw, contents);
      const qemu = [
        'compare',
        '--object',
        `tls-creds-x509,id=t,endpoint=client,dir=${pki}`,
        '--image-opts',
        `driver=nbd,path=${socket},export=disk,tls-creds=t,tls-hostname=localhost`,
        `driver=file,filename=${raw}`,
      ];
      expect(await must('qemu-img', qemu)).toMatch(/identical/);
      expect((await run('nbdinfo', [secure(socket, `tls-certificates=${nobody}&${trust}`)])).status).not.toBe(
        0,
      );
    });

    it('are presented by nbdkit and qemu-nbd', async () => {
      const raw = join(folder, 'tls2.raw');
      writeFileSync(raw, contents);
      const kit = await nbdkit(folder, [
        '--tls=require',
        `--tls-certificates=${pki}`,
        '--tls-verify-peer',
        'file',
        raw,
      ]);
      await readsAll(secure(kit.socket, `tls-certificates=${pki}&${trust}`));
      const creds = ['--object', `tls-creds-x509,id=t,endpoint=server,dir=${pki},verify-peer=yes`];
      const qemu = await qemuNbd(folder, [...creds, '--tls-creds=t', '-r', '-f', 'raw', '-x', 'disk', raw]);
      await readsAll(secure(qemu.socket, `tls-certificates=${pki}&${trust}`));
      expect(await refusal(secure(qemu.socket, `tls-certificates=${nobody}&${trust}`))).toMatchObject({
        name: 'DriftmapError',
      });
    });
  });
});

describe('pre-shared keys', () => {
  const keys = makePskFile(folder, ['alice', 'bob']);
  const forged = makePskFile(folder, ['alice', 'mallory'], 'forged.psk');

  it('lead to the disk, and no other keys', async () => {
    const { socket, troubles } = await serveHere(
      folder,
      { disk: exported() },
      { tls: readServerCredentials({ pskFile: keys }) },
    );
    await readsAll(secure(socket, `tls-psk-file=${keys}`, 'alice@'));
    await readsAll(secure(socket, `tls-psk-file=${keys}`, 'bob@'));
    expect(await refusal(secure(socket, `tls-psk-file=${forged}`, 'alice@'))).toMatchObject({
      kind: 'permission',
    });
    expect(await refusal(secure(socket, `tls-psk-file=${forged}`, 'mallory@'))).toMatchObject({
      kind: 'permission',
    });
    expect(await refusal(secure(socket, `tls-psk-file=${keys}`, 'carol@'))).toMatchObject({
      kind: 'not-found',
    });
    expect(troubles.length).toBeGreaterThanOrEqual(2);
  });

  describeWith(['nbdinfo', 'nbdkit', 'nbdcopy'], 'of other programs', () => {
    it('are shared with libnbd and nbdkit', async () => {
      const { socket } = await serveHere(
        folder,
        { disk: exported() },
        { tls: readServerCredentials({ pskFile: keys }) },
      );
      expect(await must('nbdinfo', [secure(socket, `tls-psk-file=${keys}`, 'alice@')])).toMatch(/with TLS/);
      const out = join(folder, 'psk.raw');
      await must('nbdcopy', [secure(socket, `tls-psk-file=${keys}`, 'bob@'), out]);
      const kit = await nbdkit(folder, ['--tls=require', `--tls-psk=${keys}`, 'file', out]);
      await readsAll(secure(kit.socket, `tls-psk-file=${keys}`, 'bob@'));
    });
  });

  it('are read strictly', () => {
    const bad = join(folder, 'bad.psk');
    for (const text of ['alice\n', 'alice:xyz\n', 'alice:123\n', '\n', ':12\n']) {
      writeFileSync(bad, text);
      expect(() => readServerCredentials({ pskFile: bad })).toThrow(/expected/);
    }
    truncateSync(bad, 2 * MiB);
    expect(() => readServerCredentials({ pskFile: bad })).toThrow(/at most/);
    expect(() => readServerCredentials({ pskFile: join(folder, 'none') })).toThrow(/no such file/);
    expect(() => readServerCredentials({})).toThrow(/either/);
  });
});

describe('a server with TLS', () => {
  const keys = makePskFile(folder, ['alice'], 'more.psk');
  const start = () =>
    serveHere(folder, { disk: exported() }, { tls: readServerCredentials({ pskFile: keys }) });

  it('names no export, and answers nothing, before TLS', async () => {
    const { socket } = await start();
    const client = new RawClient(socket);
    await client.greet();
    for (const option of [Option.list, Option.structuredReply, Option.go, Option.setMetaContext, 99]) {
      client.option(option);
      expect(await client.reply()).toMatchObject({ option, type: Reply.tlsRequired });
    }
    client.option(Option.exportName, Buffer.from('disk'));
    await client.closed;
    expect(client.stream.inbox.length).toBe(0);
  });

  it('takes nothing for the words of the encrypted client that came before', async () => {
    const { socket, troubles } = await start();
    const client = new RawClient(socket);
    await client.greet();
    const slipped = Buffer.alloc(16);
    slipped.write('IHAVEOPT');
    slipped.writeUInt32BE(Option.list, 8);
    client.option(Option.startTls, slipped, 0);
    await client.closed;
    expect(troubles.join()).toMatch(/slipped in/);
  });

  it('gives up a client that stops in the middle of TLS', async () => {
    const tls = readServerCredentials({ pskFile: keys });
    const { socket, server } = await serveHere(folder, { disk: exported() }, { tls, handshakeSeconds: 0.3 });
    const client = new RawClient(socket);
    await client.greet();
    client.option(Option.startTls);
    expect(await client.reply()).toMatchObject({ type: Reply.ack });
    await client.closed;
    await expect.poll(() => server.connections).toBe(0);
  });
});

describe('a server without TLS', () => {
  it('says so to a client that insists', async () => {
    const { socket } = await serveHere(folder, { disk: memoryExport(SIZE) });
    expect(await refusal(secure(socket, ''))).toMatchObject({
      kind: 'permission',
      message: expect.stringMatching(/refuses TLS/),
    });
  });
});
