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
    """The files of labels behind a run: which run read each, and where its labels can be looked at."""
    told = []
    for origin in found:
        run = origin.run.resolve()
        below = run.relative_to(runs.root).as_posix() if run.is_relative_to(runs.root) else ""
        store = stores.at(origin.store) if origin.store else None
        if store is None or store.db is None:
            told.append({"origin": origin, "run": below, "kept": shown(origin.store), "opened": False, "query": ""})
            continue
        project = origin.note.project if origin.note else only_project(store.db)
        query = urlencode({"store": store.name, "project": project}) if project else ""
        told.append({"origin": origin, "run": below, "kept": store.name, "opened": True, "query": query})
    return told


def only_project(db: Looked) -> str:
    """The project of a store that has one, "" where it has several: simulated labellers have a store of their own."""
    found = projects.all_projects(db)
    return str(found[0]["name"]) if len(found) == 1 else ""
