// What stands on the desk when a task has nothing more for its person: what was done, what is still on its way for as long
// as it is, and what was skipped and may be taken up again.

import { ask } from "./api.js";
import { count, h } from "./dom.js";
import { outbox, waiting } from "./outbox.js";

/** `task` as it was when it was opened; `acts`: {next, undo, takeUp} for the buttons; without undo there is nothing to undo. */
export function finished(task, trail, acts) {
  const submits = trail.acts.filter((act) => act.act === "submit"), done = trail.items.length;
  const each = Math.round(submits.reduce((sum, act) => sum + (act.seconds ?? 0), 0) / Math.max(1, done));
  const text = task.paused ? "This task is paused. Come back later." : "There is nothing more for you in this task just now.";
  const said = done ? `You saw to ${count(done, "item")} here lately, in about ${count(each, "second")} each. Thank you.` : "Thank you for looking in.";
  const way = h("p", { role: "status", hidden: true }), left = h("div", { class: "left", hidden: true });
  const buttons = [
    h("a", { class: "button main", href: "/" }, "To your tasks"),
    h("button", { type: "button", onclick: acts.next }, "See whether there is more"),
    trail.acts.length ? h("button", { type: "button", class: "quiet", onclick: acts.undo }, "Undo the last") : null,
  ];
  const card = h("section", { class: "card narrow finish" }, h("h1", { tabindex: -1 }, task.paused ? "Paused" : "All done"), h("p", {}, text), h("p", {}, said), way, left, h("div", { class: "row" }, buttons));

  let asked = false;
  function paint() {
    const all = waiting().length;
    if (all) way.textContent = `${count(all, "answer")} still on the way; ${all === 1 ? "it goes out by itself" : "they go out by themselves"}.`;
    else if (!way.hidden) way.textContent = "Your answers have arrived.";
    way.hidden = !way.textContent;
    if (!all && !asked && !task.paused) asked = Boolean(ask("GET", `/api/tasks/${task.id}`).then(offer).catch(() => (asked = false)));
  }
  /** Skipped is not gone: what still wants an answer may be taken up again. */
  function offer({ progress }) {
    const n = progress.again;
    if (!n || !card.isConnected) return;
    left.replaceChildren(h("p", {}, `You skipped ${count(n, "item")} that still ${n === 1 ? "wants an answer" : "want answers"}. `, h("button", { type: "button", onclick: acts.takeUp }, n === 1 ? "Look at it again" : "Look at them again")));
    left.hidden = false;
  }
  outbox.addEventListener("change", function follow() {
    if (card.isConnected) paint();
    else outbox.removeEventListener("change", follow);
  });
  paint();
  return card;
}
