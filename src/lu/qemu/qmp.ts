/**
 * QEMU's monitor, as far as it is needed to follow the writes of a running disk: one JSON object a line, one command
 * at a time (QEMU docs/interop/qmp-spec.rst). What QEMU says unasked (events) is passed over.
 */

import { connect, type Socket } from 'node:net';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { QMP_MAX_LINE_BYTES, QMP_SILENCE_SECONDS } from '../../base/limits.ts';

interface Waiting {
  readonly answered: (answer: Record<string, unknown>) => void;
  readonly failed: (reason: unknown) => void;
}

export class QmpClient {
  readonly name: string;
  private readonly socket: Socket;
  /** Of the line that has not ended yet. */
  private readonly pieces: string[] = [];
  private length = 0;
  private waiting: Waiting | null = null;
  private failure: DriftmapError | null = null;
  private last: Promise<unknown> = Promise.resolve();

  private constructor(name: string, socket: Socket) {
    this.name = name;
    this.socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.take(text));
    socket.on('error', (cause) => this.fail(systemError(cause, { path: name, operation: 'QMP' })));
    socket.on('close', () => this.fail(new DriftmapError('io', 'QEMU closed its monitor', { path: name })));
  }

  /**
   * Connects and negotiates.
   * @param place a path of a Unix socket, or HOST:PORT
   * @throws DriftmapError `not-found`, `permission`, `io`, `malformed` for what is no monitor
   */
  static async connect(place: string): Promise<QmpClient> {
    const tcp = /^([^/]*):(\d{1,5})$/.exec(place);
    const socket = tcp ? connect(Number(tcp[2]), tcp[1] || 'localhost') : connect(place);
    const client = new QmpClient(place, socket);
    try {
      // The greeting comes unasked.
      const greeting = await client.ask(null);
      if (typeof greeting.QMP !== 'object')
        throw new DriftmapError('malformed', 'expected a QEMU monitor (QMP), got something else', {
          path: place,
        });
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /**
   * Runs one command; a second one waits for the first.
   * @throws DriftmapError `unsupported` with QEMU's own words, `io`
   */
  execute(command: string, args: object = {}): Promise<unknown> {
    const run = this.last.then(async () => {
      const answer = await this.ask({ execute: command, arguments: args });
      if ('return' in answer) return answer.return;
      const { desc } = (answer.error ?? {}) as { desc?: unknown };
      const reason = `QEMU refused '${command}': ${typeof desc === 'string' ? desc : JSON.stringify(answer)}`;
      throw new DriftmapError('unsupported', reason, { path: this.name, operation: command });
    });
    this.last = run.catch(() => undefined);
    return run;
  }

  close(): void {
    this.failure ??= new DriftmapError('io', 'the monitor is closed', { path: this.name });
    this.socket.destroy();
  }

  private ask(command: object | null): Promise<Record<string, unknown>> {
    if (this.failure) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.fail(
          new DriftmapError('io', `QEMU did not answer for ${QMP_SILENCE_SECONDS} s`, { path: this.name }),
        );
      }, QMP_SILENCE_SECONDS * 1000);
      this.waiting = {
        answered: (answer) => {
          clearTimeout(timer);
          resolve(answer);
        },
        failed: (reason) => {
          clearTimeout(timer);
          reject(reason);
        },
      };
      if (command !== null) this.socket.write(`${JSON.stringify(command)}\n`);
    });
  }

  private take(text: string): void {
    let from = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', from)) {
      const line = [...this.pieces.splice(0), text.slice(from, end)].join('').trim();
      from = end + 1;
      if (line !== '') this.takeLine(line);
    }
    this.pieces.push(text.slice(from));
    this.length = (from > 0 ? 0 : this.length) + text.length - from;
    if (this.length <= QMP_MAX_LINE_BYTES) return;
    this.pieces.length = 0;
    const reason = `expected lines of at most ${QMP_MAX_LINE_BYTES} bytes`;
    this.fail(new DriftmapError('limit', reason, { path: this.name }));
  }

  private takeLine(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch (cause) {
      this.fail(
        new DriftmapError('malformed', 'expected JSON of a QEMU monitor', { path: this.name, cause }),
      );
      return;
    }
    if (typeof message !== 'object' || message === null || 'event' in message) return;
    const { waiting } = this;
    this.waiting = null;
    waiting?.answered(message as Record<string, unknown>);
  }

  private fail(reason: DriftmapError): void {
    this.failure ??= reason;
    this.socket.destroy();
    this.waiting?.failed(this.failure);
    this.waiting = null;
  }
}
