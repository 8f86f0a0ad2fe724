"""A feedback app on a free port with tasks of every kind, and a browser to work in it."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from handrail.feedback.kinds import Compared, Criterion, Item, Ranked, Rated, TaskSettings
from handrail.feedback.server import ServerSettings, create_app
from handrail.feedback.store import Database, people, projects
from handrail.feedback.store.people import Person
from handrail.feedback.store.projects import Task
from handrail.records import Message, Prompt

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CHROMIUM += ["--disable-component-update", "--disable-sync"]

LINE = "    return width * height  # a line that is much too long to stand in a narrow card without scrolling"
CODE = f"```python\ndef area(width, height):\n{LINE}\n```"
ARABIC = "مرحبا بالعالم. هذا نص يُقرأ من اليمين إلى اليسار، مع كلمة English في وسطه."
LISTED = "Two things matter:\n\n1. **Water** it once a week\n2. Keep it out of the *midday* sun\n\n"
LISTED += "| month | litres |\n|---|---|\n| May | 2 |\n| July | 5 |"
INSTRUCTIONS = "Prefer the response that **helps most** and claims nothing false.\n\n"
INSTRUCTIONS += "- Length is no merit\n- A polite refusal is better than a harmful answer"


class Echo:
    """A model to chat with: it says its own mark and what it was told last."""

    def __init__(self, mark: str):
        self.mark = mark

    def reply(self, messages: tuple[Message, ...]) -> str:
        return f"{self.mark} heard, in turn {sum(m.role == 'user' for m in messages)}: {messages[-1].content}"


class World:
    """The app, its store, and who may enter."""

    def __init__(self, folder: Path):
        self.db = Database.open(str(folder / "store.db"))
        self.admin = people.invite(self.db, "Admin", "admin", pseudonym="admin")
        projects.make_project(self.db, "garden")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.server: uvicorn.Server | None = None

    def start(self) -> None:
        """Serve; returns when it answers."""
        app = create_app(self.db, ServerSettings(port=self.port), {"one": Echo("Echo one"), "two": Echo("Echo two")})
        self.server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", self.port, log_level="error", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the server ended"
            time.sleep(0.02)

    def stop(self) -> None:
        """Serve no more; returns when the port is closed."""
        assert self.server is not None
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join()

    def labeller(self, pseudonym: str = "labeller-1") -> Person:
        return people.invite(self.db, pseudonym.replace("-", " ").capitalize(), to=["garden"], pseudonym=pseudonym)

    def link(self, person: Person) -> str:
        return f"{self.address}/enter/{people.issue(self.db, person, 'link')}"

    def task(self, name: str, items: list[Item], **settings: object) -> Task:
        """A task whose items come in this order."""
        made = projects.make_task(
            self.db,
            "garden",
            name,
            TaskSettings.model_validate({"kind": name.split("-")[0], "title": name.capitalize(), "overlap": 8, **settings}),
        )
        in_order = [item.model_copy(update={"priority": -float(place)}) for place, item in enumerate(items)]
        projects.take_in(self.db, made, in_order)
        return made


@contextmanager
def serving(folder: Path) -> Iterator[World]:
    """A world that is served."""
    world = World(folder)
    world.start()
    try:
        yield world
    finally:
        world.stop()
        world.db.close()


def chromium() -> str:
    """Where the browser is; skips without one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no chromium on the path; these tests look at the pages in one")
    return found


def asked(text: str, *responses: str, **more: object) -> Item:
    models = tuple(f"model-{i}" for i in range(len(responses)))
    return Item.model_validate({"prompt": Prompt.of(text), "responses": responses, "models": models, **more})


def compare_items(n: int, start: int = 0) -> list[Item]:
    return [
        asked(f"Question {i}: when do I plant tulips?", f"In autumn, answer {i}.", f"In spring, answer {i}.")
        for i in range(start, start + n)
    ]


def rank_items(n: int, k: int = 6) -> list[Item]:
    return [asked(f"Ranking {i}: how do I prune a rose?", *(f"Response {j} to ranking {i}" for j in range(k))) for i in range(n)]


def every_kind(world: World) -> dict[str, Task]:
    """A task of each kind with texts of every sort, and practice."""
    talk = Prompt(
        messages=(
            Message(role="system", content="You help in a garden."),
            Message(role="user", content="My basil wilts."),
            Message(role="assistant", content="How often do you water it?"),
            Message(role="user", content="Once a month."),
        )
    )
    long = "Roses are pruned in late winter, before the buds swell. " * 8
    told = {"instructions": INSTRUCTIONS, "examples": ("*Prompt:* When?\n\n> In March.\n\nGood: it answers.", "`code` too")}
    practice = {"practice": True, "explanation": "Tulips need the cold of the winter."}
    compare = [
        asked("Practice: when do I plant tulips?", "In autumn.", "In spring.", gold=Compared(better=0, strength="clearly"), **practice),
        Item(prompt=talk, responses=(LISTED, f"Water it *weekly*.\n\n{CODE}"), models=("a", "b")),
        asked(ARABIC, ARABIC, "A\u200bB <b>not bold</b> ![pixel](http://example.org/x.png) [link](http://example.org)"),
        *compare_items(6),
    ]
    rank = [asked("How do I prune a rose?", *(f"**{c}** {long[: 60 + 70 * i]}" for i, c in enumerate("UVWXYZ"))), *rank_items(5)]
    scales = (
        Criterion(name="helpfulness", question="Does it answer what was asked?", low_label="not at all", high_label="fully"),
        Criterion(name="truth", low=1, high=7),
    )
    rate = [asked("What is compost?", LISTED, "Old leaves."), *(asked(f"Soil {i}?", "Loam.", "Clay.") for i in range(4))]
    single = [
        asked("Practice: is salt good for slugs?", "Yes.", gold=Rated(ratings=({"overall": 2},)), **practice),
        asked("And beer?", "No."),
    ]
    write = [Item(prompt=talk), *(asked(f"What is mulch {i}?") for i in range(3))]
    edit = [asked("Explain grafting.", "Grafting joins two plant so they grows as one. " + long[:200])]
    chat = [asked(f"Talk about roses, the way a beginner would, {i}") for i in range(2)]
    order = Ranked(places=(1, 2, 2))
    sorting = [asked("Practice: sort them.", "Best", "Fair", "Fair too", gold=order, **practice), asked("Sort these.", "x", "y", "z")]
    return {
        "compare": world.task("compare", compare, **told),
        "rank": world.task("rank", rank, **told),
        "rate": world.task("rate", rate, criteria=scales, ask_reason=True),
        "rate-one": world.task("rate-one", single),
        "demonstrate": world.task("demonstrate", write, **told),
        "demonstrate-edit": world.task("demonstrate-edit", edit),
        "chat": world.task("chat", chat, models=("one", "two"), turns=3),
        "rank-practice": world.task("rank-practice", sorting),
    }
