import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { humanDuration, parseDuration, parseMoment, tellMoment } from '../../src/base/time.ts';
import { thrown } from '../tools.ts';

const now = new Date(2026, 2, 14, 15, 9, 26, 535).getTime();

describe('a duration', () => {
  it.each([
    ['90s', 90_000],
    ['15m', 900_000],
    ['1h30m', 5_400_000],
    ['3d', 259_200_000],
    ['2w', 1_209_600_000],
    ['500ms', 500],
    ['1.5h', 5_400_000],
    ['0s', 0],
  ])('%s is read', (text, milliseconds) => {
    expect(parseDuration(text)).toBe(milliseconds);
  });

  it.each(['', '15', 'm', '15 m', '-15m', '15x', '1h 30m', '99999999999999999999d', '1m1'])(
    '%j is refused',
    (text) => {
      expect(thrown(() => parseDuration(text))).toMatchObject({ kind: 'argument' });
    },
  );

  it('is told with its two largest units, which are read back to within the smaller', () => {
    expect(humanDuration(5_400_000)).toBe('1h30m');
    expect(humanDuration(86_405_000)).toBe('1d');
    expect(humanDuration(12)).toBe('12ms');
    expect(humanDuration(999.7)).toBe('1000ms');
    fc.assert(
      fc.property(fc.nat(10 ** 10), (milliseconds) => {
        const read = parseDuration(humanDuration(milliseconds));
        expect(Math.abs(read - milliseconds)).toBeLessThanOrEqual(Math.max(500, milliseconds / 24));
      }),
    );
  });
});

describe('a time', () => {
  it('is read in the zone of the machine, to the end of what is given', () => {
    expect(parseMoment('2026-03-01T14:02:07.250', now)).toBe(new Date(2026, 2, 1, 14, 2, 7, 250).getTime());
    expect(parseMoment('2026-03-01 14:02:07', now)).toBe(new Date(2026, 2, 1, 14, 2, 7, 999).getTime());
    expect(parseMoment('2026-03-01T14:02', now)).toBe(new Date(2026, 2, 1, 14, 2, 59, 999).getTime());
    expect(parseMoment('2026-03-01', now)).toBe(new Date(2026, 2, 1, 23, 59, 59, 999).getTime());
    expect(parseMoment('14:02:07.5', now)).toBe(new Date(2026, 2, 14, 14, 2, 7, 500).getTime());
    expect(parseMoment('9:30', now)).toBe(new Date(2026, 2, 14, 9, 30, 59, 999).getTime());
    expect(parseMoment('-10m', now)).toBe(now - 600_000);
  });

  it('is read in another zone where one is given', () => {
    expect(parseMoment('2026-03-01T14:02:07.250Z', now)).toBe(Date.UTC(2026, 2, 1, 14, 2, 7, 250));
    expect(parseMoment('2026-03-01T14:02:07.25+05:30', now)).toBe(Date.UTC(2026, 2, 1, 8, 32, 7, 250));
    expect(parseMoment('2026-03-01T14:02:07,25-0800', now)).toBe(Date.UTC(2026, 2, 1, 22, 2, 7, 250));
  });

  it.each([
    '',
    'yesterday',
    '25:00',
    '12:60',
    '2026-02-30T00:00',
    '2026-13-01',
    '14:02:07Z',
    '-',
    '-10',
    '1234567890',
    '2026-03-01T14:02:07+25:00',
  ])('%j is refused', (text) => {
    expect(thrown(() => parseMoment(text, now))).toMatchObject({ kind: 'argument' });
  });

  it('is told in full, and read back to the millisecond', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4_000_000_000_000 }), (time) => {
        expect(parseMoment(tellMoment(time), now)).toBe(time);
      }),
    );
  });
});
