import { describe, expect, it } from 'vitest';
import { RateLimiter } from '../../src/wire/limiter.ts';

describe('a rate', () => {
  it('lets a burst through, makes the rest wait, and counts the debt of a large message', () => {
    let now = 0;
    const limiter = new RateLimiter(1000, () => now);
    // A tenth of a second's share may go at once; a message larger than that leaves a debt.
    expect(limiter.take(600)).toBeUndefined();
    expect(limiter.take(1)).toBeInstanceOf(Promise);
    now = 1e9;
  });

  it('is kept over many messages, in the order of the calls', async () => {
    const limiter = new RateLimiter(100_000);
    const began = performance.now();
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        await limiter.take(2000);
        order.push(i);
      }),
    );
    // 40,000 bytes, of which 10,000 are the burst and the last 2000 are debt: no sooner than 0.28 s.
    expect(performance.now() - began).toBeGreaterThan(250);
    expect(order).toEqual([...order].sort((a, b) => a - b));
  });

  it('of nothing is refused', () => {
    expect(() => new RateLimiter(0)).toThrow('expected a rate above 0');
  });
});
