// A run's numbers, fetched once and then only what is new.

import { ask, encoded } from "./ask.js";

export class Numbers {
  columns = {};
  timing = {};
  lines = 0;
  version = -1;
  findings = [];
  state = "";
  planned = null;

  constructor(path) {
    this.path = path;
  }

  /** Fetches what has come since; says whether anything has. */
  async refresh() {
    const found = await ask(`metrics/${encoded(this.path)}`, { version: this.version, since: this.lines });
    const before = JSON.stringify([this.version, this.lines, this.state, this.findings, this.timed]);
    joined(this, "columns", found.columns, found.since, found.lines - found.since);
    joined(this, "timing", found.timing.columns, found.timing.since, count(found.timing.columns));
    this.timed = count(this.timing);
    Object.assign(this, { lines: found.lines, version: found.version, findings: found.findings, state: found.state, planned: found.planned });
    return before !== JSON.stringify([this.version, this.lines, this.state, this.findings, this.timed]);
  }

  names() {
    return Object.keys(this.columns).filter((name) => name !== "step");
  }

  /** {xs, ys} of one number, at the steps that logged it; null where it was not finite, so that the line has a gap there. */
  curve(name) {
    const steps = this.columns.step ?? [], values = this.columns[name] ?? [];
    const kept = steps.map((_, i) => i).filter((i) => (values[i] ?? null) !== null);
    return { xs: kept.map((i) => steps[i]), ys: kept.map((i) => (values[i] === "NaN" ? null : values[i])) };
  }
}

function count(columns) {
  return Object.values(columns)[0]?.length ?? 0;
}

/** Appends new lines to the columns; a column that begins or ends in between has nulls there. */
function joined(of, key, fresh, since, added) {
  const old = of[key], result = {};
  for (const name of new Set([...Object.keys(old), ...Object.keys(fresh)])) {
    const before = (old[name] ?? []).slice(0, since);
    while (before.length < since) before.push(null);
    const after = fresh[name] ?? Array(added).fill(null);
    result[name] = before.concat(after);
  }
  of[key] = result;
}
