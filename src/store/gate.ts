/** So many at a time; the others wait in the order in which they came. */

import { abortedError, checkAborted } from './object-keys.ts';

export class Gate {
  private free: number;
  private readonly waiting: (() => void)[] = [];

  constructor(width: number) {
    this.free = width;
  }

  /** @throws DriftmapError `aborted`, also while it waits; what `act` throws */
  async through<T>(path: string, signal: AbortSignal | undefined, act: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free--;
    else await this.turn(signal, path);
    try {
      checkAborted(signal, path);
      return await act();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.free++;
      else next();
    }
  }

  private turn(signal: AbortSignal | undefined, path: string): Promise<undefined> {
    return new Promise((resolve, reject) => {
      const enter = () => {
        signal?.removeEventListener('abort', leave);
        resolve(undefined);
      };
      const leave = () => {
        this.waiting.splice(this.waiting.indexOf(enter), 1);
        reject(abortedError(signal, path));
      };
      this.waiting.push(enter);
      signal?.addEventListener('abort', leave, { once: true });
    });
  }
}
