// How many items of a task its person has answered: what the server counted at a moment when nothing was on its way, and
// what was done since.  Each entry of the outbox says what it changes, so that nothing is counted twice or forgotten while
// answers and requests cross each other.

import { outbox, refused, waiting } from "./outbox.js";

export class Tally {
  constructor(task) {
    Object.assign(this, { task, counted: 0, arrived: 0, known: new Map() });
    this.follow();
    outbox.addEventListener("change", () => this.follow());
  }

  /** What has gone out of the outbox since the last look has arrived, unless it was refused. */
  follow() {
    const now = new Map(waiting().filter((entry) => entry.task === this.task).map((entry) => [entry.body.key, entry.counts ?? 0]));
    const not = new Set(refused().map((entry) => entry.body.key));
    for (const [key, counts] of this.known) {
      if (now.has(key)) continue;
      this.arrived += 1;
      if (!not.has(key)) this.counted += counts;
    }
    this.known = now;
  }

  get answered() {
    this.follow();
    return this.counted + [...this.known.values()].reduce((sum, counts) => sum + counts, 0);
  }

  /** A mark of this moment, null while something is on its way. */
  quiet() {
    this.follow();
    return this.known.size ? null : this.arrived;
  }

  /** The server's count holds where nothing was on its way between the mark and now. */
  take(yours, mark) {
    if (mark !== null && mark === this.quiet()) this.counted = yours;
  }
}
