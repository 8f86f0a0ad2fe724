// The seconds that are really spent on an item: while the page is in sight and its person does something now and then.

const IDLE = 60_000; // ms without a touch, a key or a movement
const STEP = 1000;

let total = 0, since = Date.now(), touched = Date.now(), session = 0;

function tick() {
  const now = Date.now();
  const spent = document.visibilityState === "visible" && now - touched < IDLE ? Math.min(now - since, 2 * STEP) : 0;
  total += spent;
  session += spent;
  since = now;
}

for (const name of ["pointerdown", "pointermove", "keydown", "wheel", "scroll", "touchstart"]) {
  addEventListener(name, () => (touched = Date.now()), { passive: true, capture: true });
}
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") tick();
  else since = touched = Date.now();
});
setInterval(tick, STEP);

/** A new item, with the seconds that were spent on it before. */
export function start(seconds = 0) {
  tick();
  total = seconds * 1000;
}

/** Seconds spent on the item so far. */
export function seconds() {
  tick();
  return total / 1000;
}

/** Minutes of work since the page was opened or `rested` called. */
export const minutes = () => session / 60_000;
export const rested = () => (session = 0);
