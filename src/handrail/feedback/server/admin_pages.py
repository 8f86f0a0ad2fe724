"""The pages of those who run the projects: projects, tasks, people, the audit log.

Each change is a plain form that is posted and answered with a redirect, so that everything works without JavaScript.
"""

from collections.abc import Callable, Coroutine
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile

from handrail.errors import HandrailError, InputError
from handrail.feedback import uploads, words
from handrail.feedback.server import task_form
from handrail.feedback.server.api import TaskId
from handrail.feedback.server.kept import Kept
from handrail.feedback.server.manage import Before, Name, known, person_of, there
from handrail.feedback.server.pages import page, templates
from handrail.feedback.server.render import line, markdown
from handrail.feedback.server.review import After
from handrail.feedback.server.security import Admin
from handrail.feedback.server.task_form import KINDS, Draft
from handrail.feedback.store import Database, people, projects, review, skips
from handrail.feedback.store.labels import NotThere
from handrail.feedback.store.projects import Task

PAGE = 50  # lines of a list
AS = {"work": "work to be done", "gold": "gold items, to check labellers", "practice": "the practice round"}

templates.env.globals |= {"letter": words.letter, "words": words, "markdown": markdown, "line": line, "KINDS": KINDS, "AS": AS}


class PageRoute(APIRoute):
    """A page: what goes wrong is told on a page too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except HandrailError as error:
                status = 404 if isinstance(error, NotThere) else 422 if isinstance(error, InputError) else 500
                return page(request, "admin_problem.html", status, problem=error, code=status)
            except HTTPException as error:
                if error.status_code not in (401, 403):
                    raise
                problem = InputError(str(error.detail))
                return page(request, "admin_problem.html", error.status_code, problem=problem, code=error.status_code)

        return shown


router = APIRouter(prefix="/admin", include_in_schema=False, default_response_class=HTMLResponse, route_class=PageRoute)


async def posted(request: Request) -> FormData:
    """The fields of a form."""
    return await request.form(max_fields=2000)


Form = Annotated[FormData, Depends(posted)]


def text(form: FormData, name: str) -> str:
    """A field, without the space around it."""
    found = form.get(name, "")
    return found.strip() if isinstance(found, str) else ""


def to(address: str) -> RedirectResponse:
    """Where a form leads when its work is done."""
    return RedirectResponse(address, 303)


@router.get("")
def all_projects(request: Request, admin: Admin) -> Response:
    """Every project."""
    return projects_page(request)


def projects_page(request: Request, status: int = 200, **form: Any) -> Response:
    db: Database = request.app.state.db
    rows = []
    for found in projects.all_projects(db):
        done = [projects.progress(db, task) for task in projects.all_tasks(db, found["name"])]
        total = {key: sum(one[key] for one in done) for key in ("items", "wanted", "labels")}
        rows.append(found | total | {"tasks": len(done)})
    return page(request, "admin_projects.html", status, projects=rows, form=form)


@router.post("")
def make_project(request: Request, admin: Admin, form: Form) -> Response:
    """Make a project."""
    name, title = text(form, "name"), text(form, "title")
    try:
        projects.make_project(request.app.state.db, name, title, admin)
    except InputError as error:
        return projects_page(request, 422, problem=error, name=name, title=title)
    return to(f"/admin/p/{name}")


@router.get("/p/{project}")
def project(request: Request, admin: Admin, project: Name) -> Response:
    """How far a project is."""
    db: Database = request.app.state.db
    known(db, project)
    title = next(found["title"] for found in projects.all_projects(db) if found["name"] == project)
    tasks = [(task, projects.progress(db, task)) for task in projects.all_tasks(db, project)]
    days = review.days(db, project)
    answers = review.answered(db, project)
    rows = [one for one in people.everybody(db) if project in one["projects"] or one["pseudonym"] in answers]
    about: dict[str, Any] = {"title": title, "tasks": tasks, "days": days, "most": max((day.labels for day in days), default=0)}
    about |= {"flags": review.flags(db, project), "left": skips.stuck(db, project)}
    return page(request, "admin_project.html", project=project, people=rows, answers=answers, **about)


@router.get("/p/{project}/delete")
def before_deleting_project(request: Request, admin: Admin, project: Name) -> Response:
    """Ask once more, and say what goes; or why it stays."""
    db: Database = request.app.state.db
    known(db, project)
    done = [(task, projects.progress(db, task)) for task in projects.all_tasks(db, project)]
    return page(request, "admin_delete_project.html", project=project, tasks=done, why=projects.in_the_way(db, project, admin))


@router.post("/p/{project}/delete")
def delete_project(request: Request, admin: Admin, project: Name) -> Response:
    """Delete a project that nobody has worked in."""
    projects.remove_project(request.app.state.db, project, admin)
    return to("/admin")


@router.get("/p/{project}/new")
def new_task(request: Request, admin: Admin, project: Name, kind: str = "") -> Response:
    """Choose a kind, then fill in the form."""
    known(request.app.state.db, project)
    if kind not in KINDS:
        return page(request, "admin_kind.html", project=project)
    return task_page(request, project, task_form.fresh(kind))  # type: ignore[arg-type]


def task_page(request: Request, project: str, draft: Draft, task: Task | None = None, status: int = 200, **more: Any) -> Response:
    about = {"project": project, "draft": draft, "task": task, "chats": sorted(request.app.state.responders)}
    return page(request, "admin_task_form.html", status, **about, **more)


@router.post("/p/{project}/new")
def make_task(request: Request, admin: Admin, project: Name, form: Form) -> Response:
    """Make a task, or show the form with one row more, or with the instructions as labellers will see them."""
    db: Database = request.app.state.db
    known(db, project)
    kind = text(form, "kind")
    if kind not in KINDS:
        return to(f"/admin/p/{project}/new")
    draft, name = task_form.read(form, kind), text(form, "name")  # type: ignore[arg-type]
    if again := another_look(form, draft):
        return task_page(request, project, draft, typed=name, **again)
    try:
        task = projects.make_task(db, project, name, task_form.settings_of(draft), admin)
    except task_form.Unfit as error:
        return task_page(request, project, draft, None, 422, typed=name, faults=error.faults)
    except InputError as error:
        return task_page(request, project, draft, None, 422, typed=name, faults=[f"{error.found}: {error.allowed}"])
    return to(f"/admin/tasks/{task.id}")


def another_look(form: FormData, draft: Draft) -> dict[str, Any]:
    """What a button besides "make" asks for: the form again, with a row more or a preview."""
    act = text(form, "act")
    if act == "scale":
        draft.criteria.append({**dict.fromkeys(task_form.SCALE, ""), "low": "1", "high": "5"})
    elif act == "example":
        draft.examples.append("")
    elif act != "preview":
        return {}
    return {"preview": act == "preview"} | ({"added": act} if act != "preview" else {})


@router.get("/tasks/{task}")
def one_task(request: Request, admin: Admin, task: TaskId, after: After = -1) -> Response:
    """A task: how far it is, its settings, its items, and more of them from a file."""
    db: Database = request.app.state.db
    return shown_task(request, there(db, task), after)


def shown_task(request: Request, task: Task, after: int = -1, status: int = 200, **more: Any) -> Response:
    db: Database = request.app.state.db
    found = review.item_states(db, task, PAGE + 1, after)
    about = {"task": task, "project": task.project, "progress": projects.progress(db, task), "after": after}
    onwards = found[PAGE - 1].position if len(found) > PAGE else None
    return page(request, "admin_task.html", status, items=found[:PAGE], onwards=onwards, **about, **more)


@router.get("/tasks/{task}/edit")
def edit_task(request: Request, admin: Admin, task: TaskId) -> Response:
    """The settings of a task, to be changed."""
    found = there(request.app.state.db, task)
    return task_page(request, found.project, task_form.draft_of(found.settings), found)


@router.post("/tasks/{task}/edit")
def revise(request: Request, admin: Admin, task: TaskId, form: Form) -> Response:
    """A new revision of a task; labels remember the one that was shown."""
    db: Database = request.app.state.db
    found = there(db, task)
    draft = task_form.read(form, found.settings.kind)
    if again := another_look(form, draft):
        return task_page(request, found.project, draft, found, **again)
    try:
        settings = task_form.settings_of(draft)
    except task_form.Unfit as error:
        return task_page(request, found.project, draft, found, 422, faults=error.faults)
    if settings != found.settings:
        projects.revise(db, found, settings, admin)
    return to(f"/admin/tasks/{task}")


@router.post("/tasks/{task}/import")
def upload(request: Request, admin: Admin, task: TaskId, form: Form) -> Response:
    """Read a file of items and show what is in it; nothing is taken in yet."""
    found, kept = there(request.app.state.db, task), request.app.state.kept
    assert isinstance(kept, Kept)
    file, as_, most = form.get("file"), text(form, "as") or "work", text(form, "most")
    if not isinstance(file, UploadFile) or not file.filename:
        return shown_task(request, found, status=422, problem=InputError("no file was chosen", "a file of JSON lines"))
    if as_ not in AS or not (most or "0").isdecimal():
        return shown_task(request, found, status=422, problem=InputError("the form is not filled in", "see its fields"))
    try:
        read = uploads.read(file.file.read(), PurePath(file.filename).name, found.settings, int(most or 0), as_)  # type: ignore[arg-type]
    except InputError as error:
        return shown_task(request, found, status=422, problem=error)
    left = kept.leave(admin, (task, as_, read))
    return to(f"/admin/tasks/{task}/import/{left}")


@router.get("/tasks/{task}/import/{left}")
def preview(request: Request, admin: Admin, task: TaskId, left: Name) -> Response:
    """What a file holds, what is left out of it and why, and the first items as labellers will see them."""
    found = there(request.app.state.db, task)
    as_, read = waiting(request, admin, task, left)
    look = projects.look(request.app.state.db, found, read.items)
    about: dict[str, Any] = {"task": found, "project": found.project, "left": left, "as_": as_, "look": look}
    return page(request, "admin_import.html", upload=read, urgent=any(item.priority for item in read.items), **about)


@router.post("/tasks/{task}/import/{left}")
def take_in(request: Request, admin: Admin, task: TaskId, left: Name) -> Response:
    """Take the items in, all of them or none."""
    db: Database = request.app.state.db
    found = there(db, task)
    _, read = waiting(request, admin, task, left)
    done = projects.take_in(db, found, read.items, admin)
    request.app.state.kept.take(admin, left)
    told = request.app.state.kept.leave(admin, done)
    return to(f"/admin/tasks/{task}/imported/{told}")


@router.get("/tasks/{task}/imported/{told}")
def imported(request: Request, admin: Admin, task: TaskId, told: Name) -> Response:
    """The task, with what just came in."""
    return shown_task(request, there(request.app.state.db, task), done=request.app.state.kept.look(admin, told))


def waiting(request: Request, admin: people.Person, task: int, left: str) -> tuple[str, uploads.Upload]:
    """The upload that waits.  Raises NotThere."""
    kept: Kept = request.app.state.kept
    of, as_, read = kept.look(admin, left) or (0, "", None)
    if of != task or read is None:
        raise NotThere("this upload is not here any more", "one of the last hour that was not taken in yet", "upload the file again")
    return as_, read


@router.get("/people")
def everybody(request: Request, admin: Admin, told: str = "") -> Response:
    """All people; a secret that was just made, once."""
    return people_page(request, told=request.app.state.kept.take(admin, told) if told else None)


def people_page(request: Request, status: int = 200, **more: Any) -> Response:
    db: Database = request.app.state.db
    names = [found["name"] for found in projects.all_projects(db)]
    about: dict[str, Any] = {"everybody": people.everybody(db), "names": names, "form": {}}
    about.update(more)
    return page(request, "admin_people.html", status, **about)


@router.post("/people")
def invite(request: Request, admin: Admin, form: Form) -> Response:
    """Invite somebody; their link is shown once."""
    db: Database = request.app.state.db
    name, pseudonym, wanted = text(form, "name"), text(form, "pseudonym"), [str(one) for one in form.getlist("projects")]
    try:
        person = people.invite(db, name, "admin" if "admin" in form else "labeller", wanted, pseudonym, admin)
    except InputError as error:
        return people_page(request, 422, form={"problem": error, "name": name, "pseudonym": pseudonym, "projects": wanted})
    return told_once(request, admin, person, "link")


@router.post("/people/{pseudonym}/{kind}")
def act(request: Request, admin: Admin, pseudonym: Name, kind: Name, form: Form) -> Response:
    """A new link or token, which is shown once; let into a project; deleted after the question."""
    db: Database = request.app.state.db
    person = person_of(db, pseudonym)
    if kind in ("link", "token"):
        return told_once(request, admin, person, kind)  # type: ignore[arg-type]
    if kind == "join":
        people.join(db, person, text(form, "project"), admin)
    elif kind == "delete":
        people.remove(db, pseudonym, admin)
    else:
        raise NotThere(f"nothing is done by {kind!r}", "link, token, join or delete")
    return to("/admin/people")


def told_once(request: Request, admin: people.Person, person: people.Person, kind: people.KeyKind) -> Response:
    """Issue a secret and show it on the next page, once."""
    secret = people.issue(request.app.state.db, person, kind, by=admin)
    public = request.app.state.settings.public or str(request.base_url)
    shown = f"{public.rstrip('/')}/enter/{secret}" if kind == "link" else secret
    left = request.app.state.kept.leave(admin, {"person": person, "kind": kind, "secret": shown})
    return to(f"/admin/people?told={left}")


@router.get("/people/{pseudonym}/delete")
def before_deleting(request: Request, admin: Admin, pseudonym: Name) -> Response:
    """Ask once more, and say what stays."""
    return page(request, "admin_delete.html", gone=person_of(request.app.state.db, pseudonym))


@router.get("/audit")
def audit(request: Request, admin: Admin, before: Before = None) -> Response:
    """What was done by those who run the projects, a page at a time."""
    rows = people.log(request.app.state.db, PAGE + 1, before)
    return page(request, "admin_audit.html", rows=rows[:PAGE], onwards=rows[PAGE - 1]["id"] if len(rows) > PAGE else None)
