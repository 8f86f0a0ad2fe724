"""The pages of those who run the projects: quality, disagreements to be settled, exports."""

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import FormData

from handrail.errors import InputError
from handrail.feedback.exports import weights as weights_of
from handrail.feedback.formats import FORMATS
from handrail.feedback.kinds import Compared, Demonstrated, Ranked, Rated, TaskSettings, blinded, restored
from handrail.feedback.server.admin_pages import Form, PageRoute, text, to
from handrail.feedback.server.api import Opaque, TaskId
from handrail.feedback.server.bundle import bundle
from handrail.feedback.server.manage import FlagId, Name, known, there
from handrail.feedback.server.pages import page
from handrail.feedback.server.review import TaskName, contested, task_known
from handrail.feedback.server.security import Admin
from handrail.feedback.store import Database, people, projects, review, skips, snapshots
from handrail.feedback.store import flags as store_flags
from handrail.feedback.store.labels import NotThere, Submission
from handrail.feedback.store.snapshots import Rules

router = APIRouter(prefix="/admin", include_in_schema=False, default_response_class=HTMLResponse, route_class=PageRoute)
Key = Annotated[str, Query(max_length=64)]
SAID = {  # the formats in words
    "handrail": "Handrail's own records, for training",
    "trl": "TRL: preference, unpaired preference, prompt and completion",
    "hh": "transcripts with chosen and rejected",
    "labelstudio": "Label Studio",
    "argilla": "Argilla",
    "csv": "CSV for spreadsheets",
    "parquet": "Parquet",
    "datasets": "a folder that the package datasets loads",
}


@router.get("/p/{project}/quality")
def quality(request: Request, admin: Admin, project: Name, task: TaskName = "") -> Response:
    """Agreement, each labeller's reliability, and what looks wrong."""
    db: Database = request.app.state.db
    task_known(db, project, task)
    found = request.app.state.board.of(project, task)
    names = {one["pseudonym"]: one["name"] for one in people.everybody(db) if one["name"]}
    behind = review.last_event(db, project) - found.upto
    tasks = [one.name for one in projects.all_tasks(db, project)]
    about = {"project": project, "task": task, "tasks": tasks, "measured": found, "behind": behind, "names": names}
    return page(request, "admin_quality.html", quality=found.quality, weights=weights_of(found.quality), **about)


@router.get("/p/{project}/disagreements")
def disagreements(request: Request, admin: Admin, project: Name) -> Response:
    """What labellers disagree on, what they flagged, and what nobody is left to answer."""
    db: Database = request.app.state.db
    known(db, project)
    tasks = {task.name: task.id for task in projects.all_tasks(db, project)}
    settled = review.settled(db, project)
    flags = [flag for flag in review.flags(db, project) if flag.item not in settled]
    left = skips.stuck(db, project)
    found = contested(db, request.app.state.board, project)
    told = review.contents(db, [*(one.item for one in flags), *(one.item for one in left), *(one.item for one in found)])
    about: dict[str, Any] = {"project": project, "contested": found, "flags": flags, "left": left, "told": told, "tasks": tasks}
    about["settled"] = len(settled)
    return page(request, "admin_disputed.html", **about)


@router.post("/tasks/{task}/flags/{flag}")
def judge(request: Request, admin: Admin, task: TaskId, flag: FlagId, form: Form) -> Response:
    """Say what comes of a flag."""
    of = there(request.app.state.db, task)
    verdict = text(form, "verdict")
    if verdict not in ("dismiss", "uphold"):
        raise InputError("no verdict on the flag", "dismiss or uphold")
    store_flags.judge(request.app.state.db, admin, of, flag, verdict)  # type: ignore[arg-type]
    return to(f"/admin/p/{of.project}/disagreements")


@router.post("/tasks/{task}/items/{item}/offer")
def offer(request: Request, admin: Admin, task: TaskId, item: Opaque) -> Response:
    """Let all who skipped an item be given it again."""
    of = there(request.app.state.db, task)
    skips.offer_again(request.app.state.db, admin, of, item)
    return to(f"/admin/p/{of.project}/disagreements")


@router.get("/tasks/{task}/items/{item}")
def one_item(request: Request, admin: Admin, task: TaskId, item: Opaque) -> Response:
    """An item with all that was said of it, and the form to settle it."""
    return item_page(request, task, item)


def item_page(request: Request, number: int, item: str, status: int = 200, **more: Any) -> Response:
    db: Database = request.app.state.db
    task = there(db, number)
    try:
        found, said = review.of_item(db, task, item)
    except InputError as error:
        raise NotThere(error.found, error.allowed) from error
    flags = [flag for flag in review.flags(db, task.project, judged=True) if flag.item == item]
    ruling = next((label for label in reversed(said) if label.purpose == "adjudication"), None)
    others = [label for label in said if label.purpose != "adjudication"]
    order = blinded(item, len(found.content.responses))
    about = {"project": task.project, "task": task, "item": found, "labels": others, "ruling": ruling, "flags": flags}
    about |= {"order": order, "shown": [found.content.responses[i] for i in order]}
    return page(request, "admin_item.html", status, key=more.pop("key", secrets.token_urlsafe(16)), **about, **more)


@router.post("/tasks/{task}/items/{item}")
def adjudicate(request: Request, admin: Admin, task: TaskId, item: Opaque, form: Form) -> Response:
    """Settle an item: this answer holds in place of the labellers'."""
    db: Database = request.app.state.db
    of = there(db, task)
    try:
        found, _ = review.of_item(db, of, item)
        order = blinded(item, len(found.content.responses))
        answer = restored(answer_of(form, of.settings, len(order)), order)
        snapshots.adjudicate(db, admin, of, item, Submission(key=text(form, "key"), answer=answer, reason=text(form, "reason")), order)
    except InputError as error:
        return item_page(request, task, item, 422, problem=error)
    return to(f"/admin/p/{of.project}/disagreements")


def answer_of(form: FormData, settings: TaskSettings, shown: int) -> Any:
    """The adjudicator's answer, in the order of the page.  Raises InputError."""
    if settings.kind == "compare":
        better = {"0": 0, "1": 1, "tie": None}.get(text(form, "better"), "")
        if better == "":
            raise InputError("no answer was chosen", "A, B or a tie")
        strength = text(form, "strength") if better is not None and settings.strength else ""
        return Compared(better=better, strength="clearly" if strength == "clearly" else "slightly" if strength == "slightly" else "")
    if settings.kind == "rank":
        return Ranked(places=tuple(number(form, f"place-{n}", "a place") for n in range(shown)))
    if settings.kind == "rate":
        scales = [scale.name for scale in settings.criteria]
        rows = [{name: float(number(form, f"rating-{n}-{name}", f"{name}, a number")) for name in scales} for n in range(shown)]
        return Rated(ratings=tuple(rows))
    if settings.kind == "demonstrate":
        if not text(form, "text"):
            raise InputError("no text", "the ideal response")
        return Demonstrated(text=str(form["text"]))
    raise InputError("a chat cannot be settled", "each labeller goes a way of their own")


def number(form: FormData, name: str, wanted: str) -> int:
    """A whole number from the form.  Raises InputError."""
    found = text(form, name)
    if not found.isdecimal() and not (found[:1] == "-" and found[1:].isdecimal()):
        raise InputError(f"a field of the answer holds {found or 'nothing'}", f"{wanted} for each response")
    return int(found[:6])


@router.get("/p/{project}/exports")
def exports(request: Request, admin: Admin, project: Name) -> Response:
    """The snapshots of a project, and the form for a new one."""
    return exports_page(request, project)


def exports_page(request: Request, project: str, status: int = 200, **more: Any) -> Response:
    db: Database = request.app.state.db
    known(db, project)
    tasks = [task.name for task in projects.all_tasks(db, project)]
    who = [one["pseudonym"] for one in people.everybody(db) if one["pseudonym"] in review.answered(db, project)]
    found = snapshots.all_snapshots(db, project)
    forms = {name: SAID.get(name, name) for name in FORMATS}
    return page(request, "admin_exports.html", status, project=project, tasks=tasks, who=who, snapshots=found, formats=forms, **more)


@router.post("/p/{project}/exports")
def take(request: Request, admin: Admin, project: Name, form: Form) -> Response:
    """Take a snapshot of the labels as they stand now."""
    db: Database = request.app.state.db
    known(db, project)
    purposes = ["work", "adjudication", *(name for name in ("gold", "repeat", "practice") if name in form)]
    values: dict[str, Any] = {"purposes": purposes, "tasks": form.getlist("tasks"), "without": form.getlist("without")}
    switches = {name: name in form for name in ("flagged", "extra", "settled")}
    made, _ = snapshots.take(db, project, Rules.model_validate(values | switches), admin)
    return to(f"/admin/p/{project}/exports#{made.id}")


@router.get("/snapshots/{snapshot}/download")
def download(request: Request, admin: Admin, snapshot: Opaque, form: Key = "handrail", weights: bool = False) -> Response:
    """A snapshot in a format, as a ZIP."""
    made = bundle(request.app.state.db, snapshot, form, weights=weights)
    return Response(made.content, media_type="application/zip", headers={"content-disposition": f'attachment; filename="{made.name}"'})
