/**
 * Which snapshots a policy keeps. The rules are those of `restic forget`
 * (https://restic.readthedocs.io/en/stable/060_forget.html#removing-snapshots-according-to-a-policy): for each rule the
 * snapshots of a group are walked from the newest to the oldest, and the newest one of each hour, day, week (ISO 8601),
 * month or year is kept until the rule's number is used up; the oldest snapshot is kept as well while it is not. What
 * any rule keeps, is kept. Hours and days are those of the machine's time zone; times are those of the points.
 */

import { DriftmapError } from '../base/errors.ts';
import type { SnapshotInfo } from './manifest.ts';

export interface RetentionRules {
  readonly last?: number | undefined;
  readonly hourly?: number | undefined;
  readonly daily?: number | undefined;
  readonly weekly?: number | undefined;
  readonly monthly?: number | undefined;
  readonly yearly?: number | undefined;
  /** Milliseconds before the newest snapshot of the group, not before now. */
  readonly within?: number | undefined;
}

export interface RetentionChoice {
  readonly keep: readonly { readonly snapshot: SnapshotInfo; readonly reasons: readonly string[] }[];
  readonly forget: readonly SnapshotInfo[];
}

const counted = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;

/** What of a moment a rule keeps one snapshot of. */
const periodOf: Readonly<Record<(typeof counted)[number], (date: Date, index: number) => string>> = {
  last: (_, index) => String(index),
  hourly: (date) => `${dayOf(date)} ${date.getHours()}`,
  daily: dayOf,
  weekly: weekOf,
  monthly: (date) => `${date.getFullYear()}-${date.getMonth()}`,
  yearly: (date) => String(date.getFullYear()),
};

/**
 * @param snapshots oldest first, of any groups: each group is looked at by itself
 * @throws DriftmapError `argument` for rules that keep nothing: that is never meant
 */
export function chooseKept(snapshots: readonly SnapshotInfo[], rules: RetentionRules): RetentionChoice {
  checkRules(rules);
  const groups = new Map<string, SnapshotInfo[]>();
  for (const snapshot of snapshots) {
    const group = groups.get(snapshot.group);
    if (group === undefined) groups.set(snapshot.group, [snapshot]);
    else group.push(snapshot);
  }
  const reasons = new Map<SnapshotInfo, string[]>();
  for (const group of groups.values()) keepOfGroup(group.toReversed(), rules, reasons);
  const keep = snapshots.filter((snapshot) => reasons.has(snapshot));
  return {
    keep: keep.map((snapshot) => ({ snapshot, reasons: reasons.get(snapshot)! })),
    forget: snapshots.filter((snapshot) => !reasons.has(snapshot)),
  };
}

function checkRules(rules: RetentionRules): void {
  for (const [rule, value] of Object.entries(rules)) {
    if (value === undefined) continue;
    if (!Number.isSafeInteger(value) || value < 0)
      throw new DriftmapError('argument', `expected a whole number to keep (${rule}), got ${value}`);
  }
  if (counted.every((rule) => !rules[rule]) && rules.within === undefined)
    throw new DriftmapError('argument', 'expected a rule that keeps something, such as 7 daily ones');
}

/** @param newestFirst the snapshots of one group */
function keepOfGroup(
  newestFirst: readonly SnapshotInfo[],
  rules: RetentionRules,
  reasons: Map<SnapshotInfo, string[]>,
): void {
  const keep = (snapshot: SnapshotInfo, reason: string) => {
    const known = reasons.get(snapshot);
    if (known === undefined) reasons.set(snapshot, [reason]);
    else known.push(reason);
  };
  for (const rule of counted) {
    let left = rules[rule] ?? 0;
    let last: string | null = null;
    for (const [index, snapshot] of newestFirst.entries()) {
      if (left === 0) break;
      const period = periodOf[rule](new Date(snapshot.point.time), index);
      if (period === last && index < newestFirst.length - 1) continue;
      keep(snapshot, period === last ? `${rule} (oldest)` : rule);
      last = period;
      left--;
    }
  }
  const { within } = rules;
  if (within === undefined) return;
  const newest = newestFirst[0]!.point.time;
  for (const snapshot of newestFirst) if (snapshot.point.time >= newest - within) keep(snapshot, 'within');
}

function dayOf(date: Date): string {
  return `${date.getFullYear()}-${date.getMonth()}-${date.getDate()}`;
}

/** ISO 8601: a week belongs to the year that its Thursday is in. */
function weekOf(date: Date): string {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate());
  thursday.setDate(thursday.getDate() + 3 - ((thursday.getDay() + 6) % 7));
  const first = new Date(thursday.getFullYear(), 0, 1);
  const days = Math.round((thursday.getTime() - first.getTime()) / 86_400_000);
  return `${thursday.getFullYear()} week ${Math.floor(days / 7) + 1}`;
}
