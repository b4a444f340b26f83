import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { QMP_MAX_LINE_BYTES } from '../../src/base/limits.ts';
import { QmpClient } from '../../src/lu/qemu/qmp.ts';
import { temporary } from '../tools.ts';

const folder = temporary();
const GREETING = '{"QMP": {"version": {}, "capabilities": []}}\r\n';
const servers: Server[] = [];
afterAll(() => servers.map((server) => server.close()));

type Command = { readonly execute: string; readonly arguments: Record<string, unknown> };

/** Somebody who answers as a monitor does, or does not. */
async function monitor(
  greeting: string,
  answer: (command: Command, socket: Socket) => string | null,
): Promise<string> {
  const path = join(folder, `${servers.length}.qmp`);
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.write(greeting);
    let text = '';
    socket.on('data', (more) => {
      text += more;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const said = answer(JSON.parse(text.slice(0, end)) as Command, socket);
        text = text.slice(end + 1);
        if (said !== null) socket.write(said);
      }
    });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return path;
}

const yes = '{"return": {}}\r\n';

describe('a monitor', () => {
  it('is asked one thing at a time, and what it says unasked is passed over', async () => {
    const asked: string[] = [];
    const path = await monitor(GREETING, ({ execute, arguments: args }) => {
      asked.push(execute);
      const event = '{"event": "STOP", "timestamp": {}}\r\n';
      return execute === 'echo' ? `${event}\n{"return": ${JSON.stringify(args)}}\r\n${event}` : yes;
    });
    const qmp = await QmpClient.connect(path);
    const answers = await Promise.all([1, 2, 3].map((n) => qmp.execute('echo', { n, text: 'ä\n' })));
    expect(answers).toEqual([1, 2, 3].map((n) => ({ n, text: 'ä\n' })));
    expect(asked).toEqual(['qmp_capabilities', 'echo', 'echo', 'echo']);
    qmp.close();
    await expect(qmp.execute('echo')).rejects.toThrow(/the monitor is closed/);
  });

  it('says in its own words what it refuses, and goes on', async () => {
    const path = await monitor(GREETING, ({ execute }) =>
      execute === 'bad' ? '{"error": {"class": "GenericError", "desc": "No such node"}}\n' : yes,
    );
    const qmp = await QmpClient.connect(path);
    await expect(qmp.execute('bad')).rejects.toMatchObject({
      kind: 'unsupported',
      message: `${path}: QEMU refused 'bad': No such node`,
    });
    expect(await qmp.execute('good')).toEqual({});
    qmp.close();
  });

  it('that is none, ends, or never ends a line, is refused', async () => {
    const refused = async (greeting: string, words: RegExp, answer: () => string | null = () => null) =>
      expect(QmpClient.connect(await monitor(greeting, answer))).rejects.toThrow(words);
    await refused('SSH-2.0-OpenSSH_9.2\r\n', /expected JSON of a QEMU monitor/);
    await refused('{"hello": 1}\n', /expected a QEMU monitor \(QMP\)/);
    await refused(GREETING, /expected JSON/, () => 'nonsense\n');
    await refused('x'.repeat(QMP_MAX_LINE_BYTES + 1), /expected lines of at most/);
    const ends = await monitor(GREETING, (_, socket) => {
      socket.destroy();
      return null;
    });
    await expect(QmpClient.connect(ends)).rejects.toThrow(/QEMU closed its monitor|ECONNRESET|EPIPE/);
    await expect(QmpClient.connect(join(folder, 'none'))).rejects.toMatchObject({ kind: 'not-found' });
  });
});
