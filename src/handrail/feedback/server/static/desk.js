// The desk: one item after the other, answered, skipped, flagged or undone, with or without a connection.
import { ask } from "./api.js";
import * as banner from "./banner.js";
import * as chat from "./chat.js";
import * as clock from "./clock.js";
import * as compare from "./compare.js";
import * as demonstrate from "./demonstrate.js";
import { askFlag, askSkip, Instructions, showKeys, singleKeys } from "./dialogs.js";
import { announce, find, h, LETTERS } from "./dom.js";
import { acknowledgement, begin as beginSending, outbox, put } from "./outbox.js";
import { finished } from "./finish.js";
import { verdictOf } from "./practice.js";
import { conversation, look } from "./prose.js";
import * as rank from "./rank.js";
import * as rate from "./rate.js";
import { Shelf } from "./shelf.js";
import * as store from "./store.js";
import { Tally } from "./tally.js";
import { Trail } from "./trail.js";

const KINDS = { compare, rank, rate, demonstrate, chat };
const AHEAD = 5; // items kept at hand
const LOOK = 400, THINK = 700; // ms after an item comes into sight in which keys choose nothing, and nothing is sent
const PAUSE = 250; // ms without a change after which a draft is kept
const WAIT = 4000; // ms that the first items may take before those kept here are shown

const number = Number(location.pathname.split("/").pop());
const trail = new Trail(number), tally = new Tally(number), shelf = new Shelf(number, trail, tally, AHEAD);
const seen = new Map(); // items shown since the page was opened, to go back to
const work = find("#work"), bar = find("#bar"), sendButton = find("#send");

let task = null;
let view = null; // {item, form, review, at, done, then, stuck}
let drafting = 0;
let pointed = null; // the button that was last pressed with a pointer: Enter after it sends, and does not press it again

function begin() {
  if (!store.person) return stuck("Nobody is signed in here.", "Open your sign-in link in this browser.");
  banner.begin();
  beginSending();
  addEventListener("online", retry);
  outbox.addEventListener("sent", retry);
  setInterval(retry, 30_000);
  for (const name of store.names("draft:")) if (Date.now() - (store.get(name)?.at ?? 0) > 60 * 86_400_000) store.drop(name);
  open();
}

/** The task, as it is now or as it is kept here, and its first item. */
async function open() {
  task = store.get(`task:${number}`);
  try {
    task = await ask("GET", `/api/tasks/${number}`, undefined, task ? WAIT : undefined);
    store.set(`task:${number}`, task);
    if (task.kind === "chat") shelf.ahead = 1; // the next one needs the connection anyway
  } catch (error) {
    if (error.kind === "refused") return stuck("There is no such task for you.", "It may have ended.");
    if (!task && AWAY[error.kind] !== AWAY.later) return stuck(...AWAY[error.kind], open);
    if (!task) return stuck("No connection, and this task is not kept here yet.", "It opens by itself when the connection is back.", open);
  }
  tally.counted = task.progress.yours;
  find("#title").textContent = task.title;
  document.title = `${task.title} · Handrail`;
  listen(new Instructions(task));
  await Promise.race([shelf.refill().catch(() => {}), new Promise((resolve) => setTimeout(resolve, WAIT))]);
  next();
}

/** The next item; fetched, where none is at hand. */
async function next() {
  leave();
  paintProgress();
  if (!shelf.first) {
    work.replaceChildren(h("p", { class: "soft" }, "Fetching the next one…"));
    try {
      await shelf.refill();
    } catch (error) {
      if (error.kind === "refused") return stuck("This task gives nothing more.", error.message);
      return stuck(...(AWAY[error.kind] ?? AWAY.later), next);
    }
  }
  if (shelf.first) show(shelf.first);
  else finish();
  topUp();
}

function topUp() {
  if (task && (shelf.low || shelf.stale)) shelf.refill().then(paintProgress).catch(() => {});
}

/** Put an item on the desk; `review`: one that was done before. */
function show(item, review = false) {
  leave();
  const kind = KINDS[item.kind], draft = store.get(`draft:${item.id}`);
  const standing = review ? trail.standing(item.id) : null;
  const answer = draft?.answer ?? (standing?.answer || item.answer ? kind.asDraft(standing?.answer ?? item.answer) : null);
  const form = kind.make(item, task, answer, keepDraft, { done: review });
  const reason = h("textarea", { id: "reason", dir: "auto", rows: 2, maxlength: 10_000, value: draft?.reason ?? standing?.reason ?? "", oninput: keepDraft });
  view = { item, form, reason, review, at: Date.now(), done: false };
  shelf.onscreen = review ? null : item.id;
  seen.delete(item.id);
  seen.set(item.id, item);
  if (seen.size > 50) seen.delete(seen.keys().next().value);
  if (item.responses.length === 2 ? typeof look.against === "number" : !(look.against < item.responses.length)) look.against = null;
  clock.start(review ? 0 : draft?.seconds);
  const why = h("details", { class: "reason", open: task.ask_reason || Boolean(reason.value) }, h("summary", {}, task.ask_reason ? "Why? A sentence is enough" : "Add a reason"), h("label", { class: "unseen", for: "reason" }, "Your reason"), reason);
  const context = item.kind === "chat" ? h("div", { class: "topic" }, h("h2", {}, "What to talk about"), conversation(item.messages)) : conversation(item.messages);
  work.replaceChildren(head(item, review), context, form.element, review && item.kind === "chat" ? "" : why);
  find("#choices").replaceChildren(form.bar ?? "");
  find("#missing").textContent = "";
  bar.hidden = false;
  for (const name of ["skip", "flag"]) find(`#${name}`).hidden = review;
  primary(review ? "Save" : (form.send ?? "Send"));
  sendButton.hidden = review && item.kind === "chat";
  paintUndo();
  scrollTo(0, 0);
  find("h1", work).focus({ preventScroll: true });
}

const AWAY = {
  "signed out": ["You are signed out.", "Open your sign-in link in this browser; your answers wait here."],
  "another person": ["Somebody else signed in on this browser.", "Your answers wait here until you sign in again."],
  later: ["No more items are kept here.", "There is no connection now. Your answers wait here; work goes on when it is back."],
};

function head(item, review) {
  const items = trail.items, at = items.indexOf(item.id);
  const badges = [
    item.practice ? h("span", { class: "badge" }, "Practice") : null,
    review ? h("span", { class: "badge" }, `Earlier: ${at + 1} of ${items.length}${trail.standing(item.id)?.act === "skip" ? ", skipped" : ""}`) : null,
    trail.flagged(item.id) ? h("span", { class: "badge warn" }, "Flagged") : null,
  ];
  const earlier = h("button", { type: "button", class: "quiet", id: "back", disabled: review ? at <= 0 : !items.length, onclick: () => step(-1), "aria-label": "Earlier answers", title: "Earlier answers (b)" }, "‹ Earlier");
  const later = review ? h("button", { type: "button", class: "quiet", id: "forward", onclick: () => step(1), title: "On again (n)" }, "Later ›") : null;
  const plain = h("button", { type: "button", class: "quiet", id: "plain", "aria-pressed": String(look.plain), onclick: () => turnPlain(), title: "Plain text (p)" }, "Plain text");
  return h("header", { class: "itemhead" }, h("h1", { tabindex: -1 }, KINDS[item.kind].question(item), " ", badges), h("div", { class: "row views" }, earlier, later, plain, differences(item)));
}

/** The choice of the response against which the others are compared, word by word. */
function differences(item) {
  if (item.responses.length < 2) return null;
  if (item.responses.length === 2) {
    const turn = () => (look.against === "each other" ? null : "each other");
    return h("button", { type: "button", class: "quiet", id: "differences", "aria-pressed": String(look.against === "each other"), onclick: () => turnAgainst(turn()), title: "Differences (d)" }, "Differences");
  }
  const options = [h("option", { value: "" }, "Differences: off"), ...item.responses.map((_, at) => h("option", { value: String(at) }, `to ${LETTERS[at]}`))];
  const select = h("select", { id: "differences", "aria-label": "Mark differences to", onchange: () => turnAgainst(select.value === "" ? null : Number(select.value)) }, options);
  select.value = typeof look.against === "number" ? String(look.against) : "";
  return select;
}

function turnAgainst(base) {
  look.against = base;
  find("#differences").setAttribute("aria-pressed", String(base !== null));
  view.form.refresh();
  announce(base === null ? "Differences off" : "Differences are marked");
}

function turnPlain() {
  if (!find("#plain")) return; // beside a verdict
  look.plain = !look.plain;
  find("#plain").setAttribute("aria-pressed", String(look.plain));
  view.form.refresh();
  find(".conversation", work)?.replaceWith(conversation(view.item.messages));
  announce(look.plain ? "Plain text" : "Formatted text");
}

/** Drafts are kept soon after each change, and at once when the item or the page is left. */
function keepDraft() {
  clearTimeout(drafting);
  drafting = setTimeout(writeDraft, PAUSE);
  find("#missing").textContent = "";
}

function writeDraft() {
  clearTimeout(drafting);
  drafting = 0;
  if (!view?.form || view.done) return;
  const draft = { answer: view.form.draft(), reason: view.reason.value, seconds: clock.seconds(), at: Date.now() };
  if (draft.answer || draft.reason) store.set(`draft:${view.item.id}`, draft);
  else store.drop(`draft:${view.item.id}`);
}

function leave() {
  if (drafting) writeDraft();
  view?.form?.leave?.();
  view = null;
  shelf.onscreen = null;
  bar.hidden = true;
}

/** Write down what was done with the item on the desk.  Once: whatever keys follow, they meet the next item, and too early. */
function commit(act, reason = "") {
  if (!view?.form || view.done || Date.now() - view.at < THINK) return;
  const { item, review } = view;
  if (review && item.kind === "chat") return; // it was handed in; undo opens it again
  if (!review && trail.handled(item.id)) return elsewhere();
  const found = act === "submit" ? view.form.value() : { answer: null };
  if (found.missing) {
    find("#missing").textContent = found.missing;
    return;
  }
  if (act === "submit") reason = view.reason.value.trim();
  const seconds = clock.seconds();
  const counts = act === "submit" && !item.practice && !trail.answered(item.id) ? 1 : 0;
  const entry = put({ assignment: item.id, task: number, act, answer: found.answer, reason, seconds, counts });
  trail.record({ id: item.id, act, key: entry.body.key, answer: found.answer, reason, seconds, practice: item.practice, offered: item.offered ?? 0 });
  if (act === "flag") {
    find("h1", work).append(h("span", { class: "badge warn" }, "Flagged"));
    paintUndo();
    return announce("Flagged. You can still answer it.");
  }
  view.done = true;
  writeDraft(); // of what is done it writes nothing more
  store.drop(`draft:${item.id}`);
  shelf.take(item.id);
  if (item.practice && act === "submit" && item.kind !== "chat") return verdict(entry, found.answer);
  announce(review ? "Saved." : act === "skip" ? "Skipped." : "Answered.");
  next();
}

const elsewhere = () => (announce("This was answered in another tab."), next());

/** The practice round: how the answer was. */
async function verdict(entry, answer) {
  const { item, form } = view;
  const panel = h("div", { class: "note", tabindex: -1 }, h("p", {}, "Looking at your answer… Without a connection the verdict comes later; you can go on."));
  view.at = Date.now();
  view.then = next;
  form.element.inert = true;
  find("#choices").replaceChildren();
  for (const one of [".reason", ".views"]) find(one, work)?.remove();
  for (const name of ["skip", "flag"]) find(`#${name}`).hidden = true;
  primary("Go on");
  paintUndo();
  work.prepend(panel);
  scrollTo(0, 0);
  panel.focus({ preventScroll: true });
  const acknowledged = await acknowledgement(entry).catch(() => null);
  if (!panel.isConnected) return;
  if (!acknowledged?.verdict) return panel.replaceChildren(h("p", {}, "There is no verdict on this one. Go on."));
  const shown = verdictOf(KINDS[item.kind].words, answer, acknowledged.verdict);
  panel.replaceWith(shown);
  find("h2", shown).focus({ preventScroll: true });
  announce(shown.textContent);
}

/** Take the last act back: the item comes back to the desk as it was answered. */
async function undo() {
  const last = trail.acts.at(-1);
  if (!last || undo.busy || (view?.at && Date.now() - view.at < LOOK)) return;
  undo.busy = true;
  try {
    const item = await recall(last.id);
    if (!item) return;
    if (view?.form && !view.done) writeDraft();
    trail.pop();
    const counts = last.act === "submit" && !last.practice && !trail.answered(last.id) ? -1 : 0;
    put({ assignment: last.id, task: number, act: "undo", seconds: 0, counts });
    const back = trail.handled(last.id); // an answer before it holds again
    if (last.act !== "flag" && !back) {
      const answer = last.answer ? KINDS[item.kind].asDraft(last.answer) : null;
      if (answer) store.set(`draft:${last.id}`, { answer, reason: last.reason, seconds: 0, at: Date.now() });
      shelf.putBack({ ...item, answer: null });
    }
    show(back ? item : { ...item, answer: null }, back);
    announce({ flag: "The flag is taken back.", skip: "Not skipped any more." }[last.act] ?? "Your last answer is taken back; here it is.");
  } finally {
    undo.busy = false;
  }
}

/** An item that was on the desk before.  Null, and said, where it cannot be had now. */
async function recall(id) {
  if (seen.has(id)) return seen.get(id);
  try {
    return await ask("GET", `/api/assignments/${id}`);
  } catch (error) {
    find("#missing").textContent = error.kind === "later" ? "That one is not kept here; going back to it needs the connection." : error.message;
    return null;
  }
}

/** Back and forth through what was done. */
async function step(by) {
  const items = trail.items, at = view?.review ? items.indexOf(view.item.id) : items.length;
  const to = at + by;
  if (to < 0 || (by > 0 && !view?.review)) return;
  if (view?.form && !view.done) writeDraft();
  if (to >= items.length) return next();
  const item = await recall(items[to]);
  if (item) show(item, true);
}

async function why(asked) {
  if (!view?.form || view.done || view.review) return;
  const held = view;
  const told = await asked();
  if (!told || view !== held) return;
  for (const act of told.act.split(" and ")) commit(act, told.reason);
}

const finish = () => (work.replaceChildren(finished(task, trail, { next, undo, takeUp })), find("h1", work).focus());

/** What was skipped comes to the desk again, as far as it still wants an answer. */
async function takeUp() {
  await ask("POST", `/api/tasks/${number}/skipped`).catch(() => {});
  next();
}

/** What could not be shown is tried again. */
function retry() {
  const again = view?.stuck;
  if (!again) return;
  view = null;
  again();
}

/** Nothing can be shown; `again` is tried when the connection is back. */
function stuck(title, text, again = null) {
  leave();
  view = { stuck: again };
  const now = again && h("button", { type: "button", onclick: retry }, "Try now");
  const back = again === next && trail.acts.length ? h("button", { type: "button", class: "quiet", onclick: undo }, "Undo the last") : null;
  work.replaceChildren(h("section", { class: "card narrow" }, h("h1", { tabindex: -1 }, title), h("p", {}, text), h("div", { class: "row" }, now, back, h("a", { class: "button", href: "/" }, "To your tasks"))));
  find("h1", work).focus();
}

function primary(words) {
  sendButton.hidden = false;
  sendButton.firstElementChild.textContent = words;
}

function paintUndo() {
  find("#undo").disabled = !trail.acts.length;
}

function paintProgress() {
  const mine = tally.answered;
  find("#progress").replaceChildren(...(mine ? [`${mine.toLocaleString("en")} answered`, h("span", { class: "roomy" }, " by you")] : []));
}

const go = () => (view?.then ? Date.now() - view.at > THINK && view.then() : commit("submit"));

const KEYS = { u: undo, b: () => step(-1), n: () => step(1), s: () => why(askSkip), f: () => why(askFlag), r: toReason, p: turnPlain, d: turnDifferences };

function toReason() {
  const details = find(".reason", work);
  if (!details) return;
  details.open = true;
  view.reason.focus();
}

function turnDifferences() {
  const control = find("#differences");
  if (control?.tagName === "SELECT") control.focus();
  else control?.click();
}

function listen(instructions) {
  sendButton.addEventListener("click", go);
  find("#undo").addEventListener("click", undo);
  find("#skip").addEventListener("click", () => why(askSkip));
  find("#flag").addEventListener("click", () => why(askFlag));
  const keys = () => showKeys(view?.form?.help ?? []);
  find("#show-keys").addEventListener("click", keys);
  document.addEventListener("keydown", (event) => onKey(event, { ...KEYS, i: () => instructions.toggle(), "?": keys }));
  addEventListener("pointerup", (event) => (pointed = event.target.closest?.("button, summary") ?? null));
  addEventListener("pagehide", () => drafting && writeDraft());
  document.addEventListener("visibilitychange", () => drafting && writeDraft());
  outbox.addEventListener("sent", topUp);
  outbox.addEventListener("refused", (event) => trail.forget(event.detail.entry.body.key));
  outbox.addEventListener("change", paintProgress);
  store.watch((name) => name === trail.name && view?.form && !view.review && !view.done && trail.handled(view.item.id) && elsewhere());
  setInterval(() => view?.form && topUp(), 30_000);
}

function onKey(event, keys) {
  const target = event.target, command = event.ctrlKey || event.metaKey;
  if (event.defaultPrevented || event.isComposing || find("dialog:modal")) return;
  if (event.key === "Tab") pointed = null;
  const typing = target.matches("textarea, select, input:not([type=radio], [type=checkbox])");
  const control = target.closest("button, a, summary");
  if (event.key === "Enter" && (command || !(typing || (control && control !== pointed)))) {
    event.preventDefault();
    if (!event.repeat && !(view?.form && !view.done && view.form.key(event))) go();
  } else if (typing) {
    if (event.key === "Escape") find("h1", work).focus();
  } else if (!command && singleKeys() && !event.repeat && view?.at) {
    const early = Date.now() - view.at < LOOK;
    if (view.form && !view.done && !early && view.form.key(event)) event.preventDefault();
    else if (keys[event.key] && !event.altKey) {
      event.preventDefault();
      if (!early || "bn".includes(event.key)) keys[event.key]();
    }
  }
}

begin();
