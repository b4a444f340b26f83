/** A splitter's state as Prometheus reads it (text format 0.0.4). */

import type { SplitterState } from './splitter.ts';

const phases = ['streaming', 'marking', 'resyncing', 'paused'] as const;

export function splitterMetrics(state: SplitterState): string {
  const lines: string[] = [];
  const group = label('group', state.group);
  const metric = (
    name: string,
    type: 'gauge' | 'counter',
    help: string,
    values: readonly [string, number][],
  ) => {
    lines.push(`# HELP driftmap_splitter_${name} ${help}`, `# TYPE driftmap_splitter_${name} ${type}`);
    for (const [labels, value] of values) lines.push(`driftmap_splitter_${name}{${labels}} ${value}`);
  };
  metric(
    'state',
    'gauge',
    'Whether the group is in this state.',
    phases.map((phase) => [`${group},${label('state', phase)}`, state.state === phase ? 1 : 0]),
  );
  metric('connected', 'gauge', 'Whether the replica is connected.', [[group, state.connected ? 1 : 0]]);
  metric('queued_bytes', 'gauge', 'Data on its way to the journal.', [[group, state.queuedBytes]]);
  metric('lag_seconds', 'gauge', 'Since the journal got something, while something is on its way.', [
    [group, state.lag],
  ]);
  metric('falls_total', 'counter', 'Times that writes fell to being marked.', [[group, state.falls]]);
  metric('order_total', 'counter', 'Writes and marks of the stream.', [[group, state.order]]);
  metric('acknowledged_total', 'counter', 'Those of them that are durable in the journal.', [
    [group, state.acknowledged],
  ]);
  metric('copied_bytes_total', 'counter', 'Sent to make marked blocks equal.', [[group, state.copiedBytes]]);
  metric('equal_bytes_total', 'counter', 'Marked, and found equal.', [[group, state.equalBytes]]);
  const byDisk = (value: (disk: SplitterState['disks'][number]) => number) =>
    state.disks.map((disk) => [`${group},${label('disk', disk.name)}`, value(disk)] as [string, number]);
  metric(
    'marked_bytes',
    'gauge',
    'What the replica lacks.',
    byDisk((disk) => disk.markedBytes),
  );
  metric(
    'hot_bytes',
    'gauge',
    'What a crash now would make to be compared.',
    byDisk((disk) => disk.hotBytes),
  );
  metric(
    'writes_total',
    'counter',
    'Writes of the guest.',
    byDisk((disk) => disk.writes),
  );
  metric(
    'written_bytes_total',
    'counter',
    'Their bytes.',
    byDisk((disk) => disk.writtenBytes),
  );
  metric(
    'failed_writes_total',
    'counter',
    'Writes that the disk refused.',
    byDisk((disk) => disk.failedWrites),
  );
  metric(
    'watches',
    'gauge',
    'Those who follow its writes.',
    byDisk((disk) => disk.watches.length),
  );
  return `${lines.join('\n')}\n`;
}

function label(name: string, value: string): string {
  return `${name}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
}
