// On every page: the switch between light and dark.

const button = document.getElementById("theme");
const root = document.documentElement;

function dark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function name() {
  button.setAttribute("aria-label", dark() ? "Dark; change to light" : "Light; change to dark");
}

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
