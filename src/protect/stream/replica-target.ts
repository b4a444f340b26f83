/** A replica group as what a stream ends in. It may have to be made: then production's disks say how large. */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { GroupFile } from '../group/group-file.ts';
import { reportPoints } from '../replica/points-report.ts';
import type { ReplicaGroup } from '../replica/replica-group.ts';
import type { Follow } from './messages.ts';
import { checkFollow, type Streaming, type StreamTarget } from './session.ts';

const ZEROS_AT_A_TIME = 1024 * 1024;

/** @param open the group, which is opened once, when the first production has said how large its disks are */
export function replicaTarget(
  file: GroupFile,
  open: (sizes: ReadonlyMap<string, ByteCount>) => Promise<ReplicaGroup>,
): StreamTarget {
  let group: Promise<ReplicaGroup> | null = null;
  return {
    async follow(follow, peer, stop) {
      checkFollow(follow, { group: file.group, disks: null });
      group ??= open(new Map(follow.disks.map(({ name, size }) => [name, size])));
      let opened: ReplicaGroup;
      try {
        opened = await group;
      } catch (error) {
        group = null;
        throw error;
      }
      return stream(opened, follow, peer, stop);
    },
  };
}

async function stream(
  group: ReplicaGroup,
  follow: Follow,
  peer: string,
  stop: (reason: DriftmapError) => void,
): Promise<Streaming> {
  const { journal } = group;
  checkFollow(follow, { group: group.name, disks: journal.disks });
  if (group.refusal !== null) throw group.refusal;
  let ended: DriftmapError | null = null;
  const end = (why: DriftmapError) => {
    ended ??= why;
    stop(why);
  };
  group.configuration = follow.configuration;
  const leave = group.follow({ peer, failed: end, ended: end, recovered: () => undefined });
  const check = () => {
    if (ended !== null) throw ended;
  };
  await journal.commit();
  const { last, suspended } = journal.state();
  return {
    journal: group.record.history,
    last,
    suspended,
    append(writes, time) {
      check();
      return group.append(writes, time);
    },
    get staged() {
      return journal.state().staged;
    },
    ready: () => group.ready(),
    async mark(kind, text, consistency) {
      check();
      if (kind === 'bookmark') return group.bookmark(text, consistency);
      return kind === 'suspend' ? group.suspend(text) : group.resume(text);
    },
    async probe({ disk, offset, length, blockSize, signatures }) {
      check();
      if (signatures === null) return probeZeros(group, disk, { offset, length, blockSize });
      const first = offset / blockSize;
      const blocks = Array.from({ length: Math.ceil(length / blockSize) }, (_, i) => first + i);
      const differs = await group.probe({ disk, blockSize, blocks, signatures });
      return Uint8Array.from(differs, (one) => (one ? 1 : 0));
    },
    async ask(what) {
      if (what === 'snapshot' && group.takeSnapshot !== null) return group.takeSnapshot();
      if (what === 'points') return reportPoints(journal, group.record, null);
      throw new DriftmapError(
        'unsupported',
        `it does not know '${what}': use the same release at both sites`,
      );
    },
    end() {
      ended ??= new DriftmapError('aborted', 'the stream has ended');
      leave();
    },
  };
}

/** Which blocks are not all zeros. Holes are known without reading. */
async function probeZeros(
  group: ReplicaGroup,
  disk: string,
  {
    offset,
    length,
    blockSize,
  }: { readonly offset: number; readonly length: number; readonly blockSize: number },
): Promise<Uint8Array> {
  await group.journal.commit();
  const unit = group.journal.newest(disk);
  try {
    const differs = new Uint8Array(Math.ceil(length / blockSize));
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const [extent] = await unit.extents({ offset: at, length: end - at }, 1);
      const to = extent!.offset + extent!.length;
      if (extent!.kind === 'data')
        await markNonzero(unit, at, to, (place) => {
          differs[Math.floor((place - offset) / blockSize)] = 1;
        });
      at = to;
    }
    return differs;
  } finally {
    await unit.close();
  }
}

async function markNonzero(
  unit: LogicalUnit,
  from: number,
  to: number,
  mark: (place: number) => void,
): Promise<void> {
  const step = 4096;
  const buffer = Buffer.alloc(Math.min(ZEROS_AT_A_TIME, to - from));
  const zeros = Buffer.alloc(step);
  for (let at = from; at < to; at += buffer.length) {
    const bytes = buffer.subarray(0, Math.min(buffer.length, to - at));
    const pending = unit.read(at, bytes);
    if (pending) await pending;
    for (let i = 0; i < bytes.length; i += step) {
      const piece = bytes.subarray(i, i + step);
      if (Buffer.compare(piece, zeros.subarray(0, piece.length)) === 0) continue;
      // A piece may touch two blocks.
      mark(at + i);
      mark(at + i + piece.length - 1);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}
