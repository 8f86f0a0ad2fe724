"""The pages.  Each is a frame that its script fills from the API; run names and titles are set here, escaped."""

import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.templating import Jinja2Templates

from handrail.feedback.words import moment
from handrail.inspector import frontier, reward_model
from handrail.inspector.folders import POLICIES
from handrail.inspector.origins import leads_to_labels, origins
from handrail.inspector.report import FILTERS, TEMPLATES
from handrail.inspector.server.runs import Entry, Runs
from handrail.inspector.server.trail import trail
from handrail.track.view import read_summary

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
STEP = re.compile(r"^step-(\d+)$")
templates = Jinja2Templates([Path(__file__).parent / "templates", TEMPLATES])  # what pages and report draw alike stands in the latter
templates.env.filters |= FILTERS
VIEWS = {  # of a run: the address, and what it is called
    "run": "Curves",
    "responses": "Responses",
    "microscope": "Microscope",
    "frontier": "Frontier",
    "reward": "Reward model",
    "labels": "Labels",
}


def page(request: Request, name: str, status: int = 200, **found: object) -> HTMLResponse:
    """A page from its template."""
    return templates.TemplateResponse(
        request, name, {"root": request.app.state.runs.root.name, "entry": None, "here": "runs", **found}, status
    )


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
    runs: Runs = request.app.state.runs
    there = {"run": True, "frontier": entry.stage in POLICIES and any("kl" in line for line in runs.metrics(entry)[-1:])}
    there |= {"reward": entry.stage == "reward", "labels": leads_to_labels(entry.folder)}
    views = {name: title for name, title in VIEWS.items() if there.get(name, (entry.folder / "tokens").is_dir())}
    if view not in {*views, "prompt"}:
        raise HTTPException(404, "this run has nothing to show there")
    found = {"frontier": of_frontier, "reward": of_reward}.get(view, lambda *_: {})(entry, runs)
    if view == "labels":
        found = {"trail": trail(origins(entry.folder), runs, request.app.state.stores), "moment": moment}
    return page(request, f"{'trail' if view == 'labels' else view}.html", entry=entry, view=view, views=views, **found)


def of_frontier(entry: Entry, runs: Runs) -> dict[str, object]:
    """What the page of the frontier is filled with."""
    found = frontier.read_frontier(entry.folder, runs.root, runs.metrics(entry))
    checkpoints = sorted(int(name[1]) for path in (entry.folder / "checkpoints").glob("step-*") if (name := STEP.match(path.name)))
    return {"found": found, "checkpoints": checkpoints, "told": frontier.told(found), "picture": frontier.picture(found)}


def of_reward(entry: Entry, runs: Runs) -> dict[str, object]:
    """What the page of a reward model is filled with."""
    return {"reward": reward_model.told(entry.folder, read_summary(entry.folder) or {}, {})}
