import { describe, expect, it } from 'vitest';
import { Together } from '../../src/store/together.ts';

/** An act that is ended by hand. */
function acts() {
  const under: { end: () => void; fail: (error: Error) => void }[] = [];
  const together = new Together(
    () => new Promise((resolve, reject) => under.push({ end: () => resolve(undefined), fail: reject })),
  );
  return { together, under };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('an act for many', () => {
  it('is never one that began before who asks for it came', async () => {
    const { together, under } = acts();
    const served: string[] = [];
    const ask = (name: string) => together.run().then(() => served.push(name));
    const first = ask('first');
    const others = [ask('second'), ask('third')];
    await turn();
    expect(under).toHaveLength(1);
    under[0]!.end();
    await first;
    await turn();
    expect(served).toEqual(['first']);
    expect(under).toHaveLength(2);
    const late = ask('late');
    under[1]!.end();
    await Promise.all(others);
    await turn();
    expect(served).toEqual(['first', 'second', 'third']);
    expect(under).toHaveLength(3);
    under[2]!.end();
    await late;
  });

  it('fails for those whom it serves, and for nobody else', async () => {
    const { together, under } = acts();
    const first = together.run();
    const second = together.run();
    const third = together.run();
    under[0]!.fail(new Error('full'));
    await expect(first).rejects.toThrow('full');
    await turn();
    under[1]!.fail(new Error('still full'));
    await expect(second).rejects.toThrow('still full');
    await expect(third).rejects.toThrow('still full');
    const fourth = together.run();
    under[2]!.end();
    await expect(fourth).resolves.toBeUndefined();
  });
});
