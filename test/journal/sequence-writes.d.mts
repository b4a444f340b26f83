export const shapes: readonly { readonly name: string; readonly size: number }[];
export function randomOf(seed: number): (below: number) => number;
export function writeOf(
  sequence: number,
):
  | { disk: string; offset: number; bytes: Uint8Array; zeros?: undefined }
  | { disk: string; offset: number; zeros: number; bytes?: undefined };
