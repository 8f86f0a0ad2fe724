// Conversations and responses on the page: as the server's safe HTML, as plain text, or with what differs marked.

import { against } from "./diff.js";
import { h, LETTERS } from "./dom.js";

const LONG = 30_000; // characters beyond which a text scrolls inside its card, in pieces: a browser takes minutes over one of a megabyte
const PIECE = 4000; // characters of a piece at most
const ROLES = { system: "Setting", user: "User", assistant: "Assistant" };

/** How texts are shown now: `plain` text; or `against`: the response (its number, or "each other" of two)
 *  with which words are compared. */
export const look = { plain: false, against: null };

/** A text: {text, html}. */
export function prose(text) {
  if (look.plain || !text.html) return raw([text.text], text.text.length);
  const made = h("div", { class: "prose" });
  made.innerHTML = text.html; // safe: made by the server from an allow-list, and the pages' policy runs no script in it
  if (text.text.length > LONG) {
    for (const block of [...made.children]) if (block.matches("p, pre") && block.textContent.length > PIECE) block.replaceWith(...pieces([...block.childNodes]));
    scrolls(made);
  }
  for (const block of made.querySelectorAll("p, ul, ol, li, blockquote, table, h1, h2, h3, h4, h5, h6")) block.dir = "auto";
  for (const block of made.querySelectorAll("pre, table")) {
    block.tabIndex = 0;
    block.setAttribute("role", "region");
    block.setAttribute("aria-label", block.tagName === "PRE" ? "Code" : "Table");
  }
  return made;
}

/** Text as it is, from strings and marked elements of `length` characters together. */
function raw(nodes, length) {
  if (length <= LONG) return h("pre", { class: "raw", dir: "auto" }, nodes);
  return scrolls(h("div", { class: "prose" }, pieces(nodes)));
}

/** Paragraphs of a bounded length, broken at line ends or between words. */
function pieces(nodes) {
  const found = [];
  let room = 0;
  const put = (node, length) => {
    if (room < length || !found.length) {
      found.push(h("p", { class: "plain piece", dir: "auto" }));
      room = PIECE;
    }
    found.at(-1).append(node);
    room -= length;
  };
  for (const node of nodes) {
    const text = typeof node === "string" ? node : node.textContent;
    if (typeof node === "string" || node.nodeType === Node.TEXT_NODE || text.length > PIECE) {
      for (const part of text.match(/[^]{1,4000}(?=\s|$)|[^]{1,4000}/g) ?? []) put(node.tagName === "MARK" ? h("mark", {}, part) : part, part.length);
    } else put(node, text.length);
  }
  return found;
}

function scrolls(block) {
  block.classList.add("long");
  block.tabIndex = 0;
  block.setAttribute("role", "region");
  block.setAttribute("aria-label", "A long text; it scrolls");
  return block;
}

/** What was said so far. */
export function conversation(messages, heading = "") {
  const only = messages.length === 1 && messages[0].role === "user";
  const said = messages.map((message) =>
    h("div", { class: `message ${message.role}` }, only ? null : h("div", { class: "role" }, ROLES[message.role] ?? message.role), prose(message)),
  );
  return h("section", { class: "conversation", "aria-label": heading || "The conversation" }, said);
}

/** The body of response `number` of `responses`, as `look` says. */
export function body(responses, number) {
  const base = look.against === "each other" ? 1 - number : look.against;
  if (base === null || base === number || !responses[base]) return prose(responses[number]);
  const { parts, cut } = against(responses[number].text, responses[base].text);
  const shown = raw(parts.map((part) => (part.same ? part.text : h("mark", {}, part.text))), responses[number].text.length);
  const note = cut ? h("p", { class: "small soft" }, "Only the first 2,000 differing words are compared; the rest stands unmarked.") : null;
  return h("div", {}, shown, note);
}

/** A response in its card; `head` and `foot` are what the kind of task adds. */
export function card(responses, number, head = [], foot = []) {
  const letter = LETTERS[number];
  const name = responses.length > 1 ? `Response ${letter}` : "The response";
  const title = h("h3", { class: "letter" }, responses.length > 1 ? [h("span", { class: "unseen" }, "Response "), letter] : name);
  const filled = h("div", { class: "body" }, body(responses, number));
  const made = h("article", { class: "response card", "aria-label": name, dataset: { number } }, h("header", {}, title, head), filled, foot);
  made.refresh = () => filled.replaceChildren(body(responses, number));
  return made;
}
