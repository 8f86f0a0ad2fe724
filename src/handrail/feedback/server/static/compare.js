// Which of two is better: slightly, clearly, or a tie.  Keys 1 to 5 from left to right.

import { announce, h } from "./dom.js";
import { card } from "./prose.js";

/** The choices from left to right: {better, strength, words}. */
export function choices(task) {
  const one = (better) => ["A", "B"][better];
  const sides = task.strength ? ["clearly", "slightly"] : [""];
  const left = sides.map((strength) => ({ better: 0, strength, words: [one(0), strength || "is better"] }));
  const right = sides.toReversed().map((strength) => ({ better: 1, strength, words: [one(1), strength || "is better"] }));
  const tie = task.ties ? [{ better: null, strength: "", words: ["Tie", "equal"] }] : [];
  return [...left, ...tie, ...right];
}

const same = (a, b) => a && b && a.better === b.better && (a.strength || "") === (b.strength || "");

/** `draft`: {better, strength} or null.  `changed` is told of each change. */
export function make(item, task, draft, changed) {
  const offered = choices(task);
  let chosen = offered.find((one) => same(one, draft)) ?? null;
  const cards = item.responses.map((_, number) => card(item.responses, number));
  const inputs = [];
  const options = offered.map((one, at) => {
    const input = h("input", { type: "radio", name: "better", class: "unseen", checked: one === chosen, onchange: () => choose(at) });
    const said = one.better === null ? "They are about the same" : `${one.words[0]} is ${one.strength ? `${one.strength} better` : "better"}`;
    input.setAttribute("aria-label", said);
    inputs.push(input);
    const words = [h("b", {}, one.words[0]), h("span", {}, one.words[1])];
    return h("label", { class: `choice${one.better === null ? " tie" : ""}` }, input, words, h("kbd", { "aria-hidden": "true" }, at + 1));
  });
  const bar = h("fieldset", { class: "choices" }, h("legend", { class: "unseen" }, "Which is better?"), options);

  function paint() {
    cards.forEach((one, number) => one.classList.toggle("better", chosen?.better === number));
  }
  function choose(at) {
    chosen = offered[at];
    inputs[at].checked = true;
    paint();
    changed();
  }
  paint();
  return {
    element: h("div", { class: "responses two" }, cards),
    bar,
    refresh: () => cards.forEach((one) => one.refresh()),
    draft: () => chosen && { better: chosen.better, strength: chosen.strength },
    value: () => (chosen ? { answer: { kind: "compare", better: chosen.better, strength: chosen.strength } } : { missing: "Choose which is better first." }),
    key(event) {
      const at = Number(event.key) - 1;
      if (!offered[at]) return false;
      choose(at);
      inputs[at].focus();
      announce(`${inputs[at].getAttribute("aria-label")}. Enter sends it.`);
      return true;
    },
    help: offered.map((one, at) => [String(at + 1), one.better === null ? "a tie" : `${one.words[0]} ${one.strength ? `${one.strength} better` : "is better"}`]),
  };
}

export const question = () => "Which response is better?";

export const asDraft = (answer) => ({ better: answer.better, strength: answer.strength });

export function words(answer) {
  if (answer.better === null) return "About the same";
  return `${"AB"[answer.better]} is ${answer.strength ? `${answer.strength} ` : ""}better`;
}
