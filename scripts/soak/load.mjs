import { spawn } from 'node:child_process';

/** fio on one disk, round after round, until it is told to end. */
export class Load {
  rounds = 0;
  failures = [];
  /** @param parts `{ disk, socket, folder, sizeMiB, random, between }` */
  constructor(parts) {
    Object.assign(this, parts);
  }
  async run(until) {
    while (Date.now() < until && this.failures.length === 0) {
      const seed = Math.floor(this.random() * 2 ** 31);
      const left = Math.max(2, Math.min(this.between(8, 20), (until - Date.now()) / 1000));
      const uri = `nbd+unix:///${this.disk}?socket=${this.socket}`;
      const mode =
        this.rounds % 3 === 2
          ? ['--rw=write', '--bs=256k', '--iodepth=4']
          : ['--rw=randwrite', '--bs=4k', '--iodepth=16'];
      const args = [
        '--name=soak',
        '--thread', // in one process, which a signal holds as a whole
        '--ioengine=nbd',
        `--uri=${uri}`,
        `--size=${this.sizeMiB}M`,
        ...mode,
        `--randseed=${seed}`,
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_state_save=0',
        '--do_verify=1',
        '--fsync=256',
        `--io_size=${Math.round(left * 2.5)}M`,
        '--rate=5M',
        '--output-format=terse',
      ];
      this.child = spawn('fio', args, { cwd: this.folder, stdio: ['ignore', 'pipe', 'pipe'] });
      let said = '';
      for (const stream of [this.child.stdout, this.child.stderr])
        stream.on('data', (text) => {
          said += text;
        });
      const status = await new Promise((resolve) => this.child.on('close', resolve));
      this.rounds++;
      if (status !== 0) this.failures.push(`fio on ${this.disk} ended with ${status}: ${said.slice(-600)}`);
    }
    this.child = null;
  }
  hold(signal) {
    try {
      this.child?.kill(signal);
    } catch {}
  }
}
