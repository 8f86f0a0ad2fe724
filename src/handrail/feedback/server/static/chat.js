// A chat with two models side by side.  Each turn: say something, read both answers, choose; the chat goes on from the choice.
// What is said and chosen has a key that is kept before it is sent, so that a second sending changes nothing.

import { ask } from "./api.js";
import { announce, count, h, newKey } from "./dom.js";
import { card, conversation } from "./prose.js";
import * as store from "./store.js";

const PATIENCE = 300_000; // ms that two models may take
const AGAIN = 4000; // ms after which what did not go out is tried again

export function make(item, task, draft, changed, { done = false } = {}) {
  let chat = item.chat, sending = null, trouble = "", timer = 0;
  const pending = `chat:${item.id}`; // {path, body} of what is on its way
  const field = h("textarea", { id: "say", dir: "auto", rows: 3, value: draft?.text ?? "", oninput: () => changed() });
  const element = h("div", { class: "chat" });

  const options = [
    { better: 0, tie: false, words: ["A", "is better"] },
    { better: 1, tie: false, words: ["B", "is better"] },
    ...(task.ties ? [{ better: 0, tie: true, words: ["Tie", "go on from A"] }, { better: 1, tie: true, words: ["Tie", "go on from B"] }] : []),
  ];

  async function send(path, body) {
    store.set(pending, { path, body });
    sending = path;
    trouble = "";
    paint();
    try {
      chat = await ask("POST", `/api/assignments/${item.id}/${path}`, body, PATIENCE);
      item.chat = chat;
      store.drop(pending);
      sending = null;
      if (path === "chat") field.value = "";
      changed();
      paint();
      announce(chat.waiting.length ? "Two answers. Choose the better one." : `Chosen. ${count(chat.turns_left, "turn")} left.`);
      if (element.isConnected) (element.querySelector(chat.waiting.length ? ".responses" : "#say") ?? element).focus({ preventScroll: false });
    } catch (error) {
      sending = null;
      trouble = error.kind === "refused" ? error.message : error.kind !== "later" ? "You are signed out; it goes out when you sign in again." : "No connection; it is tried again.";
      if (error.kind === "refused") store.drop(pending);
      else timer = setTimeout(resume, AGAIN);
      paint();
    }
  }

  /** What was on its way when the page was left, or the connection broke. */
  function resume() {
    const left = store.get(pending);
    if (left && element.isConnected && !sending) send(left.path, left.body);
  }

  const say = () => {
    const message = field.value.trim();
    if (!message || sending || store.get(pending) || chat.waiting.length) return;
    send("chat", { key: newKey(), message: field.value });
  };
  const choose = (at) => {
    if (sending || store.get(pending) || !chat.waiting.length || !options[at]) return;
    send("chat/choice", { key: newKey(), better: options[at].better, tie: options[at].tie });
  };

  function paint() {
    const busy = Boolean(sending) || Boolean(store.get(pending));
    const parts = [chat.messages.length ? conversation(chat.messages, "The chat so far") : null];
    const left = store.get(pending);
    if (left?.path === "chat") parts.push(h("div", { class: "message user" }, h("div", { class: "role" }, "User"), h("pre", { class: "raw", dir: "auto" }, left.body.message)));
    if (chat.waiting.length) {
      const both = h("div", { class: "responses two", tabindex: -1, "aria-label": "Two answers", role: "group" }, chat.waiting.map((_, number) => card(chat.waiting, number)));
      const buttons = options.map((one, at) => h("button", { type: "button", class: "choice", disabled: busy, onclick: () => choose(at) }, h("b", {}, one.words[0]), h("span", {}, one.words[1]), h("kbd", { "aria-hidden": "true" }, at + 1)));
      parts.push(both, h("div", { class: "choices", role: "group", "aria-label": "Which is better?" }, buttons));
    } else if (!done && chat.turns_left > 0) {
      field.disabled = busy;
      const go = h("button", { type: "button", class: "main", disabled: busy, onclick: say }, "Say it to both", h("kbd", { "aria-hidden": "true" }, "Ctrl ⏎"));
      parts.push(h("div", { class: "say card" }, h("label", { for: "say" }, chat.messages.some((one) => one.role === "user") ? "Go on with the chat" : "Say something to both models"), field, h("div", { class: "row under" }, h("span", { class: "small soft" }, `${count(chat.turns_left, "turn")} left`), go)));
    } else if (!done) parts.push(h("p", { class: "note" }, "That was the last turn. Hand the chat in."));
    if (sending === "chat") parts.push(h("p", { class: "soft waiting", role: "status" }, "Both models are writing…"));
    if (trouble) parts.push(h("p", { class: "note warn", role: "alert" }, trouble));
    const held = document.activeElement === field;
    element.replaceChildren(...parts.filter(Boolean));
    if (held && !field.disabled) field.focus();
  }

  paint();
  setTimeout(resume);
  return {
    element,
    bar: null,
    refresh: paint,
    leave: () => clearTimeout(timer),
    draft: () => (field.value ? { text: field.value } : null),
    send: "Hand it in",
    value() {
      if (chat.waiting.length || store.get(pending)) return { missing: "Choose one of the two answers first." };
      if (!chat.messages.some((one) => one.role === "assistant")) return { missing: "Say something first; the chat is handed in when it has a turn." };
      if (field.value.trim()) return { missing: "There is something in the field that was not said. Say it, or empty the field." };
      return { answer: null };
    },
    key(event) {
      if (event.target === field) {
        if (!(event.key === "Enter" && (event.ctrlKey || event.metaKey))) return false;
        say();
        return true;
      }
      const at = Number(event.key) - 1;
      if (chat.waiting.length && options[at]) choose(at);
      else if (event.key === "e" && field.isConnected) field.focus();
      else return false;
      return true;
    },
    help: [["e", "to the field"], ["Ctrl Enter", "say it, from within the field"], ...options.map((one, at) => [String(at + 1), one.words.join(" ")])],
  };
}

export const question = () => "Chat with both, choose at each turn";

export const asDraft = () => null;

export const words = () => "The chat was handed in";
