/**
 * Bytes that a socket has brought and nobody has taken yet, in order. What lies in one piece is handed out
 * without a copy.
 */

export class Inbox {
  /** Bytes that can be taken. */
  length = 0;
  private pieces: Buffer[] = [];
  /** How much of the first piece is gone. */
  private gone = 0;

  push(piece: Buffer): void {
    if (piece.length === 0) return;
    this.pieces.push(piece);
    this.length += piece.length;
  }

  /** The next `count` bytes; null, and nothing is taken, where there are fewer. A view where they lie in one piece. */
  take(count: number): Buffer | null {
    if (count > this.length) return null;
    if (count === 0) return Buffer.alloc(0);
    const first = this.pieces[0]!;
    if (first.length - this.gone >= count) {
      const taken = first.subarray(this.gone, this.gone + count);
      this.drop(count);
      return taken;
    }
    const gathered = Buffer.allocUnsafe(count);
    this.copyInto(gathered);
    return gathered;
  }

  /** Moves as many bytes as there are, and fit, to the start of `target`. @returns how many */
  copyInto(target: Uint8Array): number {
    let done = 0;
    while (done < target.length && this.length > 0) {
      const piece = this.pieces[0]!;
      const count = Math.min(piece.length - this.gone, target.length - done);
      target.set(count === piece.length ? piece : piece.subarray(this.gone, this.gone + count), done);
      this.drop(count);
      done += count;
    }
    return done;
  }

  /** Throws away at most `count` bytes. @returns how many */
  skip(count: number): number {
    let done = 0;
    while (done < count && this.length > 0) {
      const part = Math.min(this.pieces[0]!.length - this.gone, count - done);
      this.drop(part);
      done += part;
    }
    return done;
  }

  /** Copies what is left, because the memory it lies in is about to be used again. */
  own(): void {
    if (this.length === 0) return;
    const left = Buffer.allocUnsafeSlow(this.length);
    this.copyInto(left);
    this.push(left);
  }

  /** Drops `count` bytes, which lie in the first piece. */
  private drop(count: number): void {
    this.gone += count;
    this.length -= count;
    if (this.gone < this.pieces[0]!.length) return;
    this.pieces.shift();
    this.gone = 0;
  }
}
