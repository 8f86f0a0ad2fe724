// Runs before the first paint: the colours that were chosen on this device, so that a dark room sees no flash of white.
// Without a choice the device's own setting holds.
(() => {
  try {
    const chosen = localStorage.getItem("hr:theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // storage is switched off: the device's setting holds
  }
})();
