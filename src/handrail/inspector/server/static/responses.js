// The table of responses, and the chosen one beside it.

import { announce, find, h } from "/shared/dom.js";
import { ask, encoded, run } from "./ask.js";
import { number, percent, placed, said } from "./format.js";
import { Table, typed } from "./table.js";

const COLUMNS = [["step", "Step"], ["score", "Reward"], ["kl_sum", "KL"], ["length", "Length"], ["advantage_mean", "Advantage"], ["response", "Response"]];
const detail = find("#detail"), words = find("#words");
const here = new URLSearchParams(location.search);
const asked = { by: here.get("by") ?? "step", falling: here.get("falling") !== "false", words: here.get("words") ?? "", prompt: here.get("prompt") };

const table = new Table(find("#table"), COLUMNS, asked, {
  asks: (start, count, signal) => ask(`rows/${encoded(run)}`, { ...asked, start, count }, signal),
  unfinished: (found) => found.share < 1 && 1,
  begun: () => (find("#only").hidden = asked.prompt === null),
  open: (one) => location.assign(`/microscope/${encoded(run)}?row=${one.row}`),
  choose: tell,
  cell(one, name) {
    if (name === "response") return said(one.response);
    if (name === "step" || name === "length") return number(one[name]);
    return placed(one[name], 2);
  },
  told(found) {
    const chosenFrom = asked.words || asked.prompt !== null ? " found" : "", reading = found.share < 1 ? `, ${percent(found.share)} of the steps read` : "";
    find("#count").textContent = `${number(found.total)} ${found.total === 1 ? "response" : "responses"}${chosenFrom || ` of ${number(found.steps)} steps`}${reading}`;
  },
});

let telling = 0;

async function tell(one) {
  const mine = ++telling;
  const found = await ask(`response/${encoded(run)}`, { row: one.row });
  if (mine !== telling) return;
  const figures = [["reward", one.score], ["gold", one.gold], ["KL", one.kl_sum], ["length", one.length], ["mean advantage", one.advantage_mean]].filter(([, value]) => value !== null && value !== undefined);
  const near = h("section", { "aria-label": "Nearest in its step" }, h("h3", {}, "Nearest in its step"), h("p", { class: "soft small" }, "Looking …"));
  detail.replaceChildren(
    h("p", { class: "soft small" }, `step ${one.step}, response ${one.in_step + 1} of ${found.of_step}${one.ended === false ? ", cut at the longest length" : ""}`),
    h("h3", {}, "Prompt"), h("div", { class: "text small", dir: "auto" }, said(found.prompt)),
    h("h3", {}, "Response"), h("div", { class: "text", dir: "auto" }, said(found.response)),
    h("dl", { class: "figures" }, figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, number(value))))),
    h("div", { class: "row" }, h("a", { class: "button main", href: `/microscope/${encoded(run)}?row=${one.row}` }, "Microscope"), h("a", { class: "button", href: `/prompt/${encoded(run)}?row=${one.row}` }, "This prompt over steps"), h("button", { type: "button", onclick: () => only(one.row) }, "Only this prompt")),
    near,
  );
  announce(`Step ${one.step}, reward ${placed(one.score)}`);
  setTimeout(async () => {
    if (mine !== telling) return;
    const like = await ask(`near/${encoded(run)}`, { row: one.row });
    if (mine !== telling) return;
    near.lastChild.replaceWith(
      like.near.length
        ? h("ol", { class: "near" }, like.near.map((other) => h("li", {}, h("a", { href: `/microscope/${encoded(run)}?row=${other.row}` }, `${Math.round(100 * other.share)} %`), h("span", { class: "text small", dir: "auto" }, said(other.response)))))
        : h("p", { class: "soft small" }, `Of ${number(like.among)} responses none shares a twentieth of its word triples.`),
    );
  }, 150);
}

function only(row) {
  asked.prompt = row;
  table.begin();
}

words.value = asked.words;
typed(words, (text) => {
  asked.words = text;
  table.begin();
});
find("#search").addEventListener("submit", (event) => event.preventDefault());
find("#only button").addEventListener("click", () => only(null));
table.begin();
