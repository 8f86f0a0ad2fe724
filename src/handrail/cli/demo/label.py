"""`handrail demo --label`: the feedback app beside the round, and a browser opened when there is something to rank."""

import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

from handrail.feedback.server import ServerSettings, served
from handrail.feedback.store import Database, people, projects
from handrail.feedback.store.people import Person
from handrail.recipes.progress import console

YOU = "you"


@contextmanager
def app_beside(db: str, project: str) -> Iterator[None]:
    """The app over the store at `db` while the block lasts.  Its one labeller gets a link as soon as items are there."""
    store = Database.open(db)
    stop = threading.Event()
    try:
        if project not in {found["name"] for found in projects.all_projects(store)}:
            projects.make_project(store, project)
        person = somebody(store, project)
        with served(store, ServerSettings(port=0)) as address:
            people.announce(store, address)
            caller = threading.Thread(target=call, args=(store, project, person, address, stop), daemon=True)
            caller.start()
            yield
    finally:
        stop.set()
        store.close()


def somebody(store: Database, project: str) -> Person:
    """The person at this machine."""
    known = {row["pseudonym"] for row in people.everybody(store)}
    return people.named(store, YOU) if YOU in known else people.invite(store, "You", to=[project], pseudonym=YOU)


def call(store: Database, project: str, person: Person, address: str, stop: threading.Event) -> None:
    """Open the browser once there is something to do; say the address too, for a machine without one."""
    told: set[str] = set()
    while not stop.wait(0.5):
        for task in projects.all_tasks(store, project):
            state = projects.progress(store, task)
            if task.name not in told and state["labels"] < state["wanted"]:
                told.add(task.name)
                link = f"{address}/enter/{people.issue(store, person, 'link')}"
                console.print(f"[bold]Your turn:[/] {state['wanted'] - state['labels']} prompts wait to be ranked at [cyan]{link}[/]")
                webbrowser.open(link)
