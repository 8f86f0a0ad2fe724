"""A store that is looked at: read as it lies, with nothing made, written or brought up to date."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from feedback_world import DATABASES, World, pair
from handrail.errors import InputError, StorageError
from handrail.feedback.store import Database, browse, projects, review, skips
from handrail.feedback.store.looking import look


@pytest.fixture
def worked(world: World) -> World:
    """A store in which somebody has answered one item of two."""
    world.make_task(pair(1), pair(2))
    person = world.labeller()
    world.act(person, world.give(person)[0])
    return world


def around(path: Path) -> dict[str, tuple[int, int]]:
    """The files beside a store: their sizes, and when they were written."""
    return {one.name: (one.stat().st_size, one.stat().st_mtime_ns) for one in path.parent.iterdir()}


@pytest.mark.parametrize("where", DATABASES, indirect=True)
def test_what_is_read_is_what_the_store_says_and_nothing_can_be_written(worked):
    looked = look(worked.where)
    assert review.everything(looked, "support") == review.everything(worked.db, "support")
    with pytest.raises(StorageError, match="to be looked at"):
        projects.make_project(looked, "other")
    with pytest.raises(StorageError, match="read"), looked.read() as connection:
        connection.execute(text("delete from events"))
    assert len(review.everything(worked.db, "support")[1]) == 1
    looked.close()


def test_a_file_that_nobody_has_open_is_left_as_it_is_even_in_a_folder_that_cannot_be_written(worked):
    worked.db.close()
    path = Path(worked.where)
    before = around(path)
    assert list(before) == ["feedback.db"]
    os.chmod(path.parent, 0o500)
    try:
        looked = look(worked.where)
        assert len(review.everything(looked, "support")[1]) == 1
    finally:
        os.chmod(path.parent, 0o700)
    assert around(path) == before


def test_a_log_that_a_killed_writer_has_left_is_read_and_nothing_is_made_beside_it(worked, tmp_path):
    path = tmp_path / "left" / "feedback.db"
    path.parent.mkdir()
    for kind in ("", "-wal"):
        shutil.copyfile(f"{worked.where}{kind}", f"{path}{kind}")
    before = around(path)
    assert before["feedback.db-wal"][0] > 0
    os.chmod(path.parent, 0o500)
    try:
        assert review.everything(look(str(path)), "support") == review.everything(worked.db, "support")
    finally:
        os.chmod(path.parent, 0o700)
    assert around(path) == before and len(before) == 2


def test_what_comes_while_others_work_is_seen_and_nobody_waits(worked):
    looked, person = look(worked.where), worked.labeller()
    with looked.read():  # somebody looks for a while
        worked.act(person, worked.give(person)[0])
    assert len(review.everything(looked, "support")[1]) == 2
    worked.db.close()
    worked.db.engine.dispose()
    assert len(review.everything(looked, "support")[1]) == 2


def test_a_file_that_is_written_to_meanwhile_is_said_to_be(worked):
    worked.db.close()
    looked = look(worked.where)
    with pytest.raises(StorageError, match="while it was read"), looked.read(), closing(Database.open(worked.where)) as db:
        projects.make_project(db, "other")
        db.close()
    assert [one["name"] for one in projects.all_projects(looked)] == ["support", "other"]


@pytest.mark.parametrize(("version", "told"), [("0001", "an older"), ("9999", "a newer")])
def test_a_store_of_another_version_is_refused_and_stays_what_it_is(worked, version, told):
    worked.db.close()
    with closing(sqlite3.connect(worked.where)) as raw:
        raw.execute("update alembic_version set version_num = ?", [version])
        raw.commit()
    before = around(Path(worked.where))
    with pytest.raises(InputError, match=f"written by {told} Handrail"):
        look(worked.where)
    assert around(Path(worked.where)) == before


def test_what_is_no_store_is_refused_and_not_made(tmp_path):
    with pytest.raises(InputError, match="there is no store"):
        look(str(tmp_path / "feedback.db"))
    with pytest.raises(InputError, match="there is no store"):
        look(f"sqlite+pysqlite:///{tmp_path}/feedback.db")
    with pytest.raises(InputError, match="a folder"):
        look(str(tmp_path))
    (tmp_path / "text.db").write_text("no database at all, however long it may be " * 9)
    with closing(sqlite3.connect(tmp_path / "other.db")) as raw:
        raw.execute("create table songs (name)")
    for name in ("text.db", "other.db"):
        with pytest.raises(InputError, match="no feedback store"):
            look(str(tmp_path / name))
    for where in ("mysql://host/db", "sqlite://", "://"):
        with pytest.raises(InputError):
            look(where)
    assert {one.name for one in tmp_path.iterdir()} == {"text.db", "other.db"}


@pytest.mark.parametrize("where", DATABASES, indirect=True)
def test_a_whole_project_is_looked_through(world):
    task = world.make_task(pair(1), pair(2), pair(3), overlap=2)
    ann, bob = world.labeller(), world.labeller()
    given = world.give(ann, 2)
    world.act(ann, given[0], "skip", reason="odd")
    world.clock.wait(60)
    skips.take_up(world.db, task, ann)
    world.clock.wait(10)
    world.act(ann, given[0], seconds=7.0)
    world.act(ann, given[1], "skip")
    world.act(bob, world.give(bob)[0])
    looked = look(world.where)
    done = {(one.item, one.person): one for one in browse.done(looked, "support")}
    answered = done[given[0].item, ann.pseudonym]
    assert (answered.state, answered.at, answered.seconds, answered.id) == ("done", world.clock.at, 7.0, given[0].id)
    assert done[given[1].item, ann.pseudonym].state == "skipped" and len(done) == 3
    assert [place.position for place in browse.places(looked, "support")] == [0, 1, 2]
    assert browse.version(looked, "support")[1:] == (review.last_event(world.db, "support"), 3)
    texts = dict(browse.texts(looked, "support"))
    assert sorted(texts.values())[0] == "question 1\n1, said the owl.\n1, said the goose." and len(texts) == 3
    mine = next(one for one in browse.asked(looked, given[0].item) if one.person == ann.pseudonym)
    assert [event.act for event in mine.past] == ["skip", "offer", "submit"] and mine.order == given[0].order
    assert browse.find(looked, given[0].item) == task
    with pytest.raises(InputError, match="no such item"):
        browse.find(looked, "nothing")
    looked.close()
