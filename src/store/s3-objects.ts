/**
 * A bucket of S3, or of what speaks S3, as an object store. Thin: the SDK signs requests and finds credentials; asked
 * again is by us, within a bounded time and over all kinds of failure in one way (`retry.ts`), and errors are ours
 * (`s3-errors.ts`).
 *
 * What is put is verified: the SHA-256 of the bytes is part of the signature, and the store refuses what arrives
 * otherwise ("Authenticating Requests: Using the Authorization Header", `x-amz-content-sha256`). No further checksum
 * is sent: the SDK's own is by a trailer that older stores do not take. Of what is got, the length is verified; what
 * it must contain, only the caller knows.
 *
 * A store that is stopped (a frozen process, a lost route) is noticed by its silence: no byte either way for a while
 * ends a request. Times of a whole request are bounded too, by its length.
 */

import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  type ListObjectsV2CommandOutput,
  PutObjectCommand,
  S3Client,
  type S3ClientConfig,
} from '@aws-sdk/client-s3';
import { DriftmapError } from '../base/errors.ts';
import {
  STORE_CONNECTIONS,
  STORE_OPEN_PATIENCE_SECONDS,
  STORE_PATIENCE_SECONDS,
  STORE_REMOVED_AT_ONCE,
  STORE_SILENCE_SECONDS,
  STORE_SLOWEST_BYTES,
} from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import { Gate } from './gate.ts';
import { checkAborted, checkKey, checkObjectBytes, checkPrefix, isKey } from './object-keys.ts';
import type {
  ObjectStore,
  OpenStoreOptions,
  RemoveOptions,
  StoreCredentials,
  StoredObject,
  StoreOptions,
} from './object-store.ts';
import { retrying } from './retry.ts';
import { parseS3Address, type S3Address } from './s3-address.ts';
import { noS3, type S3Place, s3Fault } from './s3-errors.ts';

/**
 * Asks the store once, so that a wrong address or wrong credentials are told at once.
 * @throws DriftmapError `argument` (the address, the region), `not-found` (the bucket, the host), `permission`, `io`
 */
export async function openS3Objects(address: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
  const place = parseS3Address(address);
  const client = await connect(place, options);
  const store = new S3Objects(place, client, options);
  try {
    await store.check(options.signal);
    return store;
  } catch (cause) {
    client.destroy();
    throw cause;
  }
}

async function connect(
  { endpoint, region, pathStyle }: S3Address,
  options: OpenStoreOptions,
): Promise<S3Client> {
  const { credentials, silence = STORE_SILENCE_SECONDS, connections = STORE_CONNECTIONS } = options;
  const agent = { keepAlive: true, maxSockets: connections };
  const config: S3ClientConfig = {
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    ...(credentials === undefined ? {} : { credentials: identity(credentials) }),
    forcePathStyle: pathStyle,
    maxAttempts: 1,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // With it the SDK opens a connection for every large put.
    expectContinueHeader: false,
    requestHandler: {
      httpAgent: agent,
      httpsAgent: agent,
      connectionTimeout: silence * 1000,
      socketTimeout: silence * 1000,
      throwOnRequestTimeout: true,
    },
  };
  const client = quietly(() => new S3Client(config));
  try {
    await client.config.region();
    return client;
  } catch {
    // Nothing names a region. Stores of one's own rarely have any; Amazon's answer names the right one.
    client.destroy();
    return quietly(() => new S3Client({ ...config, region: 'us-east-1' }));
  }
}

function identity({ accessKeyId, secretAccessKey, sessionToken }: StoreCredentials) {
  return { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) };
}

/** Which versions of Node it will run on in a year is the SDK's word to us, not to those who use us. */
function quietly<T>(make: () => T): T {
  const name = 'AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED';
  const { [name]: before } = process.env;
  process.env[name] = 'true';
  try {
    return make();
  } finally {
    if (before === undefined) delete process.env[name];
    else process.env[name] = before;
  }
}

/** What a request is about, for errors and times. */
interface Errand {
  readonly verb: string;
  readonly path: string;
  /** The most bytes that travel. */
  readonly bytes: ByteCount;
  readonly signal: AbortSignal | undefined;
  /** Before each attempt. */
  readonly check?: RemoveOptions['check'];
  readonly patience?: number;
}

/** How one attempt is sent. */
interface Sending {
  readonly requestTimeout: number;
  readonly abortSignal?: AbortSignal;
}

class S3Objects implements ObjectStore {
  readonly name: string;
  private readonly address: S3Address;
  private readonly client: S3Client;
  private readonly patience: number;
  private readonly silence: number;
  private readonly gate: Gate;

  constructor(address: S3Address, client: S3Client, options: OpenStoreOptions) {
    this.name = address.name;
    this.address = address;
    this.client = client;
    this.patience = options.patience ?? STORE_PATIENCE_SECONDS;
    this.silence = options.silence ?? STORE_SILENCE_SECONDS;
    this.gate = new Gate(options.connections ?? STORE_CONNECTIONS);
    addDigest(client);
  }

  /** Whether there is such a bucket, and we may look into it. An answer to HEAD would not say why not. */
  async check(signal: AbortSignal | undefined): Promise<undefined> {
    const patience = Math.min(this.patience, STORE_OPEN_PATIENCE_SECONDS);
    const errand: Errand = { verb: 'open', path: this.name, bytes: 0, signal, patience };
    const { bucket, prefix } = this.address;
    const command = { Bucket: bucket, Prefix: prefix, MaxKeys: 1 };
    const answer = await this.ask(errand, (sending) =>
      this.client.send(new ListObjectsV2Command(command), sending),
    );
    if (answer.Name === bucket) return;
    throw new DriftmapError(noS3.kind, noS3.reason(await this.placeOf(errand)), { path: this.name });
  }

  async put(key: string, bytes: Uint8Array, { signal }: StoreOptions = {}): Promise<undefined> {
    const path = this.pathOf(key);
    checkObjectBytes(bytes.length, path);
    const object = { ...this.objectOf(key), Body: bytes, ContentLength: bytes.length };
    await this.ask({ verb: 'put', path, bytes: bytes.length, signal }, (sending) =>
      this.client.send(new PutObjectCommand(object), sending),
    );
  }

  async get(key: string, { signal }: StoreOptions = {}): Promise<Uint8Array> {
    const path = this.pathOf(key);
    const object = this.objectOf(key);
    // How long it is, the answer says; until then a short one is expected, and silence ends a long one.
    return await this.ask({ verb: 'get', path, bytes: 0, signal }, async (sending) => {
      const { Body, ContentLength } = await this.client.send(new GetObjectCommand(object), sending);
      return await collect(Body as AsyncIterable<Uint8Array> & Destroyable, ContentLength, path);
    });
  }

  async has(key: string, { signal }: StoreOptions = {}): Promise<boolean> {
    const path = this.pathOf(key);
    const object = this.objectOf(key);
    try {
      await this.ask({ verb: 'look', path, bytes: 0, signal }, (sending) =>
        this.client.send(new HeadObjectCommand(object), sending),
      );
      return true;
    } catch (error) {
      // A missing host is another matter.
      const absent = error instanceof DriftmapError && error.kind === 'not-found';
      if (absent && error.message.endsWith('no such object')) return false;
      throw error;
    }
  }

  async *list(prefix: string, { signal }: StoreOptions = {}): AsyncGenerator<StoredObject> {
    checkPrefix(prefix, this.name);
    const { bucket, prefix: before } = this.address;
    const command = { Bucket: bucket, Prefix: `${before}${prefix}` };
    const errand: Errand = { verb: 'list', path: this.name, bytes: 0, signal };
    let token: string | undefined;
    do {
      const next = token === undefined ? command : { ...command, ContinuationToken: token };
      const page: ListObjectsV2CommandOutput = await this.ask(errand, (sending) =>
        this.client.send(new ListObjectsV2Command(next), sending),
      );
      for (const { Key, Size, LastModified } of page.Contents ?? []) {
        checkAborted(signal, this.name);
        if (Key === undefined || !Key.startsWith(command.Prefix)) continue;
        const key = Key.slice(before.length);
        // Somebody else's: no name of ours.
        if (isKey(key)) yield { key, bytes: Size ?? 0, modified: LastModified?.getTime() ?? 0 };
      }
      if (page.IsTruncated && (page.NextContinuationToken ?? token) === token) {
        throw new DriftmapError('io', 'list failed: the store never comes to the end', { path: this.name });
      }
      token = page.IsTruncated ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  async remove(keys: readonly string[], { signal, check }: RemoveOptions = {}): Promise<undefined> {
    for (const key of keys) checkKey(key, this.name);
    checkAborted(signal, this.name);
    const all = [...new Set(keys)];
    for (let at = 0; at < all.length; at += STORE_REMOVED_AT_ONCE) {
      let left = all.slice(at, at + STORE_REMOVED_AT_ONCE);
      await this.ask({ verb: 'remove', path: this.name, bytes: 0, signal, check }, async (sending) => {
        const { prefix, bucket } = this.address;
        const Objects = left.map((key) => ({ Key: `${prefix}${key}` }));
        const command = { Bucket: bucket, Delete: { Objects, Quiet: true } };
        const { Errors = [] } = await this.client.send(new DeleteObjectsCommand(command), sending);
        const bad = Errors.filter(({ Code }) => Code !== 'NoSuchKey');
        left = bad.map(({ Key = '' }) => Key.slice(prefix.length));
        // Told as an answer of its own would be: most of these codes pass.
        const [first] = bad;
        if (first !== undefined) throw { Code: first.Code, message: first.Message, $metadata: partOf(first) };
      });
    }
  }

  async close(): Promise<undefined> {
    this.client.destroy();
  }

  private pathOf(key: string): string {
    checkKey(key, this.name);
    return `${this.name}/${key}`;
  }

  private objectOf(key: string) {
    return { Bucket: this.address.bucket, Key: `${this.address.prefix}${key}` };
  }

  private async ask<T>(errand: Errand, send: (sending: Sending) => Promise<T>): Promise<T> {
    const { path, bytes, signal, check, patience = this.patience } = errand;
    const requestTimeout = (this.silence + bytes / STORE_SLOWEST_BYTES) * 1000;
    const sending = { requestTimeout, ...(signal === undefined ? {} : { abortSignal: signal }) };
    checkAborted(signal, path);
    // Many requests listen to one signal: that is no leak, and Node is not to warn of one.
    if (signal !== undefined) setMaxListeners(0, signal);
    const place = await this.placeOf(errand);
    const attempt = async () => {
      // Outside of the gate: it may ask the store itself.
      const wait = check?.();
      if (wait) await wait;
      return await this.gate.through(path, signal, () => send(sending));
    };
    return await retrying(attempt, {
      path,
      patience,
      signal,
      faultOf: (cause) => s3Fault(cause, place),
    });
  }

  private async placeOf({ verb, path }: Errand): Promise<S3Place> {
    const { bucket, endpoint } = this.address;
    const { AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
    const credentials = await this.client.config.credentials().catch(() => undefined);
    const { accessKeyId = '', secretAccessKey = '', sessionToken = '' } = credentials ?? {};
    return {
      path,
      verb,
      bucket,
      endpoint: endpoint ?? AWS_ENDPOINT_URL_S3 ?? AWS_ENDPOINT_URL,
      secrets: [secretAccessKey, sessionToken, accessKeyId],
    };
  }
}

/** The status that a single answer with this code would have. */
function partOf({ Code = '' }: { readonly Code?: string | undefined }) {
  return { httpStatusCode: /Internal|Unavailable|SlowDown/.test(Code) ? 503 : 400 };
}

interface Destroyable {
  destroy(): unknown;
}

/** @throws what `s3Fault` takes for a broken connection when bytes are missing */
async function collect(
  body: AsyncIterable<Uint8Array> & Destroyable,
  length: number | undefined,
  path: string,
): Promise<Uint8Array> {
  try {
    checkObjectBytes(length ?? 0, path);
    const pieces: Uint8Array[] = [];
    let total = 0;
    for await (const piece of body) {
      pieces.push(piece);
      total += piece.length;
      checkObjectBytes(total, path);
    }
    if (total !== (length ?? total)) throw broken(`expected ${length} bytes, got ${total}`);
    const bytes = new Uint8Array(total);
    let at = 0;
    for (const piece of pieces) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes;
  } finally {
    body.destroy();
  }
}

function broken(reason: string): Error {
  return Object.assign(new Error(reason), { code: 'ECONNRESET' });
}

/**
 * Content-MD5 for removing many: Amazon and younger stores take the SDK's own checksum, older ones know only this
 * ("DeleteObjects", Amazon S3 API Reference).
 */
function addDigest(client: S3Client): void {
  client.middlewareStack.add(
    (next, context) => async (args) => {
      const request = args.request as { headers: Record<string, string>; body?: unknown };
      const { commandName } = context as { commandName?: string };
      if (commandName === 'DeleteObjectsCommand' && typeof request.body === 'string') {
        request.headers['content-md5'] = createHash('md5').update(request.body).digest('base64');
      }
      return await next(args);
    },
    { step: 'build', name: 'contentMd5', priority: 'low' },
  );
}
