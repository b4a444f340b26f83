// Shows that the gate works on this machine: duels a build with itself, which must not alarm, and duels it
// with itself slowed down in one case, which must alarm for that case and for no other.
//   node scripts/regress-proof.mjs [--runs 20] [--plant 8] [--plant-coarse 50] [--json FILE]  (after npm run build)
// Everything else is as the gate has it (scripts/duels.mjs, `standard`), or nothing would be proven.
// Exits 0 when no A/A run alarmed and at least 95 % of the planted ones were caught, else 1.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  benchModule,
  checkOutput,
  copyBuild,
  exitWithTrouble,
  isCoarse,
  positiveNumber,
  root,
  runDuels,
  wholeNumber,
} from './duels.mjs';

exitWithTrouble();

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '20' },
    plant: { type: 'string', default: '8' },
    'plant-coarse': { type: 'string', default: '50' },
    json: { type: 'string' },
  },
});
const runs = wholeNumber(values, 'runs');
const shares = {
  fine: positiveNumber(values, 'plant') / 100,
  coarse: positiveNumber(values, 'plant-coarse') / 100,
};
if (values.json !== undefined) checkOutput(values.json, 'json');

const folder = mkdtempSync(join(tmpdir(), 'driftmap-proof-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const [base, head] = ['base', 'head'].map((name) => join(folder, name));
for (const to of [base, head]) copyBuild(root, to);
const { compareDuels } = await benchModule(head, 'compare.js');

const record = [];
let names = [];
for (let run = 0; run < runs; run++) {
  for (const planted of [false, true]) {
    // A case that is there to be slowed down is known once a duel has been run: every case has its turn.
    const name = planted ? names[run % names.length] : undefined;
    const share = isCoarse(name ?? '') ? shares.coarse : shares.fine;
    const duels = await runDuels(base, head, { plant: planted ? { name, share } : undefined });
    names = duels[0].map((duel) => duel.name);
    const { cases } = compareDuels(duels);
    const alarms = cases.filter(({ verdict }) => verdict !== 'unchanged' && verdict !== 'faster');
    const caught = alarms.some((one) => one.name === name);
    const strays = alarms.filter((one) => one.name !== name).map((one) => one.name);
    const estimates = cases.map((one) => ({ name: one.name, ...one.ratio }));
    record.push({ run, planted: name ?? null, caught, strays, load: loadavg()[0], estimates });
    const at = cases.find((one) => one.name === name)?.ratio.estimate.toFixed(3);
    const what = planted ? `${name} slowed: ${caught ? 'caught' : 'MISSED'} (${at})` : 'the same build twice';
    const widest = Math.max(...cases.filter((one) => one.name !== name).map((one) => one.ratio.estimate));
    const others = strays.length
      ? `FALSE ALARM: ${strays.join(', ')}`
      : `no other alarm (up to ${widest.toFixed(3)})`;
    console.log(`${String(run + 1).padStart(3)}  ${what}; ${others}`);
    if (values.json) writeFileSync(values.json, JSON.stringify(record));
  }
}
const same = record.filter(({ planted }) => planted === null);
const slowed = record.filter(({ planted }) => planted !== null);
const alarmed = same.filter(({ strays }) => strays.length > 0).length;
const found = slowed.filter(({ caught }) => caught).length;
const stray = slowed.filter(({ strays }) => strays.length > 0).length;
console.log(`\nA/A: ${alarmed} of ${same.length} alarmed, ${names.length} cases each.`);
console.log(
  `${values.plant} % (coarse: ${values['plant-coarse']} %) in one case: ${found} of ${slowed.length} caught; ${stray} with an alarm for another case.`,
);
process.exitCode = alarmed === 0 && found >= 0.95 * slowed.length ? 0 : 1;
