// On every page: the switch between light and dark, whose device this is now, signing out, and the service worker that
// keeps the labeller's pages at hand.

import { goOut, names, settleIn } from "./store.js";

const button = document.getElementById("theme");
const root = document.documentElement;

function dark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function name() {
  button.setAttribute("aria-label", dark() ? "Dark; change to light" : "Light; change to dark");
}

if (button) {
  name();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("hr:theme", root.dataset.theme);
    } catch {
      // it holds for this page
    }
    name();
  });
}

settleIn();

document.getElementById("leave")?.addEventListener("submit", (event) => {
  const waiting = names("out:").length;
  const text = `${waiting} of your answers have not gone out yet. They stay on this device and go out when you sign in here again. Sign out?`;
  if (waiting && !confirm(text)) event.preventDefault();
  else goOut();
});

if ("serviceWorker" in navigator) navigator.serviceWorker.register("/sw.js").catch(() => {});
