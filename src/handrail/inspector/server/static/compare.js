// Several runs over each other. Runs that differ in nothing but their seed may be drawn as their mean with its interval.

import { find, h } from "/shared/dom.js";
import { again, ask, encoded } from "./ask.js";
import { Chart, Group, smoothing } from "./chart.js";
import { Numbers } from "./numbers.js";
import { interval, smooth } from "./smooth.js";

const paths = [...document.querySelectorAll("#legend [data-run]")].map((one) => one.dataset.run);
const runs = paths.map((path) => new Numbers(path)), group = new Group(), charts = new Map();
const [told, differing] = await Promise.all([Promise.all(paths.map((path) => ask(`panels/${encoded(path)}`))), ask("differences", { run: paths })]);
const several = differing.groups.some((members) => members.length > 1);
const together = h("input", { type: "checkbox", onchange: draw });
together.checked = several;

find("#controls").append(smoothing(group), several ? h("label", { class: "row" }, together, "Seeds together: mean and 95 % interval") : "");
group.smooth = (weight) => {
  group.weight = weight;
  draw();
};

const groupOf = new Map(differing.groups.flatMap((members, i) => members.map((run) => [run, i])));
const colourOf = (run) => ((together.checked ? groupOf.get(run) : run) % 8) + 1;

function series(name) {
  if (!together.checked) return runs.map((run, i) => ({ label: paths[i], colour: colourOf(i), ...run.curve(name) }));
  return differing.groups.map((members) => {
    const curves = members.map((i) => runs[i].curve(name)).filter((one) => one.xs.length);
    const label = members.length > 1 ? `${paths[members[0]]} and ${members.length - 1} more` : paths[members[0]];
    if (curves.length < 2) return { label, colour: colourOf(members[0]), ...(curves[0] ?? { xs: [], ys: [] }) };
    const smoothed = curves.map(({ xs, ys }) => ({ xs, ys: smooth(ys, group.weight) }));
    return { label, colour: colourOf(members[0]), ...interval(smoothed), each: smoothed };
  });
}

function draw() {
  document.querySelectorAll("#legend li").forEach((one, i) => {
    find(".dot", one)?.remove();
    one.prepend(h("span", { class: `dot c${colourOf(i)}` }));
  });
  const panels = new Map(told.flatMap((one) => one.panels).map((panel) => [panel.keys[0], panel]));
  const side = new Set(told.flatMap((one) => one.side));
  const names = [...new Set(runs.flatMap((run) => run.names()))].filter((name) => !side.has(name));
  const drawn = [...names.filter((name) => panels.has(name)), ...names.filter((name) => !panels.has(name))];
  for (const name of drawn) {
    if (!charts.has(name)) {
      const panel = panels.get(name);
      const made = group.add(new Chart(panel ?? { caption: name }));
      charts.set(name, made);
      find(panel ? "#curves" : "#further .charts").append(made.node);
    }
    charts.get(name).set(series(name));
  }
  find("#further").hidden = drawn.every((name) => panels.has(name));
  find("#curves").setAttribute("aria-busy", "false");
}

function table() {
  const { rows, same } = differing;
  if (!rows.length) return h("p", { class: "soft" }, `Nothing: all ${same} settings are the same.`);
  return h(
    "table", { class: "differences" },
    h("thead", {}, h("tr", {}, h("th", {}, "Setting"), paths.map((path) => h("th", {}, path)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), row.values.map((value) => h("td", {}, value === null ? h("span", { class: "soft" }, "not there") : value))))),
    h("tfoot", {}, h("tr", {}, h("td", { colspan: paths.length + 1, class: "soft small" }, `${same - rows.length} further settings are the same.`))),
  );
}

find("#differences").append(table());
again(async () => {
  const fresh = await Promise.all(runs.map((run) => run.refresh()));
  if (fresh.some(Boolean)) draw();
  return runs.some((run) => run.state === "running") ? 2500 : undefined;
});
