/**
 * The sample of VMFS 3, in the container of vmfs-tools (imager/imager.c): a head of eight bytes, then sequences:
 * 0, a number of words and the words, which begin a sector of 512 bytes; 1 and a number of sectors of zeros less
 * one; 7f and an Adler-32 of all, which is checked. Numbers are seven bits at a time, lowest first.
 */

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';

const SECTOR = 512;

/** Calls `each` with what is not zero; returns the size. */
export function unpackVmfsImage(image: Buffer, each: (offset: number, bytes: Uint8Array) => void): number {
  if (image.toString('latin1', 0, 8) !== 'VMFSIMG\x02')
    throw new Error('expected an image of vmfs-tools, version 2');
  const sum = new Adler32();
  let from = 8;
  let to = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = image[from++]!;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (from < image.length) {
    const code = image[from++];
    if (code === 0) {
      const length = 4 * number();
      const bytes = image.subarray(from, from + length);
      each(to, bytes);
      sum.add(bytes);
      sum.addZeros(SECTOR - length);
      from += length;
      to += SECTOR;
    } else if (code === 1) {
      const length = SECTOR * (number() + 1);
      sum.addZeros(length);
      to += length;
    } else if (code === 0x7f) {
      if (image.readUInt32LE(from) !== sum.value) throw new Error('the sample is damaged: wrong Adler-32');
      from += 4;
    } else throw new Error(`the sample is damaged: sequence ${code} at ${from - 1}`);
  }
  return to;
}

export function unpackToFile(image: Buffer, path: string): void {
  const fd = openSync(path, 'w');
  const size = unpackVmfsImage(image, (offset, bytes) => writeSync(fd, bytes, 0, bytes.length, offset));
  ftruncateSync(fd, size);
  closeSync(fd);
}

class Adler32 {
  private a = 1;
  private b = 0;
  add(bytes: Uint8Array): void {
    for (const byte of bytes) {
      this.a = (this.a + byte) % 65521;
      this.b = (this.b + this.a) % 65521;
    }
  }
  addZeros(count: number): void {
    this.b = (this.b + count * this.a) % 65521;
  }
  get value(): number {
    return this.b * 65536 + this.a;
  }
}
