"""Text of strangers as HTML that can do nothing: markdown by an allow-list, no raw HTML, no images, no live links."""

import re
import unicodedata
from functools import lru_cache
from html import escape

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

PLAIN = 40_000  # characters: longer text is shown as it is, markdown would take too long on it
SHORT = 4_000  # characters: of such texts the HTML is kept for the next labeller
JOINERS = (0x200C, 0x200D)  # part of the spelling between letters and in emoji
INVISIBLE = re.compile(  # controls, soft hyphen, fillers, marks of direction, zero width, a choice of glyph after another, tags
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<=[\ufe00-\ufe0f])[\ufe00-\ufe0f]"
)


def markdown(text: str) -> str:
    """Markdown as HTML."""
    if len(text) > PLAIN:
        return plain(text)
    return often(text) if len(text) <= SHORT else mark_invisible(PARSER.render(text))


@lru_cache(maxsize=2048)
def often(text: str) -> str:
    """A text that several people are shown is rendered once."""
    return mark_invisible(PARSER.render(text))


def plain(text: str) -> str:
    """Text as it is, with its line breaks."""
    return f'<p class="plain">{mark_invisible(escape(text))}</p>'


def line(text: str, most: int = 10_000) -> Markup:
    """A short text within a line, such as the beginning of a prompt in a list."""
    shortened = text if len(text) <= most else text[: most - 1].rstrip() + "…"
    return Markup(mark_invisible(escape(shortened)))


def mark_invisible(html: str) -> str:
    """Characters that cannot be seen, or that turn the order of others round, as small labels.

    `html` comes from the renderer below or from `escape`: no attribute in it holds text of strangers.
    """

    def label(found: re.Match[str]) -> str:
        code, at = ord(found[0]), found.start()
        if code in (0x2028, 0x2029, 0x0D):
            return "\n"
        if code in JOINERS and 0 < at < len(html) - 1 and all(unicodedata.category(html[i])[0] in "LMS" for i in (at - 1, at + 1)):
            return found[0]
        name = unicodedata.name(found[0], "control character").lower()
        return f'<span class="invisible" title="{escape(name)}">U+{code:04X}</span>'

    return INVISIBLE.sub(label, html)


def image(self: RendererHTML, tokens: list[Token], index: int, *_: object) -> str:
    """Never fetched: the words for it and its address, to be read."""
    token = tokens[index]
    return f'<span class="image">[image: {escape(token.content)} {escape(str(token.attrs.get("src", "")))}]</span>'


def link_open(self: RendererHTML, tokens: list[Token], index: int, *_: object) -> str:
    """Not to be followed: what a model wrote may lead anywhere."""
    return '<span class="link">'


def link_close(self: RendererHTML, tokens: list[Token], index: int, *_: object) -> str:
    """The address stands behind the words."""
    depth, at = 1, index - 1
    while depth:
        depth += {"link_close": 1, "link_open": -1}.get(tokens[at].type, 0)
        at -= 1
    return f' <span class="address">{escape(str(tokens[at + 1].attrs.get("href", "")))}</span></span>'


def cell(self: RendererHTML, tokens: list[Token], index: int, *_: object) -> str:
    """A cell of a table, without the style that would align it."""
    return f"<{tokens[index].tag}>"


def code(self: RendererHTML, tokens: list[Token], index: int, *_: object) -> str:
    """A block of code, without a class made of its language."""
    return f"<pre><code>{escape(tokens[index].content)}</code></pre>\n"


def parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough; raw HTML is text."""
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    rules = {"image": image, "link_open": link_open, "link_close": link_close, "fence": code, "code_block": code}
    for name, rule in {**rules, "th_open": cell, "td_open": cell}.items():
        made.add_render_rule(name, rule)
    return made


PARSER = parser()
