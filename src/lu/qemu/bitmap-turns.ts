/**
 * Takes the marks of a running QEMU, generation by generation, the way QEMU means it. A dirty bitmap cannot be read
 * and cleared in one step from outside, so in one transaction a second, disabled bitmap takes over the marks and the
 * first is cleared; the second is shown over NBD, read, and removed (QEMU docs/interop/bitmaps.rst).
 *
 * QEMU marks a write when it has ended and before the guest hears of it, and a transaction waits for requests in
 * flight. So whatever is read from the disk after a turn has every write that the turn tells of.
 */

import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import type { ByteRange } from '../../base/units.ts';
import { openNbdUnit } from '../nbd/nbd-unit.ts';
import { nbdUrl, parseNbdUrl } from '../nbd/url.ts';
import { QmpClient } from './qmp.ts';

export interface BitmapTurnsOptions {
  /** QEMU's monitor: a path of a Unix socket, or HOST:PORT. */
  readonly monitor: string;
  /** The export of the disk; bitmaps are shown by the same NBD server. */
  readonly url: string;
  /** The block node that is followed; the export's name by default, as QEMU names an export that nobody named. */
  readonly node?: string | undefined;
}

/** An export ends when its last client has gone: so often, and so long apart, its bitmap is tried to be removed. */
const REMOVALS = 40;
const REMOVAL_PAUSE_MS = 50;

export class BitmapTurns {
  private readonly qmp: QmpClient;
  private readonly url: string;
  private readonly node: string;
  private readonly name: string;
  private turns = 0;

  private constructor(qmp: QmpClient, url: string, node: string) {
    this.qmp = qmp;
    this.url = url;
    this.node = node;
    this.name = `driftmap-${randomBytes(4).toString('hex')}`;
  }

  /**
   * Marks begin now.
   * @throws DriftmapError `argument` for a URL that is none, `unsupported` with QEMU's words (no such node), `io`
   */
  static async begin({ monitor, url, node }: BitmapTurnsOptions): Promise<BitmapTurns> {
    const { exportName } = parseNbdUrl(url);
    const turns = new BitmapTurns(await QmpClient.connect(monitor), url, node ?? exportName);
    try {
      await turns.qmp.execute('block-dirty-bitmap-add', { node: turns.node, name: turns.name });
      return turns;
    } catch (error) {
      turns.qmp.close();
      throw error;
    }
  }

  /** What was written since the last turn, or since the beginning: merged, ascending, and no longer marked. */
  async take(): Promise<readonly ByteRange[]> {
    const { qmp, node, name } = this;
    const taken = `${name}-${++this.turns}`;
    await qmp.execute('transaction', {
      actions: [
        { type: 'block-dirty-bitmap-add', data: { node, name: taken, disabled: true } },
        { type: 'block-dirty-bitmap-merge', data: { node, target: taken, bitmaps: [name] } },
        { type: 'block-dirty-bitmap-clear', data: { node, name } },
      ],
    });
    try {
      const options = { type: 'nbd', id: taken, 'node-name': node, name: taken, bitmaps: [taken] };
      await qmp.execute('block-export-add', options);
      try {
        return await this.read(taken);
      } finally {
        await qmp.execute('block-export-del', { id: taken, mode: 'hard' });
      }
    } finally {
      await this.remove(taken);
    }
  }

  /** Removes the bitmap; QEMU is as before. */
  async close(): Promise<void> {
    try {
      await this.remove(this.name);
    } finally {
      this.qmp.close();
    }
  }

  private async read(name: string): Promise<readonly ByteRange[]> {
    const { socket, host, port, tls } = parseNbdUrl(this.url);
    const place = socket === null ? { host, port } : { socket };
    const query = tls === null ? '' : parametersOf(this.url);
    const unit = await openNbdUnit(withParameters(nbdUrl(place, name, tls !== null), query));
    try {
      return await unit.readDirtyBitmap(name);
    } finally {
      await unit.close();
    }
  }

  private async remove(name: string): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.qmp.execute('block-dirty-bitmap-remove', { node: this.node, name });
        return;
      } catch (cause) {
        if (tries === REMOVALS) throw cause;
        await setTimeout(REMOVAL_PAUSE_MS);
      }
    }
  }
}

/** Parameters of TLS: the bitmap's export is reached as the disk's. */
function parametersOf(url: string): string {
  const at = url.indexOf('?');
  if (at < 0) return '';
  return url
    .slice(at + 1)
    .split('&')
    .filter((pair) => !pair.startsWith('socket='))
    .join('&');
}

function withParameters(url: string, query: string): string {
  if (query === '') return url;
  return `${url}${url.includes('?') ? '&' : '?'}${query}`;
}
