import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SnapshotInfo } from '../../src/snapshots/manifest.ts';
import { chooseKept, type RetentionRules } from '../../src/snapshots/retention.ts';

let made = 0;
function snapshotOf(time: string | number, group = 'web'): SnapshotInfo {
  const milliseconds = typeof time === 'number' ? time : new Date(time).getTime();
  return {
    id: String(made++).padStart(64, '0'),
    repository: '0'.repeat(32),
    group,
    taken: milliseconds,
    point: { sequence: 0, time: milliseconds, consistency: 'crash', bookmark: null, journal: null },
    parent: null,
    configuration: null,
    blockSize: 262144,
    disks: [],
    counts: { bytesRead: 0, blocksSent: 0, bytesSent: 0 },
  };
}

const keptTimes = (times: readonly string[], rules: RetentionRules) =>
  chooseKept(
    times.map((time) => snapshotOf(time)),
    rules,
  ).keep.map(
    ({ snapshot }) => times[times.findIndex((time) => new Date(time).getTime() === snapshot.point.time)],
  );

describe('each rule keeps the newest of each of its periods', () => {
  // Local times throughout, as the rules are.
  const hours = [
    '2026-03-01T08:10',
    '2026-03-01T08:50',
    '2026-03-01T09:05',
    '2026-03-01T11:00',
    '2026-03-01T11:59',
  ];
  it('last', () => {
    expect(keptTimes(hours, { last: 2 })).toEqual(hours.slice(3));
  });
  it('hourly, counting hours that have a snapshot', () => {
    expect(keptTimes(hours, { hourly: 2 })).toEqual(['2026-03-01T09:05', '2026-03-01T11:59']);
    expect(keptTimes(hours, { hourly: 3 })).toEqual([
      '2026-03-01T08:50',
      '2026-03-01T09:05',
      '2026-03-01T11:59',
    ]);
  });
  it('and the oldest snapshot while the number is not used up', () => {
    expect(keptTimes(hours, { hourly: 9 })).toEqual([hours[0], hours[1], hours[2], hours[4]]);
  });
  it('daily, weekly by ISO 8601, monthly, yearly', () => {
    // 2026-01-01 is a Thursday: the week of 2025-12-29 is the first of 2026.
    const days = [
      '2025-12-28T12:00',
      '2025-12-29T12:00',
      '2025-12-31T12:00',
      '2026-01-01T12:00',
      '2026-01-04T12:00',
      '2026-01-05T12:00',
    ];
    expect(keptTimes(days, { daily: 2 })).toEqual(days.slice(4));
    expect(keptTimes(days, { weekly: 2 })).toEqual([days[4], days[5]]);
    expect(keptTimes(days, { weekly: 3 })).toEqual([days[0], days[4], days[5]]);
    expect(keptTimes(days, { monthly: 2 })).toEqual([days[2], days[5]]);
    expect(keptTimes(days, { yearly: 1 })).toEqual([days[5]]);
  });
  it('within counts back from the newest snapshot', () => {
    expect(keptTimes(hours, { within: 3_600_000 })).toEqual(hours.slice(3));
    expect(keptTimes(hours, { within: 0 })).toEqual(hours.slice(4));
  });
  it('and what any rule keeps is kept, with the reasons', () => {
    const { keep } = chooseKept(
      hours.map((time) => snapshotOf(time)),
      { last: 1, hourly: 1, daily: 1 },
    );
    expect(keep.map(({ reasons }) => reasons)).toEqual([['last', 'hourly', 'daily']]);
  });
});

describe('whatever the rules', () => {
  const rules = fc.record({
    last: fc.option(fc.nat(5), { nil: undefined }),
    hourly: fc.option(fc.nat(5), { nil: undefined }),
    daily: fc.option(fc.nat(5), { nil: undefined }),
    weekly: fc.option(fc.nat(5), { nil: undefined }),
    monthly: fc.option(fc.nat(5), { nil: undefined }),
    yearly: fc.option(fc.nat(5), { nil: undefined }),
    within: fc.option(fc.nat(10 * 86_400_000), { nil: undefined }),
  });
  const times = fc.array(fc.integer({ min: 1_700_000_000_000, max: 1_800_000_000_000 }), { maxLength: 40 });

  it('the newest of each group stays, no rule keeps more than its number, and nothing is lost', () => {
    fc.assert(
      fc.property(times, times, rules, (web, mail, some) => {
        const snapshots = [
          ...web.map((time) => snapshotOf(time)),
          ...mail.map((time) => snapshotOf(time, 'mail')),
        ];
        snapshots.sort((a, b) => a.point.time - b.point.time);
        const isEmpty = Object.entries(some).every(
          ([rule, value]) => value === undefined || (value === 0 && rule !== 'within'),
        );
        if (isEmpty) {
          expect(() => chooseKept(snapshots, some)).toThrow(/a rule that keeps something/);
          return;
        }
        const { keep, forget } = chooseKept(snapshots, some);
        expect(new Set([...keep.map(({ snapshot }) => snapshot), ...forget]).size).toBe(snapshots.length);
        for (const group of ['web', 'mail']) {
          const newest = snapshots.findLast((one) => one.group === group);
          if (newest !== undefined) expect(keep.map(({ snapshot }) => snapshot)).toContain(newest);
          for (const rule of ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const) {
            const count = keep.filter(
              ({ snapshot, reasons }) =>
                snapshot.group === group && reasons.some((reason) => reason.startsWith(rule)),
            ).length;
            expect(count).toBeLessThanOrEqual(some[rule] ?? 0);
          }
        }
      }),
    );
  });
});
