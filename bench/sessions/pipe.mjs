// A plain TLS connection of Node's between two processes: what a session's data phase is held against.
// `node pipe.mjs pour|drain PORT-OR-0 CERT KEY MEBIBYTES`: the one sends so much from one buffer, the other drops it.
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:tls';

const [what, port, certAt, keyAt, mebibytes] = process.argv.slice(2);
const [cert, key] = [certAt, keyAt].map((path) => readFileSync(path));
const say = (object) => console.log(JSON.stringify(object));
const cpu = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

if (what === 'drain') {
  const server = createServer({ cert, key, minVersion: 'TLSv1.3' }, (socket) => {
    const before = cpu();
    socket.on('data', () => undefined);
    socket.on('end', () => {
      socket.end();
      say({ cpu: cpu() - before });
      server.close();
    });
  });
  server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
} else {
  const socket = connect({ host: '127.0.0.1', port: Number(port), ca: cert, cert, key }, () => {
    const [began, before] = [performance.now(), cpu()];
    const chunk = Buffer.alloc(2 ** 20, 7);
    let left = Number(mebibytes);
    const pour = () => {
      while (left-- > 0) if (!socket.write(chunk)) return;
      socket.end();
    };
    socket.on('drain', pour);
    socket.on('close', () => say({ seconds: (performance.now() - began) / 1000, cpu: cpu() - before }));
    socket.resume();
    pour();
  });
}
