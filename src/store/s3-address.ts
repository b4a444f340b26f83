/**
 * The address of an S3 store:
 *
 *   s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&path-style
 *
 * Everything after the bucket may be left out; then the endpoint and the region come from the environment or the
 * profile, and the requests go to BUCKET.HOST. Credentials are never part of it: an address is shown and logged.
 */

import { DriftmapError } from '../base/errors.ts';
import { STORE_MAX_KEY_BYTES } from '../base/limits.ts';
import { isKey } from './object-keys.ts';

export interface S3Address {
  readonly bucket: string;
  /** What all keys begin with: empty, or with its `/` at the end. */
  readonly prefix: string;
  readonly endpoint: string | undefined;
  readonly region: string | undefined;
  readonly pathStyle: boolean;
  /** `s3://BUCKET/PREFIX` */
  readonly name: string;
}

const form = 's3://BUCKET/PREFIX?endpoint=URL&region=NAME&path-style';

/** @throws DriftmapError `argument`; it shows nothing of an address that may hold a secret */
export function parseS3Address(address: string): S3Address {
  const parts = /^s3:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/i.exec(address);
  if (parts === null) throw wrong(`expected ${form}`);
  const [, bucket = '', folder = '', query = ''] = parts;
  if (bucket.includes('@')) {
    throw wrong(`credentials do not belong into an address: expected ${form}, and them in the environment`);
  }
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$/.test(bucket)) {
    throw wrong(`expected the name of a bucket after s3://, got ${JSON.stringify(bucket.slice(0, 80))}`);
  }
  const prefix = folder.replace(/^\/+|\/+$/g, '');
  // S3 ends a key at 1024 bytes.
  if (prefix !== '' && !(isKey(prefix) && prefix.length < STORE_MAX_KEY_BYTES)) {
    throw wrong(`expected a prefix of letters, digits, -, _, . and / after the bucket '${bucket}'`);
  }
  return {
    bucket,
    prefix: prefix === '' ? '' : `${prefix}/`,
    ...parseQuery(query),
    name: prefix === '' ? `s3://${bucket}` : `s3://${bucket}/${prefix}`,
  };
}

function parseQuery(query: string): Pick<S3Address, 'endpoint' | 'region' | 'pathStyle'> {
  const given = new URLSearchParams(query);
  for (const name of given.keys()) {
    // The value is not shown: somebody may have thought that a key goes here.
    if (!['endpoint', 'region', 'path-style'].includes(name)) {
      throw wrong(`expected endpoint=, region= or path-style after '?', got '${name.slice(0, 40)}='`);
    }
    if (given.getAll(name).length > 1) throw wrong(`expected '${name}' once`);
  }
  const region = given.get('region') ?? undefined;
  if (region !== undefined && !/^[A-Za-z0-9-]{1,60}$/.test(region)) {
    throw wrong(`expected region=NAME, such as eu-central-1`);
  }
  const pathStyle = given.get('path-style') ?? 'false';
  if (!['', 'true', 'false'].includes(pathStyle)) throw wrong(`expected path-style, or path-style=false`);
  const endpoint = given.get('endpoint') ?? undefined;
  return {
    endpoint: endpoint === undefined ? undefined : checkEndpoint(endpoint),
    region,
    pathStyle: pathStyle !== 'false',
  };
}

function checkEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw wrong('expected endpoint=https://HOST, or http:// within a network that you trust');
  }
  if (url.username !== '' || url.password !== '') {
    throw wrong('credentials do not belong into an endpoint: put them into the environment');
  }
  return text.replace(/\/+$/, '');
}

function wrong(reason: string): DriftmapError {
  return new DriftmapError('argument', reason);
}
