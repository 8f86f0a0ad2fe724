// The tokens of attributed responses are walked by keys; what the chosen one adds stands below them and is said aloud.

import { announce, h } from "/shared/dom.js";

for (const [number, cells] of document.querySelectorAll("#attributed .attributed .tokens").entries()) {
  const all = [...cells.querySelectorAll(".tok")], said = h("p", { class: "small added" }, "← and → walk through the tokens.");
  let at = -1;
  cells.after(said);
  cells.tabIndex = 0;
  cells.setAttribute("role", "listbox");
  cells.setAttribute("aria-label", "Tokens, with what each adds");
  all.forEach((cell, i) => {
    cell.id = `attributed-${number}-${i}`;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-selected", "false");
  });

  const show = (cell) => said.replaceChildren(h("code", {}, cell.textContent), ` ${cell.title}`);
  const choose = (to) => {
    all[at]?.setAttribute("aria-selected", "false");
    at = Math.min(all.length - 1, Math.max(0, to));
    all[at].setAttribute("aria-selected", "true");
    all[at].scrollIntoView({ block: "nearest" });
    cells.setAttribute("aria-activedescendant", all[at].id);
    show(all[at]);
    announce(`${all[at].textContent}: ${all[at].title}`);
  };
  cells.addEventListener("pointerover", (event) => event.target.classList.contains("tok") && show(event.target));
  cells.addEventListener("click", (event) => event.target.classList.contains("tok") && choose(all.indexOf(event.target)));
  cells.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(to);
  });
}
