/** Pictures of a bitmap in a line of text. */

import type { BlockCount, BlockRun } from '../base/units.ts';

const equal = '·';
const unseen = ' ';
/** By the share of a cell's blocks that differ; the lowest already for one. */
const levels = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

export interface DriftMapInput {
  readonly blocks: BlockCount;
  readonly marks: Iterable<BlockRun>;
  /** Which blocks were looked at; all of them when absent. */
  readonly coverage?: Iterable<BlockRun>;
  /** Cells to draw. */
  readonly width: number;
}

/**
 * The disk from start to end as `width` cells: `·` equal, `▁`…`█` the share of the cell's blocks that
 * differ, blank where nothing was looked at. A single marked block is never drawn as equal.
 */
export function drawDriftMap({ blocks, marks, coverage, width }: DriftMapInput): string {
  const cells = Math.max(1, Math.min(width, blocks));
  const marked = blocksPerCell(marks, blocks, cells);
  const seen = coverage ? blocksPerCell(coverage, blocks, cells) : null;
  let line = '';
  for (let cell = 0; cell < cells; cell++) {
    const inCell = cellStart(cell + 1, blocks, cells) - cellStart(cell, blocks, cells);
    const share = marked[cell]! / inCell;
    if (share > 0) line += levels[Math.min(levels.length - 1, Math.floor(share * levels.length))];
    else line += seen !== null && seen[cell] === 0 ? unseen : equal;
  }
  return line;
}

export const driftMapLegend = '· equal  ▁▂▃▄▅▆▇█ share of blocks that differ  blank: not looked at';

function cellStart(cell: number, blocks: number, cells: number): number {
  return Math.floor((cell * blocks) / cells);
}

function blocksPerCell(runs: Iterable<BlockRun>, blocks: number, cells: number): Float64Array {
  const counts = new Float64Array(cells);
  for (const { start, end } of runs) {
    let cell = Math.min(cells - 1, Math.floor((start * cells) / blocks));
    while (cellStart(cell + 1, blocks, cells) <= start) cell++;
    for (let from = start; from < end; cell++) {
      const to = Math.min(end, cellStart(cell + 1, blocks, cells));
      counts[cell]! += to - from;
      from = to;
    }
  }
  return counts;
}
