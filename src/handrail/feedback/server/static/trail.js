// What this person did in a task, in order, as far as it can be gone back to: for undo, for going back and forth, and so
// that no item is shown again which was answered while its answer still waits here.

import * as store from "./store.js";

const HOURS = 12, MOST = 200;

export class Trail {
  constructor(task) {
    this.name = `trail:${task}`;
  }

  /** Acts that stand: {id, act, key, answer, reason, seconds, practice, offered, at}; read anew each time, other tabs write too. */
  get acts() {
    const since = Date.now() - HOURS * 3600_000;
    return store.get(this.name, []).filter((act) => act.at > since);
  }

  record(act) {
    store.set(this.name, [...this.acts, { ...act, at: Date.now() }].slice(-MOST));
  }

  /** Take back the last act and return it. */
  pop() {
    const acts = this.acts;
    const last = acts.pop();
    store.set(this.name, acts);
    return last;
  }

  /** Take out an act that the server refused. */
  forget(key) {
    store.set(this.name, this.acts.filter((act) => act.key !== key));
  }

  /** The items that are done with, in the order in which they first were. */
  get items() {
    return [...new Set(this.acts.filter((act) => act.act !== "flag").map((act) => act.id))];
  }

  handled(id) {
    return this.acts.some((act) => act.id === id && act.act !== "flag");
  }

  answered(id) {
    return this.acts.some((act) => act.id === id && act.act === "submit");
  }

  /** An item that was given out: where it was offered again since it was skipped, the skip does not stand any more. */
  given(item) {
    const acts = this.acts;
    const kept = acts.filter((act) => !(act.id === item.id && act.act === "skip" && (act.offered ?? 0) < (item.offered ?? 0)));
    if (kept.length < acts.length) store.set(this.name, kept);
  }

  /** The act that stands of an item: its last answer, or else its skip. */
  standing(id) {
    const mine = this.acts.filter((act) => act.id === id && act.act !== "flag");
    return mine.findLast((act) => act.act === "submit") ?? mine.at(-1) ?? null;
  }

  flagged(id) {
    return this.acts.some((act) => act.id === id && act.act === "flag");
  }
}
