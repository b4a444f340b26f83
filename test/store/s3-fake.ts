/**
 * An S3 that misbehaves on order: objects in memory behind HTTP, and a script that says what happens to the next
 * requests. It checks no signatures; what a store really does is Ceph's part to show.
 */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What happens to a request instead of an answer. */
export type Mishap =
  | {
      readonly kind: 'answer';
      readonly status: number;
      readonly body?: string;
      readonly headers?: Record<string, string>;
    }
  | { readonly kind: 'reset' }
  /** Done, and then the connection breaks: the answer is lost. */
  | { readonly kind: 'reset after' }
  | { readonly kind: 'hang' }
  /** Half of the body, and then the connection ends, or nothing more comes. */
  | { readonly kind: 'half'; readonly ending: 'close' | 'hang' }
  /** One byte in … milliseconds. */
  | { readonly kind: 'trickle'; readonly milliseconds: number };

export function s3Answer(status: number, code: string, more = ''): Mishap {
  const body = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code>${more}</Error>`;
  return { kind: 'answer', status, body, headers: { 'content-type': 'application/xml' } };
}

export class S3Fake {
  readonly objects = new Map<string, Buffer>();
  private readonly times = new Map<string, string>();
  /** Of all requests: `PUT /bucket/key`. */
  readonly seen: string[] = [];
  readonly headers: IncomingMessage['headers'][] = [];
  /** For the next requests, one each; null: as it should be. */
  readonly script: (Mishap | null)[] = [];
  /** For all requests once the script is over. */
  always: Mishap | null = null;
  /** Answers lists in pages of so many. */
  page = 1000;
  /** Requests that are being answered, and the most there were. */
  under = 0;
  most = 0;
  private readonly server = createServer((request, response) => {
    this.most = Math.max(this.most, ++this.under);
    let over = false;
    const end = () => {
      if (!over) this.under--;
      over = true;
    };
    response.on('finish', end).on('close', end);
    void this.take(request, response);
  });

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    const { port } = this.server.address() as AddressInfo;
    return `s3://fake/p?endpoint=http://127.0.0.1:${port}&region=here&path-style`;
  }

  stop(): void {
    this.server.close();
    this.server.closeAllConnections();
  }

  private async take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Buffer[] = [];
    try {
      for await (const piece of request) pieces.push(piece as Buffer);
    } catch {
      return;
    }
    const url = new URL(request.url!, 'http://fake');
    this.seen.push(`${request.method} ${url.pathname}`);
    this.headers.push(request.headers);
    const mishap = this.script.length > 0 ? this.script.shift()! : this.always;
    if (mishap?.kind === 'reset') return void request.socket.destroy();
    if (mishap?.kind === 'hang') return;
    if (mishap?.kind === 'answer') {
      response.writeHead(mishap.status, mishap.headers).end(mishap.body);
      return;
    }
    const { status, body, headers } = this.answer(request, url, Buffer.concat(pieces));
    if (mishap?.kind === 'reset after') return void request.socket.destroy();
    response.writeHead(status, { ...headers, 'content-length': body.length });
    if (request.method === 'HEAD') return void response.end();
    if (mishap?.kind === 'half') {
      response.write(body.subarray(0, body.length / 2), () => {
        if (mishap.ending === 'close') request.socket.destroySoon();
      });
    } else if (mishap?.kind === 'trickle') {
      let at = 0;
      const timer = setInterval(() => {
        const piece = body.subarray(at, ++at);
        if (at < body.length) response.write(piece);
        else {
          clearInterval(timer);
          response.end(piece);
        }
      }, mishap.milliseconds);
      response.on('close', () => clearInterval(timer));
    } else response.end(body);
  }

  private answer(request: IncomingMessage, url: URL, body: Buffer) {
    const ok = (text: string | Buffer) => ({
      status: 200,
      body: Buffer.from(text as string),
      headers: { 'content-type': 'application/xml' },
    });
    const key = decodeURIComponent(url.pathname.replace(/^\/fake\/?/, ''));
    if (request.method === 'PUT') {
      this.objects.set(key, body);
      this.times.set(key, new Date().toISOString());
      return ok('');
    }
    if (request.method === 'POST') return ok(this.removed(body.toString()));
    if (key === '') return ok(this.listing(url.searchParams));
    const object = this.objects.get(key);
    if (object !== undefined) return ok(object);
    const text = '<Error><Code>NoSuchKey</Code></Error>';
    return { status: 404, body: Buffer.from(text), headers: { 'content-type': 'application/xml' } };
  }

  private removed(text: string): string {
    for (const [, key] of text.matchAll(/<Key>([^<]*)<\/Key>/g)) this.objects.delete(key!);
    return '<DeleteResult></DeleteResult>';
  }

  private listing(query: URLSearchParams): string {
    const prefix = query.get('prefix') ?? '';
    const after = query.get('continuation-token') ?? '';
    const keys = [...this.objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort();
    const page = keys.slice(0, this.page);
    const more = keys.length > page.length;
    const contents = page.map(
      (key) =>
        `<Contents><Key>${key}</Key><Size>${this.objects.get(key)!.length}</Size><LastModified>${this.times.get(key) ?? '2026-01-02T03:04:05.000Z'}</LastModified></Contents>`,
    );
    const next = more ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : '';
    return `<?xml version="1.0"?><ListBucketResult><Name>fake</Name><IsTruncated>${more}</IsTruncated>${next}${contents.join('')}</ListBucketResult>`;
  }
}
