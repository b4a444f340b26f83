/** Lets so many in at a time; the others wait in order. */
export class Gate {
  private free: number;
  private readonly waiting: { resolve: () => void; reject: (reason: unknown) => void }[] = [];
  private failed = false;
  private reason: unknown;

  constructor(places: number) {
    this.free = places;
  }

  enter(): Promise<void> | undefined {
    if (this.failed) return Promise.reject(this.reason);
    if (this.free > 0) {
      this.free--;
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
    });
  }

  leave(): void {
    const next = this.waiting.shift();
    if (next === undefined) this.free++;
    else next.resolve();
  }

  /** Nobody will leave any more: whoever waits is told why. */
  fail(reason: unknown): void {
    this.failed = true;
    this.reason = reason;
    for (const { reject } of this.waiting.splice(0)) reject(reason);
  }
}
