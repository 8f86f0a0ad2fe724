// Which words of one text are not in another: the longest common subsequence over words, of the first so many.

const MOST = 2000; // words compared of each text beyond what both begin and end with: 4 million cells

/** Words and what stands between them; joined again they are the text. */
export const words = (text) => text.match(/[\p{L}\p{M}\p{N}_'’]+|\s+|[^\p{L}\p{M}\p{N}_'’\s]/gu) ?? [];

/** [{text, same}] for `text` against `other`, and whether it was cut: what is beyond the cap counts as unmarked. */
export function against(text, other) {
  const parts = compare(words(other), words(text));
  return { parts: parts.runs.filter((run) => run.kind !== "gone").map((run) => ({ text: run.text, same: run.kind === "same" })), cut: parts.cut };
}

/** Runs of words from `before` to `after`: {kind: "same" | "gone" | "new", text}; and whether it was cut. */
export function compare(before, after) {
  let start = 0, end = 0;
  const least = Math.min(before.length, after.length);
  while (start < least && before[start] === after[start]) start++;
  while (end < least - start && before[before.length - 1 - end] === after[after.length - 1 - end]) end++;
  const a = before.slice(start, before.length - end), b = after.slice(start, after.length - end);
  const cut = a.length > MOST || b.length > MOST;
  const runs = [];
  const add = (kind, list) => {
    if (!list.length) return;
    const text = list.join("");
    if (runs.at(-1)?.kind === kind) runs.at(-1).text += text;
    else runs.push({ kind, text });
  };
  add("same", after.slice(0, start));
  for (const [kind, word] of subsequence(a.slice(0, MOST), b.slice(0, MOST))) add(kind, [word]);
  add("same", b.slice(MOST)); // beyond the cap: shown, not compared
  add("same", end ? after.slice(after.length - end) : []);
  return { runs, cut };
}

/** [kind, word] along a longest common subsequence. */
function subsequence(a, b) {
  const width = b.length + 1;
  const length = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      length[at] = a[i] === b[j] ? length[at + width + 1] + 1 : Math.max(length[at + width], length[at + 1]);
    }
  }
  const found = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      found.push(["same", b[j++]]);
      i++;
    } else if (j >= b.length || (i < a.length && length[(i + 1) * width + j] >= length[i * width + j + 1])) found.push(["gone", a[i++]]);
    else found.push(["new", b[j++]]);
  }
  return found;
}
