/**
 * Those who have connected and not proved yet who they are. Their number is bounded by itself, so that they take no
 * place of those who have; when it is reached, the oldest of the address that has the most of them must go. Whoever
 * holds many connections open, from one place, so drives out himself and not the others.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_GREETINGS } from '../base/limits.ts';

export interface LobbyPlace {
  /** Who he is has been proved, or he has gone. Idempotent. */
  readonly leave: () => void;
  /** Called when he must go for another one. */
  drop: () => void;
}

interface Entry extends LobbyPlace {
  readonly address: string;
}

export class Lobby {
  /** In the order in which they came. */
  private readonly entries = new Set<Entry>();
  private readonly most: number;

  constructor(most = MAX_GREETINGS) {
    this.most = most;
  }

  get size(): number {
    return this.entries.size;
  }

  enter(address: string, drop: () => void): LobbyPlace {
    if (this.entries.size >= this.most) this.dropOne();
    const entry: Entry = { address, drop, leave: () => void this.entries.delete(entry) };
    this.entries.add(entry);
    return entry;
  }

  private dropOne(): void {
    const counts = new Map<string, number>();
    for (const { address } of this.entries) counts.set(address, (counts.get(address) ?? 0) + 1);
    const most = Math.max(...counts.values());
    for (const entry of this.entries) {
      if (counts.get(entry.address) !== most) continue;
      entry.leave();
      entry.drop();
      return;
    }
  }
}

/** What whoever must go is told. */
export function crowded(path: string): DriftmapError {
  const reason = 'too many connections that have not said who they are: try again later';
  return new DriftmapError('limit', reason, { path });
}
