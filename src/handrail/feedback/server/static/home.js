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

function left(task) {
  const { wanted, labels, given_out: out } = task.progress;
  if (task.paused) return "Paused for now";
  if (!wanted) return "Nothing in it yet";
  if (labels >= wanted) return "Complete. Thank you";
  if (labels + out >= wanted) return "All given out; some of it may be yours";
  return `${Math.round((100 * labels) / wanted)}% of it is done, by all together`;
}

function card(task) {
  const { yours, wanted, labels } = task.progress;
  const mine = yours + waiting().filter((entry) => entry.task === task.id && entry.act === "submit").length;
  const meter = h("progress", { max: Math.max(1, wanted), value: String(labels), "aria-label": `${task.title}: done by all together` });
  meter.value = labels;
  return h(
    "li",
    { class: "card task" },
    h("div", {}, h("h2", {}, h("bdi", {}, task.title)), h("p", { class: "soft small" }, KINDS[task.kind])),
    h("div", { class: "progressing" }, meter, h("p", { class: "small" }, left(task), mine ? h("span", { class: "soft" }, ` · ${count(mine, "answer")} by you`) : null)),
    h("a", { class: task.paused ? "button" : "button main", href: `/tasks/${task.id}`, "aria-label": `${mine ? "Go on with" : "Begin"} ${task.title}` }, mine ? "Go on" : "Begin"),
  );
}

function paint(me) {
  const tasks = find("#tasks");
  tasks.setAttribute("aria-busy", "false");
  find("#hello").replaceChildren("Hello, ", h("bdi", {}, me.name));
  if (!me.tasks.length) return tasks.replaceChildren(h("p", {}, "There is no task for you yet. Whoever invited you will put some here."));
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
