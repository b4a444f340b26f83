// One process of a duel: loads two builds and measures their cases in turn (src/bench/duel.ts). Started by
// scripts/duels.mjs with one JSON argument; prints one JSON array, one element a case. With `list`, an array of
// builds, it measures nothing and prints the names of each build's cases that were asked for.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isCoarse, mayHave } from './duels.mjs';

const options = JSON.parse(process.argv[2]);
const { base, head, headFirst, suites, cases, workers, plant } = options;
const load = (build, file) => import(pathToFileURL(join(build, 'dist', 'bench', file)).href);
const open = (build, suite) => build.openSuite(suite, { scale: 'gate', workers });
const wanted = ({ name }) => cases.some((part) => name.includes(part));

process.stdout.write(
  JSON.stringify(options.list === undefined ? await measure() : await listed(options.list)),
);

async function listed(folders) {
  const found = [];
  for (const folder of folders) {
    const build = await load(folder, 'suites.js');
    const names = [];
    for (const suite of suites.filter((name) => build.suiteNames.includes(name))) {
      const opened = await open(build, suite);
      names.push(...opened.cases.filter(wanted).map(({ name }) => name));
      await opened.close();
    }
    found.push(names);
  }
  return found;
}

async function measure() {
  const order = headFirst ? ['head', 'base'] : ['base', 'head'];
  const builds = {};
  // Memory and code are placed in the order of loading.
  for (const which of order) builds[which] = await load(which === 'head' ? head : base, 'suites.js');
  if (builds.base.benchFormat !== builds.head.benchFormat) {
    const [one, other] = [builds.base.benchFormat, builds.head.benchFormat];
    console.error(`duel: the builds' benches have formats ${one} and ${other}`);
    process.exit(2);
  }
  const { duel } = await load(head, 'duel.js');
  const results = [];
  // Fine cases first: what coarse ones leave behind in the process is nothing that they meet.
  for (const coarse of [false, true]) {
    const { turnMs, ratios, best, leastEffect } = coarse ? options.coarse : options.fine;
    for (const suite of suites.filter((name) => mayHave(name, { coarse }))) {
      if (!builds.base.suiteNames.includes(suite) || !builds.head.suiteNames.includes(suite)) continue;
      const opened = {};
      for (const which of order) opened[which] = await open(builds[which], suite);
      const chosen = opened.head.cases.filter((item) => isCoarse(item.name) === coarse && wanted(item));
      for (const item of chosen) {
        const before = opened.base.cases.find(({ name }) => name === item.name);
        if (before) results.push(await duel(before, item, { turnMs, ratios, best, leastEffect, plant }));
      }
      for (const { close } of Object.values(opened)) await close();
    }
  }
  return results;
}
