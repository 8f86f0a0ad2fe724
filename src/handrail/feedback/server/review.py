"""What those who run the projects look at: how far everything is, how well labellers agree, what is disputed or flagged."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from handrail.errors import InputError
from handrail.feedback.kinds import Item, Label, Purpose
from handrail.feedback.quality import Quality, Said
from handrail.feedback.server.api import Opaque, TaskId
from handrail.feedback.server.board import Board
from handrail.feedback.server.bundle import bundle
from handrail.feedback.server.manage import Name, TaskState, known, state, there
from handrail.feedback.server.security import Admin
from handrail.feedback.store import Database, projects, review, skips
from handrail.feedback.store.labels import NotThere
from handrail.feedback.store.review import ItemState
from handrail.records import Prompt, Record

router = APIRouter(prefix="/api", tags=["running projects"])
Count = Annotated[int, Query(ge=1, le=500)]
After = Annotated[int, Query(ge=-1, le=2**31 - 1)]
TaskName = Annotated[str, Query(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]
Form = Annotated[str, Query(max_length=32)]


class OneDay(Record):
    """The answers of a day, in UTC."""

    day: date
    labels: int
    by: dict[str, int] = Field(description="pseudonym: answers")


class Flagged(Record):
    """Somebody says that something is wrong with an item."""

    id: int
    task: str
    item: str
    labeller: str
    reason: str
    at: float
    order: tuple[int, ...] = Field(description="order[i]: the response at place i of the labeller's screen, whose letters these are")
    verdict: str = Field("", description="dismiss, uphold, or nothing so far")


class LetGo(Record):
    """An item that wants more answers and that everybody has had; `by`: who skipped it, and why."""

    task: str
    item: str
    labels: int
    wanted: int
    by: tuple[tuple[str, str], ...]


class Status(Record):
    """How far a project is."""

    project: str
    title: str
    tasks: tuple[TaskState, ...]
    answered: dict[str, int] = Field(description="pseudonym: answers in all")
    days: tuple[OneDay, ...] = Field(description="the last two weeks, the oldest day first")
    flags: int


class Assessed(Record):
    """The quality of the labels as they stood after event `upto`, at `at`."""

    upto: int
    at: float
    quality: Quality


class Contested(Record):
    """An item on which labellers disagree; `size` is 0 where all say the same and 1 where every two say the opposite."""

    task: str
    task_id: int
    item: str
    criterion: str
    size: float
    prompt: Prompt
    responses: tuple[str, ...]
    said: tuple[Said, ...]


class ItemRow(Record):
    """An item and how far it is."""

    id: str
    position: int
    purpose: Purpose
    priority: float
    content: Item
    given_out: int = Field(description="live leases and labels that count for the overlap")
    labels: int
    skipped: int
    settled: bool


class ItemPage(Record):
    """Items in order; `after` is to be asked for next, None at the end."""

    items: tuple[ItemRow, ...]
    after: int | None


class ItemWhole(Record):
    """An item, all that was said of it, and the flags on it."""

    item: ItemRow
    labels: tuple[Label, ...]
    flags: tuple[Flagged, ...]


@router.get("/projects/{project}/status")
def status(request: Request, admin: Admin, project: Name) -> Status:
    """How far the tasks of a project are, and what came in each day."""
    db: Database = request.app.state.db
    known(db, project)
    title = next(found["title"] for found in projects.all_projects(db) if found["name"] == project)
    return Status(
        project=project,
        title=title,
        tasks=tuple(state(db, task) for task in projects.all_tasks(db, project)),
        answered=review.answered(db, project),
        days=tuple(OneDay(**vars(day)) for day in review.days(db, project)),
        flags=len(review.flags(db, project)),
    )


@router.get("/projects/{project}/agreement")
def agreement(request: Request, admin: Admin, project: Name, task: TaskName = "") -> Assessed:
    """Agreement, each labeller's reliability, and what looks wrong; of one task where `task` names it."""
    board: Board = request.app.state.board
    task_known(request.app.state.db, project, task)
    found = board.of(project, task)
    return Assessed(upto=found.upto, at=found.at, quality=found.quality)


@router.get("/projects/{project}/disagreements")
def disagreements(request: Request, admin: Admin, project: Name, limit: Count = 50) -> list[Contested]:
    """The items on which labellers disagree most and which nobody has settled, the most contested first."""
    known(request.app.state.db, project)
    return contested(request.app.state.db, request.app.state.board, project)[:limit]


@router.get("/projects/{project}/flags")
def flags(request: Request, admin: Admin, project: Name) -> list[Flagged]:
    """The flags that stand open, the newest first."""
    db: Database = request.app.state.db
    known(db, project)
    return [Flagged(**vars(flag)) for flag in review.flags(db, project)]


@router.get("/projects/{project}/skipped")
def skipped(request: Request, admin: Admin, project: Name) -> list[LetGo]:
    """The items that want more answers and that everybody has had, since some skipped them."""
    known(request.app.state.db, project)
    return [LetGo(**vars(one)) for one in skips.stuck(request.app.state.db, project)]


@router.get("/tasks/{task}/items")
def all_items(request: Request, admin: Admin, task: TaskId, limit: Count = 50, after: After = -1) -> ItemPage:
    """The items of a task with how far each is, a page at a time."""
    db: Database = request.app.state.db
    found = review.item_states(db, there(db, task), limit + 1, after)
    rows = tuple(row(one) for one in found[:limit])
    return ItemPage(items=rows, after=rows[-1].position if len(found) > limit else None)


@router.get("/tasks/{task}/items/{item}")
def one_item(request: Request, admin: Admin, task: TaskId, item: Opaque) -> ItemWhole:
    """An item with all that was said of it."""
    db: Database = request.app.state.db
    of = there(db, task)
    try:
        found, said = review.of_item(db, of, item)
    except InputError as error:
        raise NotThere(error.found, error.allowed) from error
    mine = tuple(Flagged(**vars(flag)) for flag in review.flags(db, of.project, judged=True) if flag.item == item)
    return ItemWhole(item=row(found), labels=tuple(said), flags=mine)


@router.get("/snapshots/{snapshot}/export.zip", response_class=Response)
def export(request: Request, admin: Admin, snapshot: Opaque, form: Form = "handrail", weights: bool = False) -> Response:
    """A snapshot in a format, as a ZIP with its SHA-256s; with `weights`, rankings count as much as their labeller is reliable."""
    made = bundle(request.app.state.db, snapshot, form, weights=weights)
    about = {"content-disposition": f'attachment; filename="{made.name}"', "x-content-sha256": made.sha256}
    return Response(made.content, media_type="application/zip", headers=about)


def contested(db: Database, board: Board, project: str) -> list[Contested]:
    """What the board knows to be contested, less what has been settled since."""
    tasks = {task.name: task for task in projects.all_tasks(db, project)}
    settled, found = review.settled(db, project), []
    open_ones = [one for one in board.of(project).quality.disagreements if one.item not in settled]
    texts = review.contents(db, (one.item for one in open_ones))
    for one in open_ones:
        _, content = texts[one.item]
        about: dict[str, Any] = {"prompt": content.prompt, "responses": content.responses, "task_id": tasks[one.task].id}
        found.append(Contested(task=one.task, item=one.item, criterion=one.criterion, size=one.size, said=one.said, **about))
    return found


def row(found: ItemState) -> ItemRow:
    """An item for the answer."""
    return ItemRow(**vars(found))


def task_known(db: Database, project: str, task: str) -> None:
    """Whether there is such a project and, where one is named, such a task; else 404."""
    known(db, project)
    if task and task not in {found.name for found in projects.all_tasks(db, project)}:
        raise NotThere(f"project {project!r} has no task {task!r}", "one of its own")
