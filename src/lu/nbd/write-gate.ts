/**
 * Lets writes of whole blocks go together, and a write of part of a block alone: it reads the block first, and what
 * others wrote there in between would be lost.
 */

export class WriteGate {
  private readonly waiting: { readonly isAlone: boolean; readonly start: () => void }[] = [];
  private running = 0;
  private isTakenAlone = false;

  shared<T>(act: () => Promise<T>): Promise<T> {
    return this.enter(false, act);
  }

  alone<T>(act: () => Promise<T>): Promise<T> {
    return this.enter(true, act);
  }

  private async enter<T>(isAlone: boolean, act: () => Promise<T>): Promise<T> {
    if (this.waiting.length > 0 || !this.isOpen(isAlone)) {
      await new Promise<void>((resolve) => this.waiting.push({ isAlone, start: resolve }));
    } else {
      this.begin(isAlone);
    }
    try {
      return await act();
    } finally {
      this.running--;
      this.isTakenAlone = false;
      this.admit();
    }
  }

  private isOpen(isAlone: boolean): boolean {
    return isAlone ? this.running === 0 : !this.isTakenAlone;
  }

  private begin(isAlone: boolean): void {
    this.running++;
    this.isTakenAlone = isAlone;
  }

  /** In the order in which they came. */
  private admit(): void {
    for (
      let next = this.waiting[0];
      next !== undefined && this.isOpen(next.isAlone);
      next = this.waiting[0]
    ) {
      this.waiting.shift();
      this.begin(next.isAlone);
      next.start();
    }
  }
}
