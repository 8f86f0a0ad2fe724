// Formulas in a small notation as elements: x_t, x_{t+1} and x^2 are set as they look, letters of variables in italics.

import { h } from "/shared/dom.js";

const PIECES = /([_^])\{([^}]*)\}|([_^])(−?[\p{L}\p{N}])|(\\?\p{L}[\p{L}\u0302]*)|([^_^\p{L}]+|.)/gu;
const UPRIGHT = new Set(["log", "exp", "min", "max", "clip", "KL", "old", "ref", "near", "within", "reward", "token", "mean"]);

export function formula(text) {
  const made = h("span", { class: "formula" });
  for (const [, how, inside, howShort, short, word, other] of text.matchAll(PIECES)) {
    const lowered = how ?? howShort;
    if (lowered) made.append(h(lowered === "_" ? "sub" : "sup", {}, ...formula(inside ?? short).childNodes));
    else if (word) made.append(UPRIGHT.has(word) ? word : h("i", {}, word));
    else made.append(other);
  }
  return made;
}
