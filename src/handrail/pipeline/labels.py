"""Who says which response is better: simulated labellers, or people in the feedback app; both through the same store."""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from handrail.data import Source, load_rankings, load_responses, write_records
from handrail.errors import ConfigError, RunError
from handrail.feedback import provenance
from handrail.feedback.client import Client, status_of
from handrail.feedback.formats import records_of
from handrail.feedback.kinds import Item, Label, Ranked, TaskSettings
from handrail.feedback.quality import reliability, sheet
from handrail.feedback.server import ServerSettings, served
from handrail.feedback.server.api import Shown
from handrail.feedback.store import Database, people, projects, snapshots
from handrail.feedback.store.snapshots import Rules
from handrail.pipeline.settings import People, Round
from handrail.recipes.parts import derive
from handrail.recipes.progress import console, progress
from handrail.records import Prompt, Ranking
from handrail.tasks import TASKS, Labeller, Task, crew

AT_ONCE = 8  # items before each simulated labeller


def simulate(cfg: Round, number: int, responses: Path, earlier: Sequence[Path], out: Path) -> None:
    """Simulated labellers, many at once, rank the responses to each prompt in the feedback app, as people would.

    The store is beside the rankings.  Which item comes before whom, and in which order its responses stand, follows
    from the seed.  The rankings of earlier rounds stay in.
    """
    items = to_rank(responses)
    found = ranked_by_crew(cfg, number, items, out.with_name("feedback.db"))
    write_records(out, [*before(earlier), *found])


def ask_people(cfg: Round, number: int, responses: Path, earlier: Sequence[Path], out: Path) -> None:
    """Put the responses before people, wait until enough are ranked, and write the rankings with where they came from.

    Killed and started again it goes on waiting; what people said is in the store.
    """
    asked = cfg.people
    items = to_rank(responses)
    theirs = items[: asked.prompts] if asked.prompts else items
    db = Database.open(place(asked.db))
    try:
        words = Path(asked.instructions).read_text(encoding="utf-8") if asked.instructions else INSTRUCTIONS
        settings = TaskSettings(kind="rank", title=cfg.title or f"Round {number}", instructions=words, overlap=asked.overlap)
        task = put_up(db, cfg, f"round-{number}", settings, theirs)
        wait(db, task, asked)
        snapshot, labels = snapshots.take(db, task.project, Rules(tasks=(task.name,)))
    finally:
        db.close()
    weights = {one.labeller: one.weight for one in reliability(sheet(labels, "rank")).labellers} if asked.weights else {}
    rest = ranked_by_crew(cfg, number, items[len(theirs) :], out.with_name("feedback.db")) if asked.simulated else []
    write_records(out, [*before(earlier), *rankings_of(labels, weights), *rest])
    provenance.write(snapshot, out, asked.db)


def to_rank(responses: Path) -> list[Item]:
    """One item a prompt: its different responses.  Raises ConfigError where there is nothing to rank."""
    answers: dict[str, tuple[Prompt, dict[str, str]]] = {}
    for response in load_responses(Source(path=str(responses))).records:
        answers.setdefault(response.prompt.text, (response.prompt, {}))[1].setdefault(response.text, response.model)
    items = [
        Item(prompt=prompt, responses=tuple(texts), models=tuple(texts.values())) for prompt, texts in answers.values() if len(texts) > 1
    ]
    if not items:
        raise ConfigError(
            "the model gives one and the same response every time",
            "at least two different ones to rank",
            "raise sampling.temperature",
        )
    return items


def before(earlier: Sequence[Path]) -> list[Ranking]:
    """The rankings of the rounds before."""
    return [one for path in earlier for one in load_rankings(Source(path=str(path))).records]


def rankings_of(found: Sequence[Label], weights: Mapping[str, float] | None = None) -> list[Ranking]:
    """Labels as records, each with its label's id, and its labeller's weight where there are weights."""
    return [record for record in records_of(found, weights) if isinstance(record, Ranking)]


def ranked_by_crew(cfg: Round, number: int, items: list[Item], where: Path) -> list[Ranking]:
    """The rankings of simulated labellers, in the order of the items."""
    assert cfg.task is not None
    for suffix in ("", "-wal", "-shm"):
        where.with_name(where.name + suffix).unlink(missing_ok=True)  # of a try that was broken off
    db = Database.open(where, chance=random.Random(derive(cfg.seed, "chance", number)))
    labellers = crew(cfg.task.labellers, derive(cfg.seed, "crew"))
    try:
        projects.make_project(db, "simulated", cfg.title)
        task = projects.make_task(db, "simulated", f"round-{number}", TaskSettings(kind="rank", lease=86_400.0))
        projects.take_in(db, task, items)
        label_through_app(db, task.id, labellers, TASKS[cfg.task.name], derive(cfg.seed, "labels", number))
        found = {ranking.prompt.text: ranking for ranking in rankings_of(snapshots.labels(db, "simulated"))}
    finally:
        db.close()
    return [found[item.prompt.text] for item in items]


def label_through_app(db: Database, task: int, labellers: Sequence[Labeller], world: Task, seed: int) -> None:
    """Every labeller takes some items in turn, and then all answer at once, until nothing is left."""
    with ExitStack() as stack, progress("labels", projects.progress(db, projects.task_of(db, task))["items"]) as advance:
        address = stack.enter_context(served(db, ServerSettings(port=0)))
        desks = []
        for labeller in labellers:
            person = people.invite(db, labeller.id, to=["simulated"], pseudonym=labeller.id)
            desks.append((labeller, stack.enter_context(Client(address, people.issue(db, person, "token")))))
        pool = stack.enter_context(ThreadPoolExecutor(len(desks)))

        def answer(desk: tuple[Labeller, Client], shown: Sequence[Shown]) -> int:
            labeller, client = desk
            for item in shown:
                client.submit(item.id, judged(labeller, item, world, seed))
            return len(shown)

        while any(given := [client.next_items(task, AT_ONCE) for _, client in desks]):
            for done in pool.map(answer, desks, given):
                advance(done, "")


def judged(labeller: Labeller, item: Shown, world: Task, seed: int) -> Ranked:
    """What a simulated labeller says of an item; the same each time."""
    prompt = Prompt.model_validate({"messages": [{"role": m.role, "content": m.text} for m in item.messages]})
    chance = np.random.default_rng(derive(seed, labeller.id, prompt.id))
    texts = [response.text for response in item.responses]
    return Ranked(places=labeller.rank(prompt, texts, world.gold, chance, first=texts[0]).places)


def place(where: str) -> str:
    """A path or URL, or, as $NAME, the environment variable that holds it: a password stands in no file.  Raises ConfigError."""
    if not where.startswith("$"):
        return where
    if where[1:] not in os.environ:
        raise ConfigError(f"people.db is {where}, and there is no such environment variable", "the path or URL of the store")
    return os.environ[where[1:]]


def put_up(db: Database, cfg: Round, name: str, settings: TaskSettings, items: list[Item]) -> projects.Task:
    """The task with its items; nothing new where they are there already.  Raises ConfigError."""
    asked = cfg.people
    if asked.project not in {project["name"] for project in projects.all_projects(db)}:
        projects.make_project(db, asked.project, cfg.title)
    task = next((task for task in projects.all_tasks(db, asked.project) if task.name == name), None)
    if task is None:
        task = projects.make_task(db, asked.project, name, settings)
    if task.settings.kind != settings.kind:
        found = f"task {name!r} of project {asked.project!r} asks to {task.settings.kind}"
        raise ConfigError(found, f"one that asks to {settings.kind}", "give another people.project")
    projects.take_in(db, task, items)
    return task


INSTRUCTIONS = """Put the responses in order, the best first. Those that are equally good share a place.

Read the request first. A good response does what was asked, is true, and says no more than it needs to.
"""


def wait(db: Database, task: projects.Task, asked: People, pause: Callable[[float], None] = time.sleep) -> None:
    """Until enough labels are there.  Raises RunError at once where the round is not to wait."""
    wanted = max(1, round(asked.enough * projects.progress(db, task)["wanted"]))
    seen = there(db, task)
    if seen < wanted and not asked.wait:
        raise RunError(
            f"{wanted - seen} of {wanted} answers are missing in task {task.name} of project {task.project}",
            "",
            "when people have given them, the same command goes on",
        )
    if seen < wanted:
        console.print(f"[bold]{wanted - seen}[/] answers are missing: project {task.project}, task {task.name}.")
        if not (address := people.last_address(db)) or not status_of(address):  # else they know where
            console.print(f"[dim]People give them in the feedback app: handrail feedback serve --db {asked.db}[/]")
        console.print("[dim]You may stop here; the same command goes on.[/]")
    with progress("people", wanted, min(wanted, seen)) as advance:
        while seen < wanted:
            pause(asked.poll)
            now = min(wanted, there(db, task))
            advance(max(0, now - seen), "")
            seen = now


def there(db: Database, task: projects.Task) -> int:
    """How many of the labels that a task wants are there, or wanted no more."""
    return projects.progress(db, task)["labels"] + projects.spared(db, task)
