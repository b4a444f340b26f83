/**
 * The types of messages, by frozen number. From 0x8000 on a message is optional: who does not know it skips it.
 * An unknown message below is refused. docs/PROTOCOL.md says what each holds and who sends it when.
 */

export const MessageType = {
  // Greeting
  hello: 1,
  welcome: 2,
  auth: 3,
  authed: 4,
  open: 5,
  opened: 6,
  // The connection itself; they cost no credit
  error: 7,
  bye: 8,
  credit: 9,
  ping: 10,
  pong: 11,
  // Comparison
  ready: 16,
  bitmap: 17,
  compare: 18,
  tops: 19,
  equal: 20,
  nodes: 21,
  differ: 22,
  compared: 23,
  // Transfer
  signatures: 32,
  place: 33,
  placed: 34,
  data: 35,
  checkpoint: 36,
  durable: 37,
  finish: 38,
  finished: 39,
  refine: 40,
  refined: 41,
  // Journal streams
  follow: 64,
  following: 65,
  writes: 66,
  mark: 67,
  marked: 68,
  journaled: 69,
  probe: 70,
  probed: 71,
  ask: 72,
  answer: 73,
} as const;

export const OPTIONAL_FROM = 0x8000;

/** Optional: what a person at the other end may want to know. */
export const NOTE = 0x8001;

const names = new Map<number, string>(Object.entries(MessageType).map(([name, type]) => [type, name]));

export function messageName(type: number): string {
  return names.get(type) ?? `number ${type}`;
}

/** Messages that carry no bulk: taken at once, whatever the credit. */
export function isFree(type: number): boolean {
  return type >= MessageType.error && type <= MessageType.pong;
}

/** Whether a version 1 peer can be sent this. */
export function isKnown(type: number): boolean {
  return names.has(type);
}
