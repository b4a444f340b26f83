/** GUIDs as Windows and GPT store them. */

/**
 * Three little-endian fields and eight bytes (UEFI specification, appendix A; RFC 9562 calls it the little-endian
 * form). In capitals, without braces.
 */
export function guidAt(view: DataView, at: number): string {
  const digits = (value: number, width: number) => value.toString(16).padStart(width, '0');
  let tail = '';
  for (let i = 8; i < 16; i++) tail += digits(view.getUint8(at + i), 2);
  const head = `${digits(view.getUint32(at, true), 8)}-${digits(view.getUint16(at + 4, true), 4)}`;
  const middle = digits(view.getUint16(at + 6, true), 4);
  return `${head}-${middle}-${tail.slice(0, 4)}-${tail.slice(4)}`.toUpperCase();
}
