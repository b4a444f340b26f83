/** A server on loopback for tests, with a token. */

import { afterAll } from 'vitest';
import { type DriftmapServer, serve } from '../../src/sync/serve.ts';
import type { Grant, ServeOptions } from '../../src/sync/server.ts';
import { token } from './disks.ts';

export interface TestServer {
  readonly server: DriftmapServer;
  readonly token: Uint8Array;
  readonly errors: string[];
  /** The address of a granted disk. */
  address(name: string): string;
  grant(name: string, grant: Grant): string;
}

export async function testServer(options: Partial<ServeOptions> = {}): Promise<TestServer> {
  const grants = new Map<string, Grant>();
  const secret = token();
  const errors: string[] = [];
  const server = await serve({
    ...{ host: '127.0.0.1', port: 0, tls: null, token: secret, workers: 1, ...options },
    grant: (name) => grants.get(name),
    onError: (error) => errors.push(String(error)),
  });
  afterAll(() => server.close(0));
  const address = (name: string) => `driftmap://127.0.0.1:${server.port}/${name}`;
  return {
    ...{ server, token: secret, errors, address },
    grant(name, grant) {
      grants.set(name, grant);
      return address(name);
    },
  };
}
