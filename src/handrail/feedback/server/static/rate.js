// A number for each response on each scale.  A digit answers the scale that is at hand and goes on to the next.

import { announce, h, LETTERS } from "./dom.js";
import { card } from "./prose.js";

const steps = (scale) => Array.from({ length: scale.high - scale.low + 1 }, (_, at) => scale.low + at);

export function make(item, task, draft, changed) {
  const rows = []; // {number, scale, group, inputs}
  const ratings = item.responses.map((_, number) => ({ ...(draft?.ratings?.[number] ?? {}) }));
  const cards = item.responses.map((_, number) => card(item.responses, number, [], task.criteria.map((scale) => group(number, scale))));
  let at = Math.max(0, rows.findIndex((row) => !answered(row)));

  function answered(row) {
    return ratings[row.number][row.scale.name] !== undefined;
  }

  function group(number, scale) {
    const name = `rating-${number}-${task.criteria.indexOf(scale)}`;
    const row = { number, scale, inputs: [] };
    const options = steps(scale).map((value, index) => {
      const input = h("input", { type: "radio", name, class: "unseen", value: String(value), checked: ratings[number][scale.name] === value, onchange: () => rate(row, value), onfocus: () => hold(row) });
      const end = index === 0 ? scale.low_label : value === scale.high ? scale.high_label : "";
      input.setAttribute("aria-label", end ? `${value}, ${end}` : String(value));
      row.inputs.push(input);
      return h("label", { class: "step" }, input, h("span", { "aria-hidden": "true" }, value));
    });
    const ends = scale.low_label || scale.high_label ? h("div", { class: "ends small soft", "aria-hidden": "true" }, h("span", {}, scale.low_label), h("span", {}, scale.high_label)) : null;
    const title = task.criteria.length > 1 || scale.name !== "overall" ? scale.name : "How good is it?";
    const whose = item.responses.length > 1 ? h("span", { class: "unseen" }, `, response ${LETTERS[number]}`) : null;
    row.group = h("fieldset", { class: "scale" }, h("legend", {}, title, whose), scale.question ? h("p", { class: "small soft" }, scale.question) : null, h("div", { class: "steps" }, options), ends);
    rows.push(row);
    return row.group;
  }

  function hold(row) {
    at = rows.indexOf(row);
    paint();
  }
  function rate(row, value) {
    ratings[row.number][row.scale.name] = value;
    row.inputs[value - row.scale.low].checked = true;
    changed();
  }
  function paint() {
    rows.forEach((row, index) => row.group.classList.toggle("athand", index === at));
  }
  const focus = () => {
    const row = rows[at];
    (row.inputs.find((input) => input.checked) ?? row.inputs[0]).focus();
    row.group.scrollIntoView({ block: "nearest" });
  };
  function step(by) {
    at = Math.min(rows.length - 1, Math.max(0, at + by));
    paint();
    focus();
    return true;
  }
  paint();
  return {
    element: h("div", { class: `responses ${item.responses.length === 2 ? "two" : ""}` }, cards),
    bar: null,
    refresh: () => cards.forEach((one) => one.refresh()),
    draft: () => (ratings.some((one) => Object.keys(one).length) ? { ratings } : null),
    value() {
      const open = rows.filter((row) => !answered(row));
      if (!open.length) return { answer: { kind: "rate", ratings } };
      const named = (row) => [item.responses.length > 1 ? LETTERS[row.number] : "", task.criteria.length > 1 ? row.scale.name : ""].filter(Boolean).join(" ");
      return { missing: rows.length === 1 ? "Choose a number first." : `Not rated yet: ${open.slice(0, 4).map(named).join(", ")}${open.length > 4 ? " …" : ""}` };
    },
    key(event) {
      if (event.key === "j") return step(1);
      if (event.key === "k") return step(-1);
      if (!/^[0-9]$/.test(event.key)) return false;
      const row = rows[at], value = Number(event.key);
      if (value < row.scale.low || value > row.scale.high) return false;
      rate(row, value);
      announce(`${task.criteria.length > 1 ? row.scale.name : "rated"}: ${value}${at + 1 < rows.length ? "" : ". Enter sends it."}`);
      if (at + 1 < rows.length) step(1);
      else focus();
      return true;
    },
    help: [["0 – 9", "rate on the scale at hand, and on to the next"], ["← →", "another number on this scale"], ["j  k", "next scale, the one before"]],
  };
}

export const question = (item) => (item.responses.length > 1 ? "Rate the responses" : "Rate the response");

export const asDraft = (answer) => ({ ratings: answer.ratings });

export function words(answer) {
  const one = (rating) => Object.entries(rating).map(([name, value]) => (Object.keys(rating).length > 1 ? `${name} ${value}` : String(value))).join(", ");
  return answer.ratings.map((rating, number) => (answer.ratings.length > 1 ? `${LETTERS[number]}: ${one(rating)}` : one(rating))).join("   ");
}
