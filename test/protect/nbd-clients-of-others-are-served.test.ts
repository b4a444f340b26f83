import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { KiB, MiB } from '../../src/base/units.ts';
import { type BitmapHeader, SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { diskExport, syncBitmapExport, unitExport } from '../../src/protect/nbd/unit-export.ts';
import { describeWith, temporary } from '../tools.ts';
import { memoryExport, must, nbdsh, run, serveHere } from './nbd-peers.ts';

const folder = temporary();
const SIZE = 8 * MiB;

/** Data, holes, and an end that is no whole block. */
function makeDisk(name: string, size = SIZE + 1000): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, size);
  const unit = openFileUnit(path, { write: true });
  unit.write(1 * MiB, randomBytes(2 * MiB));
  unit.write(size - 5000, randomBytes(5000));
  unit.close();
  return path;
}

const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

async function serveFile(path: string) {
  const unit = openFileUnit(path, { write: true });
  return serveHere(folder, { disk: unitExport(unit, { description: 'a raw disk' }) });
}

describeWith(['nbdinfo', 'nbdcopy', 'nbdsh'], 'libnbd', () => {
  it('nbdinfo is told of every export, its size, its flags, its blocks and its contexts', async () => {
    const small: BitmapHeader = {
      size: SIZE,
      blockSize: 64 * KiB,
      signature: 'none',
      production: { identity: 'a', size: SIZE, generation: '1' },
      replica: { identity: 'b', size: SIZE, generation: '1' },
    };
    const { url } = await serveHere(folder, {
      one: unitExport(openFileUnit(makeDisk('info.raw'), { write: true }), {
        description: 'the first',
        bitmaps: new Map([['changed', syncBitmapExport(new SyncBitmap(small))]]),
      }),
      'zwei & drei': diskExport(await openDisk(makeDisk('info2.raw', SIZE))),
    });
    const { protocol, exports } = JSON.parse(await must('nbdinfo', ['--json', '--list', url()]));
    expect(protocol).toBe('newstyle-fixed');
    expect(exports.map((e: Record<string, unknown>) => e['export-name'])).toEqual(['one', 'zwei & drei']);
    expect(exports[0]).toMatchObject({
      description: 'the first',
      'export-size': SIZE + 1000,
      contexts: ['base:allocation', 'qemu:dirty-bitmap:changed'],
      is_read_only: false,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      can_cache: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MiB,
    });
    expect(exports[1]).toMatchObject({
      is_read_only: true,
      can_zero: false,
      can_trim: false,
      can_fua: false,
    });
    // Which of two is meant by no name?
    expect((await run('nbdinfo', [url()])).status).not.toBe(0);
    expect((await run('nbdinfo', [url('three')])).stderr).toMatch(
      /No such file or directory for export: three/,
    );
  });

  it('nbdcopy reads and writes whole disks, over several connections', async () => {
    const from = makeDisk('copy.raw');
    const to = join(folder, 'copied.raw');
    writeFileSync(to, randomBytes(SIZE + 1000));
    const source = await serveFile(from);
    const target = await serveFile(to);
    const out = join(folder, 'out.raw');
    await must('nbdcopy', ['--connections=4', source.url('disk'), out]);
    expect(digest(out)).toBe(digest(from));
    await must('nbdcopy', ['--connections=4', '--flush', source.url('disk'), target.url('disk')]);
    expect(digest(to)).toBe(digest(from));
    // Once more over old contents, so that holes must overwrite.
    writeFileSync(to, randomBytes(SIZE + 1000));
    await must('nbdcopy', ['--synchronous', '--flush', out, target.url('disk')]);
    expect(digest(to)).toBe(digest(from));
    expect([...source.troubles, ...target.troubles]).toEqual([]);
  });

  it('nbdinfo maps holes and dirty blocks', async () => {
    const path = makeDisk('map.raw', SIZE);
    const header: BitmapHeader = {
      size: SIZE,
      blockSize: 64 * KiB,
      signature: 'none',
      production: { identity: 'a', size: SIZE, generation: '1' },
      replica: { identity: 'b', size: SIZE, generation: '1' },
    };
    const bitmap = new SyncBitmap(header);
    bitmap.markRun({ start: 3, end: 7 });
    bitmap.mark(127);
    const bitmaps = new Map([['marks', syncBitmapExport(bitmap)]]);
    const { url } = await serveHere(folder, { disk: unitExport(openFileUnit(path), { bitmaps }) });
    const map = async (context: string) =>
      JSON.parse(await must('nbdinfo', ['--json', `--map=${context}`, url()])).map(
        (run: { offset: number; length: number; type: number }) => [run.offset, run.length, run.type],
      );
    expect(await map('qemu:dirty-bitmap:marks')).toEqual([
      [0, 3 * 64 * KiB, 0],
      [3 * 64 * KiB, 4 * 64 * KiB, 1],
      [7 * 64 * KiB, 120 * 64 * KiB, 0],
      [127 * 64 * KiB, 64 * KiB, 1],
    ]);
    const holes = await map('base:allocation');
    expect(holes.slice(0, 3)).toEqual([
      [0, 1 * MiB, 3],
      [1 * MiB, 2 * MiB, 0],
      [3 * MiB, 5 * MiB - 8192, 3],
    ]);
    expect((await run('nbdinfo', ['--map=qemu:dirty-bitmap:none', url()])).status).not.toBe(0);
  });

  it('nbdsh uses every command and flag', async () => {
    const { url } = await serveFile(makeDisk('shell.raw', SIZE));
    const { status, stderr, stdout } = await nbdsh(`
h.add_meta_context("base:allocation")
h.connect_uri(${JSON.stringify(url('disk'))})
assert h.get_structured_replies_negotiated()
h.pwrite(b"x" * 70000, 12345)
assert h.pread(70000, 12345) == b"x" * 70000
h.pwrite(b"y" * 512, 0, nbd.CMD_FLAG_FUA)
h.flush()
h.zero(50000, 20000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(50000, 20000) == bytes(50000)
h.zero(1 << 20, 2 << 20, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(1 << 20, 2 << 20) == bytes(1 << 20)
try:
    h.zero(1 << 20, 2 << 20, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    assert False
except nbd.Error as e:
    assert e.errno == "ENOTSUP", e
h.trim(1 << 20, 0)
h.trim(100, 1)
h.cache(1 << 20, 0)
seen = []
def df(buf, offset, s, err):
    seen.append((offset, len(buf), s))
h.pread_structured(1 << 20, 4096, df, nbd.CMD_FLAG_DF)
assert seen == [(4096, 1 << 20, nbd.READ_DATA)], seen
one = []
h.block_status(8 << 20, 0, lambda c, o, e, err: one.append((c, o, len(e) // 2, e[0])), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 1 and one[0][2] == 1 and one[0][3] <= 8 << 20, one
print(h.get_protocol(), h.get_size())
h.shutdown()
`);
    expect(stderr).toBe('');
    expect([status, stdout]).toEqual([0, `newstyle-fixed ${SIZE}\n`]);
  });

  it('nbdsh is refused what is out of range, unknown, or not allowed, and goes on', async () => {
    const path = makeDisk('refuse.raw', SIZE);
    const { url } = await serveHere(folder, {
      disk: unitExport(openFileUnit(path, { write: true })),
      frozen: unitExport(openFileUnit(path)),
    });
    const { status, stderr } = await nbdsh(`
def refused(what, errno):
    try:
        what()
    except nbd.Error as e:
        assert e.errno == errno, e
        return
    assert False
h.set_strict_mode(0)
h.connect_uri(${JSON.stringify(url('disk'))})
refused(lambda: h.pread(512, ${SIZE}), "EINVAL")
refused(lambda: h.pread(512, 2**63 - 512), "EINVAL")
refused(lambda: h.pwrite(bytes(512), ${SIZE - 1}), "ENOSPC")
refused(lambda: h.zero(512, ${SIZE - 1}), "ENOSPC")
refused(lambda: h.trim(512, ${SIZE - 1}), "EINVAL")
refused(lambda: h.block_status(512, 0, lambda *a: 0), "EINVAL")
refused(lambda: h.flush(1 << 9), "EINVAL")
refused(lambda: h.pwrite(bytes(512), 0, 1 << 9), "EINVAL")
refused(lambda: h.pread(40 << 20, 0), "EINVAL")
assert h.pread(0, 0) == b""
assert len(h.pread(512, 0)) == 512
h.shutdown()
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(${JSON.stringify(url('frozen'))})
assert h.is_read_only()
refused(lambda: h.pwrite(bytes(512), 0), "EPERM")
refused(lambda: h.zero(512, 0), "EPERM")
refused(lambda: h.trim(512, 0), "EPERM")
h.flush()
h.shutdown()
`);
    expect([status, stderr]).toEqual([0, '']);
  });

  it('serves clients that negotiate nothing: simple replies, and the export by its name alone', async () => {
    const { url } = await serveHere(folder, { disk: memoryExport(1 * MiB) });
    const { status, stderr } = await nbdsh(`
h.set_request_structured_replies(False)
h.set_handshake_flags(0)
h.connect_uri(${JSON.stringify(url('disk'))})
assert h.get_protocol() == "newstyle", h.get_protocol()
assert not h.get_structured_replies_negotiated()
h.pwrite(b"abc" * 1000, 1)
assert h.pread(3000, 1) == b"abc" * 1000
h.flush()
h.shutdown()
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri(${JSON.stringify(url('disk'))})
assert h.pread(3000, 1) == b"abc" * 1000
h.shutdown()
`);
    expect([status, stderr]).toEqual([0, '']);
  });

  it('negotiates step by step: information, contexts, and leaving before anything begins', async () => {
    const { url } = await serveHere(folder, { disk: memoryExport(1 * MiB), other: memoryExport(4096) });
    const { status, stderr } = await nbdsh(`
h.set_opt_mode(True)
h.connect_uri(${JSON.stringify(url('disk'))})
h.opt_info()
assert h.get_size() == 1 << 20
names = []
h.opt_list(lambda name, about: names.append(name))
assert names == ["disk", "other"], names
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation"], contexts
h.set_export_name("other")
h.add_meta_context("base:allocation")
h.add_meta_context("x-nobody:knows")
h.opt_go()
assert h.get_size() == 4096
assert h.can_meta_context("base:allocation") and not h.can_meta_context("x-nobody:knows")
h.shutdown()
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(${JSON.stringify(url('disk'))})
h.opt_abort()
`);
    expect([status, stderr]).toEqual([0, '']);
  });
});

describeWith(['qemu-img', 'qemu-io'], 'QEMU', () => {
  it('qemu-img compares, converts to and from, and maps', async () => {
    const from = makeDisk('qemu.raw', SIZE);
    const to = join(folder, 'qemu-to.raw');
    writeFileSync(to, randomBytes(SIZE));
    const source = await serveFile(from);
    const target = await serveFile(to);
    const qcow2 = join(folder, 'qemu.qcow2');
    await must('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', source.url('disk'), qcow2]);
    await must('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', source.url('disk'), qcow2]);
    await must('qemu-img', ['convert', '-n', '-f', 'qcow2', '-O', 'raw', qcow2, target.url('disk')]);
    expect(digest(to)).toBe(digest(from));
    const map = JSON.parse(await must('qemu-img', ['map', '--output=json', '-f', 'raw', source.url('disk')]));
    const here = JSON.parse(await must('qemu-img', ['map', '--output=json', '-f', 'raw', from]));
    const zeros = (runs: { start: number; length: number; zero: boolean }[]) =>
      runs.map(({ start, length, zero }) => [start, length, zero]);
    expect(zeros(map)).toEqual(zeros(here));
    const served = await serveHere(folder, { disk: diskExport(await openDisk(qcow2)) });
    await must('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', served.url(), from]);
    expect([...source.troubles, ...target.troubles, ...served.troubles]).toEqual([]);
  });

  it('qemu-io writes, zeros, discards and flushes, and reads its patterns back', async () => {
    const { url, troubles } = await serveFile(makeDisk('io.raw', SIZE));
    const commands = [
      'write -P 0x5a 4096 1M',
      'write -f -P 0x77 65536 512',
      'write -z 131072 65536',
      'write -z -u 262144 65536',
      'discard 524288 65536',
      'flush',
      'read -P 0x5a 4096 61440',
      'read -P 0x77 65536 512',
      'read -P 0 131072 65536',
      'read -P 0 262144 65536',
    ];
    const { stdout, stderr } = await run('qemu-io', [
      ...commands.flatMap((command) => ['-c', command]),
      '-f',
      'raw',
      url('disk'),
    ]);
    expect(`${stdout}${stderr}`).not.toMatch(/fail|error/i);
    expect(stdout.match(/^read \d+\/\d+ bytes/gm)?.length).toBe(4);
    expect(troubles).toEqual([]);
  });
});

describeWith(['fio'], 'fio', () => {
  it('verifies what it wrote at random, with many requests in flight', async () => {
    const path = makeDisk('fio.raw', 16 * MiB);
    const { url, troubles } = await serveFile(path);
    const job = ['--name=random', '--ioengine=nbd', `--uri=${url('disk')}`, '--size=16M', '--randrepeat=1'];
    const shape = ['--rw=randrw', '--bsrange=512-128k', '--iodepth=32', '--io_size=32M', '--verify=crc32c'];
    const { status, stdout, stderr } = await run('fio', [
      ...job,
      ...shape,
      '--verify_fatal=1',
      '--verify_state_save=0',
      '--fsync=16',
    ]);
    expect(`${stdout}${stderr}`).toMatch(/err= 0/);
    expect(status).toBe(0);
    expect(troubles).toEqual([]);
  });
});
