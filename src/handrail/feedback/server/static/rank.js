// A ranking of 2 to 9: press the numbers from the best to the worst, or drag, or use the buttons of each row.

import { announce, h, LETTERS } from "./dom.js";
import * as order from "./order.js";
import { card } from "./prose.js";

const EDGE = 70, STEP = 12; // pixels from the edge of the window, and by which the page scrolls while something is dragged there

export function make(item, task, draft, changed) {
  const n = item.responses.length;
  let state = order.begin(n, draft), mark = null; // mark: the one that was moved last, keys act on it
  const buttons = [];
  const cards = item.responses.map((_, number) => {
    buttons[number] = h("button", { type: "button", class: "place", onclick: () => press(number) });
    return card(item.responses, number, buttons[number]);
  });
  const list = h("ol", { class: "board", "aria-label": "Your order, the best first" });
  const hint = h("p", { class: "small soft", id: "board-hint" });
  const board = h("section", { class: "card boardbox", "aria-labelledby": "board-title" }, h("h3", { id: "board-title" }, "Your order"), list, hint);

  const first = (number) => item.responses[number].text.replace(/[*_`#>~|]+|\s+/g, " ").trim().slice(0, 80) || "(empty)";

  function told(number) {
    const with_ = order.tied(state, number).map((other) => LETTERS[other]);
    const place = order.place(state, number);
    if (!place) return `${LETTERS[number]}: no place yet`;
    return `${LETTERS[number]}: place ${place} of ${state.groups.length}${with_.length ? `, tied with ${with_.join(" and ")}` : ""}`;
  }

  function to(next, number, focus = null) {
    state = next;
    mark = number;
    paint();
    if (focus) list.querySelector(`[data-number="${number}"] ${focus}`)?.focus();
    announce(told(number));
    changed();
  }

  const press = (number) => to(order.place(state, number) ? order.remove(state, number) : order.append(state, number), number);

  function row(number, group, inGroup) {
    const letter = LETTERS[number], place = order.place(state, number);
    const act = (glyph, name, next, disabled = false) =>
      h("button", { type: "button", class: `quiet ${name.split(" ")[0].toLowerCase()}`, "aria-label": `${letter}: ${name}`, title: name, disabled, onclick: (event) => to(next(), number, `.${event.currentTarget.classList[1]}`) }, h("span", { "aria-hidden": "true" }, glyph));
    const tie = task.ties ? act("=", inGroup || group.length > 1 ? "Untie" : "Tie with the one above", () => order.toggleTie(state, number), place === 1 && group.length === 1) : null;
    const grip = h("span", { class: "grip", "aria-hidden": "true" }, "⠿");
    const text = h("span", { class: "words" }, h("b", {}, letter), " ", h("bdi", {}, first(number)));
    const tools = h("span", { class: "acts" }, act("↑", "Up", () => order.move(state, number, -1)), act("↓", "Down", () => order.move(state, number, 1)), tie, act("✕", "Out of the order", () => order.remove(state, number)));
    const label = inGroup ? h("span", { class: "number tie", title: "tied with the one above" }, "=") : h("span", { class: "number" }, place);
    return h("li", { dataset: { number }, class: [inGroup ? "tied" : "", number === mark ? "mark" : ""].join(" ").trim(), "aria-label": told(number), onpointerdown: (event) => drag(event, number) }, grip, label, text, tools);
  }

  function paint() {
    list.replaceChildren(...state.groups.flatMap((group) => group.map((number, at) => row(number, group, at > 0))));
    buttons.forEach((button, number) => {
      const place = order.place(state, number);
      const words = place ? `Place ${place}${order.tied(state, number).length ? " (tie)" : ""}` : `Place here as ${state.groups.length + 1}`;
      const whose = h("span", { class: "unseen" }, `: response ${LETTERS[number]}${place ? ", take it out" : ""}`);
      button.replaceChildren(h("span", {}, words, whose), h("kbd", { "aria-hidden": "true" }, number + 1));
      button.setAttribute("aria-pressed", String(place > 0));
    });
    list.hidden = !state.groups.length;
    hint.textContent = state.rest.length
      ? `Press ${state.rest.length === n ? "the numbers from the best to the worst" : `on: ${state.rest.map((one) => LETTERS[one]).join(", ")} ${state.rest.length === 1 ? "has" : "have"} no place yet`}${state.rest.length === n ? ", or “Place” on the cards" : ""}.`
      : "Drag to change, or use the buttons.";
  }

  /** Pointer events: the mouse, a finger and a pen alike; near the edges the page scrolls along. */
  function drag(event, number) {
    if (event.button || event.target.closest("button")) return;
    if (event.pointerType !== "mouse" && !event.target.closest(".grip")) return; // a finger on the words scrolls
    event.preventDefault();
    const moving = list.querySelector(`[data-number="${number}"]`);
    const rows = [...list.children], others = rows.filter((one) => one !== moving);
    const from = rows.indexOf(moving), start = event.clientY + scrollY;
    const boxes = rows.map((one) => one.getBoundingClientRect());
    const centre = boxes[from].top + boxes[from].height / 2 + scrollY;
    const middles = boxes.filter((_, at) => at !== from).map((box) => box.top + box.height / 2 + scrollY);
    let row = from;
    moving.classList.add("moving");
    moving.setPointerCapture(event.pointerId);
    const follow = (now) => {
      if (now.clientY < EDGE) scrollBy(0, -STEP);
      else if (now.clientY > innerHeight - 2 * EDGE) scrollBy(0, STEP);
      const by = now.clientY + scrollY - start;
      moving.style.transform = `translateY(${by}px)`;
      row = middles.filter((middle) => middle < centre + by).length;
      others.forEach((one, at) => {
        const away = at < from && at >= row ? 1 : at >= from && at < row ? -1 : 0;
        one.style.transform = away ? `translateY(${away * boxes[from].height}px)` : "";
      });
    };
    const end = (now) => {
      moving.removeEventListener("pointermove", follow);
      if (now.type === "pointerup" && row !== from) to(order.drop(state, number, row), number);
      else paint();
    };
    moving.addEventListener("pointermove", follow);
    moving.addEventListener("pointerup", end, { once: true });
    moving.addEventListener("pointercancel", end, { once: true });
  }

  paint();
  const focused = () => Number(document.activeElement?.closest?.(".board li")?.dataset.number ?? mark ?? -1);
  return {
    element: h("div", { class: "ranking" }, h("div", { class: "responses" }, cards), board),
    bar: null,
    refresh: () => cards.forEach((one) => one.refresh()),
    draft: () => (state.groups.length ? { groups: state.groups } : null),
    value: () =>
      state.rest.length
        ? { missing: `${state.rest.map((one) => LETTERS[one]).join(", ")}: no place yet.` }
        : { answer: { kind: "rank", places: order.places(state) } },
    key(event) {
      const number = Number(event.key) - 1, on = focused();
      if (/^[1-9]$/.test(event.key) && number < n && !event.altKey) press(number);
      else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown") && on >= 0) to(order.move(state, on, event.key === "ArrowUp" ? -1 : 1), on);
      else if ((event.key === "=" || event.key === "t") && on >= 0 && task.ties) to(order.toggleTie(state, on), on);
      else if (event.key === "Backspace" && state.groups.length) to(order.remove(state, on >= 0 && order.place(state, on) ? on : state.groups.at(-1).at(-1)), on);
      else return false;
      return true;
    },
    help: [
      [`1 – ${n}`, "place this response next (again: take it out)"],
      ["=", "tie the last one with the one above, or untie"],
      ["Alt ↑ ↓", "move the last one up or down"],
      ["⌫", "take the last one out"],
    ].filter(([key]) => key !== "=" || task.ties),
  };
}

export const question = (item) => `Put the ${item.responses.length} in order`;

export const asDraft = (answer) => ({ groups: order.groupsOf(answer.places) });

export const words = (answer) =>
  order.groupsOf(answer.places).map((group, at) => `${at + 1}. ${group.map((one) => LETTERS[one]).join(" = ")}`).join("   ");
