"""The pages over feedback stores: labels, items, one item.  All text of people and models is set here or in scripts, escaped."""

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from handrail.feedback.server.render import line, markdown
from handrail.feedback.store import projects
from handrail.feedback.store.looking import Looked
from handrail.feedback.words import moment
from handrail.inspector.server.labels_api import Id, Name, Place, item_known, place, whole
from handrail.inspector.server.pages import page
from handrail.inspector.server.stores import Stores

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
VIEWS = {"labels": "Labels", "items": "Items"}  # of a project


@router.get("/labels")
def labels(request: Request, store: Name = "", project: Id = "") -> Response:
    """A project; without one the only one that there is, or all of them to choose from."""
    if project:
        return of_project(request, place(request, store, project), "labels")
    stores: Stores = request.app.state.stores
    found = [(one, told(one.db) if one.db else []) for one in stores.all()]
    every = [(one, which) for one, them in found for which in them]
    if len(every) == 1 and not any(one.problem for one, _ in found):
        [(one, which)] = every
        return RedirectResponse(f"/labels?{urlencode({'store': one.name, 'project': which['name']})}")
    return page(request, "stores.html", stores=found, line=line, here="labels")


def told(db: Looked) -> list[dict[str, Any]]:
    """The projects of a store with how far each is."""
    found = []
    for one in projects.all_projects(db):
        tasks = [projects.progress(db, task) for task in projects.all_tasks(db, one["name"])]
        sums = {name: sum(task[name] for task in tasks) for name in ("items", "labels", "wanted")}
        found.append(one | sums | {"tasks": len(tasks)})
    return found


@router.get("/items")
def items(request: Request, store: Name, project: Id) -> Response:
    """The items of a project."""
    where = place(request, store, project)
    table = where.table(request)
    kinds = list(dict.fromkeys(table.kinds.values()))
    return of_project(request, where, "items", tasks=list(table.kinds), kinds=kinds, people=list(table.by))


@router.get("/item")
def item(request: Request, store: Name, id: Id) -> Response:
    """One item."""
    where, task = item_known(request, store, id)
    found = whole(request, where, task, id)
    return of_project(request, where, "item", item=found, task=task, markdown=markdown, moment=moment)


def of_project(request: Request, where: Place, view: str, **found: Any) -> Response:
    """A page of a project."""
    title = next(one["title"] for one in projects.all_projects(where.db) if one["name"] == where.project)
    query = urlencode({"store": where.store.name, "project": where.project})
    about = {
        "store": where.store,
        "project": where.project,
        "title": title,
        "query": query,
        "views": VIEWS,
        "view": view,
        "line": line,
        "here": "labels",
    }
    return page(request, f"{view}.html", **about, **found)
