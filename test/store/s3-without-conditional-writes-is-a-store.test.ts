// Swift answers 501 to every put with a condition: what passes here needs none.

import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openObjectStore } from '../../src/store/open-object-store.ts';
import { Swift, swiftTools } from '../lab/s3-labs.ts';
import { describeWith } from '../tools.ts';
import { conformance } from './conformance.ts';

describeWith(swiftTools, 'S3, by Swift', () => {
  let swift: Swift;
  beforeAll(async () => {
    swift = await Swift.start();
    await swift.makeBucket('lab');
    // Four Python servers begin: eight seconds alone, and half a minute on a busy machine.
  }, 150_000);
  afterAll(async () => {
    await swift?.stop();
  });

  const open = () => openObjectStore(swift.address('lab/x'), { credentials: swift.credentials });
  conformance('a bucket', open, { runs: 2, many: 60 });

  it('is a store that takes no condition', async () => {
    const { endpoint } = swift;
    const { accessKeyId, secretAccessKey } = swift.credentials;
    const credentials = { accessKeyId, secretAccessKey };
    const client = new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true });
    const put = new PutObjectCommand({ Bucket: 'lab', Key: 'once', Body: 'x', IfNoneMatch: '*' });
    await expect(client.send(put)).rejects.toMatchObject({ $metadata: { httpStatusCode: 501 } });
    client.destroy();
  });
});
