"""The labeller's pages in a real browser against a real server; afterwards the store is asked what came of it.

tests/assets/axe.min.js is axe-core 4.14.1, copyright 2015 - 2026 Deque Systems, Inc., under the Mozilla Public License 2.0
(its notice stands at its head); it is used by these tests alone and is no part of the package.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from desk_world import ARABIC, CHROMIUM, World, asked, chromium, compare_items, every_kind, rank_items, serving
from handrail.feedback.kinds import Compared, Label, Ranked, TaskSettings, check
from handrail.feedback.store import projects, skips, snapshots
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import Task
from handrail.feedback.store.tables import assignments, events, keys

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

AXE = Path(__file__).parent / "assets" / "axe.min.js"
THINK = 750  # ms: sooner after an item came into sight nothing is sent
NETWORK = r"net::ERR_(INTERNET_DISCONNECTED|CONNECTION_REFUSED|FAILED|NETWORK_CHANGED|EMPTY_RESPONSE|CONNECTION_RESET)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as served:
        yield served


class Seat:
    """A browser of somebody's own: its context, its page, and what went wrong in it."""

    def __init__(self, browser: Any, world: World, **options: Any):
        self.world = world
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.context.set_default_timeout(15_000)
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.context.on("request", self.requested)
        self.page = self.open()

    def open(self) -> Any:
        page = self.context.new_page()
        page.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        return page

    def requested(self, request: Any) -> None:
        if not request.url.startswith((self.world.address, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def enter(self, person: Person) -> None:
        self.page.goto(self.world.link(person))
        self.page.click("text=Sign in")
        self.page.wait_for_selector("#tasks[aria-busy=false]")

    def work(self, task: Task, page: Any = None) -> None:
        """Open a task's desk, with the first item on it and the instructions put away."""
        page = page or self.page
        page.goto(f"{self.world.address}/tasks/{task.id}")
        self.ready(page)
        if page.locator("#instructions[open]").count():
            page.click("#instructions .close")

    def ready(self, page: Any = None) -> None:
        """Somebody has looked at the item before them."""
        page = page or self.page
        page.wait_for_selector("#send:visible")
        page.wait_for_timeout(THINK)

    def press(self, *names: str) -> None:
        for name in names:
            self.page.keyboard.press(name)

    def answer(self, *names: str) -> None:
        """Choose, send, and look at the next."""
        self.press(*names, "Enter")
        self.page.wait_for_timeout(THINK)

    def until(self, expression: str, page: Any = None) -> None:
        """Wait for it; the pages' policy forbids the browser to poll with text that it makes into code."""
        for _ in range(200):
            if (page or self.page).evaluate(expression):
                return
            self.page.wait_for_timeout(75)
        raise AssertionError(f"never came true: {expression}")

    def sent(self) -> None:
        """Nothing waits any more."""
        self.until("!Object.keys(localStorage).some((name) => name.includes(':out:'))")

    def close(self, allowed: str = NETWORK) -> None:
        """Nothing went wrong but what was meant to."""
        self.context.close()
        assert [text for text in self.problems if not re.search(allowed, text)] == []
        assert self.elsewhere == []


def labels_of(world: World, task: Task) -> list[Label]:
    """The labels of a task as they stand, practice left out, the oldest first."""
    _, found = snapshots.take(world.db, "garden", snapshots.Rules(flagged=True))
    return sorted((one for one in found if one.task == task.name and one.purpose != "practice"), key=lambda one: one.at)


def events_of(world: World, task: Task) -> list[tuple[str, str]]:
    """(assignment, kind) of everything that was done in a task."""
    with world.db.read() as connection:
        rows = connection.execute(select(events.c.assignment, events.c.kind).where(events.c.task == task.id).order_by(events.c.at))
        return [(row[0], row[1]) for row in rows]


def shown_places(label: Label) -> tuple[int, ...]:
    """The places of a ranking in the order in which the responses stood on the screen."""
    assert isinstance(label.answer, Ranked)
    return tuple(label.answer.places[one] for one in label.order)


def test_a_day_at_the_desk(browser: Any, world: World) -> None:
    """In by a link, practise, rank six by keyboard, undo, lose the connection, come back, finish."""
    practice = asked(
        "Practice: sort them.", *"abcdef", practice=True, gold=Ranked(places=(1, 2, 3, 4, 5, 6)), explanation="By the alphabet."
    )
    task = world.task("rank", [practice, *rank_items(4)], instructions="**First** the best.")
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    page = seat.page
    page.click("text=Begin")
    seat.ready()
    assert page.inner_text("#instructions .prose") == "First the best."
    seat.press("i")
    assert page.locator("#instructions[open]").count() == 0, "closed, and the focus is where it was"
    texts = page.locator(".response .body").all_inner_texts()
    digits = [str(1 + texts.index(letter)) for letter in "abcdef"]
    seat.answer(*digits)
    page.wait_for_selector(".verdict")
    assert "Yes, that is it" in page.inner_text(".verdict") and "By the alphabet." in page.inner_text(".verdict")

    seat.answer()  # go on
    seat.press("3", "1", "=", "6", "5", "4")
    seat.until("document.querySelector('#said').textContent === 'D: place 4 of 4'")
    seat.press("Enter")
    assert page.inner_text("#missing") == "B: no place yet."
    seat.answer("2")
    assert "Ranking 1" in page.inner_text(".conversation")
    seat.sent()
    assert shown_places(labels_of(world, task)[0]) == (1, 5, 1, 4, 3, 2)

    seat.press("u")  # the last comes back as it was answered, and is answered otherwise
    page.wait_for_selector("text=Ranking 0")
    assert page.locator(".board li").count() == 6
    page.wait_for_timeout(THINK)
    page.focus(".board li:last-child .acts .up")
    seat.press("Enter")
    seat.page.focus("h1")
    seat.answer()
    seat.sent()
    (label,) = labels_of(world, task)
    assert shown_places(label) == (1, 4, 1, 5, 3, 2) and label.seconds > 0

    seat.context.set_offline(True)
    seat.answer(*"123456")
    page.wait_for_selector("text=1 answer waits here; it goes out by itself.")
    seat.answer(*"654321")
    page.wait_for_selector("text=2 answers wait here; they go out by themselves.")
    assert len(labels_of(world, task)) == 1
    page.reload()
    seat.ready()
    assert "Ranking 3" in page.inner_text(".conversation")
    seat.answer(*"213456")
    page.wait_for_selector("text=No more items are kept here.")
    seat.context.set_offline(False)
    seat.sent()
    page.wait_for_selector("text=All done")
    found = labels_of(world, task)
    assert [shown_places(one) for one in found][1:] == [(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1), (2, 1, 3, 4, 5, 6)]
    assert [kind for _, kind in events_of(world, task)] == ["submit", "submit", "undo", "submit", "submit", "submit", "submit"]
    seat.close()


def test_each_kind_by_keyboard_alone_on_a_phone(browser: Any, world: World) -> None:
    tasks = every_kind(world)
    seat = Seat(browser, world, viewport={"width": 360, "height": 720}, color_scheme="dark")
    seat.enter(world.labeller())
    page = seat.page

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 360

    fits()
    seat.work(tasks["compare"])
    fits()
    seat.answer("1")
    page.wait_for_selector(".verdict")
    fits()
    seat.answer()
    seat.press("r")
    page.keyboard.type("B names the plant; é ü 漢")
    seat.press("Escape", "4")
    fits()
    seat.answer()
    fits()
    seat.press("d", "p")
    fits()
    seat.sent()
    (label,) = labels_of(world, tasks["compare"])
    assert label.answer.model_dump() == {"kind": "compare", "better": label.order[1], "strength": "slightly"}
    assert label.reason == "B names the plant; é ü 漢"

    seat.work(tasks["rate"])
    fits()
    seat.answer(*"2")
    assert "Not rated yet: A truth, B helpfulness, B truth" in page.inner_text("#missing")
    seat.answer(*"637")
    seat.sent()
    (label,) = labels_of(world, tasks["rate"])
    rated = [label.answer.ratings[one] for one in label.order]
    assert rated == [{"helpfulness": 2, "truth": 6}, {"helpfulness": 3, "truth": 7}]

    seat.work(tasks["demonstrate"])
    fits()
    seat.press("e")
    page.keyboard.type("Water it weekly.")
    seat.press("Control+Enter")
    seat.sent()
    assert labels_of(world, tasks["demonstrate"])[0].answer.text == "Water it weekly."

    seat.work(tasks["demonstrate-edit"])
    given = page.input_value("#text")
    assert given.startswith("Grafting joins two plant so")
    seat.press("e", "Control+Home")
    page.keyboard.type("Yes. ")
    seat.press("Escape")
    page.focus(".changes summary")
    seat.press("Enter")
    seat.until("document.querySelector('.difference ins')?.textContent.trim() === 'Yes.'")
    fits()
    seat.press("Control+Enter")
    seat.sent()
    assert labels_of(world, tasks["demonstrate-edit"])[0].answer.text == "Yes. " + given

    seat.work(tasks["chat"])
    seat.press("e")
    for turn, choice in enumerate("24"):
        page.keyboard.type(f"Say {turn}")
        seat.press("Control+Enter")
        page.wait_for_selector(".chat .choice:enabled")
        fits()
        seat.press(choice)
        page.wait_for_selector("#say:enabled")
    seat.press("Escape")
    seat.answer()
    seat.sent()
    (label,) = labels_of(world, tasks["chat"])
    assert [(t.message, t.tie) for t in label.answer.turns] == [("Say 0", False), ("Say 1", True)]
    assert label.answer.turns[0].responses == ("Echo one heard, in turn 1: Say 0", "Echo two heard, in turn 1: Say 0")
    seat.close()


def test_what_was_chosen_in_a_chat_is_what_it_goes_on_from(browser: Any, world: World) -> None:
    task = world.task("chat", [asked("Talk about roses")], models=("one", "two"), turns=2)
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    seat.page.fill("#say", "Hello")
    seat.page.click("text=Say it to both")
    seat.page.wait_for_selector(".chat .choice:enabled")
    chosen = seat.page.locator(".chat .response .body").nth(1).inner_text()
    seat.page.reload()  # the answers wait where they stood
    seat.ready()
    assert seat.page.locator(".chat .response .body").nth(1).inner_text() == chosen
    seat.answer()
    assert "Choose one of the two answers first" in seat.page.inner_text("#missing")
    seat.page.click(".chat .choice >> nth=1")
    seat.page.wait_for_selector("#say:enabled")
    assert seat.page.locator(".chat .message.assistant").inner_text().endswith(chosen)
    seat.page.click("#send")
    seat.sent()
    (label,) = labels_of(world, task)
    (turn,) = label.answer.turns
    assert turn.responses[turn.better] == chosen and not turn.tie
    seat.close()


def test_ten_fast_keys_give_no_item_more_than_one_vote(browser: Any, world: World) -> None:
    task = world.task("compare", compare_items(8))
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    first = seat.page.inner_text(".conversation")
    for _ in range(10):
        seat.press("1", "Enter")
    assert seat.page.inner_text(".conversation") != first
    seat.sent()
    acts = events_of(world, task)
    assert len(acts) == len({assignment for assignment, _ in acts}) >= 1
    assert len(acts) < 10, "an item that was hardly seen got a vote"
    seat.page.wait_for_timeout(THINK)
    before = len(acts)
    seat.press("5")
    seat.page.dblclick("#send")
    seat.page.wait_for_timeout(300)
    seat.sent()
    assert len(events_of(world, task)) == before + 1
    seat.close()


def test_an_acknowledgement_that_is_lost_makes_no_second_event(browser: Any, world: World) -> None:
    """The server wrote it down and the connection broke: it goes out again, with the same key."""
    task = world.task("compare", compare_items(3))
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    tried: list[str] = []

    def broken(route: Any) -> None:
        tried.append(route.request.post_data)
        if len(tried) > 2:
            route.continue_()
        else:
            route.fetch()
            route.fulfill(status=503) if len(tried) == 1 else route.abort()

    seat.page.route("**/api/assignments/*", broken)
    seat.answer("1")
    seat.sent()
    assert len(tried) == 3 and len(set(tried)) == 1
    assert len(events_of(world, task)) == 1
    seat.close(f"{NETWORK}|status of 503")


def test_what_is_refused_is_told_and_kept(browser: Any, world: World) -> None:
    task = world.task("demonstrate", [asked("Write one"), asked("Write another")])
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    body = '{"found": "the text is odd", "allowed": "another", "remedy": ""}'
    seat.page.route("**/api/assignments/*", lambda route: route.fulfill(status=422, body=body, content_type="application/json"))
    seat.page.fill("#text", "A long text that took an hour")
    seat.press("Control+Enter")
    seat.page.wait_for_selector("text=An answer was not taken: the text is odd; another.")
    seat.page.unroute("**/api/assignments/*")
    seat.page.reload()
    seat.page.click("text=What you had answered")
    assert seat.page.inner_text("#banner pre") == "A long text that took an hour"
    seat.ready()
    assert "Write another" in seat.page.inner_text(".conversation")
    seat.page.fill("#text", "Fine")
    seat.press("Control+Enter")
    seat.sent()
    assert [one.answer.text for one in labels_of(world, task)] == ["Fine"]
    seat.page.click("text=I have seen it; throw it away")
    assert seat.page.locator("#banner .bad").count() == 0
    seat.close(f"{NETWORK}|status of 422")


@pytest.mark.parametrize("status, type", [(404, "text/html"), (421, "application/json")])
def test_what_a_proxy_turns_away_waits_and_goes_out_by_itself(browser: Any, world: World, status: int, type: str) -> None:
    task = world.task("demonstrate", [asked("Write one"), asked("Write another")])
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    seat.page.route("**/api/assignments/*", lambda route: route.fulfill(status=status, body="{}", content_type=type))
    seat.page.fill("#text", "A long text that took an hour")
    seat.press("Control+Enter")
    seat.page.wait_for_selector("text=1 answer waits here")
    assert seat.page.locator("#banner .bad").count() == 0
    seat.page.unroute("**/api/assignments/*")
    seat.sent()
    assert [one.answer.text for one in labels_of(world, task)] == ["A long text that took an hour"]
    seat.close(f"{NETWORK}|status of {status}")


def test_what_was_refused_can_be_sent_again(browser: Any, world: World) -> None:
    task = world.task("demonstrate", [asked("Write one"), asked("Write another")])
    seat, keys_sent = Seat(browser, world), []
    seat.enter(world.labeller())
    seat.work(task)

    def refuse(route: Any) -> None:
        keys_sent.append(route.request.post_data_json["key"])
        route.fulfill(status=422, body='{"found": "the text is odd", "allowed": "", "remedy": ""}', content_type="application/json")

    seat.page.route("**/api/assignments/*", refuse)
    seat.page.fill("#text", "A long text that took an hour")
    seat.press("Control+Enter")
    seat.page.wait_for_selector("text=An answer was not taken")
    seat.page.click("text=Send again")
    seat.page.wait_for_selector("text=An answer was not taken")
    seat.until("Object.keys(localStorage).some((name) => name.includes(':refused:'))")
    seat.page.unroute("**/api/assignments/*")
    seat.page.click("text=Send again")
    seat.until("!Object.keys(localStorage).some((name) => /:(out|refused):/.test(name))")
    assert [one.answer.text for one in labels_of(world, task)] == ["A long text that took an hour"]
    with world.db.read() as connection:
        assert keys_sent == 2 * list(connection.scalars(select(events.c.key))), "under its old key"
    assert seat.page.locator("#banner .bad").count() == 0
    seat.close(f"{NETWORK}|status of 422")


def test_a_draft_survives_a_reload_and_the_server_being_away(browser: Any, world: World) -> None:
    task = world.task("demonstrate", [asked("Write one"), asked("Write two")])
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    seat.until("navigator.serviceWorker.controller !== null")
    seat.page.fill("#text", "Half a thought " + ARABIC)
    seat.page.wait_for_timeout(400)
    world.stop()
    seat.page.reload()
    seat.ready()
    assert seat.page.input_value("#text") == "Half a thought " + ARABIC
    seat.press("Control+Enter")
    seat.page.wait_for_selector("text=Write two")
    seat.page.goto(f"{world.address}/")
    seat.page.wait_for_selector("text=1 answer waits here")
    seat.page.wait_for_selector(".task")
    cached = seat.page.evaluate(
        "caches.keys().then(async (names) => (await (await caches.open(names[0])).keys()).map((r) => new URL(r.url).pathname))"
    )
    assert cached and not [path for path in cached if path.startswith(("/api", "/tasks"))]
    world.start()
    seat.page.click("text=Try now")
    seat.sent()
    assert [one.answer.text for one in labels_of(world, task)] == ["Half a thought " + ARABIC]
    seat.close()


def test_an_expired_session_and_another_person(browser: Any, world: World) -> None:
    """Answers wait for the one whose they are: another sees and sends nothing of them."""
    task = world.task("compare", compare_items(8))
    first, second = world.labeller("labeller-1"), world.labeller("labeller-2")
    seat = Seat(browser, world)
    seat.enter(first)
    seat.work(task)
    with world.db.write() as connection:
        connection.execute(delete(keys).where(keys.c.kind == "session"))
    seat.answer("1")
    seat.page.wait_for_selector("text=1 answer waits here: you are signed out.")
    seat.answer("5")
    seat.page.wait_for_selector("text=2 answers wait here: you are signed out.")

    other = seat.open()
    seat.page, old = other, seat.page
    seat.enter(second)
    assert "wait" not in other.inner_text("#banner") and "Labeller 2" in other.inner_text("h1")
    old.wait_for_selector("text=Somebody else signed in on this browser")
    seat.work(task)
    assert "wait" not in other.inner_text("#banner")
    seat.answer("1")
    seat.until("!Object.keys(localStorage).some((name) => name.includes('labeller-2:out:'))")
    assert {one.labeller for one in labels_of(world, task)} == {"labeller-2"}
    other.click("text=Sign out")
    other.wait_for_selector("text=Sign in with your link")
    seat.enter(first)
    seat.sent()
    assert sorted(one.labeller for one in labels_of(world, task)) == ["labeller-1", "labeller-1", "labeller-2"]
    seat.close(f"{NETWORK}|status of (401|412)")


def test_two_tabs_do_not_answer_an_item_twice(browser: Any, world: World) -> None:
    task = world.task("compare", compare_items(6))
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    other = seat.open()
    seat.work(task, other)
    assert other.inner_text(".conversation") == seat.page.inner_text(".conversation")
    before = other.inner_text(".conversation")
    seat.answer("1")
    seat.until(f"!document.querySelector('.conversation')?.innerText.includes({before!r})", other)
    seat.ready(other)
    other.keyboard.press("1")
    other.keyboard.press("Enter")
    seat.ready()
    seat.answer("2")
    seat.sent()
    acts = events_of(world, task)
    assert [kind for _, kind in acts] == ["submit"] * 3 and len({assignment for assignment, _ in acts}) == 3
    seat.close()


def test_back_and_forth_edit_skip_and_flag(browser: Any, world: World) -> None:
    task = world.task("compare", compare_items(5))
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    seat.answer("1")
    seat.answer("2")
    seat.press("b", "b")
    seat.page.wait_for_selector("text=Earlier: 1 of 2")
    seat.page.wait_for_timeout(THINK)
    assert seat.page.locator(".choice :checked").get_attribute("aria-label") == "A is clearly better"
    seat.answer("5")  # an edit; the desk goes on with the present item
    assert seat.page.locator(".badge").count() == 0
    seat.sent()
    first = labels_of(world, task)
    assert len(first) == 2
    assert {kind for _, kind in events_of(world, task)} == {"submit", "edit"}
    seat.press("u")  # of an edit: the answer before it holds again, and stands there
    seat.page.wait_for_selector("text=Earlier: 1 of 2")
    assert seat.page.locator(".choice :checked").get_attribute("aria-label") == "A is clearly better"
    seat.page.wait_for_timeout(THINK)
    seat.answer("5")
    seat.sent()

    seat.press("s")
    seat.page.check("text=It is unclear or broken")
    seat.page.fill("#why-words", "half a sentence")
    seat.page.click("text=Skip it")
    seat.page.wait_for_timeout(THINK)
    seat.press("f")
    assert seat.page.locator("dialog:modal [name=why]:checked").count() == 0, "nothing is chosen for anybody"
    seat.page.click("text=Flag, I still answer")
    assert seat.page.locator("dialog:modal").count() == 1, "a reason is wanted"
    seat.page.check("text=Harmful or shocking")
    seat.page.click("text=Flag, I still answer")
    seat.page.wait_for_selector(".badge.warn")
    seat.answer("3")
    seat.sent()
    assert sorted(kind for _, kind in events_of(world, task)) == ["edit", "edit", "flag", "skip", "submit", "submit", "submit", "undo"]
    with world.db.read() as connection:
        bodies = {row.kind: row.body for row in connection.execute(select(events.c.kind, events.c.body))}
    assert bodies["skip"]["reason"] == "It is unclear or broken: half a sentence"
    assert bodies["flag"]["reason"] == "Harmful or shocking"
    assert [one.flagged for one in labels_of(world, task) if one.answer.better is None] == [True]
    seat.close()


def test_what_was_skipped_comes_back(browser: Any, world: World) -> None:
    """At the end by the labeller's own wish; and where those who run the project offer it again, though it was done with here."""
    task = world.task("compare", compare_items(2))
    seat, person = Seat(browser, world), world.labeller()
    seat.enter(person)
    seat.work(task)
    skip = lambda: (seat.press("s", "Space"), seat.page.click("text=Skip it"), seat.page.wait_for_timeout(THINK))  # noqa: E731
    skip()
    seat.answer("1")
    seat.page.wait_for_selector("text=You skipped 1 item that still wants an answer.")
    seat.page.click("text=Look at it again")
    seat.ready()
    assert "Question 0" in seat.page.inner_text(".conversation")
    skip()
    seat.page.wait_for_selector("text=All done")
    seat.sent()
    seat.page.goto(f"{world.address}/")
    card = seat.page.locator(".task")
    card.wait_for()
    assert "1 item that you skipped may be taken up · 1 answered by you" in card.inner_text() and "Go on" not in card.inner_text()
    with world.db.read() as connection:
        item = connection.scalar(select(assignments.c.item).where(assignments.c.state == "skipped"))
    assert skips.offer_again(world.db, world.admin, task, item) == 1
    seat.page.reload()
    seat.page.click("text=Go on")
    seat.ready()
    assert "Question 0" in seat.page.inner_text(".conversation")
    seat.answer("5")
    seat.sent()
    assert len(labels_of(world, task)) == 2
    projects.revise(world.db, task, task.settings.model_copy(update={"overlap": 1}))
    seat.page.goto(f"{world.address}/")
    seat.page.wait_for_selector(".task")
    assert "Finished" in card.inner_text() and "Open" in card.inner_text()
    seat.close()


def test_the_count_says_what_was_answered(browser: Any, world: World) -> None:
    """Practice is no answer, an edit is no second one; what is on its way counts, and what is taken back does not."""
    practice = asked("Practice", "a", "b", practice=True, gold=Compared(better=0))
    task = world.task("compare", [practice, *compare_items(4)])
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    count = lambda: seat.page.inner_text("#progress")  # noqa: E731
    seat.answer("1")
    seat.page.wait_for_selector(".verdict")
    seat.answer()
    assert count() == ""
    seat.answer("1")
    seat.answer("2")
    assert count() == "2 answered by you"
    seat.press("b")
    seat.page.wait_for_selector("text=Earlier")
    seat.page.wait_for_timeout(THINK)
    seat.answer("5")
    assert count() == "2 answered by you"
    seat.press("u")
    seat.page.wait_for_timeout(THINK)
    assert count() == "2 answered by you", "the answer before the edit holds"
    seat.press("n")
    seat.ready()
    seat.context.set_offline(True)
    seat.answer("1")
    assert count() == "3 answered by you"
    seat.press("u")
    seat.ready()
    assert count() == "2 answered by you"
    seat.context.set_offline(False)
    seat.sent()
    assert count() == "2 answered by you"
    seat.answer("1")
    seat.page.route("**/api/assignments/*", lambda route: None)  # held until there is no route any more
    seat.answer("1")
    seat.page.wait_for_selector("text=1 answer still on the way; it goes out by itself.")
    assert count() == "4 answered by you"
    seat.page.unroute("**/api/assignments/*")
    seat.page.wait_for_selector("text=Your answers have arrived.")
    assert seat.page.locator("text=still on the way").count() == 0
    seat.page.reload()
    seat.page.wait_for_selector("text=All done")
    assert count() == "4 answered by you" == f"{len(labels_of(world, task))} answered by you"
    seat.close()


@pytest.mark.parametrize("touch", [False, True])
def test_ranking_by_dragging(browser: Any, world: World, touch: bool) -> None:
    task = world.task("rank", rank_items(2, 4))
    seat = Seat(browser, world, has_touch=touch, viewport={"width": 900, "height": 1100})
    seat.enter(world.labeller())
    seat.work(task)
    page = seat.page
    for button in page.locator(".place").all():
        button.click()
    page.locator(".board").scroll_into_view_if_needed()
    boxes = [row.bounding_box() for row in page.locator(".board .grip").all()]
    x, start, end = boxes[3]["x"] + 10, boxes[3]["y"] + 20, boxes[0]["y"] + 2
    if touch:
        session = seat.context.new_cdp_session(page)
        for kind, y in [("touchStart", start), *(("touchMove", start + (end - start) * i / 8) for i in range(1, 9))]:
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    else:
        page.mouse.move(x, start)
        page.mouse.down()
        page.mouse.move(x, end, steps=8)
        page.mouse.up()
    seat.until("document.querySelector('#said').textContent === 'D: place 1 of 4'")
    page.focus("h1")
    seat.answer()
    seat.sent()
    assert shown_places(labels_of(world, task)[0]) == (2, 3, 4, 1)
    seat.close()


def test_hostile_and_foreign_texts(browser: Any, world: World) -> None:
    evil = '<script>document.title = "owned"</script><img src=x onerror="document.title = 1"> [x](javascript:alert(1)) ![p](http://example.org/p.png)'
    task = world.task("compare", [asked(evil, evil, ARABIC), *compare_items(2)], instructions=evil, examples=(evil,))
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    page = seat.page
    assert page.locator("main img, main script, main a[href^=javascript], main [onerror]").count() == 0
    right = page.locator(".response .prose p", has_text="مرحبا")
    assert right.evaluate("(e) => getComputedStyle(e).direction") == "rtl"
    seat.press("p")
    assert "<script>document.title" in page.inner_text(".conversation")
    assert "Compare" in page.title()
    seat.close()


def test_a_megabyte_does_not_freeze_the_page(browser: Any, world: World) -> None:
    words = " ".join(f"word{i}" for i in range(110_000))
    task = world.task("compare", [asked("Which?", words, words.replace("word1", "ward1"))])
    seat = Seat(browser, world)
    seat.enter(world.labeller())
    seat.work(task)
    took = seat.page.evaluate(
        """() => {
            const begun = performance.now();
            document.querySelector("#differences").click();
            document.body.offsetHeight;
            return performance.now() - begun;
        }"""
    )
    assert took < 4000
    assert seat.page.locator(".response mark").count() > 0
    assert seat.page.locator("text=Only the first 2,000 differing words are compared").count() == 2
    seat.answer("1")
    seat.sent()
    assert len(labels_of(world, task)) == 1
    seat.close()


def common(a: str, b: str) -> int:
    """The length of a longest common subsequence, by the textbook's recurrence over one row."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row[:]
        for j, y in enumerate(b, 1):
            row[j] = before[j - 1] + 1 if x == y else max(before[j], row[j - 1])
    return row[-1]


def test_differences_are_a_longest_common_subsequence(browser: Any, world: World) -> None:
    seat = Seat(browser, world)
    seat.page.goto(world.address)
    chance = random.Random(0)
    texts = [
        ("".join(chance.choices("abc", k=chance.randrange(12))), "".join(chance.choices("abc", k=chance.randrange(12)))) for _ in range(100)
    ]
    made = """async (texts) => {
        const { compare } = await import("/static/diff.js");
        return texts.map(([a, b]) => compare([...a], [...b]).runs);
    }"""
    for (before, after), runs in zip(texts, seat.page.evaluate(made, texts), strict=True):
        assert "".join(run["text"] for run in runs if run["kind"] != "gone") == after
        assert "".join(run["text"] for run in runs if run["kind"] != "new") == before
        assert sum(len(run["text"]) for run in runs if run["kind"] == "same") == common(before, after)
    seat.close()


def test_whatever_is_done_to_a_ranking_its_places_are_ones_that_the_server_takes(browser: Any, world: World) -> None:
    seat = Seat(browser, world)
    seat.page.goto(world.address)
    chance = random.Random(1)
    acts = [
        [
            (chance.choice(["append", "remove", "move", "toggleTie", "drop"]), chance.randrange(5), chance.choice([-1, 1, 3]))
            for _ in range(40)
        ]
        for _ in range(50)
    ]
    made = """async (acts) => {
        const order = await import("/static/order.js");
        return acts.map((run) => {
            let state = order.begin(5);
            for (const [act, one, by] of run) state = order[act](state, one, Math.abs(by) === 1 || act !== "move" ? by : 1);
            for (const one of state.rest) state = order.append(state, one);
            return [order.places(state), order.places(order.begin(5, { groups: order.groupsOf(order.places(state)) }))];
        });
    }"""
    found = seat.page.evaluate(made, acts)
    for places, again in found:
        check(TaskSettings(kind="rank"), Ranked(places=tuple(places)), 5)
        assert places == again
    assert any(len(set(places)) < 5 for places, _ in found), "some of them have ties"
    seat.close()


def findings(page: Any) -> list[str]:
    """What axe finds serious or critical."""
    page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Any, world: World, scheme: str) -> None:
    tasks = every_kind(world)
    seat = Seat(browser, world, color_scheme=scheme)
    page, person = seat.page, world.labeller()
    page.goto(f"{world.address}/")
    assert findings(page) == [], "signed out"
    page.goto(world.link(person))
    assert findings(page) == [], "entering"
    seat.enter(person)
    assert findings(page) == [], "home"
    for name, task in tasks.items():
        page.goto(f"{world.address}/tasks/{task.id}")
        seat.ready()
        assert findings(page) == [], f"{name} as it opens"
        if page.locator("#instructions[open]").count():
            page.click("#instructions .close")
        seat.press("1")
        assert findings(page) == [], f"{name} begun"
    seat.work(tasks["compare"])
    seat.answer("2")
    page.wait_for_selector(".verdict")
    assert findings(page) == [], "verdict"
    seat.answer()
    seat.press("d")
    assert findings(page) == [], "differences"
    for key in "sf?":
        seat.press(key)
        page.wait_for_selector("dialog:modal")
        assert findings(page) == [], key
        seat.press("Escape")
        page.wait_for_selector("dialog:modal", state="detached")
    page.goto(f"{world.address}/tasks/999")
    assert findings(page) == [], "no such task"
    page.goto(f"{world.address}/shell/desk")
    assert findings(page) == [], "the shell"
    seat.close(f"{NETWORK}|status of (404|422)")


def test_targets_are_large_enough_for_a_finger(browser: Any, world: World) -> None:
    tasks = every_kind(world)
    seat = Seat(browser, world, viewport={"width": 360, "height": 720}, has_touch=True, is_mobile=True)
    seat.enter(world.labeller())
    small = """() => [...document.querySelectorAll("button, a, label.choice, label.step, label.option, select, summary")]
        .filter((one) => one.checkVisibility() && !one.closest(".jump, .unseen") && !one.matches(".jump"))
        .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
        .filter(([, box]) => box.height < 43.5 || box.width < 43.5).map(([html, box]) => `${html} ${box.width}x${box.height}`)"""
    assert seat.page.evaluate(small) == []
    for task in tasks.values():
        seat.work(task)
        seat.page.locator(".place").first.click() if seat.page.locator(".place").count() else None
        assert seat.page.evaluate(small) == [], task.name
        assert seat.page.evaluate("document.documentElement.scrollWidth") <= 360, task.name
    seat.close()


def test_theme_switch_and_paused_task(browser: Any, world: World) -> None:
    task = world.task("compare", compare_items(2))
    projects.revise(world.db, task, task.settings.model_copy(update={"paused": True}))
    seat = Seat(browser, world, color_scheme="light")
    seat.enter(world.labeller())
    ground = "getComputedStyle(document.body).backgroundColor"
    light = seat.page.evaluate(ground)
    seat.page.click("#theme")
    assert seat.page.evaluate(ground) != light
    seat.page.goto(f"{world.address}/tasks/{task.id}")
    seat.page.wait_for_selector("text=This task is paused. Come back later.")
    assert seat.page.evaluate(ground) != light
    seat.close()
