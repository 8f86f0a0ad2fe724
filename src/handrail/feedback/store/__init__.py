"""The store: projects, tasks, items, people, leases and labels, in SQLite or PostgreSQL.

db = Database.open("feedback.db")
projects.make_project(db, "support"); task = projects.make_task(db, "support", "compare", TaskSettings(kind="compare"))
projects.take_in(db, task, items)
given = assignment.give_out(db, task, person, 3)
labels.submit(db, person, given[0].id, Submission(key=..., answer=...))       on disk when it returns
snapshot, found = snapshots.take(db, "support")
"""

from handrail.feedback.store import assignment, browse, chats, flags, labels, people, projects, review, skips, snapshots
from handrail.feedback.store.database import Database

__all__ = ["Database", "assignment", "browse", "chats", "flags", "labels", "people", "projects", "review", "skips", "snapshots"]
