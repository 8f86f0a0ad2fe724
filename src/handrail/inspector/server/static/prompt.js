// One prompt over the steps: what the policy first answered, beside what it answered at another step.

import { find, h } from "/shared/dom.js";
import { ask, encoded, run } from "./ask.js";
import { Chart, Group } from "./chart.js";
import { number, said } from "./format.js";

const row = Number(new URLSearchParams(location.search).get("row") ?? 0);
const MOST = 500;
let rows = [], total = 0, share = 0;
while (share < 1) ({ rows, total, share } = await ask(`rows/${encoded(run)}`, { by: "step", falling: false, prompt: row, count: MOST }));
const kept = new Map();

async function whole(place) {
  const number = rows[place].row;
  if (!kept.has(number)) kept.set(number, await ask(`response/${encoded(run)}`, { row: number }));
  return kept.get(number);
}

/** Words of `text` in pieces, those that `other` has not marked. */
function marked(text, other) {
  if (Array.isArray(text) || Array.isArray(other)) return said(text);
  const theirs = new Set(other.toLowerCase().match(/\w+/g) ?? []);
  return text.split(/(\w+)/).map((piece, i) => (i % 2 && !theirs.has(piece.toLowerCase()) ? h("mark", {}, piece) : piece));
}

function card(title, one, found, other) {
  const figures = [["reward", one.score], ["gold", one.gold], ["KL", one.kl_sum], ["length", one.length]].filter(([, value]) => value !== null && value !== undefined);
  return h(
    "article", { class: "card" },
    h("header", { class: "row" }, h("h2", {}, title), h("a", { class: "small", href: `/microscope/${encoded(run)}?row=${one.row}` }, "Microscope")),
    h("div", { class: "text answer", dir: "auto" }, marked(found.response, other.response)),
    h("dl", { class: "figures" }, figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, number(value))))),
  );
}

let showing = 0;

async function show(place) {
  const mine = ++showing;
  const [first, other] = await Promise.all([whole(0), whole(place)]);
  if (mine !== showing) return;
  find("#prompt").replaceChildren(...said(first.prompt));
  const start = rows[0].step === 0 ? "Step 0: the reference" : `Step ${rows[0].step}: the first that was traced`;
  if (rows.length < 2) find("#pair").replaceChildren(card(start, rows[0], first, first));
  else find("#pair").replaceChildren(card(start, rows[0], first, other), card(`Step ${rows[place].step}: the policy`, rows[place], other, first));
  shown.textContent = `step ${rows[place].step}, answer ${place + 1} of ${rows.length}`;
}

const begin = Math.max(0, rows.findIndex((one) => one.row === row));
const shown = h("output", { class: "small soft" });
const slider = h("input", { type: "range", min: 0, max: rows.length - 1, value: String(begin), "aria-label": "Which answer stands at the right", oninput: () => show(Number(slider.value)) });
find("#controls").append(rows.length > 1 ? h("label", { class: "row slider" }, "At the right", slider) : h("span", { class: "soft" }, "This prompt was traced at one step alone."), shown);
if (total > rows.length) find("#controls").append(h("span", { class: "soft small" }, `the first ${number(rows.length)} of ${number(total)} answers`));
await show(begin || rows.length - 1);
slider.value = String(begin || rows.length - 1);

const group = new Group();
const steps = [...new Set(rows.map((one) => one.step))];
find("#went").hidden = steps.length < 2;
for (const [key, caption, unit] of [["score", "Reward", "reward"], ["gold", "Gold", "gold score"], ["kl_sum", "KL", "nats"], ["length", "Length", "tokens"]]) {
  if (!rows.some((one) => Number.isFinite(one[key]))) continue;
  const chart = group.add(new Chart({ caption, unit }));
  find("#curves").append(chart.node);
  const mean = (step) => {
    const values = rows.filter((one) => one.step === step && Number.isFinite(one[key])).map((one) => one[key]);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  };
  chart.set([{ label: caption, colour: key === "gold" ? 3 : key === "score" ? 2 : 1, xs: steps, ys: steps.map(mean) }]);
}
