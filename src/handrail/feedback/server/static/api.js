// Asking the server.  What goes wrong is one of three kinds: it may work later, one has to sign in, or it is refused.

const PATIENCE = 20_000; // ms

export class Trouble extends Error {
  /** kind: "later" | "signed out" | "refused" */
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

export async function ask(method, path, body, patience = PATIENCE) {
  let response, told;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
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
  if (status >= 500 || [408, 425, 429].includes(status)) throw new Trouble("later", why, status);
  throw new Trouble("refused", why, status);
}
