// After an answer of the practice round: whether it was right, the right answer beside one's own, and why.

import { h } from "./dom.js";

/** `words` puts an answer into words; `verdict`: {right, gold, explanation}. */
export function verdictOf(words, answer, verdict) {
  const judged = answer.kind !== "demonstrate" && answer.kind !== "chat";
  const title = !judged ? "Thank you. Compare yours with ours" : verdict.right ? "Yes, that is it" : "Not quite";
  const pair = h(
    "div",
    { class: "pair" },
    h("div", {}, h("h3", {}, "Yours"), h("p", { class: "said", dir: "auto" }, words(answer))),
    h("div", {}, h("h3", {}, "The right answer"), h("p", { class: "said", dir: "auto" }, words(verdict.gold))),
  );
  const why = verdict.explanation ? h("div", {}, h("h3", {}, "Why"), h("p", { class: "said", dir: "auto" }, verdict.explanation)) : null;
  return h("div", { class: `verdict note ${!judged ? "" : verdict.right ? "good" : "warn"}` }, h("h2", { tabindex: -1 }, judged ? h("span", { "aria-hidden": "true" }, verdict.right ? "✓ " : "≠ ") : null, title), pair, why);
}
