/**
 * Where one byte of a virtual disk lies, told layer by layer: `explain`.
 *
 * A map that has been composed knows only the ends: the disk and the units. Here the layers are walked one by
 * one, from the disk through the image of its chain, the file, the volume and the partition down to the unit.
 * Each tells the run that goes on from the byte; a run of a layer is never longer than that of the layer
 * above it, so the last one says how many bytes lie together.
 */

import { checkWithin } from '../base/ranges.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { type Extent, isPacked, Kind } from '../mapping/extent-map.ts';
import { type ChainImage, ChainOpener, chainMap } from './chain.ts';
import type { Qcow2Header } from './formats/qcow2-header.ts';
import { closeAll } from './mapped-disk.ts';
import type { OpenDiskOptions } from './open.ts';
import { ViewUnit } from './view-unit.ts';

export interface ExplainedLayer {
  /** `disk`: what the guest sees. `image`: the image of the chain that decides. The others lie below it. */
  readonly layer: 'disk' | 'image' | 'file' | 'volume' | 'partition' | 'unit';
  /** A path or an address. */
  readonly name: string;
  /** `disk` and `image` only. */
  readonly format?: string;
  /** Where the byte lies in this layer. */
  readonly offset: ByteOffset;
  /**
   * Bytes from there on that go on in one run; below an image where they lie compressed, stored bytes. */
  readonly length: ByteCount;
  /** `zero` may have storage, which is not read; `unallocated` has none. */
  readonly kind: 'data' | 'zero' | 'unallocated' | 'compressed';
  /** The layer's own words: `L1 0`, `depth 1` … */
  readonly words: readonly string[];
}

/**
 * Explains one byte.
 * @param source as for `openDisk`
 * @returns at least one layer; where one says that there is no storage, it is the last
 * @throws DriftmapError `argument` for an offset past the end of the disk, and what `openDisk` throws
 */
export async function explain(
  source: string | LogicalUnit,
  offset: ByteOffset,
  { format, allowOutside }: OpenDiskOptions = {},
): Promise<{ layers: ExplainedLayer[]; warnings: readonly string[] }> {
  const opener = new ChainOpener(allowOutside ?? false);
  try {
    const chain = await opener.openChain(source, format);
    return { layers: await layersOf(chain, offset), warnings: opener.warnings };
  } finally {
    const pending = closeAll(opener.owned);
    if (pending) await pending;
  }
}

async function layersOf(chain: readonly ChainImage[], offset: ByteOffset): Promise<ExplainedLayer[]> {
  const map = chainMap(chain);
  const top = chain[0]!;
  checkWithin({ offset, length: 1 }, map.size, "the disk's", { path: top.path });
  const extent = map.explain(offset);
  const { length, depth } = extent;
  const kind = kindName(extent.kind);
  const here = { offset, length, kind };
  const layers: ExplainedLayer[] = [
    {
      layer: 'disk',
      name: top.path,
      format: top.layer.format,
      ...here,
      words: [`${map.size} bytes`, ...(chain.length > 1 ? [`${chain.length} images`] : [])],
    },
  ];
  const image = chain[depth]!;
  if (chain.length > 1 || image.layer.format !== 'raw') {
    const words = [`depth ${depth}`, ...qcow2Words(image.layer.header, offset), ...packedWords(extent)];
    layers.push({ layer: 'image', name: image.path, format: image.layer.format, ...here, words });
  }
  if (extent.place < 0) return layers;
  const unit = chain.flatMap(({ units }) => units)[extent.unit]!;
  const stored = isPacked(extent.kind) ? extent.stored! : length;
  return [...layers, ...(await layersBelow(unit, extent.place, stored))];
}

/** From an image's file to the unit that it lies on. */
async function layersBelow(from: LogicalUnit, place: ByteOffset, most: ByteCount): Promise<ExplainedLayer[]> {
  const layers: ExplainedLayer[] = [];
  let unit = from;
  let [offset, length] = [place, most];
  // Zeros may have a place past the end, where they would be written: there is nothing yet.
  while (offset < unit.size) {
    if (!(unit instanceof ViewUnit) || unit.origin === null) {
      layers.push(await unitLayer(unit, offset, length));
      break;
    }
    const { layer, map, parents, storage } = unit.origin;
    const extent = map.explain(offset);
    length = Math.min(length, extent.length);
    const words = storage === null ? [] : [storage];
    layers.push({ layer, name: unit.name, offset, length, kind: kindName(extent.kind), words });
    if (extent.place < 0) return layers;
    unit = parents[extent.unit]!;
    offset = extent.place;
  }
  return layers;
}

/** The last layer: what the unit itself knows of its holes. */
async function unitLayer(unit: LogicalUnit, offset: ByteOffset, most: ByteCount): Promise<ExplainedLayer> {
  // A format that counts in sectors may name bytes past its file's end.
  const [extent] = await unit.extents({ offset, length: Math.min(most, unit.size - offset) }, 1);
  return {
    layer: 'unit',
    name: unit.name,
    offset,
    length: extent!.length,
    kind: extent!.kind,
    words: [],
  };
}

function kindName(kind: Kind): ExplainedLayer['kind'] {
  if (isPacked(kind)) return 'compressed';
  if (kind === Kind.data) return 'data';
  return kind === Kind.zero ? 'zero' : 'unallocated';
}

/** Which entries of its tables qcow2 asks (docs/interop/qcow2.txt, "Cluster mapping"). */
function qcow2Words(header: Qcow2Header | null, offset: ByteOffset): string[] {
  if (header === null) return [];
  const { clusterSize, extendedL2 } = header;
  const entries = clusterSize / (extendedL2 ? 16 : 8);
  const cluster = Math.floor(offset / clusterSize);
  const words = [`L1 ${Math.floor(cluster / entries)}`, `L2 ${cluster % entries}`];
  if (extendedL2) words.push(`subcluster ${Math.floor((offset % clusterSize) / (clusterSize / 32))}`);
  return words;
}

function packedWords({ kind, stored, cluster, skip }: Extent): string[] {
  if (!isPacked(kind)) return [];
  return [`${stored} bytes stored of a cluster of ${cluster}`, `${skip} bytes into it`];
}
