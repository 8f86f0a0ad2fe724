// The answers on their way.  Each gets a key and is kept on this device before it is sent; it goes only when the server
// says that it is on its disk.  They go in order, one at a time, from one tab at a time; the key makes a second sending harmless.
// What the server refuses is kept apart, with its text, until the labeller has seen it.

import { ask } from "./api.js";
import { newKey } from "./dom.js";
import * as store from "./store.js";

const FIRST = 1000, LONGEST = 30_000; // ms between attempts

/** Events: "change" (what waits, or why), "sent" (detail: entry, acknowledgement), "refused" (detail: entry). */
export const outbox = new EventTarget();

let trouble = null; // of the last attempt
let running = false;
let pause = FIRST;
let timer = 0;

const sentHere = new Map(); // key: acknowledgement

function changed() {
  outbox.dispatchEvent(new Event("change"));
}

/** Keep what was done with an item, and send it.  `counts`: by how much it changes the number of answered items.
 *  Returns it with its key. */
export function put({ assignment, task, act, answer, reason = "", seconds = 0, counts = 0 }) {
  const body = { key: newKey(), act, reason, seconds: Math.max(0.1, Math.round(seconds * 10) / 10) };
  if (answer) body.answer = answer;
  const last = store.names("out:").at(-1);
  const at = Math.max(Date.now(), last ? Number(last.split(":")[1]) + 1 : 0);
  const entry = { name: `out:${String(at).padStart(15, "0")}:${body.key}`, assignment, task, act, at, counts, body };
  store.set(entry.name, entry);
  changed();
  send();
  return entry;
}

export const waiting = () => store.names("out:").map((name) => store.get(name)).filter(Boolean);
export const refused = () => store.names("refused:").map((name) => store.get(name)).filter(Boolean);
export const state = () => trouble;

/** Whether something was done with this item that the server does not know of. */
export function underway(assignment) {
  return [...waiting(), ...refused()].some((entry) => entry.assignment === assignment);
}

/** Forget a refused answer, when its labeller says so. */
export function dismiss(entry) {
  store.drop(`refused:${entry.body.key}`);
  changed();
}

/** Let a refused answer wait again, under its old key and in its old place. */
export function sendAgain({ why, ...entry }) {
  store.set(entry.name, entry);
  store.drop(`refused:${entry.body.key}`);
  changed();
  send();
}

/** Send what waits. */
export function send() {
  clearTimeout(timer);
  if (running || !store.person || !store.names("out:").length) return;
  running = true;
  const work = navigator.locks ? navigator.locks.request(`hr:${store.person}:send`, sendAll) : sendAll();
  Promise.resolve(work).catch(() => later({ kind: "later", message: "it did not go out" })).finally(() => {
    running = false;
    if (!trouble && store.names("out:").length) send(); // put there while the last one went out
  });
}

async function sendAll() {
  for (let name; (name = store.names("out:")[0]); ) {
    const entry = store.get(name);
    if (!entry) {
      store.drop(name);
      continue;
    }
    if (store.anotherPerson()) return stop({ kind: "another person" });
    try {
      const acknowledged = await ask("POST", `/api/assignments/${entry.assignment}`, entry.body);
      store.drop(name);
      sentHere.set(entry.body.key, acknowledged);
      if (sentHere.size > 50) sentHere.delete(sentHere.keys().next().value);
      trouble = null;
      pause = FIRST;
      outbox.dispatchEvent(new CustomEvent("sent", { detail: { entry, acknowledged } }));
      changed();
    } catch (error) {
      if (error.kind === "later") return later(error);
      if (error.kind !== "refused") return stop(error); // it waits until this person signs in again
      store.set(`refused:${entry.body.key}`, { ...entry, why: error.message });
      store.drop(name);
      outbox.dispatchEvent(new CustomEvent("refused", { detail: { entry } }));
      changed();
    }
  }
  trouble = null;
  changed();
}

function stop(error) {
  trouble = error;
  changed();
}

function later(error) {
  stop(error);
  clearTimeout(timer);
  timer = setTimeout(send, pause * (0.75 + Math.random() / 2));
  pause = Math.min(2 * pause, LONGEST);
}

/** What the server said of an answer, once it has it; another tab may have sent it, then the same is sent again. */
export async function acknowledgement(entry) {
  while (store.get(entry.name)) {
    await new Promise((resolve) => {
      outbox.addEventListener("change", resolve, { once: true });
      setTimeout(resolve, 2000);
    });
  }
  if (store.get(`refused:${entry.body.key}`)) return null;
  return sentHere.get(entry.body.key) ?? ask("POST", `/api/assignments/${entry.assignment}`, entry.body);
}

/** Begin: at once, when the connection is back, when the page is looked at again, when another tab signs in. */
export function begin() {
  const again = () => {
    pause = FIRST;
    send();
  };
  addEventListener("online", again);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && again());
  store.watch((name) => {
    if (name === null) again();
    if (name === null || name.startsWith("out:") || name.startsWith("refused:")) changed();
  });
  addEventListener("beforeunload", (event) => store.onlyHere() && event.preventDefault());
  send();
}
