/**
 * A small virtual machine: Debian's cloud kernel under software emulation, and a disk with a system of its own
 * (busybox) that says what it finds in /srv, does the work it was given, and powers off. A boot takes about 4 s.
 */

import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const vmNeeds = ['qemu-system-x86_64', 'mkfs.ext4', 'busybox', 'cpio', 'apt-get'] as const;

/** What a machine starts from. */
export interface VmParts {
  readonly folder: string;
}

/** Makes them in a folder; needs a Debian archive. @throws Error with what the script said */
export function makeVmParts(folder: string): VmParts {
  const script = join(dirname(fileURLToPath(import.meta.url)), 'make-vm.sh');
  const made = spawnSync('bash', [script, folder], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(`make-vm.sh: ${made.stderr}`);
  return { folder };
}

export interface GuestDisk {
  /** Files of /srv, by name: printed by the guest when it is up. */
  readonly files?: Readonly<Record<string, string>>;
  /** What the guest's shell does then. */
  readonly work?: string;
  readonly bytes?: number;
}

/** A disk that boots, at `path`. */
export function makeGuestDisk({ folder }: VmParts, path: string, { files, work, bytes }: GuestDisk): void {
  const seed = `${path}.seed`;
  cpSync(join(folder, 'root'), seed, { recursive: true });
  mkdirSync(join(seed, 'srv'), { recursive: true });
  for (const [name, text] of Object.entries(files ?? {})) writeFileSync(join(seed, 'srv', name), text);
  if (work !== undefined) writeFileSync(join(seed, 'etc', 'work'), work);
  if (!existsSync(path)) writeFileSync(path, '');
  truncateSync(path, bytes ?? 64 * 2 ** 20);
  const made = spawnSync('mkfs.ext4', ['-q', '-F', '-d', seed, path], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(`mkfs.ext4: ${made.stderr}`);
}

/**
 * Boots from a disk (an NBD URI, or a path) and returns what the console showed, once the machine is off.
 * @param netns a network namespace to run it in
 */
export function bootVm(
  { folder }: VmParts,
  disk: string,
  { netns, seconds = 100 }: { netns?: string; seconds?: number } = {},
): Promise<string> {
  const qemu = [
    'qemu-system-x86_64',
    ...['-nodefaults', '-nographic', '-no-reboot', '-m', '256', '-smp', '1', '-cpu', 'max'],
    ...['-accel', 'tcg,tb-size=128', '-serial', 'stdio'],
    ...['-kernel', join(folder, 'vmlinuz'), '-initrd', join(folder, 'initramfs.gz')],
    ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable'],
    ...['-drive', `file=${disk.replaceAll(',', ',,')},format=raw,if=none,id=d0,cache=none`],
    ...['-device', 'virtio-blk-pci,drive=d0'],
  ];
  const [command, ...args] = netns === undefined ? qemu : ['ip', 'netns', 'exec', netns, ...qemu];
  return new Promise((resolve, reject) => {
    const machine = spawn(command!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let console = '';
    for (const stream of [machine.stdout, machine.stderr]) {
      stream.on('data', (text: Buffer) => {
        console += text.toString();
      });
    }
    const timer = setTimeout(() => machine.kill('SIGKILL'), seconds * 1000);
    machine.on('error', reject);
    machine.on('close', (status) => {
      clearTimeout(timer);
      if (status === 0) resolve(console);
      else reject(new Error(`the machine did not end well (${status}):\n${console}`));
    });
  });
}
