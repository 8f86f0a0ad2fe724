// One project of a store: how far its tasks are, how labels come in and from whom, how far people agree. Goes on while they work.

import { find, h } from "/shared/dom.js";
import { again, ask } from "./ask.js";
import { Chart, Group, s } from "./chart.js";
import { duration, number, placed, plain, said } from "./format.js";
import { moment } from "./times.js";

const place = find("#tasks"), { query } = place.dataset, asked = { store: place.dataset.store, project: place.dataset.project };
const KINDS = { compare: "compare two", rank: "put several in order", rate: "rate", demonstrate: "write the ideal response", chat: "chat with two models" };
const FEWEST = 10; // items; from fewer no coefficient is given
const group = new Group();
let now = { version: "" }, shown = "", quality = null, came = null, soFar = null;

const items = (more) => `/items?${query}&${new URLSearchParams(more)}`;
const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
const percent = (x) => `${Math.round(100 * x)} %`;

function tasks(found) {
  if (JSON.stringify(found) === shown) return;
  shown = JSON.stringify(found);
  place.replaceChildren(
    ...found.map((task) =>
      h(
        "li", { class: "card" },
        h("h3", {}, h("a", { href: items({ task: task.name }) }, said(task.title)), task.paused ? h("span", { class: "badge" }, "paused") : null),
        h("p", { class: "small soft" }, `${KINDS[task.kind]} · ${plural(task.items, "item")}, ${plural(task.overlap, "labeller")} each${task.given_out ? ` · ${number(task.given_out)} being answered` : ""}`),
        h("progress", { max: task.wanted || 1, value: task.labels, "aria-label": `${plain(task.title)}: labels` }),
        h("p", { class: "small" }, `${number(task.labels)} of ${plural(task.wanted, "label")}`, task.skipped ? [" · ", h("a", { href: items({ task: task.name, skipped: true }) }, `${number(task.skipped)} skipped`)] : null, task.flagged ? [" · ", h("a", { href: items({ task: task.name, flagged: true }) }, `${number(task.flagged)} flagged`)] : null),
      ),
    ),
  );
}

function curves() {
  const { pace } = now;
  find("#none").hidden = pace !== null;
  find("#curves").setAttribute("aria-busy", "false");
  if (!pace) return;
  if (came?.times !== pace.unit) {
    came = group.add(new Chart({ caption: `Labels ${{ hour: "an" }[pace.unit] ?? "a"} ${pace.unit}`, times: pace.unit }));
    soFar = group.add(new Chart({ caption: "Labels so far", times: pace.unit, note: "Checks and practice count too. Times are in UTC." }));
    soFar.node.append(h("ul", { class: "legend small", id: "legend" }));
    group.charts = [came, soFar];
    find("#curves").replaceChildren(came.node, soFar.node);
  }
  came.set([{ label: "labels", colour: 1, xs: pace.times, ys: pace.came }]);
  const tasks = Object.entries(pace.so_far).map(([label, ys], i) => ({ label, colour: (i % 8) + 1, xs: pace.times, ys }));
  soFar.set(tasks);
  find("#legend").replaceChildren(...(tasks.length > 1 ? tasks.map(({ label, colour }) => h("li", {}, h("span", { class: `dot c${colour}` }), label)) : []));
}

// ---- figures with their intervals ----

/** A figure as text and as a line from `low` to 1 with its interval on it. */
function figure(found, { share = false, low = share ? 0 : -1, more = "" } = {}) {
  if (!found || found.value === null) return h("span", { class: "soft" }, !found?.n ? "–" : found.n < FEWEST ? `too few (${found.n})` : "not defined: all are alike");
  const tell = share ? percent : (x) => placed(x, 2), x = (value) => 4 + 112 * (Math.min(1, Math.max(low, value)) - low) / (1 - low);
  const drawn = s("svg", { viewBox: "0 0 120 12", class: "within", "aria-hidden": "true" }, s("line", { x1: 4, x2: 116, y1: 6, y2: 6, class: "axis" }), s("line", { x1: x(found.low), x2: x(found.high), y1: 6, y2: 6, class: "interval" }), s("line", { x1: x(found.value), x2: x(found.value), y1: 1, y2: 11, class: "value" }));
  return h("div", { class: "figure" }, h("b", {}, tell(found.value)), h("span", { class: "soft small" }, ` ${tell(found.low)} to ${tell(found.high)}; n = ${number(found.n)}${more}`), drawn);
}

function part(one) {
  const { agreement } = one, rows = [["They say the same", figure(agreement.percent, { share: true })], ["Fleiss’ kappa", figure(agreement.kappa)], ["Krippendorff’s alpha", figure(agreement.alpha)]];
  if (agreement.tau) rows.push(["Kendall’s tau-b", figure(agreement.tau)]);
  const pairs = h("table", { class: "compact" }, h("thead", {}, h("tr", {}, ["Labellers", "Items", "The same", "Kappa"].map((name) => h("th", {}, name)))), h("tbody", {}, agreement.pairs.map((pair) => h("tr", {}, h("td", {}, h("code", {}, pair.first), " and ", h("code", {}, pair.second)), h("td", { class: "number" }, number(pair.items)), h("td", {}, figure(pair.percent, { share: true })), h("td", {}, figure(pair.kappa))))));
  return h(
    "article", { class: "card" },
    h("h3", {}, KINDS[one.kind] + (one.criterion ? `: ${one.criterion}` : "")),
    h("p", { class: "small soft" }, `${one.tasks.join(", ")}: ${plural(one.labels, "first answer")} of ${number(one.labellers)} to ${plural(one.items, "item")}, ${number(one.shared)} of which two or more answered.`),
    h("dl", { class: "figures" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    agreement.pairs.length ? h("details", {}, h("summary", {}, "Two by two"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Agreement two by two" }, pairs)) : null,
  );
}

function judged() {
  const found = quality?.quality;
  const waiting = quality?.busy ? (found ? "Newer labels are being measured." : "Agreement and reliability are being computed.") : "";
  find("#measuring").textContent = quality?.problem || waiting || (found && !found.concerns.length ? (found.labels ? "Nothing looks wrong." : "There is nothing to look at yet.") : "");
  if (!found) return;
  find("#concerns").replaceChildren(
    ...found.concerns.map((one) => h("li", { class: `note ${{ serious: "bad", warning: "warn" }[one.severity] ?? ""}` }, h("div", { class: "row" }, h("strong", {}, one.name), h("span", { class: "badge" }, one.severity), h("a", { href: items({ person: one.labeller }) }, h("code", {}, one.labeller)), one.tasks.length ? h("span", { class: "soft small" }, `in ${one.tasks.join(", ")}`) : null), h("p", {}, one.message), h("p", { class: "soft" }, one.advice))),
  );
  find("#agreement").hidden = !found.parts.length;
  find("#parts").replaceChildren(...found.parts.map(part));
}

function people() {
  const parts = quality?.quality?.parts ?? [];
  const named = (one, node) => (parts.length > 1 ? h("div", {}, h("div", { class: "small soft" }, one.criterion || one.kind), node) : node);
  const cell = (name, key, tell) => {
    const found = parts.map((one) => [one, one[key].find((each) => each.labeller === name)]).filter(([, each]) => each);
    return h("td", {}, found.length ? found.map(([one, each]) => named(one, tell(each))) : "–");
  };
  find("#people").hidden = !now.people.length;
  find("#people tbody").replaceChildren(
    ...now.people.map((one) =>
      h(
        "tr", {},
        h("th", { scope: "row" }, h("a", { href: items({ person: one.labeller }) }, h("code", {}, one.labeller))),
        h("td", { class: "number" }, number(one.labels)),
        h("td", { class: "number" }, number(one.skipped)),
        h("td", { class: "number" }, one.seconds === null ? "–" : duration(one.seconds)),
        cell(one.labeller, "reliability", (found) => figure(found.accuracy, { share: true, more: `; weight ${placed(found.weight, 2)}` })),
        cell(one.labeller, "consistency", (found) => figure(found.share, { share: true })),
        cell(one.labeller, "gold", (found) => figure(found.share, { share: true })),
        h("td", { class: "small soft" }, moment(one.first)),
        h("td", { class: "small soft" }, moment(one.last)),
      ),
    ),
  );
}

again(async () => {
  const found = await ask("labels", { ...asked, version: now.version });
  tasks(found.tasks);
  if (found.version !== now.version) {
    now = found;
    curves();
    people();
  }
  return 3000;
});
again(async () => {
  const before = JSON.stringify([quality?.upto, quality?.busy, quality?.problem]);
  quality = await ask("quality", asked);
  if (JSON.stringify([quality.upto, quality.busy, quality.problem]) !== before) {
    judged();
    if (now.people) people();
  }
  return quality.busy ? 500 : 4000;
});
