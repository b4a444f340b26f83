/** A replica group's state for Prometheus, in its text format. */

import type { ReplicaGroupState } from './replica-group.ts';

export function metricsOf(state: ReplicaGroupState): string {
  const label = `{group="${state.group.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`))}"}`;
  const flag = (value: boolean) => (value ? 1 : 0);
  const gauges: readonly (readonly [string, string, number])[] = [
    ['journal_bytes', 'What the files of the journal take.', state.bytes],
    ['journal_sequence', 'The newest durable record.', state.last.sequence],
    ['journal_time_seconds', 'When the newest durable record was written.', state.last.time / 1000],
    ['applied_sequence', 'All records up to this one are in the disks.', state.applied.low],
    ['lag_records', 'Records that the disks have not taken.', state.lag.records],
    ['lag_bytes', 'Bytes of them that came in since the process began.', state.lag.bytes],
    ['consistent', 'Whether the newest record is a point.', flag(state.consistent)],
    ['streaming', 'Whether production is connected.', flag(state.stream !== null)],
    ['held', 'Whether the disks do not follow.', flag(state.held !== null)],
    ['trouble', 'How many things are wrong.', state.trouble.length],
    ['accesses', 'Accesses that are open.', state.accesses.length],
  ];
  return gauges
    .map(([name, help, value]) => {
      const full = `driftmap_replica_${name}`;
      return `# HELP ${full} ${help}\n# TYPE ${full} gauge\n${full}${label} ${value}\n`;
    })
    .join('');
}
