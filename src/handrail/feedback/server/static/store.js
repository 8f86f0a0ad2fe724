// What is kept on this device, each person's apart: hr:PERSON:NAME in localStorage.
// Names: out:... answers that wait, refused:... answers that were not taken, draft:ID, shelf:TASK, trail:TASK, task:TASK, me.

const WHO = "hr:who";
const LETS_GO = ["shelf:", "task:"]; // can be fetched again: given up first where there is no room
const unsaved = new Map(); // what found no room, for as long as the page lives

function raw(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export const told = document.documentElement.dataset.person || ""; // by the server; "" on a page shown without it
export const person = told || raw(WHO) || "";
const root = `hr:${person}:`;

/** Somebody else signed in on this browser, in another tab, since this page was opened. */
export function anotherPerson() {
  return (raw(WHO) ?? person) !== person;
}

/** This page's person works here now; what was fetched for others goes, what they have answered stays. */
export function settleIn() {
  if (!told) return;
  try {
    for (const name of Object.keys(localStorage)) {
      const [app, whose, ...rest] = name.split(":");
      if (app === "hr" && rest.length && whose !== told && LETS_GO.some((start) => rest.join(":").startsWith(start))) localStorage.removeItem(name);
    }
    if (raw(WHO) !== told) localStorage.setItem(WHO, told);
  } catch {
    // storage is switched off
  }
}

/** After signing out: nobody's page opens without the server, and what was fetched ahead goes. */
export function goOut() {
  letGo();
  try {
    localStorage.removeItem(WHO);
  } catch {
    // storage is switched off
  }
}

export function get(name, otherwise = null) {
  if (unsaved.has(name)) return unsaved.get(name);
  const found = raw(root + name);
  if (found === null) return otherwise;
  try {
    return JSON.parse(found);
  } catch {
    return otherwise;
  }
}

/** Keep a value.  False where there is no room on the disk: then it lives as long as the page. */
export function set(name, value) {
  const text = JSON.stringify(value);
  for (const attempt of [0, 1]) {
    try {
      localStorage.setItem(root + name, text);
      unsaved.delete(name);
      return true;
    } catch {
      if (attempt === 0 && !LETS_GO.some((start) => name.startsWith(start))) letGo();
    }
  }
  drop(name);
  unsaved.set(name, value);
  return false;
}

export function drop(name) {
  unsaved.delete(name);
  try {
    localStorage.removeItem(root + name);
  } catch {
    // it is not there
  }
}

/** The names that begin so, sorted. */
export function names(start) {
  let kept = [];
  try {
    kept = Object.keys(localStorage).filter((name) => name.startsWith(root + start)).map((name) => name.slice(root.length));
  } catch {
    // storage is switched off
  }
  return [...new Set([...kept, ...[...unsaved.keys()].filter((name) => name.startsWith(start))])].sort();
}

/** Whether answers are held by this page alone, so that closing it would lose them. */
export function onlyHere() {
  return [...unsaved.keys()].some((name) => name.startsWith("out:"));
}

/** Tell of what other tabs change: with the name, or null when all may be different. */
export function watch(told) {
  addEventListener("storage", (event) => {
    if (event.key === null || event.key === WHO) told(null);
    else if (event.key.startsWith(root)) told(event.key.slice(root.length));
  });
}

function letGo() {
  for (const start of LETS_GO) for (const name of names(start)) drop(name);
}
