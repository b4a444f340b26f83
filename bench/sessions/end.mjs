// One end of a session in a process of its own: `node end.mjs serve|sync|compare OPTIONS`, options as JSON.
// Prints one JSON object a line. `serve` prints its port, then, when its input ends, what it used.
import { compareSites, serve, sync } from '../../dist/lib/index.js';

const [what, json] = process.argv.slice(2);
const options = JSON.parse(json);
const say = (object) => console.log(JSON.stringify(object));
const seconds = ({ user, system }) => (user + system) / 1e6;
const used = () => ({ cpu: seconds(process.cpuUsage()), peak: process.resourceUsage().maxRSS * 1024 });

if (what === 'serve') {
  const { disk, host, tls } = options;
  const server = await serve({
    host,
    port: 0,
    tls,
    insecure: true,
    grant: () => ({ disk }),
    onError: console.error,
  });
  say({ port: server.port });
  process.stdin.resume();
  await new Promise((resolve) => process.stdin.once('end', resolve));
  say(used());
  await server.close(0);
} else {
  const phases = {};
  let phase = null;
  let began = { at: performance.now(), cpu: process.cpuUsage() };
  const ends = (next) => {
    if (phase !== null) {
      phases[phase] ??= { seconds: 0, cpu: 0 };
      phases[phase].seconds += (performance.now() - began.at) / 1000;
      phases[phase].cpu += seconds(process.cpuUsage(began.cpu));
    }
    began = { at: performance.now(), cpu: process.cpuUsage() };
    phase = next;
  };
  const act = what === 'sync' ? sync : compareSites;
  const started = performance.now();
  const result = await act({
    ...options,
    onProgress: (progress) => {
      if (progress.phase !== phase) ends(progress.phase);
    },
  });
  ends(null);
  const { bitmap, ...told } = result;
  say({ ...told, seconds: (performance.now() - started) / 1000, phases, ...used() });
}
