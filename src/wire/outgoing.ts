/** A message that waits for its turn to be sent. */

import type { ByteCount } from '../base/units.ts';

export interface Outgoing {
  readonly type: number;
  readonly parts: readonly Uint8Array[];
  /** Head and payload in one: see `sendFrame`. */
  readonly whole: Whole | null;
  readonly cost: ByteCount;
  readonly sent: () => void;
  readonly failed: (reason: unknown) => void;
}

export interface Whole {
  readonly bytes: Uint8Array;
  readonly free: () => void;
}
