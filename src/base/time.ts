/**
 * Times and durations as people write them. A time is milliseconds since 1970, read and told in the zone of the
 * machine; what is told names its zone, so that nobody has to guess.
 */

import { DriftmapError } from './errors.ts';

const units: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** Reads `90s`, `15m`, `1h30m`, `3d`, `500ms`: milliseconds. @throws DriftmapError `argument` */
export function parseDuration(text: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|[smhdw])/g)];
  const isWhole = parts.length > 0 && parts.map(([part]) => part).join('') === text.trim();
  const sum = parts.reduce((total, [, count, unit]) => total + Number(count) * units[unit!]!, 0);
  if (!isWhole || !Number.isSafeInteger(sum)) {
    throw new DriftmapError('argument', `expected a duration such as 90s, 15m, 1h30m or 3d, got '${text}'`);
  }
  return sum;
}

/** `5400000` → `1h30m`, with the two largest units: for people. */
export function humanDuration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)}ms`;
  const parts: string[] = [];
  let left = Math.round(milliseconds / 1000) * 1000;
  for (const unit of ['d', 'h', 'm', 's']) {
    const count = Math.floor(left / units[unit]!);
    left -= count * units[unit]!;
    if (count > 0) parts.push(`${count}${unit}`);
    // Zeros after the first count as well: 1d and 5s are told as 1d.
    if (parts.length > 0 && (parts.length === 2 || count === 0)) break;
  }
  return parts.join('');
}

const calendar =
  /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?(Z|[+-]\d{2}(?::?\d{2})?)?)?$/;
const clock = /^(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?$/;

/**
 * Reads a time: ISO 8601 (`2026-03-01T14:02:07`, with `Z` or `+01:00` for another zone than the machine's), the
 * time of day of today (`14:02:07`), or one back from now (`-10m`). Where less than milliseconds are given, the end
 * of what is given is meant: `14:02:07` is 14:02:07.999, so that all of that second's writes are in it.
 * @param now milliseconds since 1970
 * @throws DriftmapError `argument`; a time that is none (`25:00`) is refused, not bent
 */
export function parseMoment(text: string, now: number): number {
  const given = text.trim();
  if (given.startsWith('-')) return now - parseDuration(given.slice(1));
  const time = momentOfDay(given, now) ?? momentOfCalendar(given);
  if (time !== null) return time;
  const reason = `expected a time such as 2026-03-01T14:02:07, 14:02:07 (today) or -10m, got '${text}'`;
  throw new DriftmapError('argument', reason);
}

function momentOfDay(text: string, now: number): number | null {
  const match = clock.exec(text);
  if (match === null) return null;
  const today = new Date(now);
  const day = [today.getFullYear(), today.getMonth() + 1, today.getDate()] as const;
  return momentOf([...day, match[1], match[2], match[3], match[4]].map(part), null);
}

function momentOfCalendar(text: string): number | null {
  const match = calendar.exec(text);
  return match === null ? null : momentOf(match.slice(1, 8).map(part), match[8] ?? null);
}

/** A fraction of a second stays text: `.5` is half of one. */
function part(text: string | number | undefined, at: number): number | null {
  if (text === undefined) return null;
  return at === 6 ? Math.floor(Number(`0.${text}`) * 1000) : Number(text);
}

function momentOf(parts: readonly (number | null)[], zone: string | null): number | null {
  const [year, month, day] = parts as [number, number, number];
  const isLast = (at: number, most: number) => parts[at] ?? most;
  const [hour, minute, second, rest] = [isLast(3, 23), isLast(4, 59), isLast(5, 59), isLast(6, 999)];
  const utc = new Date(Date.UTC(year, month - 1, day, hour, minute, second, rest));
  // A date that is none would be another one.
  if (utc.getUTCMonth() !== month - 1 || utc.getUTCDate() !== day || hour > 23 || minute > 59 || second > 59)
    return null;
  if (zone === null) return new Date(year, month - 1, day, hour, minute, second, rest).getTime();
  if (zone === 'Z') return utc.getTime();
  const [hours, minutes] = [Number(zone.slice(1, 3)), Number(zone.slice(3).replace(':', '') || 0)];
  if (hours > 23 || minutes > 59) return null;
  return utc.getTime() - (zone.startsWith('-') ? -1 : 1) * (hours * 60 + minutes) * 60_000;
}

/** `2026-03-01T14:02:07.250+01:00`: in full, in the zone of the machine; `parseMoment` reads it back. */
export function tellMoment(time: number): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return `${time} ms since 1970`;
  const two = (value: number) => String(value).padStart(2, '0');
  const offset = -date.getTimezoneOffset();
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  const day = `${String(date.getFullYear()).padStart(4, '0')}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const milliseconds = String(date.getMilliseconds()).padStart(3, '0');
  return `${day}T${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${milliseconds}${zone}`;
}
