// The table of a project's items, and the chosen one beside it.

import { announce, find, h } from "/shared/dom.js";
import { ask } from "./ask.js";
import { number, placed, said } from "./format.js";
import { Table, typed } from "./table.js";
import { moment } from "./times.js";

const COLUMNS = [["at", "Last"], ["size", "Apart"], ["labels", "Labels"], ["task", "Task", true], ["prompt", "Prompt"]];
const form = find("#search"), detail = find("#detail"), only = find("#only");
const here = new URLSearchParams(location.search);
const asked = { store: form.dataset.store, project: form.dataset.project, by: here.get("by") ?? "at", falling: here.get("falling") !== "false", run: here.get("run") ?? "" };
const CHOICES = ["task", "kind", "person"], SWITCHES = ["disputed", "skipped", "flagged"];
for (const name of ["words", ...CHOICES, ...SWITCHES]) asked[name] = here.get(name) ?? "";

const address = (one) => `/item?${new URLSearchParams({ store: asked.store, id: one.id })}`;
const filtered = () => [asked.run, asked.words, ...[...CHOICES, ...SWITCHES].map((name) => asked[name])].some(Boolean);

const table = new Table(find("#table"), COLUMNS, asked, {
  asks: (start, count, signal) => ask("items", { ...asked, start, count }, signal),
  unfinished: (found) => !found.measured && 1000,
  open: (one) => location.assign(address(one)),
  choose: tell,
  cell(one, name) {
    if (name === "at") return when(one.at);
    if (name === "size") return placed(one.size, 2);
    if (name === "labels") return number(one.labels);
    if (name === "task") return one.task;
    return [marks(one), said(one.prompt)];
  },
  told(found) {
    find("#count").textContent = `${number(found.total)} ${found.total === 1 ? "item" : "items"}${filtered() ? ` of ${number(found.items)}` : ""}${found.measured ? "" : ", how far answers are apart is being computed"}`;
  },
});

/** When something was last done, in UTC; on a narrow screen the day alone. */
function when(at) {
  const text = moment(at);
  return at ? [h("span", { class: "beyond" }, text.slice(0, 5)), text.slice(5, 10), h("span", { class: "beyond" }, text.slice(10, 16))] : text;
}

function marks(one) {
  const found = [one.purpose !== "work" && one.purpose, one.flagged && "flagged", one.skipped && "skipped", one.settled && "settled"].filter(Boolean);
  return found.map((name) => h("span", { class: "mark" }, name));
}

let telling = 0;

async function tell(one) {
  const mine = ++telling;
  const found = await ask("item", { store: asked.store, id: one.id });
  if (mine !== telling) return;
  const answers = found.asked.filter((each) => each.answer);
  detail.replaceChildren(
    h("p", { class: "soft small" }, `item ${number(one.number)} of ${one.task}`),
    h("h3", {}, "Prompt"), h("div", { class: "text small", dir: "auto" }, said(found.messages.at(-1).text)),
    ...found.responses.flatMap(({ letter, text }) => [h("h3", {}, letter), h("div", { class: "text small", dir: "auto" }, said(text))]),
    h("h3", {}, answers.length ? "What people said" : "Nobody has answered it"),
    h("ul", { class: "plainly small" }, answers.map((each) => h("li", {}, h("code", {}, each.labeller), ": ", h("bdi", {}, said(each.answer))))),
    h("p", { class: "row" }, h("a", { class: "button main", href: address(one) }, "All that was said")),
  );
  announce(`Item ${one.number}, ${answers.length} answers`);
}

function set(name, value) {
  asked[name] = value;
  table.begin();
}

for (const name of CHOICES) {
  const field = find(`#${name}`);
  field.value = asked[name];
  field.addEventListener("change", () => set(name, field.value));
}
for (const name of SWITCHES) {
  const field = find(`#${name}`);
  field.checked = asked[name] === "true";
  field.addEventListener("change", () => set(name, field.checked ? "true" : ""));
}
find("#words").value = asked.words;
typed(find("#words"), (text) => set("words", text));
form.addEventListener("submit", (event) => event.preventDefault());
only.hidden = !asked.run;
only.firstChild.append(`learnt by ${asked.run} `, h("span", { "aria-hidden": "true" }, "×"));
only.firstChild.setAttribute("aria-label", `Learnt by ${asked.run}; show all again`);
only.firstChild.addEventListener("click", () => {
  only.hidden = true;
  set("run", "");
});
table.begin();
