// Numbers, times and strangers' texts as a person reads them.

import { h } from "/shared/dom.js";

/** A number with a few digits that count. */
export function number(x, digits = 4) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const size = Math.abs(x);
  let text;
  if (x === 0) text = "0";
  else if (size >= 1e6 || size < 1e-4) text = x.toExponential(2).replace("e+", "e");
  else if (Number.isInteger(x)) text = x.toLocaleString("en").replaceAll(",", " ");
  else text = Number(x.toPrecision(digits)).toString();
  return text.replaceAll("-", "−");
}

/** A number with as many places as stand in a column. */
export function placed(x, places = 2) {
  return x === null || x === undefined || Number.isNaN(x) ? "–" : x.toFixed(places).replace("-", "−");
}

export function percent(x) {
  if (x >= 0.9995 || x === 0) return `${Math.round(100 * x)} %`;
  return x < 0.001 ? "< 0.1 %" : `${(100 * x).toFixed(1)} %`;
}

/** Seconds as "1.2 s", "3 min 20 s", "2 h 5 min". */
export function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min${seconds < 3600 && seconds % 60 >= 1 ? ` ${Math.floor(seconds % 60)} s` : ""}`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** How long ago, from seconds since 1970. */
export function ago(time) {
  if (!time) return "–";
  const seconds = Math.max(0, Date.now() / 1000 - time);
  if (seconds < 60) return "just now";
  if (seconds < 86_400) return `${duration(seconds - (seconds % 60))} ago`;
  const days = Math.floor(seconds / 86_400);
  return days === 1 ? "yesterday" : `${days} days ago`;
}

/** What the server said of a stranger's text, as nodes: never as HTML. What cannot be seen stands there as a small label. */
export function said(text) {
  const pieces = Array.isArray(text) ? text : [text ?? ""];
  return pieces.map((piece) => (typeof piece === "string" ? document.createTextNode(piece) : h("span", { class: "invisible", title: piece.name }, piece.code)));
}

/** The same as plain text, for labels. */
export function plain(text) {
  return (Array.isArray(text) ? text : [text ?? ""]).map((piece) => (typeof piece === "string" ? piece : `⟨${piece.code}⟩`)).join("");
}
