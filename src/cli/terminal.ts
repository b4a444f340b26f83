/** What a terminal is told: colours where they are wanted, widths, and no fuss when the reader of a pipe leaves. */

const codes = { red: 31, green: 32, yellow: 33, cyan: 36, dim: 2, bold: 1 } as const;

/** Colours only on a terminal, never with NO_COLOR (no-color.org) or TERM=dumb; FORCE_COLOR asks for them anyway. */
export function hasColor(stream: NodeJS.WriteStream): boolean {
  const { NO_COLOR, FORCE_COLOR, TERM } = process.env;
  if (NO_COLOR) return false;
  if (FORCE_COLOR && FORCE_COLOR !== '0') return true;
  return stream.isTTY === true && TERM !== 'dumb';
}

export function paint(
  color: keyof typeof codes,
  text: string,
  stream: NodeJS.WriteStream = process.stdout,
): string {
  return hasColor(stream) ? `\u001b[${codes[color]}m${text}\u001b[0m` : text;
}

/** Columns to draw in: the terminal's, or 80. */
export function columns(stream: NodeJS.WriteStream = process.stdout): number {
  return Math.max(40, Math.min(stream.columns || 80, 200));
}

/** Names and messages can come from a stranger's image or bitmap: control characters never reach the terminal. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed
  return text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ');
}

/** Writes to standard output and waits while the pipe is full, so that a long listing takes no memory. */
export async function print(text: string): Promise<void> {
  if (!process.stdout.write(text)) await new Promise((resolve) => process.stdout.once('drain', resolve));
}

/** `driftmap … | head`: the reader has seen enough. That is no trouble. */
export function surviveClosedPipe(): void {
  // Nobody is left to tell.
  process.stderr.on('error', () => {});
  // Trouble is 2, also when it is not one of ours: 1 would mean that disks differ.
  process.on('uncaughtException', (error) => {
    process.stderr.write(
      `driftmap: unexpected error: ${printable(error instanceof Error ? error.message : String(error))}\n`,
    );
    process.exit(2);
  });
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') {
      process.stderr.write(`driftmap: cannot write to standard output: ${error.message}\n`);
      process.exit(2);
    }
    process.exit(process.exitCode ?? 0);
  });
}
