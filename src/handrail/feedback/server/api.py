"""What labellers' browsers and programs ask for.  Nothing here names the model that wrote a response."""

import logging
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import Field

from handrail.errors import InputError, RunError
from handrail.feedback.kinds import ANSWER, Answer, Criterion, Kind, TaskSettings, as_shown
from handrail.feedback.server.render import markdown
from handrail.feedback.server.security import SignedIn
from handrail.feedback.store import Database, assignment, chats, labels, projects, skips
from handrail.feedback.store.assignment import Assignment
from handrail.feedback.store.chats import Chosen, Conversation, Said
from handrail.feedback.store.labels import NotThere, Submission
from handrail.feedback.store.people import Person
from handrail.records import Message, Record

LOG = logging.getLogger(__name__)
router = APIRouter(prefix="/api", tags=["labelling"])
TaskId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Opaque = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Away(RunError):
    """A model to chat with does not answer."""


class Progress(Record):
    """How far a task is, and this person in it."""

    items: int
    wanted: int
    labels: int
    given_out: int
    yours: int = Field(0, description="answered by this person; practice is not counted")
    skipped: int = 0
    again: int = Field(0, description="of the skipped, those that still have room for an answer")


class Asked(Record):
    """What a task asks for, as far as labellers need it."""

    id: int
    project: str
    name: str
    kind: Kind
    title: str
    ties: bool
    strength: bool
    criteria: tuple[Criterion, ...]
    ask_reason: bool
    turns: int
    paused: bool
    instructions: str = Field(description="HTML that is safe to show")
    examples: tuple[str, ...] = Field(description="HTML that is safe to show")
    progress: Progress
    more: bool = Field(description="whether there is something for this person now")


class Me(Record):
    """Who is signed in, and what there is to do."""

    pseudonym: str
    name: str
    role: Literal["admin", "labeller"]
    tasks: tuple[Asked, ...]


class Text(Record):
    """A text, and the same as HTML that is safe to show."""

    text: str
    html: str = ""
    role: str = ""


class Shown(Record):
    """An item before a person: the texts in the order in which they stand on the screen, and no more than that."""

    id: str
    task: int
    kind: Kind
    practice: bool
    messages: tuple[Text, ...]
    responses: tuple[Text, ...]
    state: str
    expires: float
    answer: Answer | None = Field(None, description="the person's own, in the order shown")
    chat: "Chat | None" = None
    offered: int = Field(0, description="how many times it was asked again after it was skipped")


class Chat(Record):
    """A chat as it stands: what was said, and two answers that wait for a choice."""

    messages: tuple[Text, ...]
    waiting: tuple[Text, ...] = ()
    turns_left: int


class Wanted(Record):
    """How many items to give out, and whether as HTML too."""

    count: int = Field(1, ge=1, le=50)
    html: bool = False


class Given(Record):
    """Items for a person, none when the task has no more for them."""

    items: tuple[Shown, ...]
    progress: Progress


class TakenUp(Record):
    """How many skipped items are open again."""

    items: int


class Acknowledgement(Record):
    """It is on disk.  `verdict` in the practice round alone: whether it was right, the right answer as shown, and why."""

    key: str
    state: str
    version: int
    verdict: dict[str, Any] | None = None


@router.get("/me")
def me(request: Request, person: SignedIn) -> Me:
    """Who is signed in, and their tasks."""
    db: Database = request.app.state.db
    asked = tuple(told(db, task, person) for task in projects.all_tasks(db, person=person))
    return Me(pseudonym=person.pseudonym, name=person.name, role=person.role, tasks=asked)


@router.get("/tasks/{task}")
def task(request: Request, person: SignedIn, task: TaskId) -> Asked:
    """One task."""
    db: Database = request.app.state.db
    return told(db, mine(db, task, person), person)


@router.post("/tasks/{task}/next")
def next_items(request: Request, person: SignedIn, task: TaskId, wanted: Wanted) -> Given:
    """Give out items: those that are open already, then new ones; each is kept for this person until its lease ends."""
    db: Database = request.app.state.db
    found = mine(db, task, person)
    given = assignment.give_out(db, found, person, wanted.count)
    shown = tuple(show(request, found.settings, one, person, html=wanted.html) for one in given)
    return Given(items=shown, progress=Progress(**projects.progress(db, found, person)))


@router.post("/tasks/{task}/skipped")
def take_up(request: Request, person: SignedIn, task: TaskId) -> TakenUp:
    """Ask again what this person skipped, where an answer is still wanted; the next items are these."""
    db: Database = request.app.state.db
    return TakenUp(items=skips.take_up(db, mine(db, task, person), person))


@router.get("/assignments/{assignment}")
def one_assignment(request: Request, person: SignedIn, assignment: Opaque) -> Shown:
    """An item that was given out to this person, with their answer if there is one."""
    db: Database = request.app.state.db
    found, answer = labels.own(db, person, assignment)
    return show(request, projects.task_of(db, found.task, person).settings, found, person, answer, html=True)


@router.post("/assignments/{assignment}")
def submit(request: Request, person: SignedIn, assignment: Opaque, submission: Submission) -> Acknowledgement:
    """Answer, skip, flag, or undo the last of these.  Sent again with the same key it is the same event: 200 means on disk."""
    db: Database = request.app.state.db
    done = labels.submit(db, person, assignment, submission)
    return Acknowledgement(key=done.key, state=done.state, version=done.version, verdict=done.verdict)


@router.get("/assignments/{assignment}/chat")
def chat(request: Request, person: SignedIn, assignment: Opaque) -> Chat:
    """A chat as it stands."""
    return as_chat(chats.conversation(request.app.state.db, person, assignment))


@router.post("/assignments/{assignment}/chat")
def say(request: Request, person: SignedIn, assignment: Opaque, said: Said) -> Chat:
    """Say something to both models; their answers are there when this returns."""
    db: Database = request.app.state.db
    before, models = chats.ready(db, person, assignment, said)
    if models is None:
        return as_chat(before)
    first, second = (answered(request, name, before, said.message) for name in models)
    return as_chat(chats.say(db, person, assignment, said, (first, second)))


@router.post("/assignments/{assignment}/chat/choice")
def choose(request: Request, person: SignedIn, assignment: Opaque, chosen: Chosen) -> Chat:
    """Choose the answer that the chat goes on from."""
    return as_chat(chats.choose(request.app.state.db, person, assignment, chosen))


def mine(db: Database, number: int, person: Person) -> projects.Task:
    """A task in which the person works; else 404."""
    try:
        return projects.task_of(db, number, person)
    except InputError as error:
        raise NotThere(error.found, error.allowed) from error


def told(db: Database, task: projects.Task, person: Person) -> Asked:
    """What a labeller is told of a task."""
    settings = task.settings
    kept = settings.model_dump(include={"kind", "ties", "strength", "criteria", "ask_reason", "turns", "paused"})
    return Asked(
        id=task.id,
        project=task.project,
        name=task.name,
        title=settings.title or task.name,
        instructions=markdown(settings.instructions),
        examples=tuple(markdown(example) for example in settings.examples),
        progress=Progress(**projects.progress(db, task, person)),
        more=assignment.anything(db, task, person),
        **kept,
    )


def show(request: Request, settings: TaskSettings, found: Assignment, person: Person, answer: Any = None, *, html: bool = False) -> Shown:
    """An item as its labeller sees it."""

    def text(content: str, role: str = "") -> Text:
        return Text(text=content, html=markdown(content) if html else "", role=role)

    chat = as_chat(chats.conversation(request.app.state.db, person, found.id)) if settings.kind == "chat" else None
    return Shown(
        id=found.id,
        task=found.task,
        kind=settings.kind,
        practice=found.purpose == "practice",
        messages=tuple(text(m.content, m.role) for m in found.content.prompt.messages),
        responses=tuple(text(response) for response in found.responses),
        state="open" if found.state == "expired" and found.expires > request.app.state.db.now() else found.state,
        expires=found.expires,
        answer=None if answer is None else as_shown(ANSWER.validate_python(answer), found.order),
        chat=chat,
        offered=found.offered,
    )


def as_chat(found: Conversation) -> Chat:
    """A chat as its labeller sees it."""
    said = tuple(Text(text=m.content, html=markdown(m.content), role=m.role) for m in found.messages)
    waiting = tuple(Text(text=one, html=markdown(one)) for one in found.waiting or ())
    return Chat(messages=said, waiting=waiting, turns_left=found.turns_left)


def answered(request: Request, name: str, before: Conversation, message: str) -> str:
    """What a model answers.  Raises Away, which names no model: those who run the app find it in the log."""
    responder = request.app.state.responders.get(name)
    try:
        if responder is None:
            raise InputError(f"this app has no model {name!r} to chat with", "those it was started with", "start it with --chat")
        return str(responder.reply((*before.messages, Message(role="user", content=message))))
    except Exception as error:
        LOG.exception("the model %r of a chat does not answer", name)
        raise Away("one of the two models does not answer", "", "try again; if it stays so, tell those who run this") from error
