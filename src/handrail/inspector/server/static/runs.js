// The list of runs: filtered as one types, refreshed while it is looked at, and where runs are chosen to be compared.

import { find, h } from "/shared/dom.js";
import { again, ask, encoded } from "./ask.js";
import { s } from "./chart.js";
import { ago, duration, number } from "./format.js";

const chosen = new Set();
const table = find("#runs"), body = find("tbody", table), filter = find("#filter"), stage = find("#stage"), compare = find("#compare");
let runs = [], shown = "";

/** A curve of a few points, without axes: how it went, not how much. */
function spark(main, name) {
  const values = main?.points ?? [];
  if (values.length < 2) return null;
  const low = Math.min(...values), high = Math.max(...values, low + 1e-12);
  const d = values.map((y, i) => `${i ? "L" : "M"}${(2 + (i / (values.length - 1)) * 96).toFixed(1)} ${(22 - ((y - low) / (high - low)) * 18).toFixed(1)}`).join("");
  const label = `${main.name} of ${name}, from ${number(values[0])} to ${number(values.at(-1))}`;
  return s("svg", { viewBox: "0 0 100 24", class: "spark", role: "img", "aria-label": label }, s("title", {}, label), s("path", { d }));
}

function line(run) {
  const parts = run.path.split("/"), name = parts.pop();
  const box = h("input", { type: "checkbox", name: "run", value: run.path, "aria-label": `Choose ${run.path}`, onchange: choose });
  box.checked = chosen.has(run.path);
  const share = run.planned && run.state === "running" ? h("progress", { value: run.steps, max: run.planned, "aria-label": "Steps done" }) : null;
  return h(
    "tr", {},
    h("td", {}, box),
    h("td", { class: "name" }, parts.length ? h("span", { class: "soft" }, `${parts.join("/")}/`) : null, h("a", { href: `/run/${encoded(run.path)}` }, name), run.seed ? h("span", { class: "soft small" }, ` seed ${run.seed}`) : null),
    h("td", {}, h("span", { class: `state ${run.state}` }, run.state)),
    h("td", {}, run.stage),
    h("td", { class: "number" }, number(run.steps), run.planned ? h("span", { class: "soft" }, ` of ${number(run.planned)}`) : null, share),
    h("td", { class: "curve" }, spark(run.main, run.path)),
    ...["reward", "kl", "length"].map((key) => h("td", { class: "number" }, key in run.last ? number(run.last[key], 3) : "")),
    h("td", { class: "number" }, duration(run.seconds)),
    h("td", { class: "number soft" }, ago(run.changed)),
  );
}

function choose(event) {
  if (event.target.checked) chosen.add(event.target.value);
  else chosen.delete(event.target.value);
  compare.disabled = chosen.size < 2;
  compare.textContent = chosen.size < 2 ? "Compare" : `Compare ${chosen.size}`;
}

function fits(run) {
  const text = `${run.path} ${run.stage} ${run.state}`.toLowerCase();
  return (!stage.value || run.stage === stage.value) && filter.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function show() {
  const fitting = runs.filter(fits);
  const now = JSON.stringify([fitting, Math.floor(Date.now() / 60_000)]);
  find("#count").textContent = fitting.length === runs.length ? `${runs.length} ${runs.length === 1 ? "run" : "runs"}` : `${fitting.length} of ${runs.length} runs`;
  find("#nothing").hidden = runs.length > 0;
  table.hidden = !runs.length;
  if (now === shown) return; // whoever is about to press something is not disturbed
  shown = now;
  const focused = document.activeElement?.value;
  body.replaceChildren(...fitting.map(line));
  if (focused) find(`input[value="${CSS.escape(focused)}"]`, body)?.focus();
}

again(async () => {
  runs = await ask("runs");
  for (const name of new Set(runs.map((run) => run.stage))) {
    if (![...stage.options].some((option) => option.value === name)) stage.append(h("option", { value: name }, name));
  }
  show();
  return runs.some((run) => run.state === "running") ? 3000 : 10_000;
});
filter.addEventListener("input", show);
stage.addEventListener("change", show);
find("#choose").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = new URLSearchParams([...chosen].map((path) => ["run", path]));
  location.assign(`/compare?${query}`);
});
