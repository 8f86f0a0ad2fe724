"""`handrail feedback`: the app in which people label, what goes into it and what comes out."""

import difflib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from handrail.cli import feedback_files, feedback_trace
from handrail.cli.feedback_store import STORE, Db, Project, read_bytes, store
from handrail.cli.frame import out, verb
from handrail.errors import InputError

if TYPE_CHECKING:
    from handrail.feedback.kinds import TaskSettings
    from handrail.feedback.store import Database

room = typer.Typer(help="Let people label: an app for demonstrations, comparisons, rankings, ratings and chats.", no_args_is_help=True)


def add(app: typer.Typer) -> None:
    """The verbs in the order in which a team needs them."""
    for name, work in (("serve", serve), ("import", take_in), ("invite", invite), ("status", status)):
        room.command(name, rich_help_panel="Label")(work)
    for name, work in (("export", feedback_files.export), ("trace", feedback_trace.trace)):
        room.command(name, rich_help_panel="Train")(work)
    for name, work in (("archive", feedback_files.archive), ("restore", feedback_files.restore), ("delete", delete)):
        room.command(name, rich_help_panel="Keep")(work)
    app.add_typer(room, name="feedback", rich_help_panel="People")


@verb
def serve(
    db: Db = STORE,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; another than this machine's own needs --public.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    public: Annotated[str, typer.Option("--public", metavar="URL", help="What people open: https://labels.example.org")] = "",
    no_sign_in: Annotated[bool, typer.Option("--no-sign-in", help="Nobody signs in; for you alone, on this machine.")] = False,
    chat: Annotated[
        list[str] | None, typer.Option("--chat", metavar="NAME=PATH|URL#MODEL", help="A model to chat with; may be repeated.")
    ] = None,
    chat_key: Annotated[
        str, typer.Option("--chat-key", metavar="VARIABLE", help="The environment variable with the endpoint's key.")
    ] = "OPENAI_API_KEY",
) -> dict:
    """Serve the app in which people label, until Ctrl-C.

    The first start prints a link with which the first admin signs in, once; projects, tasks, items and people are made in
    the browser from there, or with the other verbs. A label that was confirmed is on disk: stop the app when you like.

    A chat task needs two models. A folder is loaded when somebody first talks to it; a URL is an endpoint that speaks
    OpenAI's chat completions, the model's name behind #.

    Example:  [bold]handrail feedback serve --chat sft=runs/sft --chat ppo=runs/ppo[/]
    """
    from handrail.cli.feedback_models import responders
    from handrail.feedback.server import ServerSettings, listening
    from handrail.feedback.server import serve as run

    models = responders(chat or [], chat_key)
    settings = ServerSettings(host=host, port=port, public=public, sign_in=not no_sign_in)
    with (
        listening(settings) as socket,  # before a store is made
        store(db, make=True) as found,
        suppress(KeyboardInterrupt),  # Ctrl-C is the way to end it
    ):
        run(found, settings, models, say=lambda line: out.print(Text(line), soft_wrap=True), socket=socket)
    out.print("[dim]stopped; every confirmed label is in the store[/]")
    return {"store": shown(db)}


def shown(where: str) -> str:
    """A store without its password."""
    from handrail.feedback.store.database import shown as without_password

    return without_password(where)


@verb
def take_in(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines: records, comparisons, items of your own.", show_default=False)],
    project: Project,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="The task; made where it is absent.", show_default=False)],
    kind: Annotated[str, typer.Option("--kind", help="Of a new task: demonstrate, compare, rank, rate or chat.")] = "",
    overlap: Annotated[int, typer.Option("--overlap", min=1, max=100, help="Of a new task: labellers an item.")] = 1,
    title: Annotated[str, typer.Option("--title", help="Of a new task: what labellers see.")] = "",
    instructions: Annotated[Path | None, typer.Option("--instructions", metavar="FILE", help="Of a new task: markdown.")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", metavar="NAME", help="Of a new chat task: its two models.")] = None,
    most: Annotated[int, typer.Option("--most", min=0, max=9, help="Responses an item at most; 0: as many as the kind shows.")] = 0,
    gold: Annotated[
        bool, typer.Option("--gold", help="The answers in the file are right: slip these items in to check labellers.")
    ] = False,
    practice: Annotated[
        bool, typer.Option("--practice", help="The answers in the file are right: these items are the practice round.")
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Make the project, where the store has others already.")] = False,
    db: Db = STORE,
) -> dict:
    """Put items before people: what `handrail sample` wrote, prompts, comparisons, rankings, or items of your own.

    A task is made where it is absent, and so is the first project; another one is made with --new. Responses to one prompt
    become one item (compare: two at a time). What is there already is not taken in twice; it gets the new priority, so a
    file that `handrail sample` wrote with priority.reward puts first what teaches most.

    Example:  [bold]handrail feedback import responses.jsonl --project support --task round-1 --kind rank --overlap 2[/]
    """
    from handrail.feedback import uploads
    from handrail.feedback.store import projects
    from handrail.feedback.store.database import file_of

    if gold and practice:
        raise InputError("--gold and --practice", "one of the two")
    raw = read_bytes(file)
    words = read_bytes(instructions).decode("utf-8", "replace") if instructions else ""
    as_: uploads.As = "gold" if gold else "practice" if practice else "work"
    asked = (kind, {"overlap": overlap, "title": title, "instructions": words, "models": tuple(models or ())})
    path = file_of(db)
    if path is not None and not path.exists():
        uploads.read(raw, str(file), new_task(*asked), most, as_).whole()  # before a store is made
    with store(db, make=True) as open_store:
        there = has(open_store, project, new)
        found = next((one for one in projects.all_tasks(open_store, project) if one.name == task), None) if there else None
        settings = found.settings if found else new_task(*asked)
        if found and kind and kind != found.settings.kind:
            raise InputError(f"--kind {kind}", f"{found.settings.kind}: task {task} is there already", "leave --kind away")
        read = uploads.read(raw, str(file), settings, most, as_).whole()
        if not there:
            projects.make_project(open_store, project)
        found = found or projects.make_task(open_store, project, task, settings)
        done = projects.take_in(open_store, found, read.items)
    out.print(f"[green]✓[/] {done.new:,} items into {project}/{task}; {done.known:,} were there already")
    if done.work:
        out.print(Text(f"  {done.work:,} of these were put up as work, without a right answer, and stay so: they check nobody", "yellow"))
    for reason, number in read.left_out.items():
        out.print(Text(f"  left out: {reason} ({number:,})", "dim"))
    told = {"project": project, "task": task, "new": done.new, "known": done.known, "work": done.work}
    return told | {"read": read.records, "left_out": read.left_out}


def has(db: "Database", project: str, new: bool) -> bool:
    """Whether there is such a project.  Raises InputError where there are others and no `new` one is asked for."""
    from handrail.feedback.store import projects

    there = [found["name"] for found in projects.all_projects(db)]
    if project not in there and there and not new:
        near = difflib.get_close_matches(project, there, n=1)
        remedy = f"did you mean {near[0]!r}? --new makes another project" if near else "--new makes another project"
        raise InputError(f"there is no project {project!r}", f"one of {', '.join(there)}", remedy)
    return project in there


def new_task(kind: str, asked: dict[str, Any]) -> "TaskSettings":
    """The settings of a task that is to be made.  Raises InputError."""
    from pydantic import ValidationError

    from handrail.feedback.kinds import SHOWN, TaskSettings

    if kind not in SHOWN:
        raise InputError(f"--kind {kind}" if kind else "a new task without --kind", f"one of {', '.join(SHOWN)}")
    try:
        return TaskSettings(kind=kind, **asked)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"].removeprefix("Value error, "), "see `handrail feedback import --help`") from error


@verb
def invite(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom; it never goes into labels or exports.", show_default=False)],
    project: Annotated[list[str] | None, typer.Option("--project", metavar="NAME", help="Where they work; may be repeated.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="They run the projects too.")] = False,
    token: Annotated[bool, typer.Option("--token", help="A token for a program, in place of a link for a browser.")] = False,
    pseudonym: Annotated[str, typer.Option("--pseudonym", help="What labels carry; one is made up if not given.")] = "",
    address: Annotated[
        str, typer.Option("--address", metavar="URL", help="Where people open the app.", show_default="where it was last served")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="NAME is the pseudonym of somebody who is there: a new link or token.")] = False,
    db: Db = STORE,
) -> dict:
    """Invite somebody: prints a link that signs them in once, or a token. It is told only now.

    With --again it is for somebody who is there already: another device, a lost link, or a store that was restored.
    The link leads to where the app was last served; if it does not answer there now, that is said.

    Example:  [bold]handrail feedback invite "Labeller One" --project support[/]
    """
    from handrail.feedback.client import status_of
    from handrail.feedback.store import people

    if again and (project or admin or pseudonym):
        raise InputError("--again beside --project, --admin or --pseudonym", "--again with a pseudonym alone", "leave the others away")
    with store(db) as open_store:
        if again:
            person = people.named(open_store, name)
        else:
            person = people.invite(open_store, name, "admin" if admin else "labeller", project or [], pseudonym)
        secret = people.issue(open_store, person, "token" if token else "link")
        found = (address or people.last_address(open_store) or "http://127.0.0.1:8000").rstrip("/")
    out.print(Text.assemble(("✓ ", "green"), f"{person.name} is {person.pseudonym}; told only now:"))
    told: dict[str, Any] = {"pseudonym": person.pseudonym, "role": person.role}
    if token:
        out.print(Text(secret), soft_wrap=True)
        return told | {"token": secret}
    link = f"{found}/enter/{secret}"
    out.print(Text(link), soft_wrap=True)
    if address:
        return told | {"link": link}
    answers = status_of(link) == 200
    if not answers:
        said = f"The app with this store does not answer at {found} now. `handrail feedback serve --db {shown(db)}` begins it;"
        out.print(Text(f"{said} if that names another address, put it before /enter/.", "yellow"), soft_wrap=True)
    return told | {"link": link, "answers": answers}


@verb
def delete(
    pseudonym: Annotated[str, typer.Argument(metavar="PSEUDONYM", help="Whose name and access go.", show_default=False)], db: Db = STORE
) -> dict:
    """Delete a person: name, links, sessions and tokens go; the labels stay under the pseudonym.

    Example:  [bold]handrail feedback delete labeller-1[/]
    """
    from handrail.feedback.store import people

    with store(db) as open_store:
        people.remove(open_store, pseudonym)
    out.print(Text.assemble(("✓ ", "green"), f"the person is deleted; the labels of {pseudonym} stay"))
    return {"deleted": pseudonym}


@verb
def status(db: Db = STORE) -> dict:
    """How far everything is: projects, tasks, people, snapshots.

    Example:  [bold]handrail feedback status[/]
    """
    with store(db) as open_store:
        found = all_of(open_store)
    for project in found["projects"]:
        table = Table(
            "task",
            "kind",
            "labels",
            "items",
            "skipped",
            title=Text(project["name"], "bold"),
            title_justify="left",
            box=None,
            padding=(0, 2),
        )
        for one in project["tasks"]:
            done = f"{one['labels']:,} of {one['wanted']:,}"
            table.add_row(
                Text(one["name"]), one["kind"] + (" (paused)" if one["paused"] else ""), done, f"{one['items']:,}", f"{one['skipped']:,}"
            )
        out.print(table)
        for snapshot in project["snapshots"]:
            out.print(Text(f"  snapshot {snapshot['id']}: {snapshot['labels']:,} labels, SHA-256 {snapshot['sha256'][:16]}…", "dim"))
    for person in found["people"]:
        where = ", ".join(person["projects"]) or ("everywhere" if person["role"] == "admin" else "in no project")
        out.print(Text.assemble((f"  {person['pseudonym']}", "bold"), f"  {person['name'] or 'deleted'}  ({where})"))
    if not found["projects"]:
        out.print("[dim]no project so far: handrail feedback import, or make one in the app[/]")
    return found


def all_of(db: "Database") -> dict[str, Any]:
    """Projects with their tasks and snapshots, and people."""
    from handrail.feedback.store import people, projects, review, snapshots

    found = []
    for project in projects.all_projects(db):
        name, tasks = project["name"], []
        for task in projects.all_tasks(db, project["name"]):
            kept = {"id": task.id, "name": task.name, "kind": task.settings.kind, "paused": task.settings.paused, "revision": task.revision}
            tasks.append(kept | projects.progress(db, task) | {"skipped": review.skipped(db, task)})
        taken = [
            {"id": one.id, "labels": one.labels, "sha256": one.sha256, "created": one.created} for one in snapshots.all_snapshots(db, name)
        ]
        found.append(
            project | {"tasks": tasks, "answered": review.answered(db, name), "flags": len(review.flags(db, name)), "snapshots": taken}
        )
    return {"projects": found, "people": people.everybody(db)}
