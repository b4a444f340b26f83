/**
 * LVM2 volume groups on a set of logical units: `readVolumeGroups`.
 *
 * Every physical volume may carry one or two copies of its group's whole metadata, and copies differ where a
 * change was cut short. So all areas of all units are read, and of each group the text with the highest
 * sequence number counts. Physical volumes are matched by UUID: names of devices in the text are ignored.
 */

import { LVM_MAX_METADATA_COPIES } from '../../base/limits.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { Volume } from './container.ts';
import { parseConfig } from './lvm-config.ts';
import {
  type MetadataText,
  messageOfDamage,
  type PhysicalVolume,
  readMetadataText,
  readPhysicalVolume,
} from './lvm-label.ts';
import { readVolumeGroup, type VolumeGroup } from './lvm-metadata.ts';
import { kindOf, VolumeMapper } from './lvm-volumes.ts';

export interface VolumeGroups {
  /** Visible volumes only, groups in the order they were found in, volumes in their metadata's. */
  readonly volumes: Volume[];
  /** One line each. */
  readonly warnings: string[];
}

/**
 * Finds volume groups. Units that are no physical volumes are no matter; damage is told in warnings as long
 * as one copy of a group's metadata is whole, and a volume that cannot be mapped says why when it is asked.
 * @param units partitions or whole units; maps use their indices
 */
export async function readVolumeGroups(units: readonly LogicalUnit[]): Promise<VolumeGroups> {
  const finder = new GroupFinder();
  for (const [index, unit] of units.entries()) await finder.look(unit, index);
  const volumes: Volume[] = [];
  for (const { group, path } of finder.newest()) {
    const mapper = new VolumeMapper(group, units, finder.unitsByUuid, path);
    try {
      volumes.push(...volumesOf(group, mapper, finder.placesOf(group)));
    } catch (error) {
      finder.warnings.push(messageOfDamage(error));
    }
  }
  return { volumes, warnings: finder.warnings };
}

function volumesOf(group: VolumeGroup, mapper: VolumeMapper, places: readonly number[]): Volume[] {
  const volumes: Volume[] = [];
  for (const volume of group.logical.values()) {
    if (!volume.visible) continue;
    volumes.push({
      group: group.name,
      name: volume.name,
      kind: kindOf(group, volume),
      size: volume.extents * group.extentSize,
      places,
      map: () => mapper.map(volume.name),
      units: () => mapper.unitsOf(volume.name),
    });
  }
  return volumes;
}

interface FoundGroup {
  readonly group: VolumeGroup;
  /** The unit whose copy it is. */
  readonly path: string;
}

class GroupFinder {
  readonly warnings: string[] = [];
  readonly unitsByUuid = new Map<string, number | 'twice'>();
  private readonly groups = new Map<string, FoundGroup>();
  /** Copies that were parsed already, by checksum and text: most are the same. */
  private readonly parsed = new Map<number, { readonly text: string; readonly found: FoundGroup | null }[]>();
  private copies = 0;

  async look(unit: LogicalUnit, index: number): Promise<void> {
    const volume = await readPhysicalVolume(unit, (message) => this.warnings.push(message));
    if (volume === null) return;
    if (this.unitsByUuid.has(volume.uuid)) {
      this.warnings.push(
        `${unit.name}: the same physical volume is on another unit as well: name one copy only`,
      );
      this.unitsByUuid.set(volume.uuid, 'twice');
    } else {
      this.unitsByUuid.set(volume.uuid, index);
    }
    await this.readAreas(unit, volume);
  }

  /** Units that hold physical volumes of a group, in the order of its metadata; `twice` is none. */
  placesOf(group: VolumeGroup): number[] {
    const units = [...group.physical.values()].map(({ uuid }) => this.unitsByUuid.get(uuid));
    return units.filter((unit) => typeof unit === 'number');
  }

  /** Of each group what counts. Groups of one name would have one address, so the user hears of them. */
  newest(): FoundGroup[] {
    const found = [...this.groups.values()];
    const names = new Map<string, FoundGroup>();
    for (const each of found) {
      const other = names.get(each.group.name);
      if (other) {
        this.warnings.push(
          `${each.path}: there is another volume group ${each.group.name}, on ${other.path}: vgrename can tell them apart`,
        );
      }
      names.set(each.group.name, each);
    }
    return found;
  }

  private async readAreas(unit: LogicalUnit, { areas }: PhysicalVolume): Promise<void> {
    for (const area of areas) {
      try {
        const text = await readMetadataText(unit, area);
        const found = text === null ? null : this.parse(unit, text);
        if (found) this.keep(unit, found);
      } catch (error) {
        this.warnings.push(`${messageOfDamage(error)}; this copy of the metadata is ignored`);
      }
    }
  }

  private parse(unit: LogicalUnit, { text, checksum, offset }: MetadataText): FoundGroup | null {
    const same = this.parsed.get(checksum) ?? [];
    const known = same.find((each) => each.text === text);
    if (known) return known.found;
    if (++this.copies > LVM_MAX_METADATA_COPIES) {
      this.warnings.push(
        `${unit.name}: its LVM2 metadata is ignored: expected at most ${LVM_MAX_METADATA_COPIES} different texts`,
      );
      return null;
    }
    let found: FoundGroup | null = null;
    try {
      const config = parseConfig(text, unit.name, offset);
      found = { group: readVolumeGroup(config, unit.name, offset), path: unit.name };
    } finally {
      same.push({ text, found });
      this.parsed.set(checksum, same);
    }
    return found;
  }

  private keep(unit: LogicalUnit, found: FoundGroup): void {
    const { group } = found;
    const kept = this.groups.get(group.id);
    if (!kept || group.sequence > kept.group.sequence) this.groups.set(group.id, found);
    if (kept && group.sequence !== kept.group.sequence) {
      const [older, newer] = [group, kept.group].map((each) => each.sequence).sort((a, b) => a - b);
      this.warnings.push(
        `${unit.name}: copies of the metadata of volume group ${group.name} differ: sequence number ${newer} is used, ${older} is not`,
      );
    } else if (kept && kept !== found) {
      this.warnings.push(
        `${unit.name}: copies of the metadata of volume group ${group.name} have one sequence number (${group.sequence}) and differ; that of ${kept.path} is used`,
      );
    }
  }
}
