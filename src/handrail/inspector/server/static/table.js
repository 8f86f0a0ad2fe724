// A table of however many rows. Only those on the screen exist; what they show is fetched in blocks as one scrolls.

import { find, h } from "/shared/dom.js";
import { again } from "./ask.js";

const HEIGHT = 32, BLOCK = 32, TALLEST = 16_500_000; // px of a row; rows of a block; px of an element that every browser can have

export class Table {
  total = 0;
  chosen = -1;
  #blocks = new Map();
  #waiting = new Map();
  #generation = 0;
  #look = null;
  #scheduled = false;

  /** In `node`, with the elements .head and .rows. `columns` are [name, title], the last is a text; `asked` has {by, falling} and what else
   *  is asked for; `asks(start, count, signal)` answers {total, rows, ...}, `unfinished(found)` says whether more of it is being found out;
   *  `cell(row, name)` is what stands in a cell; `told(found)`, `choose(row)`, `open(row)` and `begun()` are told what happens. */
  constructor(node, columns, asked, { asks, cell, told, choose, open, begun, unfinished = () => false }) {
    Object.assign(this, { node, columns, asked, asks, cell, told, choose, open, begun, unfinished, text: columns.at(-1)[0] });
    this.rows = find(".rows", node);
    this.head = find(".head", node);
    node.addEventListener("scroll", () => this.#schedule(), { passive: true });
    new ResizeObserver(() => this.#schedule()).observe(node);
    node.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** Asks anew: another order, other words. */
  begin() {
    this.#generation += 1;
    for (const abort of this.#waiting.values()) abort.abort();
    this.#blocks = new Map();
    this.#waiting = new Map();
    this.node.scrollTop = 0;
    this.chosen = -1;
    this.#heads();
    const query = new URLSearchParams(Object.entries(this.asked).filter(([, value]) => value !== "" && value !== null && value !== undefined).map(([name, value]) => [name, String(value)]));
    history.replaceState(null, "", `?${query}`);
    this.begun?.();
    this.#look?.();
    this.#look = again(() => this.#progress());
  }

  /** The first rows; and on, while more of them is found out or more rows come. */
  async #progress() {
    const mine = this.#generation;
    const found = await this.asks(0, BLOCK);
    if (mine !== this.#generation) return undefined;
    const before = this.#blocks.get(0);
    if (found.total !== this.total || JSON.stringify(before) !== JSON.stringify(found.rows)) this.#blocks = new Map();
    this.#blocks.set(0, found.rows);
    this.#counted(found);
    this.#schedule();
    return this.unfinished(found) || 4000;
  }

  async #fetch(block) {
    if (this.#blocks.has(block) || this.#waiting.has(block)) return;
    const abort = new AbortController(), mine = this.#generation;
    this.#waiting.set(block, abort);
    await new Promise((resolve) => setTimeout(resolve, 30)); // what flies past is not fetched
    const top = this.#top() / HEIGHT, view = this.node.clientHeight / HEIGHT;
    if (mine !== this.#generation || (block + 2) * BLOCK < top || (block - 1) * BLOCK > top + view) {
      if (mine === this.#generation) this.#waiting.delete(block);
      return;
    }
    try {
      const found = await this.asks(block * BLOCK, BLOCK, abort.signal);
      if (mine !== this.#generation) return;
      this.#blocks.set(block, found.rows);
      if (this.#blocks.size > 200) this.#blocks.delete(this.#blocks.keys().next().value);
      this.#counted(found);
      this.#schedule();
    } catch {
      // it is asked for again when it is looked at again
    } finally {
      if (mine === this.#generation) this.#waiting.delete(block);
    }
  }

  #counted(found) {
    this.told(found);
    if (found.total !== this.total) {
      this.total = found.total;
      this.#schedule();
    }
  }

  #heads() {
    const { by, falling } = this.asked;
    this.head.replaceChildren(
      ...this.columns.map(([name, title, fixed]) => {
        if (fixed || name === this.text) return h("span", { role: "columnheader", class: name }, title);
        const sorted = by === name;
        const button = h("button", { type: "button", class: "quiet", onclick: () => this.#sort(name) }, h("span", { class: "way", "aria-hidden": "true" }, sorted ? (falling ? "↓ " : "↑ ") : ""), title);
        return h("span", { role: "columnheader", class: name, "aria-sort": sorted ? (falling ? "descending" : "ascending") : "none" }, button);
      }),
    );
  }

  #sort(name) {
    this.asked.falling = this.asked.by === name ? !this.asked.falling : true;
    this.asked.by = name;
    this.begin();
  }

  // ---- what is on the screen ----

  #height() {
    return Math.min(this.total * HEIGHT, TALLEST);
  }

  /** Rows that are more than an element can be high are scrolled faster. */
  #scale() {
    return (this.total * HEIGHT) / Math.max(1, this.#height());
  }

  #top() {
    return this.node.scrollTop * this.#scale();
  }

  #view() {
    return this.node.clientHeight - this.head.offsetHeight;
  }

  #draw() {
    const top = Math.min(this.#top(), Math.max(0, this.total * HEIGHT - this.#view()));
    const first = Math.max(0, Math.floor(top / HEIGHT) - 4), last = Math.min(this.total, Math.ceil((top + this.#view()) / HEIGHT) + 4);
    const shift = this.node.scrollTop - top; // 0 where nothing is scaled
    const made = [];
    for (let at = first; at < last; at++) made.push(this.#line(at, at * HEIGHT + shift));
    this.rows.style.height = `${this.#height()}px`;
    this.rows.replaceChildren(...made);
    this.node.setAttribute("aria-rowcount", this.total);
    for (let block = Math.floor(first / BLOCK); block * BLOCK < last; block++) this.#fetch(block);
  }

  #line(at, y) {
    const one = this.#at(at);
    const cells = this.columns.map(([name]) => h("span", { role: "gridcell", class: name, dir: name === this.text ? "auto" : null }, one ? this.cell(one, name) : ""));
    const about = { role: "row", class: "line", id: `row-${at}`, "aria-rowindex": at + 1, "aria-selected": String(at === this.chosen) };
    const made = h("div", { ...about, onclick: () => this.#choose(at), ondblclick: () => this.#open() }, cells);
    made.style.transform = `translateY(${y}px)`;
    return made;
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  // ---- the chosen row ----

  #at(place) {
    return this.#blocks.get(Math.floor(place / BLOCK))?.[place % BLOCK];
  }

  #choose(place) {
    this.chosen = Math.min(this.total - 1, Math.max(0, place));
    const top = this.#top() / HEIGHT, seen = this.#view() / HEIGHT;
    if (this.chosen < top) this.node.scrollTop = (this.chosen * HEIGHT) / this.#scale();
    if (this.chosen + 1 > top + seen) this.node.scrollTop = ((this.chosen + 1 - seen) * HEIGHT) / this.#scale();
    this.node.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    this.#draw();
    const one = this.#at(this.chosen);
    if (one) this.choose?.(one);
  }

  #open() {
    const one = this.#at(this.chosen);
    if (one) this.open(one);
  }

  #pressed(event) {
    if (event.target !== this.node) return;
    const page = Math.floor(this.#view() / HEIGHT) - 1;
    const to = { ArrowDown: this.chosen + 1, ArrowUp: this.chosen - 1, PageDown: this.chosen + page, PageUp: this.chosen - page, Home: 0, End: this.total - 1 }[event.key];
    if (to !== undefined && this.total) {
      event.preventDefault();
      this.#choose(to);
    } else if (event.key === "Enter") this.#open();
  }
}

/** Calls `then` with the words in a field, when one has stopped typing. */
export function typed(field, then) {
  let typing = null;
  field.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => then(field.value.trim()), 200);
  });
}
