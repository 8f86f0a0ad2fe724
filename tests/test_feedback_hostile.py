"""What strangers write can do nothing: not in a page, not in an answer, and not to the machine that shows it."""

import json
import time
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desk_world import CHROMIUM, chromium
from feedback_world import Clock, World, new_key, served
from handrail.feedback.kinds import Item
from handrail.feedback.server.render import INVISIBLE, PLAIN, markdown, plain
from handrail.feedback.store import Database, people, projects
from handrail.records import Prompt

PLAIN_TAGS = "br hr em strong s code pre blockquote ul li h1 h2 h3 h4 h5 h6 table thead tbody tr th td"
ALLOWED: dict[str, set[str]] = {
    **{tag: set() for tag in PLAIN_TAGS.split()},
    "p": {"class"},
    "ol": {"start"},
    "span": {"class", "title"},
}
CLASSES = {"plain", "invisible", "image", "link", "address"}

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&#58;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](vbscript:x)",
    '[x](http://elsewhere.example/ "t\' onmouseover=alert(1)")',
    '[x](<http://elsewhere.example/"onmouseover=alert(1)>)',
    "![x](http://elsewhere.example/pixel.png)",
    '![x" onerror="alert(1)](http://elsewhere.example/pixel.png)',
    "![x](data:image/svg+xml;base64,PHN2Zy8+)",
    "[a]: http://elsewhere.example/track\n\n[a] and ![a]",
    "<http://elsewhere.example/auto>",
    '```"><script>alert(1)</script>\nx\n```',
    "```html onload=alert(1)\n<b>\n```",
    "`<b onclick=alert(1)>`",
    "| a |\n|:-:|\n| <b onclick=alert(1)> |",
    "<!-- --><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php echo 1 ?>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "<style>@import 'http://elsewhere.example/x.css'</style>",
    "<meta http-equiv=refresh content='0;url=http://elsewhere.example/'>",
    "<base href='http://elsewhere.example/'>",
    "<form action='http://elsewhere.example/'><button>x",
    "</p></div></body><script>alert(1)</script>",
    "\u202eevil\u202c \u2066x\u2069 zero\u200bwidth \ufeff \u00ad \u3164",
    "a\x00b\x01\x1b[31m\x7f\x85",
    "x\ufe0f\ufe01\ufe02 \U000e0041\U000e007f",
    "{{7*7}} {% raw %} ${7*7} #{7*7} <%= 7*7 %> {{request.app.state.db}}",
    "%s %n %x ' \" \\ `id` $(id)",
]


class Tags(HTMLParser):
    """Everything in a piece of HTML that is not text."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.wrong: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("br", "hr") or attributes:
            self.wrong.append(f"<{tag} {attributes}/>")

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.wrong += [] if tag in ALLOWED else [f"<{tag}>"]
        for name, value in attributes:
            fits = {"class": value in CLASSES, "start": str(value).isdecimal(), "title": True}
            if name not in ALLOWED.get(tag, set()) or not fits[name]:
                self.wrong.append(f"<{tag} {name}={value}>")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.wrong.append("a comment")

    def handle_decl(self, decl: str) -> None:
        self.wrong.append("a declaration")

    def handle_pi(self, data: str) -> None:
        self.wrong.append("an instruction")


def assert_inert(html: str) -> Tags:
    """Nothing but tags and attributes of the list, each closed, and no character that cannot be seen."""
    found = Tags(html)
    assert found.wrong == [] and found.open == [], (found.wrong, found.open, html[:2000])
    seen = html
    for joiner in ("\u200c", "\u200d"):
        seen = seen.replace(joiner, "")
    assert INVISIBLE.search(seen) is None, html[:2000]
    return found


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_are_text(text: str):
    for html in (markdown(text), plain(text), markdown(f"# {text}\n\n> * {text}\n\n{text} | {text}")):
        assert_inert(html)


def test_what_is_said_stays_readable():
    found = assert_inert(markdown("[words](http://elsewhere.example/a) ![cat](http://elsewhere.example/b) <i>x</i>"))
    for word in ("words", "http://elsewhere.example/a", "cat", "http://elsewhere.example/b", "<i>x</i>"):
        assert word in found.text
    assert "U+202E" in markdown("a\u202eb") and "U+3164" in markdown("a\u3164b") and "U+200B" in markdown("a&#8203;b")
    assert "U+FE01" in markdown("x\ufe0f\ufe01") and "U+" not in markdown("☂\ufe0f नम\u200dस्ते 👩\u200d🚀")
    assert assert_inert(markdown("**b** _i_ ~~s~~ `c`\n\n1. x\n\n| a |\n|:-:|\n| b |")).text.split() == ["b", "i", "s", "c", "x", "a", "b"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_random_text_is_inert(text: str):
    assert_inert(markdown(text))
    assert_inert(plain(text))


PIECES = [
    *"<>&\"'`*_[]()!|~#-+\\:/= \n\t",
    "```",
    "](",
    "![",
    "<!--",
    "-->",
    "javascript:",
    "http://",
    "&#x",
    ";",
    "onerror=",
    "\u202e",
    "\x00",
    "a",
    "1. ",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES + ATTACKS), max_size=40).map("".join))
def test_markup_thrown_together_is_inert(text: str):
    assert_inert(markdown(text))


BOMBS = ["[", "*a ", "a**b", "_*", "![", "[a](", ">", "- ", "<", "&", "\\", "`", "***a ", "[x][", "```\n", "<!--", "[a]: x\n"]
BOMBS += ["|a", "\n", "a\n", "1. ", "\ufe0f", "|a|a\n|-|-\n", "~~", "&#x20;", "\u200d"]
LENGTHS = [4_000, pytest.param(PLAIN, marks=pytest.mark.slow)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("piece", BOMBS)
def test_no_text_keeps_the_parser_busy(piece: str, length: int):
    began = time.process_time()
    html = markdown(piece * (length // len(piece)))
    assert time.process_time() - began < 8.0, "seconds of the processor"
    assert len(html) < 100 * length
    assert_inert(html)


def test_a_megabyte_on_one_line_is_shown_as_it_is():
    assert assert_inert(markdown("x<b>" * 250_000)).text == "x<b>" * 250_000


# Through the whole app.


def test_hostile_text_comes_through_the_app_as_it_is_and_inert(world: World):
    """In prompts, responses, instructions, examples, titles, names and reasons; as text unchanged, as HTML inert."""
    everything = "\n\n".join(ATTACKS)
    found = [Item(prompt=Prompt.of(text), responses=(text, everything[:5000])) for text in ATTACKS]
    world.make_task(*found, title=ATTACKS[0], instructions=everything, examples=tuple(ATTACKS))
    person = people.invite(world.db, "<img src=x onerror=alert(1)>", to=["support"])
    client, admin = world.client(person), world.client(world.admin())
    asked = client.get(f"/api/tasks/{world.task.id}").json()
    assert asked["title"] == ATTACKS[0]
    for html in (asked["instructions"], *asked["examples"]):
        assert_inert(html)
    given = client.post(f"/api/tasks/{world.task.id}/next", json={"count": 50, "html": True}).json()["items"]
    assert {one["messages"][0]["text"] for one in given} == set(ATTACKS)
    for one in given:
        text = one["messages"][0]["text"]
        assert {response["text"] for response in one["responses"]} == {text, everything[:5000]}
        for shown in one["messages"] + one["responses"]:
            assert assert_inert(shown["html"])
        body = {"key": new_key(), "answer": {"kind": "compare", "better": 0}, "reason": text}
        assert client.post(f"/api/assignments/{one['id']}", json=body).status_code == 200
    exported = admin.post("/api/projects/support/snapshots", json={}).json()
    lines = admin.get(f"/api/snapshots/{exported['id']}/labels.jsonl").text.splitlines()
    assert {json.loads(line)["reason"] for line in lines} == set(ATTACKS)
    page = client.get(f"/enter/{people.issue(world.db, person, 'link')}").text
    assert "<img src=x" not in page and "&lt;img src=x" in page


NASTY = ["\ud800", "\udfff\ud800", "\x00", "\u202e", "é" * 5000, "{{7*7}}", "<script>", "9" * 400, "\\u0000"]


@pytest.mark.parametrize("text", NASTY, ids=[ascii(text[:8]) for text in NASTY])
def test_no_text_in_any_field_breaks_the_app(world: World, text: str):
    """Half surrogate pairs, NUL and the rest, as values and as names of fields: an answer, never a failure."""
    world.make_task(kind="rate")
    admin, where = world.client(world.admin()), f"/api/tasks/{world.task.id}"
    bodies = {
        "/api/projects": {"name": f"p{len(text)}", "title": text},
        "/api/people": {"name": f"n{text}", "projects": [text]},
        "/api/projects/support/tasks": {"name": "t", "settings": {"kind": "rate", "instructions": text, "title": text}},
        f"{where}/items": [{"prompt": {"messages": [{"role": "user", "content": text}]}, "responses": [text], "meta": {text: text}}],
        "/api/projects/support/snapshots": {"rules": {"tasks": [text], "without": [text]}},
        f"{where}/next": {text: text},
    }
    for path, body in bodies.items():
        for sent in (body, {text: body}, {"name": text, **(body if isinstance(body, dict) else {})}, [body, text], text):
            answer = admin.post(path, content=json.dumps(sent), headers={"content-type": "application/json"})
            assert answer.status_code in (200, 201, 404, 409, 422), (path, answer.status_code, answer.text)
            answer.json()
    client = world.client(world.labeller())
    for one in client.post(f"{where}/next", json={"count": 9, "html": True}).json()["items"]:
        body = {"key": new_key(), "answer": {"kind": "rate", "ratings": [{text: 1}]}, "reason": text[:1000]}
        answer = client.post(f"/api/assignments/{one['id']}", content=json.dumps(body))
        assert answer.status_code == 422
    assert admin.get("/api/projects").status_code == admin.get("/api/people").status_code == admin.get("/api/audit").status_code == 200


DEEP = 30_000


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"nul",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"[" * DEEP + b"]" * DEEP,
        b'{"meta":' * DEEP + b"1" + b"}" * DEEP,
        b'{"name": NaN}',
        b'{"name": 1e999}',
        b'{"count": 1e999}',
        b'{"count": -0.0}',
        b'{"count": ' + b"9" * 5000 + b"}",
        b'{"count": true}',
        b'{"name": "a", "name": "b"}',
    ],
    ids=range(14),
)
def test_no_body_breaks_the_app(world: World, body: bytes):
    world.make_task(pair_of_text("x"))
    admin = world.client(world.admin())
    for path in ("/api/projects", "/api/people", f"/api/tasks/{world.task.id}/next", f"/api/tasks/{world.task.id}/items"):
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            answer = admin.post(path, content=body, headers={"content-type": kind})
            assert answer.status_code in (200, 201, 400, 422), (path, answer.status_code, answer.text)
            assert answer.status_code < 400 or set(answer.json()) == {"found", "allowed", "remedy"}


def pair_of_text(text: str) -> Item:
    return Item(prompt=Prompt.of(text), responses=(text, text + "."))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e308", "-1", "1" + "0" * 400])
def test_numbers_beyond_all_bounds_are_answered(world: World, number: str):
    admin = world.client(world.admin())
    world.make_task()
    for name in ("lease", "gold", "overlap", "turns"):
        body = '{"name": "n-' + name + '", "settings": {"kind": "rate", "' + name + '": ' + number + "}}"
        answer = admin.post("/api/projects/support/tasks", content=body)
        assert answer.status_code in (201, 422), (name, answer.text)
    for field in ('"priority": ' + number, '"meta": {"x": ' + number + "}"):
        body = '[{"prompt": {"messages": [{"role": "user", "content": "x"}]}, "responses": ["a", "b"], ' + field + "}]"
        answer = admin.post(f"/api/tasks/{world.task.id}/items", content=body)
        assert answer.status_code in (200, 422), (field, answer.text)
    labeller = world.client(world.labeller())
    given = labeller.post(f"/api/tasks/{world.task.id}/next", json={"count": 5}).json()["items"]
    for one in given:
        body = '{"key": "' + new_key() + '", "act": "flag", "seconds": ' + number + "}"
        assert labeller.post(f"/api/assignments/{one['id']}", content=body).status_code in (200, 422)
    assert projects.all_tasks(world.db, "support") and admin.get("/api/projects/support/tasks").status_code == 200


# In a real browser.

OWN = "script, object, iframe, img[src*=elsewhere], svg[onload], a[href*=elsewhere], form[action*=elsewhere], base, math"


@pytest.mark.slow
def test_a_browser_does_nothing_with_it(tmp_path: Path):
    """On the labeller's own pages: no dialog, no request to elsewhere, no script, nothing that the policy had to stop."""
    path = chromium()
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    where = str(tmp_path / "feedback.db")
    everything = "\n\n".join(ATTACKS)
    with closing(Database.open(where)) as db:
        world = World(db, Clock(time.time()), where)
        item = Item(prompt=Prompt.of(everything), responses=(everything, f"# {everything}"))
        world.make_task(item, title=ATTACKS[1], instructions=everything, examples=(everything,))
        person = people.invite(db, ATTACKS[2], to=["support"])
        link = people.issue(db, person, "link")
    asked, dialogs, said = [], [], []
    with served(where, tmp_path / "log") as server, sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{server.address}/enter/{link}")
        page.click("text=Sign in")
        page.wait_for_selector("#tasks[aria-busy=false]")
        page.goto(f"{server.address}/tasks/{world.task.id}")
        page.wait_for_selector("#send:visible")
        page.wait_for_timeout(1500)
        assert page.inner_text("body").count("alert(1)") >= 3 * len([text for text in ATTACKS if "alert(1)" in text and "<" in text])
        assert page.locator(f"main :is({OWN}), dialog :is({OWN}), :is([onerror], [onclick], [onload], [onmouseover])").count() == 0
        assert page.url == f"{server.address}/tasks/{world.task.id}"
        browser.close()
    assert asked and all(url.startswith((server.address, "data:image/", "blob:")) for url in asked)
    assert dialogs == [] and said == []
