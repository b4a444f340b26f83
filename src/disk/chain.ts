/**
 * A backing chain while it is opened. An image is opened, its tables become a map, and its backing file is
 * opened in the same way, down to the last; then the maps are laid over one another, so that a chain is one
 * map over several units.
 */

import { dirname } from 'node:path';
import { DriftmapError } from '../base/errors.ts';
import { MAX_CHAIN_DEPTH } from '../base/limits.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { isNbdUrl } from '../lu/nbd/url.ts';
import { openUnit } from '../lu/open-unit.ts';
import { ExtentMap } from '../mapping/extent-map.ts';
import { overlay } from '../mapping/overlay.ts';
import { parseAddress } from './address.ts';
import type { BackingImage, ImageHost, LoadedImage } from './formats/image.ts';
import { readQcow2Header } from './formats/qcow2-header.ts';
import { readQcow2Map } from './formats/qcow2-tables.ts';
import { loadVdi } from './formats/vdi.ts';
import { loadVhd } from './formats/vhd.ts';
import { loadVhdx } from './formats/vhdx.ts';
import { loadVmdk } from './formats/vmdk.ts';
import type { Layer } from './mapped-disk.ts';
import { type OpenedPlace, openPlace, type Place } from './places.ts';
import {
  type FormatChoice,
  guessedFormat,
  isPlainFile,
  type ReadableFormat,
  statedFormat,
} from './policy.ts';
import { type Home, hostFolder, nowhere, type Reference, type Referrer } from './references.ts';
import { findSought } from './sought-parent.ts';
import { canUnpackZstd, zstdAdvice } from './unpack.ts';
import { ViewUnit, withPath } from './view-unit.ts';

const loaders = { vhd: loadVhd, vhdx: loadVhdx, vdi: loadVdi, vmdk: loadVmdk } as const;

/** An image of a chain, and what holds it. */
export interface ChainImage {
  /** A path, or an address. */
  readonly path: string;
  /** Unallocated is what the next image shows through; over `units`. */
  readonly map: ExtentMap;
  readonly units: readonly LogicalUnit[];
  readonly layer: Layer;
}

/** One image by itself: what it holds, and the parent that it names, which is not read. */
export interface LoneImage extends ChainImage {
  /** The parent's path or address; null where it stands alone. */
  readonly parent: string | null;
}

/** One image while its chain is opened. */
interface Image {
  readonly unit: LogicalUnit;
  /** For messages: a path, or an address. */
  readonly path: string;
  /** Where its own references start from. */
  readonly home: Home;
  readonly choice: FormatChoice;
}

interface Loaded extends ChainImage {
  readonly backing: (Omit<BackingImage, 'name'> & { readonly reference: Reference }) | null;
}

/**
 * One map of a chain over the units of its images, one image's after the other's. It is laid together from the
 * bottom up: an image hides what lies below it also past its own end, where one above it may be longer and
 * reads zeros.
 */
export function chainMap(chain: readonly ChainImage[]): ExtentMap {
  return chain
    .slice(0, -1)
    .reduceRight(
      (below, { map, units }) => overlay(map, below, { units: units.length, depth: 1 }),
      chain.at(-1)!.map,
    );
}

export class ChainOpener {
  /** Everything that was opened, whatever became of it: the caller's to close. */
  readonly owned: LogicalUnit[] = [];
  /** One line each. */
  readonly warnings: string[] = [];
  /** Files that images named as parts of themselves: extents, data files. Paths or addresses. */
  readonly parts: string[] = [];
  private readonly allowOutside: boolean;
  private readonly seen = new Set<string>();
  private place: OpenedPlace | null = null;

  constructor(allowOutside: boolean) {
    this.allowOutside = allowOutside;
  }

  /** Opens an image and all that it is backed by, from the top down. Arguments and errors as for `openDisk`. */
  async openChain(source: string | LogicalUnit, format: string | undefined): Promise<ChainImage[]> {
    let image = await this.openTop(source, format);
    const chain = [await this.load(image)];
    for (let last = chain[0]!; last.backing !== null; chain.push(last)) {
      if (chain.length > MAX_CHAIN_DEPTH) {
        const reason = `expected at most ${MAX_CHAIN_DEPTH} backing files in a chain: this image names another`;
        throw new DriftmapError('limit', reason, { path: image.path });
      }
      image = await this.openBacking(last.backing, image.path);
      await last.backing.check?.(image.unit);
      last = await this.load(image);
    }
    this.place?.checkUnchanged();
    return chain;
  }

  /** Opens one image. Its parent is looked for, and asked whether it is the one that is meant, but not read. */
  async openAlone({ path, home, open }: Reference, choice: FormatChoice): Promise<LoneImage> {
    const unit = await this.openOwned(open(), path);
    const loaded = await this.load({ unit, path, home, choice });
    const { backing } = loaded;
    if (backing?.check) await backing.check(await this.openOwned(backing.reference.open(), path));
    return { ...loaded, parent: backing === null ? null : backing.reference.path };
  }

  private async openTop(source: string | LogicalUnit, format: string | undefined): Promise<Image> {
    const { unit, path, home } = await this.openSource(source);
    const choice =
      format === undefined ? await guessedFormat(unit, path, isPlainFile(unit)) : statedFormat(format, path);
    this.warnings.push(...choice.warnings);
    return { unit, path, home, choice };
  }

  private async openSource(source: string | LogicalUnit): Promise<Place & { readonly path: string }> {
    if (typeof source !== 'string') {
      this.refuseLoop(source, source.name);
      const file = source instanceof ViewUnit ? null : source.handle();
      const home = file?.kind === 'file' ? hostFolder(dirname(file.path)) : nowhere;
      return { unit: source, path: source.name, home };
    }
    const address = parseAddress(source);
    if (address === null) {
      const unit = await this.openOwned(openUnit(source), source);
      if (isNbdUrl(source)) return { unit, path: unit.name, home: nowhere };
      return { unit, path: source, home: hostFolder(dirname(source)) };
    }
    const place = await openPlace(address, this.owned, this.warnings);
    this.place = place;
    this.refuseLoop(place.unit, source);
    return { unit: place.unit, home: place.home, path: place.unit.name };
  }

  private async openBacking(
    { reference, format }: { reference: Reference; format: string | null },
    from: string,
  ): Promise<Image> {
    const { path, home } = reference;
    const unit = await this.openOwned(reference.open(), from);
    if (format !== null) return { unit, path, home, choice: statedFormat(format, from) };
    const choice = await guessedFormat(unit, path, isPlainFile(unit));
    this.warnings.push(...choice.warnings);
    this.warnings.push(
      `${from}: does not say the format of its backing file ${path}: guessed ${choice.format} from its contents; record it with qemu-img rebase -u -F`,
    );
    return { unit, path, home, choice };
  }

  private async openOwned(opening: LogicalUnit | Promise<LogicalUnit>, from: string): Promise<LogicalUnit> {
    const unit = await opening;
    this.owned.push(unit);
    this.refuseLoop(unit, from);
    return unit;
  }

  private refuseLoop(unit: LogicalUnit, from: string): void {
    if (this.seen.has(unit.identity)) {
      const reason = `the image names ${unit.name}, which is in its chain already: the chain is a loop`;
      throw new DriftmapError('malformed', reason, { path: from });
    }
    this.seen.add(unit.identity);
  }

  private async load(image: Image): Promise<Loaded> {
    try {
      const before = image.unit.generation();
      const loaded = await this.loadAs(image.choice.format, image);
      if (image.choice.format !== 'raw' && image.unit.generation() !== before) {
        const reason = 'changed while its tables were read: open it when nobody writes to it';
        throw new DriftmapError('io', reason, { path: image.path, operation: 'open' });
      }
      return loaded;
    } catch (error) {
      throw withPath(error, image.path);
    }
  }

  private loadAs(format: ReadableFormat, image: Image): Promise<Loaded> {
    if (format === 'raw') return this.loadRaw(image);
    if (format === 'qcow2') return this.loadQcow2(image);
    return this.loadOther(image, loaders[format]);
  }

  /** Formats that say all they have to say in a map. */
  private async loadOther(image: Image, load: (host: ImageHost) => Promise<LoadedImage>): Promise<Loaded> {
    const { unit, path, home, choice } = image;
    const referrer = this.referrer(image);
    const { map, units, backing } = await load({
      unit,
      path,
      warn: (message) => this.warnings.push(message),
      open: async (what, name) => {
        const reference = await home.find(what, name, referrer);
        this.parts.push(reference.path);
        return this.openOwned(reference.open(), path);
      },
    });
    const layer: Layer = { format: choice.format, file: unit, data: unit, header: null, cutTail: 0 };
    if (backing === null) return { path, map, units, layer, backing: null };
    const { name, sought, ...parent } = backing;
    const reference =
      sought === undefined
        ? await home.find('parent', name, referrer)
        : await findSought(home, name, sought, referrer);
    return { path, map, units, layer, backing: { reference, ...parent } };
  }

  private referrer({ path, choice }: Image): Referrer {
    return { image: path, trusted: choice.trusted, allowOutside: this.allowOutside };
  }

  private async loadRaw({ unit, path }: Image): Promise<Loaded> {
    const layer: Layer = { format: 'raw', file: unit, data: unit, header: null, cutTail: 0 };
    return { path, map: ExtentMap.identity(unit.size), units: [unit], layer, backing: null };
  }

  private async loadQcow2(image: Image): Promise<Loaded> {
    const { unit, path, home } = image;
    const header = await readQcow2Header(unit);
    if (header.corrupt) {
      this.warnings.push(
        `${path}: the image is marked corrupt; its contents may be wrong (qemu-img check -r repairs)`,
      );
    }
    const referrer = this.referrer(image);
    const { dataFileName, backingName } = header;
    const dataFile = dataFileName === null ? null : await home.find('data file', dataFileName, referrer);
    const backing =
      backingName === null
        ? null
        : {
            reference: await home.find('backing file', backingName, referrer),
            format: header.backingFormat,
          };
    if (dataFile !== null) this.parts.push(dataFile.path);
    const data = dataFile === null ? unit : await this.openOwned(dataFile.open(), path);
    const { map, warnings, cutTail } = await readQcow2Map(unit, header, data.size);
    this.warnings.push(...warnings);
    if (header.compression === 'zstd' && map.packed !== null && !canUnpackZstd()) {
      this.warnings.push(`${path}: ${zstdAdvice}`);
    }
    const layer: Layer = { format: 'qcow2', file: unit, data, header, cutTail };
    return { path, map, units: data === unit ? [unit] : [data, unit], layer, backing };
  }
}
