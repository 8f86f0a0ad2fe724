// Write the ideal response, or edit the given one into it.  The draft survives a reload and a crash.

import { count, h } from "./dom.js";
import { compare, words as split } from "./diff.js";
import { prose } from "./prose.js";

const MOST = 200_000; // characters that the server takes
const WAIT = 300; // ms without a key before the changes are worked out

export function make(item, task, draft, changed) {
  const original = item.responses[0]?.text ?? null;
  const field = h("textarea", { id: "text", dir: "auto", rows: 10, spellcheck: "true", "aria-describedby": "text-count", value: draft?.text ?? original ?? "" });
  const counted = h("p", { class: "small soft", id: "text-count" });
  const difference = h("pre", { class: "raw difference", dir: "auto", tabindex: 0, role: "region", "aria-label": "Your changes" });
  const cut = h("p", { class: "small soft", hidden: true }, "The changes go beyond 2,000 words; only those are worked out.");
  const changes = h("details", { class: "changes", ontoggle: () => paint() }, h("summary", {}, "Your changes"), difference, cut);
  const back = h("button", { type: "button", class: "quiet", onclick: reset }, "Back to the original");
  let timer = 0;

  function paint() {
    const text = field.value;
    const over = [...text].length > MOST;
    counted.textContent = `${count(text.match(/\S+/g)?.length ?? 0, "word")}${over ? `; too long: ${MOST.toLocaleString("en")} characters at most` : ""}${original !== null && text === original ? "; as it was given" : ""}`;
    back.disabled = text === original;
    if (original === null || !changes.open) return;
    const found = compare(split(original), split(text));
    const tag = { gone: "del", new: "ins" };
    difference.replaceChildren(...found.runs.map((run) => (run.kind === "same" ? run.text : h(tag[run.kind], {}, run.text))));
    cut.hidden = !found.cut;
  }
  function reset() {
    if (field.value !== original && !confirm("Throw your changes away and begin with the original again?")) return;
    field.value = original;
    paint();
    changed();
  }
  field.addEventListener("input", () => {
    changed();
    clearTimeout(timer);
    timer = setTimeout(paint, WAIT);
  });
  const label = original === null ? "Write the ideal response" : "Edit the response into the ideal one";
  const given = original === null ? null : h("details", { class: "given" }, h("summary", {}, "The response as it was given"), prose(item.responses[0]));
  paint();
  return {
    element: h("div", { class: "writing card" }, given, h("label", { for: "text" }, h("h3", {}, label)), field, h("div", { class: "row under" }, counted, original === null ? null : back), original === null ? null : changes),
    bar: null,
    refresh() {},
    draft: () => (field.value && field.value !== original ? { text: field.value } : null),
    value() {
      if (!field.value.trim()) return { missing: "Write something first." };
      if ([...field.value].length > MOST) return { missing: `It is longer than ${MOST.toLocaleString("en")} characters.` };
      return { answer: { kind: "demonstrate", text: field.value } };
    },
    key(event) {
      if (event.key !== "e") return false;
      field.focus();
      return true;
    },
    help: [["e", "to the text"], ["Ctrl Enter", "send, from within the text"], ["Esc", "leave the text, so that single keys work"]],
  };
}

export const question = (item) => (item.responses.length ? "Make it ideal" : "Write the ideal response");

export const asDraft = (answer) => ({ text: answer.text });

export const words = (answer) => answer.text;
