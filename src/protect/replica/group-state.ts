/** What a replica group tells of itself, and what it is told by those who work with it. */

import type { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { Point } from '../../journal/points.ts';
import type { Sequence, Time } from '../../journal/record.ts';

/** Who appends production's writes. */
export interface Follower {
  /** For messages. */
  readonly peer: string;
  /** The journal takes nothing more, and why: production is to mark from now on. */
  failed(why: DriftmapError): void;
  /** It takes writes again. The group is suspended, because some are missing. */
  recovered(): void;
  /** The stream is to end: another one took over, the group became production, or it is closed. */
  ended(why: DriftmapError): void;
}

export interface ReplicaGroupState {
  readonly group: string;
  /** `replica`, or `production` after a failover. */
  readonly role: 'replica' | 'production';
  /** See `ReplicaRecord.history`. */
  readonly history: string;
  /** The journal's folder, and what its files take. */
  readonly journal: string;
  readonly bytes: ByteCount;
  /** The newest durable write. */
  readonly last: Point;
  /** Whether that is a point: false while writes are missing. */
  readonly consistent: boolean;
  readonly applied: { readonly low: Sequence; readonly high: Sequence };
  /** What the disks have not taken yet: records, and bytes of those that came in since it was opened. */
  readonly lag: { readonly records: number; readonly bytes: ByteCount };
  /** Why the disks do not follow; null while they do. */
  readonly held: string | null;
  /** Why older points are kept than `keep` asks for; null where none are. */
  readonly retained: string | null;
  /** What is wrong, one line each. */
  readonly trouble: readonly string[];
  /** Who streams; null when nobody does. */
  readonly stream: string | null;
  readonly accesses: readonly AccessState[];
  readonly failedOver: { readonly sequence: Sequence; readonly time: Time; readonly since: Time } | null;
}

export interface AccessState {
  readonly id: number;
  readonly kind: 'virtual' | 'rolled';
  readonly point: Point;
  readonly exports: readonly { readonly disk: string; readonly uri: string }[];
  readonly writtenBytes: ByteCount;
}

/** `discard`, as if it had never been; or `keep`: the group becomes production with what was written. */
export type Ending = 'discard' | 'keep';

/** An access while it lasts (`access.ts`). */
export interface OpenAccess {
  readonly id: number;
  /** Resolves when it has ended, however. */
  readonly ended: Promise<Ending>;
  state(): AccessState;
  end(how: Ending): Promise<Ending>;
}

export interface Probe {
  readonly disk: string;
  readonly blockSize: ByteCount;
  /** Numbers of blocks; the last block of a disk may be short. */
  readonly blocks: readonly number[];
  /** Their BLAKE3 signatures, 32 bytes each, one after the other. */
  readonly signatures: Uint8Array;
}
