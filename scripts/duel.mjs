// One process of a duel: loads two builds and measures their cases in turn (src/bench/duel.ts). Started by
// scripts/duels.mjs with one JSON argument; prints one JSON array, one element a case.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const options = JSON.parse(process.argv[2]);
const { base, head, headFirst, suites, cases, workers, turnMs, ratios, plant } = options;
const load = (build, file) => import(pathToFileURL(join(build, 'dist', 'bench', file)).href);

const builds = {};
// Memory and code are placed in the order of loading.
for (const which of headFirst ? ['head', 'base'] : ['base', 'head']) {
  builds[which] = await load(which === 'head' ? head : base, 'suites.js');
}
if (builds.base.benchFormat !== builds.head.benchFormat) {
  console.error(
    `duel: the builds' benches have formats ${builds.base.benchFormat} and ${builds.head.benchFormat}`,
  );
  process.exit(2);
}
const { duel } = await load(head, 'duel.js');
const results = [];
for (const suite of suites) {
  const opened = {};
  for (const which of headFirst ? ['head', 'base'] : ['base', 'head'])
    opened[which] = await builds[which].openSuite(suite, { scale: 'gate', workers });
  for (const item of opened.head.cases) {
    const before = opened.base.cases.find(({ name }) => name === item.name);
    if (before && cases.some((part) => item.name.includes(part)))
      results.push(await duel(before, item, { turnMs, ratios, plant }));
  }
  for (const { close } of Object.values(opened)) await close();
}
process.stdout.write(JSON.stringify(results));
