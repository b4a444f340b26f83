// Where a worker's time goes: V8's profile of its thread, sample by sample.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { command, goal, heading, json, timed } from './measure.mjs';

/** The share of kernels and reads in what workers do while they pull ranges. */
export function workerTime(folder, rounds) {
  heading("Where the workers' time goes (V8's sampling profiler)");
  const [production, replica] = ['production.raw', 'replica.raw'].map((name) => join(folder, name));
  for (const method of [
    ['--compare', 'bytes'],
    ['-s', 'nh128'],
    ['-s', 'blake3'],
  ]) {
    const shares = [];
    for (let round = 0; round < rounds; round++) {
      const profiles = mkdtempSync(join(tmpdir(), 'driftmap-profile-'));
      const [node, main] = command;
      timed(
        [
          node,
          '--cpu-prof',
          '--cpu-prof-interval',
          '250',
          '--cpu-prof-dir',
          profiles,
          main,
          'scan',
          '-q',
          ...method,
          production,
          replica,
        ],
        [0, 1],
      );
      for (const file of readdirSync(profiles)) {
        const share = shareOf(json(join(profiles, file)));
        if (share !== null) shares.push(share);
      }
      rmSync(profiles, { recursive: true });
    }
    if (shares.length > 0) goal(`${method[1]}: kernels and reads`, shares, { least: 0.95 });
  }
}

/** Null for a thread that pulls no ranges. */
function shareOf({ nodes, samples, timeDeltas }) {
  const parents = new Map();
  for (const node of nodes) for (const child of node.children ?? []) parents.set(child, node);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const under = (node, test) => {
    for (let at = node; at; at = parents.get(at.id)) if (test(at.callFrame)) return true;
    return false;
  };
  let all = 0;
  let work = 0;
  for (const [i, id] of samples.entries()) {
    const node = byId.get(id);
    if (!under(node, ({ functionName }) => /pullRanges|compareBytes/.test(functionName))) continue;
    all += timeDeltas[i];
    if (under(node, ({ functionName, url }) => url.startsWith('wasm:') || functionName === 'readSync'))
      work += timeDeltas[i];
  }
  return all > 50_000 ? work / all : null;
}
