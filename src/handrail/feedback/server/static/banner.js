// What waits on this device and why, in #banner; answers that were refused, with their text.

import { count, find, h } from "./dom.js";
import { dismiss, outbox, refused, send, sendAgain, state, waiting } from "./outbox.js";
import * as store from "./store.js";
import { minutes, rested } from "./clock.js";

const PATIENCE = 1500; // ms that an answer may be on its way before it is spoken of
const REST = 50; // minutes of work after which a break is suggested

const REASONS = {
  later: "there is no connection to the server now",
  "signed out": "you are signed out",
  "another person": "somebody else signed in on this browser",
};

let shown = "";

function waitingNote(all) {
  const why = state()?.kind;
  const old = all.some((entry) => Date.now() - entry.at > PATIENCE);
  if (!all.length || (!why && !old)) return null;
  const them = all.length === 1 ? "it goes out by itself" : "they go out by themselves";
  const wait = `${count(all.length, "answer")} ${all.length === 1 ? "waits" : "wait"} here`;
  if (why === "signed out") return [h("b", {}, `${wait}: you are signed out.`), " Open your sign-in link in this browser, or ask for a new one; nothing is lost."];
  if (why === "another person") return [h("b", {}, `${wait} for you.`), " Somebody else signed in on this browser. They go out when you sign in again."];
  return [h("b", {}, `${wait}; ${them}.`), why ? ` Just now ${REASONS[why]}.` : "", " ", h("button", { type: "button", onclick: send }, "Try now")];
}

function signedNote() {
  if (store.anotherPerson()) return [h("b", {}, "Somebody else signed in on this browser."), " This page is still yours, but nothing goes out from it. ", h("a", { href: "/" }, "To their tasks")];
  return null;
}

function refusedNote(entry) {
  const text = entry.body.answer?.text ?? (entry.body.answer ? JSON.stringify(entry.body.answer) : "");
  return h(
    "div",
    { class: "note bad", role: "alert" },
    h("p", {}, h("b", {}, `An answer was not taken: ${entry.why}.`), " It is kept here."),
    text || entry.body.reason ? h("details", {}, h("summary", {}, "What you had answered"), h("pre", { class: "raw", dir: "auto" }, [text, entry.body.reason].filter(Boolean).join("\n\n"))) : null,
    h("button", { type: "button", onclick: () => sendAgain(entry) }, "Send again"),
    " ",
    h("button", { type: "button", class: "quiet", onclick: () => dismiss(entry) }, "I have seen it; throw it away"),
  );
}

function paint() {
  const banner = find("#banner");
  const all = waiting(), not = refused();
  const now = JSON.stringify([all.length, not.map((entry) => entry.body.key), state()?.kind, all.some((entry) => Date.now() - entry.at > PATIENCE), store.onlyHere(), store.anotherPerson(), minutes() > REST]);
  if (now === shown) return; // said once, not each time that something changes
  shown = now;
  const parts = [];
  const waits = waitingNote(all) ?? signedNote();
  if (waits) parts.push(h("p", { class: "note warn" }, waits));
  if (store.onlyHere()) parts.push(h("p", { class: "note bad" }, "This browser has no room to keep your answers: leave this page open until they are out."));
  parts.push(...not.map(refusedNote));
  if (minutes() > REST) parts.push(h("p", { class: "note" }, "You have been at it for a good while. A short break does the eyes good. ", h("button", { type: "button", onclick: () => (rested(), paint()) }, "Thank you")));
  banner.replaceChildren(...parts);
}

export function begin() {
  outbox.addEventListener("change", () => {
    paint();
    setTimeout(paint, PATIENCE + 100);
  });
  store.watch(() => paint());
  setInterval(paint, 5000);
  paint();
}
