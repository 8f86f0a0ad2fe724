"""The pages.  Each is a frame that its script fills from the API; run names and titles are set here, escaped."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from handrail.inspector.server.runs import Entry, Runs

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
templates = Jinja2Templates(Path(__file__).parent / "templates")
VIEWS = {"run": "Curves", "responses": "Responses", "microscope": "Microscope"}  # of a run: the address, and what it is called


def page(request: Request, name: str, status: int = 200, **found: object) -> HTMLResponse:
    """A page from its template."""
    return templates.TemplateResponse(request, name, {"root": request.app.state.runs.root.name, "entry": None, **found}, status)


def known(request: Request, path: str) -> Entry:
    """The run; else 404."""
    runs: Runs = request.app.state.runs
    found = runs.find(path)
    if found is None:
        raise HTTPException(404, f"there is no run {path[:200]} below {runs.root}")
    return found


@router.get("/")
def home(request: Request) -> Response:
    """All runs."""
    return page(request, "runs.html")


@router.get("/compare")
def compare(request: Request, run: Annotated[list[str] | None, Query(max_length=400)] = None) -> Response:
    """Several runs over each other."""
    entries = [known(request, path) for path in dict.fromkeys(run or [])][:24]
    if len(entries) < 2:
        raise HTTPException(404, "fewer than two runs to compare: choose some in the list")
    return page(request, "compare.html", entries=entries)


@router.get("/{view}/{path:path}")
def of_run(request: Request, view: str, path: str) -> Response:
    """One run, looked at in one of several ways."""
    if view not in {*VIEWS, "prompt"}:
        raise HTTPException(404, "there is no such page")
    entry = known(request, path)
    views = {name: title for name, title in VIEWS.items() if name == "run" or (entry.folder / "tokens").is_dir()}
    return page(request, f"{view}.html", entry=entry, view=view, views=views)
