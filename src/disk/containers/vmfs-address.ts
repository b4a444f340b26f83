/**
 * Block ids of VMFS 3 and 5: 32 bits that name a block, whatever its kind (vmfs-tools, libvmfs/vmfs_block.h;
 * dissect.vmfs, address.py). The lowest three bits are the kind, the others depend on it, high bits first:
 *
 *   file block        26 number                                  3 flags        a block of the volume itself
 *   sub-block          4 item low, 22 cluster, 1 flag,           2 item high    a piece of .sbc.sf
 *   pointer block      4 item,     22 cluster,                   3 flags        a piece of .pbc.sf
 *   pointer block 2    as a pointer block                                       a piece of .pb2.sf, VMFS 5 only
 *   file descriptor   10 item,     16 cluster,                   3 flags        a piece of .fdc.sf
 *
 * The id 0 is a hole. Of a file block's flags one matters to a reader: *to be zeroed*. Such a block belongs to
 * the file and was never written, so that it reads as zeros whatever the unit holds there.
 */

export const BlockType = {
  none: 0,
  file: 1,
  sub: 2,
  pointer: 3,
  descriptor: 4,
  pointer2: 5,
} as const;

const TO_BE_ZEROED = 0x20;
/** The same bit of a sub-block: shared, to be copied before it is written. */
const COPY_ON_WRITE = 0x20;

export function typeOf(id: number): number {
  return id & 7;
}

export function fileBlockOf(id: number): number {
  return id >>> 6;
}

export function isToBeZeroed(id: number): boolean {
  return (id & TO_BE_ZEROED) !== 0;
}

export function isSharedSubBlock(id: number): boolean {
  return (id & COPY_ON_WRITE) !== 0;
}

/** The piece of a resource file that an id of any type but a file block's names. */
export function pieceOf(id: number): { readonly cluster: number; readonly item: number } {
  if (typeOf(id) === BlockType.descriptor) return { cluster: (id >>> 6) & 0xffff, item: id >>> 22 };
  const high = typeOf(id) === BlockType.sub ? (id & 0x18) << 1 : 0;
  return { cluster: (id >>> 6) & 0x3fffff, item: (id >>> 28) + high };
}

/** The id of a file descriptor of cluster 0: where the system's own files are. */
export function systemDescriptor(item: number): number {
  return ((item << 22) | BlockType.descriptor) >>> 0;
}

/** For messages. */
export function nameOf(id: number): string {
  const names = [
    'no block',
    'file block',
    'sub-block',
    'pointer block',
    'file descriptor',
    'pointer block 2',
  ];
  return `${names[typeOf(id)] ?? `block of type ${typeOf(id)}`} ${id.toString(16).padStart(8, '0')}`;
}
