"""From a run to the labels that it has learnt from, as its page shows them."""

from typing import Any
from urllib.parse import urlencode

from handrail.feedback.store import projects
from handrail.feedback.store.database import shown
from handrail.feedback.store.looking import Looked
from handrail.inspector.origins import Origin
from handrail.inspector.server.runs import Runs
from handrail.inspector.server.stores import Stores


def trail(found: list[Origin], runs: Runs, stores: Stores) -> list[dict[str, Any]]:
    """The files of labels behind a run as its page shows them: which run read each, and where its labels can be looked at."""
    found_at = []
    for origin in found:
        run = origin.run.resolve()
        below = run.relative_to(runs.root).as_posix() if run.is_relative_to(runs.root) else ""
        store = stores.at(origin.store) if origin.store else None
        opened = store is not None and store.db is not None
        project = origin.note.project if origin.note else only_project(store.db) if opened and store.db else ""
        about = {"origin": origin, "kept": shown(origin.store), "run": below, "store": store if opened else None, "project": project}
        found_at.append(about | {"query": urlencode({"store": store.name, "project": project}) if opened and store and project else ""})
    return found_at


def only_project(db: Looked) -> str:
    """The project of a store that has one, "" where it has several: simulated labellers have a store of their own."""
    found = projects.all_projects(db)
    return str(found[0]["name"]) if len(found) == 1 else ""
