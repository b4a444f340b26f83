/** The network between production and replica: it can be cut, frozen and slowed. */
import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export class Network {
  pairs = new Set();
  mode = 'open';
  constructor(port, target) {
    this.server = createServer((near) => {
      if (this.mode === 'cut') return near.destroy();
      const far = createConnection(target, '127.0.0.1');
      const pair = { near, far };
      const pairEnded = new Promise((resolve) => near.once('close', resolve));
      this.pairs.add(pair);
      for (const [from, to] of [
        [near, far],
        [far, near],
      ]) {
        from.on('data', async (bytes) => {
          from.pause();
          while (this.mode === 'frozen') await sleep(50);
          if (this.mode === 'slow') await sleep(bytes.length / 2000);
          if (!to.destroyed && !to.write(bytes))
            await Promise.race([once(to, 'drain').catch(() => undefined), pairEnded]);
          from.resume();
        });
        const end = () => {
          near.destroy();
          far.destroy();
          this.pairs.delete(pair);
        };
        from.on('error', end);
        from.on('close', end);
      }
    });
    this.server.listen(port, '127.0.0.1');
  }
  set(mode) {
    this.mode = mode;
    if (mode === 'cut')
      for (const { near, far } of this.pairs) {
        near.destroy();
        far.destroy();
      }
  }
}
