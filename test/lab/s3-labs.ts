/** Real S3 stores for a test file: Ceph by `ceph.mjs`, Swift by `swift.mjs`. They end with the process that started them. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import type { StoreCredentials } from '../../src/store/object-store.ts';
import { root } from '../tools.ts';

/** What `describeWith` needs. */
export const cephTools = ['ceph-mon', 'ceph-osd', 'ceph', 'ceph-authtool', 'monmaptool', 'radosgw'];

export const swiftTools = ['swift-proxy-server', 'swift-object-server', 'swift-ring-builder', 'memcached'];

export type CephDaemon = 'mon' | 'osd' | 'rgw';

interface Told {
  readonly endpoint: string;
  readonly accessKey: string;
  readonly secretKey: string;
  readonly folder: string;
  readonly ids: Readonly<Record<string, number>>;
}

/** A lab that speaks S3. */
export class S3Lab {
  protected told: Told;
  protected readonly child: ChildProcess;
  protected readonly lines: Interface;

  protected constructor({ child, lines, told }: Started) {
    this.child = child;
    this.lines = lines;
    this.told = told;
  }

  get endpoint(): string {
    return this.told.endpoint;
  }

  get credentials(): StoreCredentials {
    return { accessKeyId: this.told.accessKey, secretAccessKey: this.told.secretKey };
  }

  address(bucketAndPrefix: string): string {
    return `s3://${bucketAndPrefix}?endpoint=${this.endpoint}&path-style`;
  }

  async makeBucket(Bucket: string): Promise<undefined> {
    const { endpoint, accessKey: accessKeyId, secretKey: secretAccessKey } = this.told;
    const credentials = { accessKeyId, secretAccessKey };
    const client = new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true });
    await client.send(new CreateBucketCommand({ Bucket }));
    client.destroy();
  }

  async stop(): Promise<undefined> {
    this.child.stdin!.end();
    if (this.child.exitCode === null) await once(this.child, 'exit');
  }
}

export class Ceph extends S3Lab {
  static async start(objects: 'memstore' | 'bluestore' = 'memstore'): Promise<Ceph> {
    return new Ceph(await startLab('ceph.mjs', objects));
  }

  /** `radosgw-admin` with these arguments. */
  admin(...args: readonly string[]): string {
    const env = { ...process.env, CEPH_CONF: join(this.told.folder, 'ceph.conf') };
    const { status, stdout, stderr } = spawnSync('radosgw-admin', args, { env, encoding: 'utf8' });
    if (status !== 0) throw new Error(`radosgw-admin ${args.join(' ')}: ${stderr}`);
    return stdout;
  }

  signal(daemon: CephDaemon, signal: NodeJS.Signals): void {
    process.kill(this.told.ids[daemon]!, signal);
  }

  /** Starts a daemon that was killed; returns when it answers. */
  async restart(daemon: CephDaemon): Promise<undefined> {
    this.child.stdin!.write(`restart ${daemon}\n`);
    this.told = await nextTold(this.lines);
  }
}

/** OpenStack's Swift with its S3 middleware: it refuses every conditional write. */
export class Swift extends S3Lab {
  static async start(): Promise<Swift> {
    return new Swift(await startLab('swift.mjs'));
  }
}

interface Started {
  readonly child: ChildProcess;
  readonly lines: Interface;
  readonly told: Told;
}

async function startLab(script: string, ...args: readonly string[]): Promise<Started> {
  const command = [join(root, 'test', 'lab', script), ...args];
  const child = spawn(process.execPath, command, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout });
  return { child, lines, told: await nextTold(lines) };
}

async function nextTold(lines: Interface): Promise<Told> {
  const [line] = (await Promise.race([once(lines, 'line'), once(lines, 'close')])) as [string | undefined];
  if (line === undefined) throw new Error('the lab did not start');
  return JSON.parse(line) as Told;
}
