// Asking the server, always in the name of the person for whom the page was made.  What goes wrong is one of four kinds:
// it may work later, one has to sign in, another person did, or it is refused.  Only the app itself refuses: what stands
// between it and the browser, and says no in words that are not the app's, may be put right.

import { person } from "./store.js";

const PATIENCE = 20_000; // ms

export class Trouble extends Error {
  /** kind: "later" | "signed out" | "another person" | "refused" */
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

export async function ask(method, path, body, patience = PATIENCE) {
  let response, told;
  const headers = { "x-handrail-person": person, ...(body === undefined ? {} : { "content-type": "application/json" }) };
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(patience),
    });
    told = await response.json();
  } catch {
    if (!response || response.status < 400) throw new Trouble("later", "no connection to the server");
  }
  if (response.ok) return told;
  const status = response.status;
  const why = [told?.found ?? told?.detail ?? `status ${status}`, told?.allowed, told?.remedy].filter(Boolean).join("; ");
  if (status === 401) throw new Trouble("signed out", why, status);
  if (status === 412) throw new Trouble("another person", why, status);
  const ours = typeof told?.found === "string";
  if (!ours || status >= 500 || [403, 408, 421, 425, 429].includes(status)) throw new Trouble("later", why, status);
  throw new Trouble("refused", why, status);
}
