// Horizontal bars as SVG, in the reader's own light or dark.

const ROW = 24;
const LABEL = 190;
const BAR = 340;

/** @param rows `{ name, value, ours }`, drawn in their order. @param title says what is drawn and in what unit */
export function bars(title, rows) {
  const most = Math.max(...rows.map(({ value }) => value));
  const lines = rows.map(({ name, value, ours }, i) => {
    const y = 34 + i * ROW;
    const width = Math.max(1, (BAR * value) / most).toFixed(1);
    return `<text x="${LABEL - 10}" y="${y + 13}" text-anchor="end">${name}</text><rect class="${ours ? 'ours' : 'theirs'}" x="${LABEL}" y="${y}" width="${width}" height="16"/><text x="${LABEL + Number(width) + 8}" y="${y + 13}">${value.toFixed(2)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 ${44 + rows.length * ROW}" font-family="system-ui, sans-serif" font-size="12">
<style>svg { color: #1c2530; } @media (prefers-color-scheme: dark) { svg { color: #dfe5ea; } } text { fill: currentColor; } .ours { fill: #2f6fb0; } .theirs { fill: #98a4b0; }</style>
<text x="10" y="18">${title}</text>
${lines.join('\n')}
</svg>
`;
}
