// One run: its curves, what the doctor found on them, and where the seconds went. Goes on while the run does.

import { find, h } from "/shared/dom.js";
import { again, ask, encoded, run } from "./ask.js";
import { Chart, Group, s, smoothing } from "./chart.js";
import { duration, percent, plain, said } from "./format.js";
import { Numbers } from "./numbers.js";

const COLOURS = { reward: 2, gold: 3, target_reward: 3, kl_bound: 3, target_length: 3, eval_loss: 3, eval_accuracy: 3, logp_rejected: 3, reward_rejected: 3 };
const PARTS = { act: "sampling", judge: "judging", improve: "learning" };
const NOT_SECONDS = new Set(["step", "time", "memory_mib", "device_mib"]);

const numbers = new Numbers(run), group = new Group(), charts = new Map();
const told = await ask(`panels/${encoded(run)}`);
find("#controls").append(smoothing(group), h("span", { class: "soft small" }, "Drag over a curve to look closer; Escape or a double-click shows all again."));
find("#config").append(...Object.entries(told.config).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

const lead = told.panels.flatMap((panel) => panel.keys);
const timeline = group.add(new Chart({ caption: "Seconds a step", unit: "s", note: "Sampling, judging and learning; what is left of the time from step to step is saving, tracing and the rest." }));

function chart(key, panel, place) {
  if (!charts.has(key)) {
    const made = group.add(new Chart(panel));
    charts.set(key, made);
    place.append(made.node);
  }
  return charts.get(key);
}

function level(severity) {
  const text = String(severity).toLowerCase();
  return /sick|fatal|critical|error/.test(text) ? "bad" : /warn/.test(text) ? "warn" : "info";
}

function draw() {
  const marks = numbers.findings.flatMap((one) => one.history.map(({ step, severity }) => ({ step, name: `${title(one)}, ${severity ?? "note"}`, level: level(severity) })));
  for (const panel of told.panels) {
    const series = panel.keys.filter((key) => key in numbers.columns).map((key) => ({ label: key.replaceAll("_", " "), colour: COLOURS[key] ?? 1, ...numbers.curve(key) }));
    if (series.length) chart(panel.keys[0], panel, find("#curves")).set(series, marks);
  }
  const more = numbers.names().filter((name) => !lead.includes(name) && !told.side.includes(name));
  find("#further").hidden = !more.length;
  for (const name of more) chart(name, { caption: name }, find("#further .charts")).set([{ label: name, colour: 1, ...numbers.curve(name) }], marks);
  if (!told.panels.length) find("#further").open = true;
  find("#curves").setAttribute("aria-busy", "false");
  const state = find("#state");
  state.hidden = false;
  state.className = `state ${numbers.state}`;
  state.textContent = numbers.state === "running" && numbers.planned ? `running, step ${numbers.lines} of ${numbers.planned}` : numbers.state;
  findings();
  time();
}

function title(one) {
  return plain(one.name ?? "").replaceAll("_", " ");
}

function findings() {
  find("#findings").hidden = !numbers.findings.length;
  find("#findings ol").replaceChildren(
    ...numbers.findings.map((one) =>
      h(
        "li", { class: `note ${level(one.severity)}` },
        h("div", { class: "row" }, h("strong", {}, title(one)), h("span", { class: "badge" }, said(String(one.severity ?? "note"))), one.history.map((then, i) => h("button", { type: "button", class: "chip", onclick: () => group.point(then.step) }, since(one, then, i)))),
        ...[["evidence", "What it saw"], ["cause", "Likely cause"], ["remedy", "What to do"], ["change", "Try"]].map(([key, label]) => (one[key] ? h("p", {}, h("span", { class: "soft" }, `${label}: `), said(words(one[key]))) : null)),
      ),
    ),
  );
}

/** From when on it held, and when it became worse. */
function since(one, then, i) {
  return i ? `${then.severity} at step ${then.step}` : `${one.history.length > 1 ? `${then.severity} ` : ""}from step ${then.step}`;
}

function words(value) {
  return typeof value === "string" || Array.isArray(value) ? value : JSON.stringify(value);
}

function time() {
  const columns = numbers.timing, steps = columns.step ?? [];
  const parts = Object.keys(columns).filter((name) => !NOT_SECONDS.has(name) && columns[name].some((seconds) => seconds));
  find("#time").hidden = !steps.length || !parts.length;
  if (!steps.length || !parts.length) return;
  const series = parts.map((name) => [PARTS[name] ?? name, columns[name]]);
  const totals = series.map(([name, values]) => [name, values.reduce((sum, x) => sum + (x ?? 0), 0)]);
  const whole = totals.reduce((sum, [, seconds]) => sum + seconds, 0) || 1;
  let x = 0;
  const bar = s("svg", { viewBox: "0 0 1000 26", preserveAspectRatio: "none", class: "stack", role: "img", "aria-label": totals.map(([name, seconds]) => `${name} ${percent(seconds / whole)}`).join(", ") });
  totals.forEach(([, seconds], i) => {
    const width = (1000 * seconds) / whole;
    bar.append(s("rect", { x, y: 0, width, height: 26, class: `block c${i + 1}` }));
    x += width;
  });
  const list = h("ul", { class: "shares" }, totals.map(([name, seconds], i) => h("li", {}, h("span", { class: `dot c${i + 1}` }), name, h("b", {}, percent(seconds / whole)), h("span", { class: "soft" }, duration(seconds)))));
  find("#shares").replaceChildren(bar, list);
  timeline.set(series.map(([label, ys], i) => ({ label, colour: i + 1, xs: steps, ys })));
  if (!timeline.node.isConnected) find("#timeline").append(timeline.node);
  if (columns.memory_mib) chart(":memory", { caption: "Memory", unit: "MiB at most so far" }, find("#timeline")).set([{ label: "memory", colour: 1, xs: steps, ys: columns.memory_mib }]);
  find("#time h2").textContent = `Where the ${duration(whole)} went`;
}

again(async () => {
  if (await numbers.refresh()) draw();
  return { running: 1500, stopped: 5000, failed: 10_000 }[numbers.state];
});
