// One response, token by token: coloured by what one asks, with what else might have stood there, and with the arithmetic
// of the chosen token written out.

import { announce, find, h } from "/shared/dom.js";
import { ask, encoded, run } from "./ask.js";
import { formula } from "./formula.js";
import { number, percent, plain, said } from "./format.js";

const here = new URLSearchParams(location.search);
const now = { row: Number(here.get("row") ?? -1), token: Number(here.get("token") ?? 0), pass: Number(here.get("pass") ?? 0), by: here.get("by") ?? "" };
const PLACES = 2 ** 20; // a row's number is its step times this, and its place in it
const cells = find("#tokens");
let found = null, quantity = null, written = 0;

if (now.row < 0) now.row = await lastly();

/** Where one begins who asked for no response: with the first of the last step. */
async function lastly() {
  const { rows } = await ask(`rows/${encoded(run)}`, { by: "step", falling: true, count: 1 });
  return rows.length ? rows[0].row - rows[0].in_step : 0; // a row is named by its step and its place in it
}

async function load() {
  found = await ask(`response/${encoded(run)}`, { row: now.row });
  now.row = found.row;
  now.token = Math.min(now.token, Math.max(0, found.tokens.length - 1));
  now.pass = Math.min(now.pass, Math.max(0, found.passes.length - 1));
  quantity = found.quantities.find((one) => one.name === now.by) ?? found.quantities.find((one) => one.name === "advantage") ?? found.quantities[0] ?? null;
  places();
  chips();
  steppers();
  tokens();
  beside();
  figures();
  find("#prompt .text").replaceChildren(...said(found.prompt));
  find("#note").hidden = !found.note;
  find("#note").textContent = found.note;
  check();
  await choose(now.token);
}

// ---- where one is ----------------------------------------------------------------------------------------------------

function places() {
  const at = found.steps.indexOf(found.step);
  const steps = h("select", { id: "step", onchange: () => go(found.steps[steps.selectedIndex] * PLACES + found.in_step) }, found.steps.map((step) => h("option", { value: step }, `step ${step}`)));
  steps.selectedIndex = at;
  const button = (text, label, to) => h("button", { type: "button", "aria-label": label, disabled: to === null, onclick: () => go(to) }, text);
  const responses = h("span", { class: "row tight" }, button("‹", "The response before", found.before), h("span", { class: "placed" }, `response ${found.in_step + 1} of ${found.of_step}`), button("›", "The next response", found.after));
  find("#where").replaceChildren(h("label", {}, h("span", { class: "unseen" }, "Step"), steps), responses, h("a", { href: `/prompt/${encoded(run)}?row=${found.row}` }, "This prompt over steps"), ...scores());
}

function scores() {
  const names = { score: "reward", score_relaxed: "relaxed reward", gold: "gold", implicit_reward: "implicit reward", kl_sum: "KL", weight: "weight" };
  return Object.entries(found.scores).filter(([name]) => name in names).map(([name, value]) => h("span", { class: "small" }, h("span", { class: "soft" }, `${names[name]} `), h("b", {}, number(value)))).concat(found.ended === false ? [h("span", { class: "badge" }, "cut")] : []);
}

async function go(row) {
  if (row === null) return;
  now.row = row;
  await load();
}

function remember() {
  const query = new URLSearchParams({ row: now.row, token: now.token, pass: now.pass });
  if (now.by) query.set("by", now.by);
  history.replaceState(null, "", `?${query}`);
}

// ---- colours ---------------------------------------------------------------------------------------------------------

function chips() {
  const boxes = found.quantities.map((one) => {
    const radio = h("input", { type: "radio", name: "by", value: one.name, onchange: () => colour(one) });
    radio.checked = one === quantity;
    return h("label", { class: "choice", title: one.said }, radio, h("span", {}, one.label));
  });
  find("#quantities").hidden = !boxes.length;
  find("#quantities").replaceChildren(find("#quantities legend"), h("div", { class: "choices" }, boxes));
}

function colour(one) {
  quantity = one;
  now.by = one.name;
  tokens();
  remember();
}

function steppers() {
  const place = find("#passes"), several = found.passes.length;
  place.hidden = !several;
  if (!several) return;
  const one = found.passes[now.pass];
  const button = (text, label, to) => h("button", { type: "button", class: "chip", "aria-label": label, disabled: to < 0 || to >= several, onclick: () => step(to) }, text);
  place.replaceChildren(h("span", {}, one.named ?? "Pass"), button("‹", "The pass before", now.pass - 1), h("b", { class: "placed" }, `${now.pass + 1} of ${several}`), button("›", "The next pass", now.pass + 1), h("span", { class: "soft small" }, one.said));
}

async function step(to) {
  if (to < 0 || to >= found.passes.length) return;
  now.pass = to;
  steppers();
  tokens();
  await choose(now.token);
}

const values = () => (quantity ? (quantity.passes ? quantity.values[now.pass] : quantity.values) : []);

function tokens() {
  const shown = values(), real = shown.filter((x) => x !== null && Number.isFinite(x));
  const [low, high] = [Math.min(...real), Math.max(...real)], most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  cells.replaceChildren(...found.tokens.map((token, at) => cell(token, at, shown[at], low, high, most)).flat());
  const scale = find("#scale");
  if (!quantity) scale.replaceChildren();
  else if (quantity.name === "clipped") scale.replaceChildren(h("span", { class: "swatch down full" }), " clipped. ", quantity.said);
  else if (quantity.signed) scale.replaceChildren(h("span", { class: "ramp signed" }), ` ${number(-most, 3)} to ${number(most, 3)}: ${quantity.said}`);
  else scale.replaceChildren(h("span", { class: "ramp" }), ` ${number(low, 3)} to ${number(high, 3)}: ${quantity.said}`);
}

function cell(token, at, value, low, high, most) {
  const text = plain(token), breaks = (text.match(/\n/g) ?? []).length;
  const way = quantity?.name === "clipped" ? "down" : quantity?.signed ? (value < 0 ? "down" : "up") : "flat";
  const share = value === null || value === undefined ? 0 : quantity.name === "clipped" ? value : quantity.signed ? Math.abs(value) / most : high > low ? (value - low) / (high - low) : 0;
  const made = h(
    "span", { class: `tok ${way}`, role: "option", id: `token-${at}`, "aria-selected": String(at === now.token), title: quantity ? `${quantity.label} ${number(value)}` : null, onclick: () => choose(at) },
    text === "" ? h("span", { class: "soft" }, "·") : text.trim() === "" ? text.replaceAll("\n", "↵").replaceAll(" ", "␣").replaceAll("\t", "→") : said(token),
  );
  made.style.setProperty("--share", `${Math.round(3 + 47 * share)}%`);
  return [made, ...Array.from({ length: Math.min(breaks, 2) }, () => h("br"))];
}

/** The responses that this one is weighed against, side by side, the best first. */
function beside() {
  const place = find("#beside");
  place.hidden = !found.beside.length;
  const card = (one) =>
    h("article", { class: one.mine ? "card mine" : "card", "aria-current": one.mine ? "true" : null }, h("header", {}, h("b", {}, one.heading || "\u00a0"), one.mine ? h("span", { class: "soft small" }, "this one") : h("button", { type: "button", class: "chip", "aria-label": `Look at response ${one.in_step + 1}`, onclick: () => go(one.row) }, "look")), h("p", { class: "text" }, said(one.response)), h("dl", {}, one.figures.map(([name, value]) => h("div", {}, h("dt", {}, name.includes("π") ? formula(name) : name), h("dd", {}, value)))));
  find(".cards", place).replaceChildren(...found.beside.map(card));
}

/** The numbers of every token as a table: for whoever cannot see colours, or wants to copy them. */
function figures() {
  const shown = found.quantities.filter((one) => !one.passes);
  if (!shown.length) return find("#numbers").replaceChildren();
  const table = () =>
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All numbers" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { class: "number" }, "t"), h("th", {}, "token"), shown.map((one) => h("th", { class: "number", title: one.said }, one.label)))), h("tbody", {}, found.tokens.map((token, at) => h("tr", {}, h("td", { class: "number" }, at + 1), h("td", {}, h("code", {}, said(token))), shown.map((one) => h("td", { class: "number" }, number(one.values[at]))))))));
  const made = h("details", {}, h("summary", {}, "All numbers as a table"));
  made.addEventListener("toggle", () => made.open && made.children.length === 1 && made.append(table()));
  find("#numbers").replaceChildren(made);
}

// ---- the chosen token ------------------------------------------------------------------------------------------------

async function choose(at) {
  if (!found.tokens.length) return;
  now.token = at;
  for (const one of cells.querySelectorAll('[aria-selected="true"]')) one.setAttribute("aria-selected", "false");
  const chosen = document.getElementById(`token-${at}`);
  chosen.setAttribute("aria-selected", "true");
  cells.setAttribute("aria-activedescendant", chosen.id);
  if (document.activeElement === cells) chosen.scrollIntoView({ block: "nearest" });
  const text = plain(found.tokens[at]);
  find("#token").replaceChildren(h("span", { class: "soft" }, `Token ${at + 1} of ${found.tokens.length} `), h("code", {}, text.trim() === "" ? JSON.stringify(text) : said(found.tokens[at])), found.ids.length ? h("span", { class: "soft small" }, ` id ${found.ids[at]}`) : "");
  announce(`Token ${at + 1}: ${text}${quantity ? `, ${quantity.label} ${number(values()[at])}` : ""}`);
  others(at);
  remember();
  const mine = ++written;
  const derived = await ask(`arithmetic/${encoded(run)}`, { row: now.row, token: at, pass: now.pass });
  if (mine !== written) return;
  write(derived.blocks);
  find("#arithmetic").dataset.of = location.search; // which token it is of, once it is there
}

function others(at) {
  const held = found.alternatives[at];
  if (!held) {
    find("#alternatives").replaceChildren();
    return;
  }
  const most = Math.max(...[...held.policy, ...held.reference].map((one) => one.p));
  const list = (name, title) =>
    h("div", {}, h("h3", {}, title), h("ol", { class: "held-likely" }, held[name].map((one) => {
      const own = one.id === found.ids[at], text = plain(one.token);
      const bar = h("span", { class: "bar" });
      bar.style.width = `${(100 * one.p) / most}%`;
      return h("li", { class: own ? "own" : "" }, h("code", {}, text.trim() === "" ? JSON.stringify(text) : said(one.token)), own ? h("span", { class: "unseen" }, " (the token itself)") : null, h("span", { class: "number" }, percent(one.p)), bar);
    })));
  find("#alternatives").replaceChildren(list("policy", "The policy held"), list("reference", "The reference held"));
}

function write(blocks) {
  const line = (one) => h("div", { class: "line", dataset: { name: one.named } }, h("div", {}, formula(one.formula)), h("div", { class: "worked" }, h("span", { class: "eq" }, "= "), h("span", { class: "numbers" }, formula(one.numbers))), h("div", { class: "worked" }, h("span", { class: "eq" }, "= "), h("output", {}, one.value)));
  const table = (of) => {
    const rows = of.rows.map((row) => h("tr", {}, row.map((value) => h("td", { class: "number" }, value))));
    const made = h("details", {}, h("summary", {}, "From the last token back"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The recursion" }, h("table", { class: "recursion" }, h("thead", {}, h("tr", {}, of.columns.map((name) => h("th", { class: "number" }, formula(name))))), h("tbody", {}, h("tr", { class: "soft" }, h("td", { class: "number" }, "after"), h("td", {}), h("td", { class: "number" }, of.after[0]), h("td", {}), h("td", { class: "number" }, of.after[1])), rows))));
    return made;
  };
  find("#arithmetic").replaceChildren(...blocks.map((block) => h("section", { class: "step" }, h("h3", {}, block.title), block.lines.map(line), block.note ? h("p", { class: "small soft" }, block.note) : null, block.table ? table(block.table) : null)));
}

/** Whether the parts of all tokens, added up, are the loss that the step has logged. */
async function check() {
  const place = find("#check");
  place.hidden = true;
  if (!found.known) return;
  const step = found.step, sums = await ask(`sums/${encoded(run)}`, { step });
  if (found.step !== step || !sums.updates) return;
  place.hidden = false;
  const pairs = Object.keys(sums.logged).filter((name) => sums[name] !== null && sums.logged[name] !== null);
  const agree = pairs.every((name) => Math.abs(sums[name] - sums.logged[name]) <= 1e-4 * Math.max(1, Math.abs(sums.logged[name])));
  if (!sums.whole) place.textContent = `Not all responses of step ${step} are in its trace, so that its loss cannot be added up from them: run.trace_rows says how many are kept.`;
  else place.replaceChildren(`${agree ? "✓ Added up over the whole step" : "✗ Added up"}: `, pairs.map((name) => `${name.replaceAll("_", " ")} ${number(sums[name], 6)}, logged ${number(sums.logged[name], 6)}`).join("; "), ".");
  place.className = `small note ${sums.whole ? (agree ? "good" : "bad") : ""}`;
}

// ---- keys ------------------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !found || event.target.closest("input:not([type=radio]), select, textarea")) return;
  const last = found.tokens.length - 1, among = event.target === cells || event.target === document.body || event.target.id === "main";
  const token = among ? { ArrowRight: now.token + 1, ArrowLeft: now.token - 1, Home: 0, End: last }[event.key] : undefined;
  if (token !== undefined) {
    event.preventDefault();
    choose(Math.min(last, Math.max(0, token)));
  } else if (event.key === "[") step(now.pass - 1);
  else if (event.key === "]") step(now.pass + 1);
  else if (event.key === ".") go(found.after);
  else if (event.key === ",") go(found.before);
});

await load();
