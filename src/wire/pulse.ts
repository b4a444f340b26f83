/** Signs of life of a peer: asked for now and then, counted when they come, timed when they answer. */

import { DriftmapError } from '../base/errors.ts';

export interface PulseOptions {
  readonly peer: string;
  /** Silence after which the peer counts as dead; 60 s by default. */
  readonly deadAfterMs?: number | undefined;
  /** Sends a ping. */
  readonly ask: () => void;
  /** Whether so little waits for the network that another ping is worth it: a peer that reads nothing answers nothing. */
  readonly mayAsk: () => boolean;
  readonly onDeath: (reason: DriftmapError) => void;
}

/** A peer is asked for a sign of life this often before it counts as dead. */
const TICKS = 4;
const MAX_PINGED = 16;

export class Pulse {
  /** Seconds from a ping to its answer, the shortest so far; null before the first answer. */
  roundTrip: number | null = null;
  private readonly options: PulseOptions;
  private readonly deadAfterMs: number;
  private readonly timer: NodeJS.Timeout;
  private silentTicks = 0;
  /** When pings were sent that have not been answered, in their order. */
  private readonly pinged: number[] = [];

  constructor(options: PulseOptions) {
    this.options = options;
    this.deadAfterMs = options.deadAfterMs ?? 60_000;
    this.timer = setInterval(() => this.tick(), this.deadAfterMs / TICKS);
    this.timer.unref();
  }

  /** Something came. */
  heard(): void {
    this.silentTicks = 0;
  }

  ask(): void {
    if (this.pinged.push(performance.now()) > MAX_PINGED) this.pinged.shift();
    this.options.ask();
  }

  answered(): void {
    const at = this.pinged.shift();
    if (at === undefined) return;
    const seconds = (performance.now() - at) / 1000;
    this.roundTrip = Math.min(this.roundTrip ?? seconds, seconds);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /**
   * A tick counts only when nothing came since the last one: a process that was held up finds several seconds gone
   * and its peer's messages waiting, and one tick then must not be taken for death.
   */
  private tick(): void {
    this.silentTicks++;
    if (this.silentTicks > TICKS) {
      const seconds = Math.round(this.deadAfterMs / 1000);
      const reason = `nothing was heard from the other site for ${seconds} s: the connection is taken for lost`;
      this.options.onDeath(new DriftmapError('io', reason, { path: this.options.peer }));
      return;
    }
    if (this.options.mayAsk()) this.ask();
  }
}
