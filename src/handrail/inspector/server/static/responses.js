// The table of responses. Only the rows on the screen exist; what they show is fetched in blocks as one scrolls.

import { announce, find, h } from "/shared/dom.js";
import { again, ask, encoded, run } from "./ask.js";
import { number, percent, placed, said } from "./format.js";

const HEIGHT = 32, BLOCK = 32, TALLEST = 16_500_000; // px of a row; rows of a block; px of an element that every browser can have
const COLUMNS = [["step", "Step"], ["score", "Reward"], ["kl_sum", "KL"], ["length", "Length"], ["advantage_mean", "Advantage"], ["response", "Response"]];
const table = find("#table"), rows = find(".rows", table), head = find(".head", table), detail = find("#detail"), words = find("#words");
const here = new URLSearchParams(location.search);
const asked = { by: here.get("by") ?? "step", falling: here.get("falling") !== "false", words: here.get("words") ?? "", prompt: here.get("prompt") };

let total = 0, chosen = -1, blocks = new Map(), waiting = new Map(), generation = 0;

// ---- what is shown ---------------------------------------------------------------------------------------------------

function heads() {
  head.replaceChildren(
    ...COLUMNS.map(([name, title]) => {
      if (name === "response") return h("span", { role: "columnheader", class: name }, title);
      const sorted = asked.by === name;
      const button = h("button", { type: "button", class: "quiet", onclick: () => sort(name) }, h("span", { class: "way", "aria-hidden": "true" }, sorted ? (asked.falling ? "↓ " : "↑ ") : ""), title);
      return h("span", { role: "columnheader", class: name, "aria-sort": sorted ? (asked.falling ? "descending" : "ascending") : "none" }, button);
    }),
  );
}

function sort(name) {
  asked.falling = asked.by === name ? !asked.falling : true;
  asked.by = name;
  begin();
}

const height = () => Math.min(total * HEIGHT, TALLEST);
const scale = () => (total * HEIGHT) / Math.max(1, height()); // rows that are more than an element can be high are scrolled faster

function draw() {
  const view = table.clientHeight - head.offsetHeight;
  const top = Math.min(table.scrollTop * scale(), Math.max(0, total * HEIGHT - view));
  const first = Math.max(0, Math.floor(top / HEIGHT) - 4), last = Math.min(total, Math.ceil((top + view) / HEIGHT) + 4);
  const shift = table.scrollTop - top; // 0 where nothing is scaled
  const made = [];
  for (let at = first; at < last; at++) made.push(line(at, at * HEIGHT + shift));
  rows.style.height = `${height()}px`;
  rows.replaceChildren(...made);
  table.setAttribute("aria-rowcount", total);
  for (let block = Math.floor(first / BLOCK); block * BLOCK < last; block++) fetched(block);
}

function line(at, y) {
  const one = blocks.get(Math.floor(at / BLOCK))?.[at % BLOCK];
  const cells = COLUMNS.map(([name]) => h("span", { role: "gridcell", class: name, dir: name === "response" ? "auto" : null }, one ? cell(one, name) : ""));
  const made = h("div", { role: "row", class: "line", id: `row-${at}`, "aria-rowindex": at + 1, "aria-selected": String(at === chosen), onclick: () => choose(at), ondblclick: open }, cells);
  made.style.transform = `translateY(${y}px)`;
  return made;
}

function cell(one, name) {
  if (name === "response") return said(one.response);
  if (name === "step" || name === "length") return number(one[name]);
  return placed(one[name], 2);
}

// ---- what is fetched -------------------------------------------------------------------------------------------------

async function fetched(block) {
  if (blocks.has(block) || waiting.has(block)) return;
  const abort = new AbortController(), mine = generation;
  waiting.set(block, abort);
  await new Promise((resolve) => setTimeout(resolve, 30)); // what flies past is not fetched
  const top = (table.scrollTop * scale()) / HEIGHT, view = table.clientHeight / HEIGHT;
  if (mine !== generation || (block + 2) * BLOCK < top || (block - 1) * BLOCK > top + view) {
    if (mine === generation) waiting.delete(block);
    return;
  }
  try {
    const found = await ask(`rows/${encoded(run)}`, { ...asked, start: block * BLOCK, count: BLOCK }, abort.signal);
    if (mine !== generation) return;
    blocks.set(block, found.rows);
    if (blocks.size > 200) blocks.delete(blocks.keys().next().value);
    counted(found);
    schedule();
  } catch {
    // it is asked for again when it is looked at again
  } finally {
    if (mine === generation) waiting.delete(block);
  }
}

function counted(found) {
  const chosenFrom = asked.words || asked.prompt !== null ? " found" : "", reading = found.share < 1 ? `, ${percent(found.share)} of the steps read` : "";
  find("#count").textContent = `${number(found.total)} ${found.total === 1 ? "response" : "responses"}${chosenFrom || ` of ${number(found.steps)} steps`}${reading}`;
  if (found.total !== total) {
    total = found.total;
    schedule();
  }
}

/** Asks anew: another order, other words, or more rows than before. */
function begin(keep = false) {
  generation += 1;
  for (const abort of waiting.values()) abort.abort();
  blocks = new Map();
  waiting = new Map();
  if (!keep) {
    table.scrollTop = 0;
    chosen = -1;
  }
  heads();
  const query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value !== "" && value !== null).map(([name, value]) => [name, String(value)]));
  history.replaceState(null, "", `?${query}`);
  find("#only").hidden = asked.prompt === null;
  look?.();
  look = again(progress);
}

let look = null, scheduled = false;

/** The first rows; and on, while texts are searched or the run writes more. */
async function progress() {
  const mine = generation;
  const found = await ask(`rows/${encoded(run)}`, { ...asked, start: 0, count: BLOCK });
  if (mine !== generation) return undefined;
  const grown = found.total !== total;
  if (grown) blocks = new Map();
  blocks.set(0, found.rows);
  counted(found);
  schedule();
  if (found.share < 1) return 1;
  return 4000;
}

function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

// ---- the chosen row --------------------------------------------------------------------------------------------------

const at = (place) => blocks.get(Math.floor(place / BLOCK))?.[place % BLOCK];

function choose(place) {
  chosen = Math.min(total - 1, Math.max(0, place));
  const top = (table.scrollTop * scale()) / HEIGHT, seen = (table.clientHeight - head.offsetHeight) / HEIGHT;
  if (chosen < top) table.scrollTop = (chosen * HEIGHT) / scale();
  if (chosen + 1 > top + seen) table.scrollTop = ((chosen + 1 - seen) * HEIGHT) / scale();
  table.setAttribute("aria-activedescendant", `row-${chosen}`);
  draw();
  tell();
}

function open() {
  const one = at(chosen);
  if (one) location.assign(`/microscope/${encoded(run)}?row=${one.row}`);
}

let telling = 0;

async function tell() {
  const one = at(chosen), mine = ++telling;
  if (!one) return;
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
  begin();
}

// ---- what one does ---------------------------------------------------------------------------------------------------

table.addEventListener("scroll", schedule, { passive: true });
new ResizeObserver(schedule).observe(table);
table.addEventListener("keydown", (event) => {
  if (event.target !== table) return;
  const page = Math.floor((table.clientHeight - head.offsetHeight) / HEIGHT) - 1;
  const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + page, PageUp: chosen - page, Home: 0, End: total - 1 }[event.key];
  if (to !== undefined && total) {
    event.preventDefault();
    choose(to);
  } else if (event.key === "Enter") open();
});
let typing = null;
words.value = asked.words;
words.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    asked.words = words.value.trim();
    begin();
  }, 200);
});
find("#search").addEventListener("submit", (event) => event.preventDefault());
find("#only button").addEventListener("click", () => {
  asked.prompt = null;
  begin();
});
begin();
