"""What the pages over feedback stores ask for, as JSON.  Nothing here changes anything."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from handrail.errors import InputError
from handrail.feedback.store import browse, projects
from handrail.feedback.store.looking import Looked
from handrail.inspector.origins import origins
from handrail.inspector.server.api import answer
from handrail.inspector.server.items import Index, Items, Wanted, window
from handrail.inspector.server.measured import Measures, State
from handrail.inspector.server.one_item import compared, learnt_by, one_item, rewards, together
from handrail.inspector.server.overview import overview, tasks_of
from handrail.inspector.server.pages import known
from handrail.inspector.server.runs import Runs
from handrail.inspector.server.said import marked
from handrail.inspector.server.stores import Store, Stores, may_keep

router = APIRouter(prefix="/api", include_in_schema=False)
Name = Annotated[str, Query(max_length=4096)]
Id = Annotated[str, Query(max_length=64)]


@dataclass(frozen=True)
class Place:
    """A project of a store that is looked at."""

    store: Store
    db: Looked
    project: str

    def table(self, request: Request) -> Index:
        """Its items as they are now."""
        found: Items = request.app.state.items
        return found.of(self.db, self.project)

    def measured(self, request: Request) -> State:
        """What is known of the quality of its labels."""
        found: Measures = request.app.state.measures
        return found.of(self.store, self.project)


def store_known(request: Request, name: str) -> tuple[Store, Looked]:
    """The store of that name; else 404."""
    stores: Stores = request.app.state.stores
    found = stores.find(name)
    if found is None or found.db is None:
        raise HTTPException(404, found.problem if found else f"there is no store {name[:200]} here")
    return found, found.db


def place(request: Request, store: str, project: str) -> Place:
    """The project; else 404."""
    found, db = store_known(request, store)
    if project not in {one["name"] for one in projects.all_projects(db)}:
        raise HTTPException(404, f"store {found.name} has no project {project[:64]}")
    return Place(found, db, project)


def item_known(request: Request, store: str, id: str) -> tuple[Place, projects.Task]:
    """The project and the task of an item; else 404."""
    found, db = store_known(request, store)
    try:
        task = browse.find(db, id)
    except InputError as error:
        raise HTTPException(404, error.found) from error
    return Place(found, db, task.project), task


@router.get("/labels")
def labels(request: Request, store: Name, project: Id, version: str = "") -> JSONResponse:
    """How far the tasks of a project are; and, where labels have come since that `version`, how they came in and from whom."""
    where = place(request, store, project)
    now, found = "-".join(map(str, browse.version(where.db, project))), where.table(request)
    return answer({"version": now, "tasks": tasks_of(where.db, found)} | (overview(found) if now != version else {}))


@router.get("/quality")
def quality(request: Request, store: Name, project: Id) -> JSONResponse:
    """Agreement, reliability and what looks wrong, as far as they have been computed."""
    state = place(request, store, project).measured(request)
    found = state.measured
    figures = found.quality.model_dump(mode="json", exclude={"disagreements"}) if found else None
    return answer({"busy": state.busy, "problem": state.problem, "upto": found.upto if found else None, "quality": figures})


class Question(Wanted):
    """Which items of which project, and which window of the table."""

    store: str = Field(max_length=4096)
    project: str = Field(max_length=64)
    run: str = Field("", max_length=4096, description="items with labels that this run has learnt from alone")
    words: str = Field("", max_length=400)
    start: int = Field(0, ge=0, le=2**53)
    count: int = Field(64, ge=0, le=500)


@router.get("/items")
def items(request: Request, asked: Annotated[Question, Query()]) -> JSONResponse:
    """A window of the table of items, how long it is, and whether it is known how far the answers to each are apart."""
    where = place(request, asked.store, asked.project)
    state, found, table = where.measured(request), where.table(request), request.app.state.items
    sizes = state.measured.sizes if state.measured else {}
    learnt = None
    if asked.run:
        behind = [origin for origin in origins(known(request, asked.run).folder) if may_keep(where.store, origin)]
        learnt = {label for origin in behind for label in origin.labels}
    rows = table.rows(where.db, found, asked, sizes, learnt)
    shown = window(where.db, found, rows[asked.start : asked.start + asked.count], sizes)
    measured = state.measured is not None or bool(state.problem)
    return answer({"total": len(rows), "items": len(found.places), "measured": measured, "start": asked.start, "rows": shown})


@router.get("/item")
def item(request: Request, store: Name, id: Id) -> JSONResponse:
    """One item with all that was said of it, and what reward models say of its responses."""
    found = whole(request, *item_known(request, store, id), id)
    content = found.pop("content")
    messages = [{"role": message.role, "text": message.content} for message in content.prompt.messages]
    responses = [{"letter": name, "text": text} for name, text in zip(found["letters"], content.responses, strict=True)]
    return answer(marked(found | {"messages": messages, "responses": responses, "models": content.models}))


def whole(request: Request, where: Place, task: projects.Task, id: str) -> dict[str, Any]:
    """All that is known of an item; `content` is the item itself."""
    runs: Runs = request.app.state.runs
    found = one_item(where.db, task, id)
    state = where.measured(request)
    known = state.measured
    about = {"busy": state.busy and known is None, "problem": state.problem, "size": known.sizes.get(found["id"]) if known else None}
    people = together(known.consensus.get(found["id"], ())) if known else []
    models = rewards(runs, found["content"])
    return found | about | {"together": people, "rewards": models, "told": compared(found["letters"], people, models)}


@router.get("/learnt")
def learnt(request: Request, store: Name, id: Id) -> JSONResponse:
    """The runs that have learnt from the labels of an item."""
    where, _ = item_known(request, store, id)
    found, unread = learnt_by(request.app.state.runs, where.store, [one.id for one in browse.asked(where.db, id)])
    return answer({"runs": found, "unread": unread})
