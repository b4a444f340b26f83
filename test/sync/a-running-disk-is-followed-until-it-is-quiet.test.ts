import { describe, expect, it } from 'vitest';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { temporary } from '../tools.ts';
import { fileOf, KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const BLOCK = 64 * KiB;

/** A guest that writes while the session runs, and the splitter that marks each write when it has ended. */
class Guest {
  writes = 0;
  quiet = false;
  private marks: LiveMarks;
  private readonly path: string;
  private readonly size: number;

  constructor(path: string, size: number) {
    this.path = path;
    this.size = size;
    this.marks = LiveMarks.create(size, BLOCK);
  }

  write(blocks: number): void {
    if (this.quiet) return;
    const unit = openFileUnit(this.path, { write: true });
    for (let i = 0; i < blocks; i++) {
      const bytes = noise(700, ++this.writes);
      const offset = (this.writes * 7919 * 512) % (this.size - bytes.length);
      unit.write(offset, bytes);
      this.marks.markDirty(offset, bytes.length);
    }
    unit.close();
  }

  take() {
    const { marks } = this;
    this.marks = LiveMarks.create(this.size, BLOCK);
    return marks.snapshot();
  }

  async quiesce(): Promise<void> {
    // The last writes before it is quiet.
    this.write(3);
    this.quiet = true;
  }
}

describe('a production disk that is written to', () => {
  it.each(['here', 'far'])(
    'is followed in passes until little is left, then quiet, and equal: %s',
    async (where) => {
      const size = 8 * MiB;
      const production = fileOf(folder, noise(size, 1));
      const replica = fileOf(folder, noise(size, 2));
      const guest = new Guest(production, size);
      let phases = 0;
      const result = await sync({
        production,
        replica: where === 'far' ? site.grant('live', { disk: replica }) : replica,
        token: site.token,
        workers: 1,
        live: { take: () => guest.take(), quiesce: () => guest.quiesce(), threshold: 4 * BLOCK },
        onProgress: () => {
          // Fewer each time: a guest that never slows down has a last pass all the same.
          guest.write(Math.max(0, 20 - 3 * phases++));
        },
      });
      expect(guest.quiet).toBe(true);
      expect(guest.writes).toBeGreaterThan(20);
      expect(result.passes).toBeGreaterThanOrEqual(2);
      expect(result.consistent).toBe(true);
      expect(sameFiles(production, replica)).toBe(true);
      expect(loadState(statePath(replica))!.status).toBe('consistent');
    },
  );
});
