// The person's tasks, with what is done told kindly; from what is kept here where there is no connection.

import { ask } from "./api.js";
import * as banner from "./banner.js";
import { announce, count, find, h } from "./dom.js";
import { begin as beginSending, waiting } from "./outbox.js";
import * as store from "./store.js";

const KINDS = {
  compare: "Say which of two is better",
  rank: "Put several in order",
  rate: "Rate on a scale",
  demonstrate: "Write the ideal response",
  chat: "Chat with two models",
};

/** Whether everything is answered, as far as the server lets labellers know. */
const finished = (task) => task.more === false && task.progress.wanted > 0 && task.progress.labels >= task.progress.wanted;

function left(task) {
  const { wanted, labels, again } = task.progress;
  if (task.paused) return "Paused for now";
  if (!wanted) return "Nothing in it yet";
  if (finished(task)) return "All of it is answered. Thank you";
  if (task.more === false) return again ? `Nothing new for you; ${count(again, "item")} that you skipped may be taken up` : "Nothing more for you just now; others are at it";
  return `${Math.min(99, Math.round((100 * labels) / wanted))}% of it is done, by all together`;
}

function card(task) {
  const { yours, wanted, labels } = task.progress;
  const mine = yours + waiting().filter((entry) => entry.task === task.id).reduce((sum, entry) => sum + (entry.counts ?? 0), 0);
  const open = !task.paused && task.more !== false; // there is something to do; what is kept from before does not say
  const word = !open ? "Open" : mine ? "Go on" : "Begin";
  const meter = h("progress", { max: Math.max(1, wanted), value: String(labels), "aria-label": `${task.title}: done by all together` });
  meter.value = labels;
  return h(
    "li",
    { class: "card task" },
    h("div", {}, h("h2", {}, h("bdi", {}, task.title), finished(task) ? [" ", h("span", { class: "badge good" }, "Finished")] : null), h("p", { class: "soft small" }, KINDS[task.kind])),
    h("div", { class: "progressing" }, meter, h("p", { class: "small" }, left(task), mine ? h("span", { class: "soft" }, ` · ${mine.toLocaleString("en")} answered by you`) : null)),
    h("a", { class: open ? "button main" : "button", href: `/tasks/${task.id}`, "aria-label": `${word === "Go on" ? "Go on with" : word} ${task.title}` }, word),
  );
}

function paint(me) {
  const tasks = find("#tasks");
  tasks.setAttribute("aria-busy", "false");
  find("#hello").replaceChildren("Hello, ", h("bdi", {}, me.name));
  const none = me.role === "admin" ? ["There is no task yet. ", h("a", { href: "/admin" }, "Run the projects"), " to make one."] : "There is no task for you yet. Whoever invited you will put some here.";
  if (!me.tasks.length) return tasks.replaceChildren(h("p", {}, none));
  const projects = Map.groupBy ? Map.groupBy(me.tasks, (task) => task.project) : new Map([["", me.tasks]]);
  const lists = [...projects].map(([name, list]) => [projects.size > 1 ? h("p", { class: "soft project" }, name) : null, h("ul", { class: "tasks" }, list.map(card))]);
  tasks.replaceChildren(...lists.flat().filter(Boolean));
}

async function begin() {
  const tasks = find("#tasks");
  if (!store.person) return tasks.replaceChildren(h("p", {}, "Nobody is signed in here. Open your sign-in link in this browser."));
  banner.begin();
  beginSending();
  try {
    const me = await ask("GET", "/api/me");
    store.set("me", me);
    paint(me);
  } catch (error) {
    const kept = store.get("me");
    if (error.kind === "another person") return location.reload(); // this page was opened a moment before
    if (error.kind === "signed out") return tasks.replaceChildren(h("p", {}, "You are signed out. Open your sign-in link in this browser."));
    if (kept) paint(kept);
    else tasks.replaceChildren(h("p", {}, "There is no connection now, and your tasks are not kept here yet."));
    announce("There is no connection now.");
    find("#hello").after(h("p", { class: "note" }, "There is no connection now. What is kept on this device can be worked on."));
    addEventListener("online", () => location.reload(), { once: true });
  }
}

begin();
