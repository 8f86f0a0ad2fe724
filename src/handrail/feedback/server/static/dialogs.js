// The instructions at hand, the help on keys, and asking why an item is skipped or flagged.

import { find, h } from "./dom.js";
import * as store from "./store.js";

const WIDE = matchMedia("(min-width: 75rem)"); // there the instructions stand beside the work

const SKIP = ["I cannot judge this", "It is unclear or broken", "I would rather not read this", "Another reason"];
const FLAG = ["Harmful or shocking", "Private data of somebody", "Broken or cut off", "The wrong language", "Something else"];

/** Ask for one of `reasons` and words of one's own.  Resolves to {act, reason}, or null. */
function askWhy(title, text, reasons, acts) {
  const words = h("textarea", { rows: 2, id: "why-words", dir: "auto", maxlength: 5000 });
  const options = reasons.map((reason) => h("label", { class: "option" }, h("input", { type: "radio", name: "why", value: reason, required: true }), reason));
  const buttons = acts.map(([act, name], at) => h("button", { value: act, class: at === 0 ? "main" : "" }, name));
  const cancel = h("button", { type: "button", class: "quiet", onclick: () => dialog.close("") }, "Cancel");
  const form = h("form", { method: "dialog" }, h("h2", { id: "why-title" }, title), h("p", {}, text), h("fieldset", {}, h("legend", { class: "unseen" }, "Reason"), options), h("label", { for: "why-words" }, "In your words, if you like"), words, h("div", { class: "row ends" }, buttons, cancel));
  const dialog = h("dialog", { "aria-labelledby": "why-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const reason = [form.elements.why.value, words.value.trim()].filter(Boolean).join(": ");
      dialog.remove();
      resolve(dialog.returnValue ? { act: dialog.returnValue, reason } : null);
    });
  });
}

export const askSkip = () => askWhy("Skip this one", "That is fine; somebody else will see to it.", SKIP, [["skip", "Skip it"]]);

export const askFlag = () =>
  askWhy("Flag this one", "Those who run the project will look at it. You can still answer it, or leave it.", FLAG, [
    ["flag", "Flag, I still answer"],
    ["flag and skip", "Flag and skip"],
  ]);

/** The keys: a list of [keys, what they do]; and the switch that turns single keys off. */
export function showKeys(own) {
  const general = [["Enter", "send the answer"], ["Ctrl Enter", "send, from within a text"], ["u", "undo the last"], ["b  n", "back to earlier ones, and on again"], ["s", "skip"], ["f", "flag"], ["r", "a reason in words"], ["p", "plain text"], ["d", "differences between the responses"], ["i", "instructions"], ["?", "these keys"]];
  const table = (title, keys) => [
    h("h3", {}, title),
    h("dl", { class: "keys" }, keys.map(([names, what]) => h("div", {}, h("dt", {}, names.split("  ").map((name) => [h("kbd", {}, name), " "])), h("dd", {}, what)))),
  ];
  const single = h("input", { type: "checkbox", checked: singleKeys(), onchange: () => store.set("keys", single.checked) });
  const form = h("form", { method: "dialog" }, h("h2", { id: "keys-title" }, "Keys"), table("Here", own), table("Everywhere", general), h("label", { class: "option" }, single, "Single keys work (switch them off if you use speech input)"), h("div", { class: "row ends" }, h("button", { class: "main" }, "Close")));
  const dialog = h("dialog", { "aria-labelledby": "keys-title" }, form);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}

export const singleKeys = () => store.get("keys", true);

/** The instructions of a task, in #instructions: beside the work where there is room, over it where there is not. */
export class Instructions {
  constructor(task) {
    this.panel = find("#instructions");
    this.button = find("#show-instructions");
    this.button.addEventListener("click", () => this.toggle());
    find(".close", this.panel).addEventListener("click", () => this.toggle());
    this.panel.addEventListener("close", () => this.closed());
    WIDE.addEventListener("change", () => this.panel.open && (this.panel.close(), this.open()));
    this.fill(task);
  }

  fill(task) {
    const text = h("div", { class: "prose" });
    text.innerHTML = task.instructions; // safe: made by the server from an allow-list
    const examples = task.examples.map((html, at) => {
      const one = h("div", { class: "prose" });
      one.innerHTML = html; // as above
      return h("section", { class: "example" }, h("h3", {}, `Example ${at + 1}`), one);
    });
    const none = task.instructions || task.examples.length ? null : h("p", { class: "soft" }, "There are none for this task.");
    find(".content", this.panel).replaceChildren(text, ...examples, ...(none ? [none] : []));
    const seen = `seen:${task.id}`, now = hash(task.instructions + task.examples.join());
    const before = store.get(seen);
    const changed = before !== null && before !== now;
    find(".changed", this.panel).hidden = !changed;
    store.set(seen, now);
    if ((before === null && !none) || changed || (WIDE.matches && store.get("panel", false))) this.open();
  }

  open() {
    if (this.panel.open) return;
    this.held = document.activeElement;
    if (WIDE.matches) this.panel.show();
    else this.panel.showModal();
    if (WIDE.matches) this.held?.focus?.(); // it stands beside the work: the work keeps the focus
    document.body.classList.toggle("beside", WIDE.matches);
    this.button.setAttribute("aria-expanded", "true");
  }

  closed() {
    document.body.classList.remove("beside");
    this.button.setAttribute("aria-expanded", "false");
    const held = this.held?.isConnected && this.held !== document.body ? this.held : find("#work h1");
    held?.focus({ preventScroll: true }); // where one was before
  }

  toggle() {
    const opens = !this.panel.open;
    if (opens) this.open();
    else this.panel.close();
    if (WIDE.matches) store.set("panel", opens);
    if (opens) find(".close", this.panel).focus();
  }
}

/** Tells one text from another. */
function hash(text) {
  let found = 5381;
  for (let at = 0; at < text.length; at++) found = (found * 33 + text.charCodeAt(at)) | 0;
  return found;
}
