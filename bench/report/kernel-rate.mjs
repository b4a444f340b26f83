// GB/s that so many threads sign by blake3 together, 64 KiB blocks, nothing read: node kernel-rate.mjs THREADS
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { KERNEL_SCRATCH_BYTES } from '../../dist/base/limits.js';
import { SlotArena } from '../../dist/memory/shared-memory.js';
import { algorithmByName } from '../../dist/signature/algorithm.js';
import { loadKernels } from '../../dist/signature/kernel-builds.js';
import { Kernels } from '../../dist/signature/kernels.js';

const PIECE = 2 ** 21;
const RUNS = 200;

if (isMainThread) {
  const threads = Number(process.argv[2]);
  const go = new Int32Array(new SharedArrayBuffer(4));
  const crew = Array.from(
    { length: threads },
    () => new Worker(new URL(import.meta.url), { workerData: go }),
  );
  const next = (worker) => new Promise((resolve) => worker.once('message', resolve));
  await Promise.all(crew.map(next));
  const done = crew.map(next);
  const from = performance.now();
  Atomics.store(go, 0, 1);
  Atomics.notify(go, 0);
  await Promise.all(done);
  console.log((threads * RUNS * PIECE) / 1e6 / (performance.now() - from));
} else {
  const { memory, pointer } = new SlotArena(1, KERNEL_SCRATCH_BYTES + PIECE + 2 ** 16).slot(0);
  const data = pointer + KERNEL_SCRATCH_BYTES + 2 ** 16;
  const bytes = new Uint8Array(memory.buffer);
  for (let i = 0; i < PIECE; i++) bytes[data + i] = i * 31;
  const signer = await new Kernels(loadKernels(), memory, pointer).signer(algorithmByName('blake3'));
  const sign = () => signer.sign(data, 65536, PIECE / 65536, pointer + KERNEL_SCRATCH_BYTES);
  for (let i = 0; i < 20; i++) sign();
  parentPort.postMessage('ready');
  Atomics.wait(workerData, 0, 0);
  for (let i = 0; i < RUNS; i++) sign();
  parentPort.postMessage('done');
}
