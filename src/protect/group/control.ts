/**
 * The control socket of a running process: HTTP with JSON over a Unix socket, so that `curl --unix-socket` works too.
 * Only the user who runs the process may connect. A request is a method, a path and at most one JSON object; the
 * answer is one JSON value, or, where the client accepts `application/x-ndjson`, lines of JSON: what is told on the
 * way as `{"progress":…}`, and `{"result":…}` or `{"error":…}` as the last. When the client leaves, what it asked for
 * is told to stop.
 */

import { chmodSync, closeSync, lstatSync, openSync, unlinkSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { basename, dirname } from 'node:path';
import { DriftmapError, type ErrorKind, type PlainError, systemError } from '../../base/errors.ts';
import {
  CONTROL_MAX_ANSWER_BYTES,
  CONTROL_MAX_BODY_BYTES,
  CONTROL_MAX_CONNECTIONS,
  CONTROL_REQUEST_MS,
} from '../../base/protection-limits.ts';

export interface ControlRequest {
  /** The JSON object of the request; an empty one when there was none. */
  readonly body: unknown;
  /** Aborted when the client has gone, or the server closes. */
  readonly signal: AbortSignal;
  /** Whether the client reads what is told on the way. */
  readonly hears: boolean;
  /** Tells something on the way; plain data. */
  tell(progress: unknown): void;
}

/** Answers plain data, or text by `textAnswer`. Errors are DriftmapErrors. */
export type ControlRoute = (request: ControlRequest) => unknown;

/** By method and path, as in `GET /state`. */
export type ControlRoutes = Readonly<Record<string, ControlRoute>>;

/** An answer that is no JSON: metrics. */
export class TextAnswer {
  readonly type: string;
  readonly text: string;

  constructor(text: string, type = 'text/plain; charset=utf-8') {
    this.text = text;
    this.type = type;
  }
}

export interface ControlServer {
  readonly path: string;
  /** Tells what is under way to stop, waits for it, and removes the socket. */
  close(): Promise<void>;
}

const LINES = 'application/x-ndjson';

const statuses: Partial<Readonly<Record<ErrorKind, number>>> = {
  argument: 400,
  permission: 403,
  'not-found': 404,
  policy: 409,
  mismatch: 409,
  aborted: 409,
  limit: 413,
  unsupported: 501,
};

/**
 * Listens at a path. Whoever calls this holds the lock of what the socket stands for: a socket that is in the way is
 * that of a process which was killed, and is removed.
 */
export async function serveControl(path: string, routes: ControlRoutes): Promise<ControlServer> {
  const server = createServer({
    maxHeaderSize: 16 * 1024,
    headersTimeout: CONTROL_REQUEST_MS,
    requestTimeout: CONTROL_REQUEST_MS,
    connectionsCheckingInterval: 1000,
  });
  server.maxConnections = CONTROL_MAX_CONNECTIONS;
  const work = new Set<Promise<void>>();
  const stop = new AbortController();
  server.on('request', (incoming, response) => {
    const done = answer(routes, incoming, response, stop.signal).finally(() => work.delete(done));
    work.add(done);
  });
  server.on('clientError', (_error, socket) => socket.destroy());
  removeSocket(path);
  await listen(server, path);
  return {
    path,
    async close() {
      stop.abort();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await Promise.all(work);
      server.closeAllConnections();
      await closed;
      removeSocket(path);
    },
  };
}

export function removeSocket(path: string): void {
  try {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSocket()) unlinkSync(path);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'listen' });
  }
}

function listen(server: Server, path: string): Promise<void> {
  return throughFolder(
    path,
    (reachable) =>
      new Promise<void>((resolve, reject) => {
        server.once('error', (cause) => reject(systemError(cause, { path, operation: 'listen' })));
        // Nobody else may connect, not even for a moment: the mode of a socket is that of the process.
        const before = process.umask(0o177);
        try {
          server.listen(reachable, () => {
            chmodSync(path, 0o600);
            server.removeAllListeners('error');
            server.on('error', () => undefined);
            resolve();
          });
        } finally {
          process.umask(before);
        }
      }),
  );
}

/** The system takes 107 bytes as a socket's path (unix(7)); a longer one is reached through its open folder. */
export async function throughFolder<T>(path: string, act: (reachable: string) => Promise<T>): Promise<T> {
  if (Buffer.byteLength(path) <= 107) return act(path);
  let folder: number;
  try {
    folder = openSync(dirname(path), 'r');
  } catch (cause) {
    throw systemError(cause, { path, operation: 'connect' });
  }
  try {
    return await act(`/proc/self/fd/${folder}/${basename(path)}`);
  } finally {
    closeSync(folder);
  }
}

async function answer(
  routes: ControlRoutes,
  incoming: IncomingMessage,
  response: ServerResponse,
  closing: AbortSignal,
): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  response.on('error', () => undefined);
  const asLines = incoming.headers.accept === LINES;
  const tell = (progress: unknown) => {
    if (asLines && !response.destroyed) writeLine(response, { progress });
  };
  try {
    const route = findRoute(routes, incoming);
    const body = await readBody(incoming);
    const signal = AbortSignal.any([gone.signal, closing]);
    const result = await route({ body, signal, hears: asLines, tell });
    if (response.destroyed) return;
    if (asLines) {
      writeLine(response, { result: result instanceof TextAnswer ? result.text : (result ?? null) });
      response.end();
    } else if (result instanceof TextAnswer) {
      response.writeHead(200, { 'content-type': result.type }).end(result.text);
    } else {
      end(response, 200, result ?? null);
    }
  } catch (cause) {
    if (response.destroyed) return;
    const error = systemError(cause, { operation: 'control' });
    if (response.headersSent || asLines) {
      writeLine(response, { error: error.toPlain() }, statuses[error.kind] ?? 500);
      response.end();
    } else {
      end(response, statuses[error.kind] ?? 500, { error: error.toPlain() });
    }
  }
}

function writeLine(response: ServerResponse, line: unknown, status = 200): void {
  if (!response.headersSent) response.writeHead(status, { 'content-type': LINES });
  response.write(`${JSON.stringify(line)}\n`);
}

function end(response: ServerResponse, status: number, value: unknown): void {
  response
    .writeHead(status, { 'content-type': 'application/json' })
    .end(`${JSON.stringify(value, null, 1)}\n`);
}

function findRoute(routes: ControlRoutes, { method, url }: IncomingMessage): ControlRoute {
  const name = `${method} ${url}`;
  if (Object.hasOwn(routes, name)) return routes[name]!;
  const known = Object.keys(routes).join(', ');
  throw new DriftmapError('not-found', `no such request: ${name.slice(0, 200)}; there are: ${known}`);
}

async function readBody(incoming: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > CONTROL_MAX_BODY_BYTES) {
      const reason = `expected a request of at most ${CONTROL_MAX_BODY_BYTES} bytes`;
      throw new DriftmapError('limit', reason);
    }
    chunks.push(chunk);
  }
  if (length === 0) return {};
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (cause) {
    throw new DriftmapError('argument', `expected JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new DriftmapError('argument', 'expected a JSON object');
}

export interface AskOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: unknown) => void) | undefined;
}

/**
 * Asks the process behind a socket.
 * @param name method and path, as `POST /roll`
 * @returns its answer, or null when nobody listens there
 * @throws DriftmapError what the other side throws; `io` when it goes before it has answered; `aborted`
 */
export function askControl(
  path: string,
  name: string,
  body: unknown = {},
  options: AskOptions = {},
): Promise<{ readonly answer: unknown } | null> {
  if (options.signal?.aborted) return Promise.reject(stopped(path, options.signal));
  return throughFolder(path, (reachable) => ask(reachable, path, name, body, options)).catch((error) => {
    if (error instanceof DriftmapError && error.kind === 'not-found' && error.operation === 'connect')
      return null;
    throw error;
  });
}

function ask(
  socketPath: string,
  path: string,
  name: string,
  body: unknown,
  { signal, onProgress }: AskOptions,
): Promise<{ readonly answer: unknown }> {
  const [method, url] = name.split(' ');
  const text = JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const headers = {
      accept: LINES,
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
    };
    const outgoing = request({ socketPath, method, path: url, headers, agent: false });
    const stop = () => outgoing.destroy(stopped(path, signal));
    signal?.addEventListener('abort', stop, { once: true });
    const settle = (act: () => void) => {
      signal?.removeEventListener('abort', stop);
      act();
    };
    const fail = (cause: unknown) => settle(() => reject(systemError(cause, { path, operation: 'connect' })));
    outgoing.once('error', fail);
    outgoing.once('response', (response) => {
      readAnswer(response, path, onProgress)
        .then((answer) => settle(() => resolve({ answer })))
        .catch((cause) => fail(signal?.aborted ? stopped(path, signal) : cause));
    });
    outgoing.end(text);
  });
}

async function readAnswer(
  response: IncomingMessage,
  path: string,
  onProgress: AskOptions['onProgress'],
): Promise<unknown> {
  const fail = (reason: string, kind: ErrorKind = 'io') =>
    new DriftmapError(kind, reason, { path, operation: 'control' });
  /** Of a line that has not ended. */
  let pieces: string[] = [];
  let length = 0;
  let last: { result?: unknown; error?: PlainError } | null = null;
  const take = (line: string) => {
    let value: { progress?: unknown; result?: unknown; error?: PlainError };
    try {
      value = JSON.parse(line);
    } catch {
      throw fail('expected lines of JSON as the answer', 'malformed');
    }
    if ('progress' in value) onProgress?.(value.progress);
    else last = value;
  };
  response.setEncoding('utf8');
  try {
    for await (const chunk of response as AsyncIterable<string>) {
      const lines = chunk.split('\n');
      for (const [i, piece] of lines.entries()) {
        pieces.push(piece);
        length += piece.length;
        if (length > CONTROL_MAX_ANSWER_BYTES)
          throw fail(`expected an answer of at most ${CONTROL_MAX_ANSWER_BYTES} bytes`, 'limit');
        if (i === lines.length - 1) break;
        if (length > 0) take(pieces.join(''));
        pieces = [];
        length = 0;
      }
    }
  } catch (cause) {
    if (cause instanceof DriftmapError) throw cause;
    throw fail('the process went away before it had answered');
  }
  const answer = last as { result?: unknown; error?: PlainError } | null;
  if (answer?.error !== undefined) throw DriftmapError.fromPlain(answer.error);
  if (answer === null || !('result' in answer)) throw fail('the process went away before it had answered');
  return answer.result;
}

function stopped(path: string, signal: AbortSignal | undefined): DriftmapError {
  return new DriftmapError('aborted', 'stopped', { path, operation: 'control', cause: signal?.reason });
}
