// Curves as SVG, drawn by hand. Charts of a group share the step under the pointer and the steps that are shown:
// drag over some to look closer, double-click or press Escape to see all again.

import { h } from "/shared/dom.js";
import { number } from "./format.js";
import { smooth, thinned } from "./smooth.js";
import { marksOfTime, timeOf } from "./times.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 190, LEFT = 46, RIGHT = 10, TOP = 12, BOTTOM = 24;

export function s(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat());
  return made;
}

/** Round numbers from at or below `low` to at or above `high`. */
export function ticks(low, high, about = 4) {
  const raw = (high - low) / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * (1 - 1e-9)) * power;
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

export class Group {
  charts = [];
  range = null;
  weight = 0;

  add(chart) {
    this.charts.push(chart);
    chart.group = this;
    return chart;
  }

  point(x) {
    for (const chart of this.charts) chart.point(x);
  }

  show(range) {
    this.range = range;
    this.draw();
  }

  smooth(weight) {
    this.weight = weight;
    this.draw();
  }

  draw() {
    for (const chart of this.charts) chart.draw();
  }
}

export class Chart {
  series = [];
  findings = [];

  /** `times`: the unit of a curve over times, in place of steps: seconds since 1970, in UTC. */
  constructor({ caption, unit = "", note = "", across = "step", times = "" }) {
    Object.assign(this, { caption, unit, across, times });
    this.holder = h("div", { class: "plot" });
    this.readout = h("div", { class: "readout", hidden: true });
    this.node = h("figure", { class: "chart" }, h("figcaption", {}, caption, unit ? h("span", { class: "soft" }, ` ${unit}`) : null), h("div", { class: "held" }, this.holder, this.readout), note ? h("p", { class: "small soft" }, note) : null);
    new ResizeObserver(() => this.draw()).observe(this.holder);
  }

  /** series: {label, colour, xs, ys, low, high, each}: `low` and `high` make a band, `each` are faint lines; a colour is the number of a class. */
  set(series, findings = []) {
    this.series = series.filter((one) => one.xs.length);
    this.findings = findings;
    this.draw();
  }

  draw() {
    const width = Math.round(this.holder.clientWidth);
    if (!width) return;
    const weight = this.group?.weight ?? 0;
    const [from, to] = this.group?.range ?? [-Infinity, Infinity];
    this.drawn = this.series.map((one) => {
      const kept = one.xs.map((x, i) => i).filter((i) => one.xs[i] >= from && one.xs[i] <= to);
      const pick = (values) => values && kept.map((i) => values[i]);
      const each = one.each?.map(({ xs, ys }) => ({ xs: xs.filter((x) => x >= from && x <= to), ys: ys.filter((_, i) => xs[i] >= from && xs[i] <= to) }));
      return { ...one, each, xs: pick(one.xs), raw: pick(one.ys), ys: pick(smooth(one.ys, one.low ? 0 : weight)), low: pick(one.low), high: pick(one.high) };
    });
    const real = this.drawn.flatMap((one) => [...one.raw, ...(one.each ?? []).flatMap((each) => each.ys)]).filter((y) => y !== null && Number.isFinite(y));
    const steps = this.drawn.flatMap((one) => (one.xs.length ? [one.xs[0], one.xs.at(-1)] : []));
    if (!real.length) {
      this.holder.replaceChildren(h("p", { class: "soft small" }, "no finite number yet"));
      return;
    }
    let [low, high] = bounds(real);
    const room = high - low; // a wide band must not flatten the curves: of it as much is shown as they are high
    const band = this.drawn.flatMap((one) => [...(one.low ?? []), ...(one.high ?? [])]).map((y) => Math.min(high + room / 2, Math.max(low - room / 2, y)));
    [low, high] = bounds([low, high, ...band]);
    if (high - low < 1e-9 * Math.max(1, Math.abs(high))) [low, high] = Math.abs(high) < 1e-9 ? [0, 1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
    const ys = ticks(low, high);
    const x0 = Math.min(...steps), x1 = Math.max(...steps, x0 + 1);
    this.x = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    this.y = (y) => HEIGHT - BOTTOM - ((Math.min(ys.at(-1), Math.max(ys[0], y)) - ys[0]) / (ys.at(-1) - ys[0])) * (HEIGHT - TOP - BOTTOM);
    this.unx = (px) => x0 + ((px - LEFT) / (width - LEFT - RIGHT)) * (x1 - x0);
    this.holder.replaceChildren(this.picture(width, ys, x0, x1));
  }

  picture(width, ys, x0, x1) {
    const ends = this.drawn.map((one) => `${one.label} from ${number(first(one.ys))} to ${number(first([...one.ys].reverse()))}`);
    const made = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", tabindex: 0, "aria-label": `${this.caption}: ${ends.join("; ")}` });
    for (const y of ys) {
      made.append(s("line", { x1: LEFT, x2: width - RIGHT, y1: this.y(y), y2: this.y(y), class: y === ys[0] ? "axis" : y === 0 ? "zero" : "grid" }));
      made.append(s("text", { x: LEFT - 6, y: this.y(y) + 3.5, class: "tick", "text-anchor": "end" }, number(y)));
    }
    const about = Math.max(2, Math.floor(width / (this.times ? 110 : 90)));
    const marks = this.times ? marksOfTime(x0, x1, about) : ticks(x0, x1, about).filter((x) => x >= x0 && x <= x1 && Number.isInteger(x)).map((x) => [x, number(x)]);
    for (const [x, text] of marks) made.append(s("text", { x: this.x(x), y: HEIGHT - 8, class: "tick", "text-anchor": this.times && this.x(x) > width - 30 ? "end" : "middle" }, text));
    for (const one of this.findings) {
      if (one.step < x0 || one.step > x1) continue;
      const x = this.x(one.step);
      made.append(s("g", { class: `finding ${one.level}` }, s("line", { x1: x, x2: x, y1: TOP - 4, y2: HEIGHT - BOTTOM }), s("path", { d: `M${x - 4.5} ${TOP - 10}h9l-4.5 7z` }, s("title", {}, `step ${one.step}: ${one.name}`))));
    }
    for (const one of this.drawn) made.append(...this.curve(one, width));
    this.cross = s("g", { class: "cross" });
    made.append(this.cross);
    this.listen(made);
    return made;
  }

  curve(one, width) {
    const parts = [], most = 2 * width;
    const path = (xs, ys) => {
      let d = "", pen = "M";
      xs.forEach((x, i) => {
        if (ys[i] === null || !Number.isFinite(ys[i])) pen = "M";
        else {
          d += `${pen}${this.x(x).toFixed(1)} ${this.y(ys[i]).toFixed(1)}`;
          pen = "L";
        }
      });
      return d;
    };
    if (one.low) {
      const [up, down] = [path(one.xs, one.high), path([...one.xs].reverse(), [...one.low].reverse())];
      parts.push(s("path", { d: `${up}${down.replace("M", "L")}Z`, class: `band c${one.colour}` }));
    }
    for (const each of one.each ?? []) parts.push(s("path", { d: path(...thinned(each.xs, each.ys, most)), class: `curve faint c${one.colour}` }));
    if (one.ys !== one.raw && this.group?.weight && !one.low) parts.push(s("path", { d: path(...thinned(one.xs, one.raw, most)), class: `curve faint c${one.colour}` }));
    parts.push(s("path", { d: path(...thinned(one.xs, one.ys, most)), class: `curve c${one.colour}` }));
    const last = one.ys.findLastIndex((y) => y !== null && Number.isFinite(y));
    if (last >= 0) parts.push(s("circle", { cx: this.x(one.xs[last]), cy: this.y(one.ys[last]), r: 2.6, class: `fill c${one.colour}` }));
    return parts;
  }

  listen(made) {
    const point = (x) => (this.group ? this.group.point(x) : this.point(x));
    const at = (event) => this.unx(event.clientX - made.getBoundingClientRect().left);
    let begun = null, box = null;
    made.addEventListener("pointermove", (event) => {
      point(at(event));
      if (begun === null) return;
      const [a, b] = [this.x(begun), this.x(at(event))].sort((p, q) => p - q);
      box ??= made.appendChild(s("rect", { class: "brush", y: TOP, height: HEIGHT - TOP - BOTTOM }));
      box.setAttribute("x", a);
      box.setAttribute("width", b - a);
    });
    made.addEventListener("pointerdown", (event) => event.button === 0 && event.pointerType === "mouse" && (begun = at(event)));
    made.addEventListener("pointerup", (event) => {
      const range = begun === null ? null : [begun, at(event)].sort((p, q) => p - q);
      begun = null;
      box?.remove();
      box = null;
      if (range && Math.abs(this.x(range[1]) - this.x(range[0])) > 8) this.group?.show(range);
    });
    made.addEventListener("pointerleave", () => {
      begun = null;
      point(null);
    });
    made.addEventListener("dblclick", () => this.group?.show(null));
    made.addEventListener("keydown", (event) => {
      const xs = this.drawn[0].xs, now = xs.indexOf(this.at ?? xs.at(-1));
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        point(xs[Math.min(xs.length - 1, Math.max(0, now + (event.key === "ArrowLeft" ? -1 : 1)))]);
        event.preventDefault();
      } else if (event.key === "Escape") this.group?.show(null);
    });
    made.addEventListener("blur", () => point(null));
  }

  /** Reads out the step nearest to x; none where x is null. */
  point(x) {
    if (!this.cross || !this.drawn?.length) return;
    this.cross.replaceChildren();
    this.readout.hidden = x === null;
    if (x === null) return;
    const near = this.drawn.map((one) => ({ one, i: nearest(one.xs, x) })).filter(({ i }) => i >= 0);
    if (!near.length) return;
    this.at = near.map(({ one, i }) => one.xs[i]).reduce((a, b) => (Math.abs(a - x) <= Math.abs(b - x) ? a : b));
    const px = this.x(this.at), shown = near.filter(({ one, i }) => one.xs[i] === this.at);
    this.cross.append(s("line", { x1: px, x2: px, y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const { one, i } of shown) if (one.ys[i] !== null) this.cross.append(s("circle", { cx: px, cy: this.y(one.ys[i]), r: 3.2, class: `c${one.colour}` }));
    const rows = shown.map(({ one, i }) => h("div", {}, this.drawn.length > 1 ? h("span", { class: `dot c${one.colour}` }) : null, h("b", {}, number(one.ys[i])), this.drawn.length > 1 ? h("span", {}, one.label) : null, one.low ? h("span", { class: "soft" }, `${number(one.low[i])} to ${number(one.high[i])}`) : null, this.group?.weight && !one.low ? h("span", { class: "soft" }, `raw ${number(one.raw[i])}`) : null));
    const where = this.times ? timeOf(this.at, this.times) : `${this.across} ${number(this.at)}`;
    this.readout.replaceChildren(h("div", { class: "soft" }, where), ...rows);
    const right = px > this.holder.clientWidth / 2;
    this.readout.style.left = right ? "" : `${px + 8}px`;
    this.readout.style.right = right ? `${this.holder.clientWidth - px + 8}px` : "";
  }
}

/** Least and greatest of however many. */
function bounds(values) {
  let low = Infinity, high = -Infinity;
  for (const y of values) {
    if (y < low) low = y;
    if (y > high) high = y;
  }
  return [low, high];
}

function first(values) {
  return values.find((y) => y !== null && Number.isFinite(y));
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

/** The slider that smooths all charts of a group; what was chosen is kept on this device. */
export function smoothing(group) {
  const kept = Number(read("hr:smooth") ?? 0);
  const shown = h("output", { class: "small soft" }, kept.toFixed(2));
  const slider = h("input", {
    type: "range", min: 0, max: 0.98, step: 0.02, value: String(kept), id: "smooth",
    oninput: () => {
      shown.textContent = Number(slider.value).toFixed(2);
      group.smooth(Number(slider.value));
      try {
        localStorage.setItem("hr:smooth", slider.value);
      } catch {
        // it holds for this page
      }
    },
  });
  group.weight = kept;
  return h("label", { class: "row slider" }, h("span", {}, "Smoothing"), slider, shown);
}

function read(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}
