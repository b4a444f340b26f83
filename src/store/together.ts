/**
 * One act for all who ask for it at about the same time, as a journal's commit serves many writers. Whoever comes while
 * it is under way is served by the next: it begins after everything that he has done, and so it counts for him.
 */

export class Together {
  private readonly act: () => Promise<undefined>;
  private running: Promise<undefined> | null = null;
  private next: Promise<undefined> | null = null;

  constructor(act: () => Promise<undefined>) {
    this.act = act;
  }

  /** Resolves when an act that began after this call has ended. @throws what that act throws, to all who share it */
  run(): Promise<undefined> {
    if (this.running === null) return this.begin();
    this.next ??= this.running
      .catch(() => undefined)
      .then(() => {
        this.next = null;
        return this.begin();
      });
    return this.next;
  }

  private begin(): Promise<undefined> {
    const running = this.act().finally(() => {
      if (this.running === running) this.running = null;
    });
    this.running = running;
    return running;
  }
}
