// One item: which runs have learnt from it; and whether more was said since the page was made.

import { find, h } from "/shared/dom.js";
import { again, ask, encoded } from "./ask.js";
import { number } from "./format.js";

const newer = find("#newer"), asked = { store: newer.dataset.store, id: newer.dataset.item };
const link = (path) => h("a", { href: `/labels/${encoded(path)}` }, path);

function line(one) {
  const from = `${number(one.labels)} ${one.labels === 1 ? "label" : "labels"} of it`;
  return h("li", { class: "row" }, link(one.run), h("span", { class: "badge" }, one.stage), h("span", { class: "soft small" }, one.through ? [`through `, link(one.through)] : from));
}

const found = await ask("learnt", asked);
const learnt = find("#learnt");
learnt.setAttribute("aria-busy", "false");
learnt.replaceChildren(
  found.runs.length ? h("ul", { class: "plainly" }, found.runs.map(line)) : h("p", { class: "soft" }, "No run here has learnt from a label of this item."),
  ...found.unread.map((text) => h("p", { class: "small note warn" }, text)),
);

const measuring = find("#measuring");
let first = null;
again(async () => {
  const now = await ask("item", asked);
  const state = JSON.stringify([now.asked, now.purpose]);
  first ??= state;
  newer.hidden = state === first;
  if (measuring && !now.busy) location.reload();
  return measuring ? 1000 : 5000;
});
