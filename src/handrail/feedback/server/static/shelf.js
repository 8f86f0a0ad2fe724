// The items that come next, fetched ahead and kept on this device, so that work goes on without a connection.

import { ask } from "./api.js";
import { refused, underway, waiting } from "./outbox.js";
import * as store from "./store.js";

const SOON = 300_000; // ms before the end of a lease in which it is begun anew

export class Shelf {
  /** `ahead`: how many are kept at hand; `trail`: what was done with; `tally`: how many were answered. */
  constructor(task, trail, tally, ahead) {
    Object.assign(this, { task, trail, tally, ahead, name: `shelf:${task}`, pinned: new Set(), busy: null, over: false, onscreen: null });
    this.items = store.get(this.name, []).filter((item) => !this.done(item.id));
  }

  done(id) {
    return this.trail.handled(id) || (underway(id) && !this.pinned.has(id));
  }

  get first() {
    return this.items.find((item) => !this.done(item.id)) ?? null;
  }

  get low() {
    return !this.over && this.items.length < this.ahead;
  }

  /** Whether the lease of one that stands here ends soon. */
  get stale() {
    return this.items.some((item) => item.expires * 1000 - Date.now() < SOON);
  }

  keep() {
    store.set(this.name, this.items);
  }

  take(id) {
    this.items = this.items.filter((item) => item.id !== id);
    this.pinned.delete(id);
    this.keep();
  }

  /** An item that was undone comes next; it stays although the server may not know of the undo yet. */
  putBack(item) {
    this.take(item.id);
    this.items.unshift(item);
    this.pinned.add(item.id);
    this.keep();
  }

  /** Fetch what is missing, one request at a time.  What is on the screen stays, and what has a draft. */
  refill() {
    this.busy ??= this.fetch().finally(() => (this.busy = null));
    return this.busy;
  }

  async fetch() {
    const away = [...waiting(), ...refused()].filter((entry) => entry.task === this.task).length;
    const wanted = Math.min(50, this.ahead + away), quiet = this.tally.quiet();
    const given = await ask("POST", `/api/tasks/${this.task}/next`, { count: wanted, html: true });
    this.tally.take(given.progress.yours, quiet);
    given.items.forEach((item) => this.trail.given(item));
    const fresh = new Map(given.items.filter((item) => !this.done(item.id)).map((item) => [item.id, item]));
    const stay = this.items.filter((item) => fresh.has(item.id) || item.id === this.onscreen || this.pinned.has(item.id) || store.get(`draft:${item.id}`));
    const here = new Set(stay.map((item) => item.id));
    this.items = [...stay.map((item) => fresh.get(item.id) ?? item), ...[...fresh.values()].filter((item) => !here.has(item.id))];
    this.items = this.items.filter((item) => !this.done(item.id));
    this.over = given.items.length < wanted;
    this.keep();
  }
}
