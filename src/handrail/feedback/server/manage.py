"""What those who run the projects ask for.  Only an admin gets an answer."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field

from handrail.errors import InputError
from handrail.feedback.kinds import Item, TaskSettings
from handrail.feedback.server.api import Acknowledgement, Opaque, Progress, TaskId
from handrail.feedback.server.security import Admin
from handrail.feedback.store import Database, people, projects, skips, snapshots
from handrail.feedback.store import flags as store_flags
from handrail.feedback.store.labels import NotThere, Submission
from handrail.feedback.store.snapshots import Rules, Snapshot
from handrail.records import Record

router = APIRouter(prefix="/api", tags=["running projects"])
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
MOST = 2**31 - 1  # of a number that the database gives
Limit = Annotated[int, Query(ge=1, le=1000)]
FlagId = Annotated[int, Path(ge=1, le=MOST)]
Before = Annotated[int | None, Query(ge=1, le=MOST)]


class NewProject(Record):
    """A project to be made."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    title: str = Field("", max_length=200)


class NewTask(Record):
    """A task to be made."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    settings: TaskSettings


class TaskState(Record):
    """A task with its settings and how far it is."""

    id: int
    project: str
    name: str
    revision: int
    settings: TaskSettings
    progress: Progress


class Taken(Record):
    """How many items came in, and how many were there already."""

    new: int
    known: int


class NewPerson(Record):
    """Somebody to be invited."""

    name: str = Field(min_length=1, max_length=100)
    role: Literal["admin", "labeller"] = "labeller"
    projects: tuple[str, ...] = ()
    pseudonym: str = ""


class Invited(Record):
    """Somebody who was invited, with a secret that is told only now: a link to sign in once, or a token."""

    pseudonym: str
    secret: str


class Taking(Record):
    """A snapshot to be taken."""

    rules: Rules = Rules()


class Judged(Record):
    """What comes of a flag: with "dismiss" the answer counts again, with "uphold" it stays out of exports."""

    verdict: store_flags.Verdict


class Offered(Record):
    """How many people had skipped an item and may be given it again."""

    people: int


class Exported(Record):
    """A snapshot that can be fetched again in any format."""

    id: str
    project: str
    rules: Rules
    upto: int
    labels: int
    sha256: str
    created: float


@router.get("/projects")
def all_projects(request: Request, admin: Admin) -> list[dict[str, Any]]:
    """Every project."""
    return projects.all_projects(request.app.state.db)


@router.post("/projects", status_code=201)
def make_project(request: Request, admin: Admin, wanted: NewProject) -> NewProject:
    """Make a project."""
    projects.make_project(request.app.state.db, wanted.name, wanted.title, admin)
    return wanted


@router.delete("/projects/{project}", status_code=204)
def remove_project(request: Request, admin: Admin, project: Name) -> None:
    """Delete a project that nobody has worked in; one with answers is refused."""
    db: Database = request.app.state.db
    known(db, project)
    projects.remove_project(db, project, admin)


@router.get("/projects/{project}/tasks")
def all_tasks(request: Request, admin: Admin, project: Name) -> list[TaskState]:
    """The tasks of a project, with how far they are."""
    db: Database = request.app.state.db
    known(db, project)
    return [state(db, task) for task in projects.all_tasks(db, project)]


@router.post("/projects/{project}/tasks", status_code=201)
def make_task(request: Request, admin: Admin, project: Name, wanted: NewTask) -> TaskState:
    """Make a task."""
    db: Database = request.app.state.db
    known(db, project)
    return state(db, projects.make_task(db, project, wanted.name, wanted.settings, admin))


@router.put("/tasks/{task}/settings")
def revise(request: Request, admin: Admin, task: TaskId, settings: TaskSettings) -> TaskState:
    """Change settings or instructions; labels remember those that were shown."""
    db: Database = request.app.state.db
    return state(db, projects.revise(db, there(db, task), settings, admin))


@router.post("/tasks/{task}/items")
def take_in(request: Request, admin: Admin, task: TaskId, items: list[Item]) -> Taken:
    """Put items into a task, all of them or none; one that is there already gets the new priority."""
    db: Database = request.app.state.db
    done = projects.take_in(db, there(db, task), items, admin)
    return Taken(new=done.new, known=done.known)


@router.get("/people")
def everybody(request: Request, admin: Admin) -> list[dict[str, Any]]:
    """All people; the names of the deleted are gone."""
    return people.everybody(request.app.state.db)


@router.post("/people", status_code=201)
def invite(request: Request, admin: Admin, wanted: NewPerson) -> Invited:
    """Invite somebody; the answer has a link's secret, to be sent to them: PUBLIC ADDRESS/enter/SECRET."""
    db: Database = request.app.state.db
    person = people.invite(db, wanted.name, wanted.role, list(wanted.projects), wanted.pseudonym, admin)
    return Invited(pseudonym=person.pseudonym, secret=people.issue(db, person, "link", by=admin))


@router.post("/people/{pseudonym}/{kind}", status_code=201)
def issue(request: Request, admin: Admin, pseudonym: Name, kind: Literal["link", "token"]) -> Invited:
    """A new link for somebody's next device, or a token for a program in their name."""
    db: Database = request.app.state.db
    return Invited(pseudonym=pseudonym, secret=people.issue(db, person_of(db, pseudonym), kind, by=admin))


@router.delete("/people/{pseudonym}", status_code=204)
def remove(request: Request, admin: Admin, pseudonym: Name) -> None:
    """Delete a person: name and access go, the labels stay under the pseudonym."""
    db: Database = request.app.state.db
    person_of(db, pseudonym)
    people.remove(db, pseudonym, admin)


@router.post("/tasks/{task}/items/{item}/adjudicate")
def adjudicate(request: Request, admin: Admin, task: TaskId, item: Opaque, submission: Submission) -> Acknowledgement:
    """Settle an item: this answer, in the order of the item, holds in place of the labellers'."""
    db: Database = request.app.state.db
    done = snapshots.adjudicate(db, admin, there(db, task), item, submission)
    return Acknowledgement(key=done.key, state=done.state, version=done.version)


@router.post("/tasks/{task}/flags/{flag}", status_code=204)
def judge(request: Request, admin: Admin, task: TaskId, flag: FlagId, judged: Judged) -> None:
    """Say what comes of a flag."""
    db: Database = request.app.state.db
    try:
        store_flags.judge(db, admin, there(db, task), flag, judged.verdict)
    except InputError as error:
        raise NotThere(error.found, error.allowed, error.remedy) from error


@router.post("/tasks/{task}/items/{item}/offer")
def offer(request: Request, admin: Admin, task: TaskId, item: Opaque) -> Offered:
    """Let all who skipped an item be given it again."""
    db: Database = request.app.state.db
    return Offered(people=skips.offer_again(db, admin, there(db, task), item))


@router.post("/projects/{project}/snapshots", status_code=201)
def take(request: Request, admin: Admin, project: Name, wanted: Taking) -> Exported:
    """Take a snapshot of the labels as they stand now."""
    db: Database = request.app.state.db
    known(db, project)
    return exported(snapshots.take(db, project, wanted.rules, admin)[0])


@router.get("/projects/{project}/snapshots")
def all_snapshots(request: Request, admin: Admin, project: Name) -> list[Exported]:
    """The snapshots of a project, the newest first."""
    db: Database = request.app.state.db
    known(db, project)
    return [exported(one) for one in snapshots.all_snapshots(db, project)]


@router.get("/snapshots/{snapshot}/labels.jsonl", response_class=Response)
def labels_of(request: Request, admin: Admin, snapshot: Opaque) -> Response:
    """The labels of a snapshot with all that was shown, one a line; the same bytes each time."""
    try:
        _, found = snapshots.again(request.app.state.db, snapshot)
    except InputError as error:
        raise NotThere(error.found, error.allowed, error.remedy) from error
    lines = "".join(snapshots.line(one) for one in found)
    return Response(lines, media_type="application/x-ndjson")


@router.get("/audit")
def audit(request: Request, admin: Admin, limit: Limit = 200, before: Before = None) -> list[dict[str, Any]]:
    """What was done by those who run the projects, the newest first."""
    return people.log(request.app.state.db, limit, before)


def known(db: Database, project: str) -> None:
    """Whether there is such a project; else 404."""
    if project not in {found["name"] for found in projects.all_projects(db)}:
        raise NotThere(f"there is no project {project!r}", "see /api/projects")


def there(db: Database, number: int) -> projects.Task:
    """A task; else 404."""
    try:
        return projects.task_of(db, number)
    except InputError as error:
        raise NotThere(error.found, error.allowed) from error


def person_of(db: Database, pseudonym: str) -> people.Person:
    """A person; else 404."""
    try:
        return people.named(db, pseudonym)
    except InputError as error:
        raise NotThere(error.found, error.allowed) from error


def state(db: Database, task: projects.Task) -> TaskState:
    """A task with how far it is."""
    done = Progress(**projects.progress(db, task))
    return TaskState(id=task.id, project=task.project, name=task.name, revision=task.revision, settings=task.settings, progress=done)


def exported(one: Snapshot) -> Exported:
    """A snapshot for the answer."""
    return Exported(**vars(one))
