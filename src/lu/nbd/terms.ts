/** What client and server agreed on in the handshake. */

import type { ByteCount } from '../../base/units.ts';
import type { ByteStream } from './byte-stream.ts';

export interface NbdTerms {
  readonly size: ByteCount;
  /** Transmission flags. */
  readonly flags: number;
  readonly structured: boolean;
  /** Ids of the metadata contexts that the server grants, by name. */
  readonly contexts: ReadonlyMap<string, number>;
  /** What offsets and lengths must be multiples of. */
  readonly minimumBlock: ByteCount;
  /** Data of one request. */
  readonly maximumPayload: ByteCount;
}

export interface Agreed {
  /** The encrypted one, where there is TLS. */
  readonly stream: ByteStream;
  readonly terms: NbdTerms;
}
