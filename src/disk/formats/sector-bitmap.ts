/** Bitmaps that say, sector by sector, which part of a block is the image's own. */

/** Which bit of a byte is its first sector: the highest in VHD, the lowest in VHDX. */
export type BitOrder = 'highest-first' | 'lowest-first';

/** Calls `emit` for every run of equal bits among the first `sectors`, in order; `sectors` must not be 0. */
export function forEachRun(
  bitmap: Uint8Array,
  sectors: number,
  order: BitOrder,
  emit: (present: boolean, from: number, to: number) => void,
): void {
  const flip = order === 'highest-first' ? 7 : 0;
  let from = 0;
  let present = ((bitmap[0]! >>> flip) & 1) === 1;
  let whole = present ? 0xff : 0;
  for (let at = 0; at < sectors; ) {
    const byte = bitmap[at >>> 3]!;
    if (byte === whole && (at & 7) === 0) {
      at += 8;
      continue;
    }
    if (((byte >>> ((at & 7) ^ flip)) & 1) === (present ? 0 : 1)) {
      emit(present, from, at);
      from = at;
      present = !present;
      whole = present ? 0xff : 0;
    }
    at++;
  }
  emit(present, from, sectors);
}
