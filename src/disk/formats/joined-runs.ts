/** Table entries on their way into a map: neighbours of one kind, and at one place, become one extent. */

import type { ByteOffset } from '../../base/units.ts';
import { Kind } from '../../mapping/extent-map.ts';

export interface JoinedRun {
  readonly kind: Kind;
  readonly start: ByteOffset;
  readonly end: ByteOffset;
  /** Of its first byte; negative where it has none. */
  readonly place: ByteOffset;
}

export class JoinedRuns {
  /** Where the map stands: the next entry begins here. */
  end: ByteOffset = 0;
  private kind: Kind = Kind.unallocated;
  private start: ByteOffset = 0;
  private place: ByteOffset = -1;
  private readonly take: (run: JoinedRun) => void;

  /** @param take is given each run when it is whole, in order */
  constructor(take: (run: JoinedRun) => void) {
    this.take = take;
  }

  /** From where the map stands to `end`: extends the run that is being joined, or begins the next. */
  add(kind: Kind, place: ByteOffset, end: ByteOffset): void {
    const continues =
      kind === this.kind &&
      (place < 0 ? this.place < 0 : this.place >= 0 && place === this.place + (this.end - this.start));
    if (!continues) {
      this.flush();
      this.kind = kind;
      this.place = place;
    }
    this.end = end;
  }

  /** Ends the run, because something that joins with nothing reaches from where the map stands to `end`. */
  skipTo(end: ByteOffset): void {
    this.flush();
    this.start = this.end = end;
  }

  flush(): void {
    const { kind, start, place, end } = this;
    this.start = end;
    if (end > start) this.take({ kind, start, end, place });
  }
}
