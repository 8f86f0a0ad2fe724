// Asking the server, and asking again while a run goes on.

const problem = document.getElementById("problem");

/** JSON from the API; `query` may have lists. Says on the page what went wrong, and throws. */
export async function ask(path, query = {}, signal = undefined) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") given.append(name, one);
  }
  let response;
  try {
    response = await fetch(`/api/${path}?${given}`, { signal });
  } catch (error) {
    if (error.name !== "AbortError") say("The inspector does not answer. Is it still running?");
    throw error;
  }
  const found = await response.json().catch(() => ({ found: `status ${response.status}` }));
  if (!response.ok) {
    say(found.found);
    throw new Error(found.found);
  }
  say("");
  return found;
}

function say(text) {
  if (!problem) return;
  problem.textContent = text;
  problem.hidden = !text;
}

export const run = document.body.dataset.run;
export const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");

/** Does `work` now and then again after as many milliseconds as it returns, until it returns nothing; rests while nobody looks. */
export function again(work) {
  let timer = null;
  const turn = async () => {
    timer = null;
    const wait = await work().catch(() => 5000);
    if (wait) timer = setTimeout(look, wait);
  };
  const look = () => {
    if (document.hidden) document.addEventListener("visibilitychange", look, { once: true });
    else turn();
  };
  turn();
  return () => clearTimeout(timer);
}
