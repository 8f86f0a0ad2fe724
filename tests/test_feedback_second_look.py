"""What those who run a project say of flags, skips and empty projects, and what their pages tell them; without a browser.

Each test of the store runs on SQLite, and in the slow suite on PostgreSQL too.
"""

import json
import re

import httpx2
import pytest
from sqlalchemy import func, select

from feedback_world import DATABASES, World, assert_replay, pair
from handrail.errors import InputError, RunError
from handrail.feedback.client import Client
from handrail.feedback.kinds import Compared, Item, Ranked, TaskSettings, blinded
from handrail.feedback.quality.figures import wilson
from handrail.feedback.store import assignment, flags, people, projects, review, skips, snapshots
from handrail.feedback.store.labels import Conflict
from handrail.feedback.store.people import Person
from handrail.feedback.store.snapshots import Rules
from handrail.feedback.store.tables import events, tasks
from handrail.feedback.words import as_seen, begins, in_words, measured
from handrail.records import Prompt

pytestmark = pytest.mark.parametrize("where", DATABASES, indirect=True)
OWN = {"origin": "http://127.0.0.1"}


def log_of(world: World) -> list[tuple[str | None, str, dict]]:
    """Who did what, the newest first."""
    return [(one["by"], one["action"], one["detail"]) for one in people.log(world.db)]


def flagged_answer(world: World, person: Person) -> flags.Flag:
    """An answer with a flag on it."""
    (given,) = world.give(person)
    world.act(person, given)
    world.act(person, given, "flag", reason="A names a person")
    return review.flags(world.db, "support")[0]


# Flags.


def test_a_dismissed_flag_lets_the_answer_count_again_and_a_right_one_keeps_it_out(world: World):
    task, admin = world.make_task(pair(1), pair(2)), world.admin()
    wrong, right = (flagged_answer(world, world.labeller()) for _ in range(2))
    assert snapshots.labels(world.db, "support") == []
    before, told = snapshots.take(world.db, "support", Rules(flagged=True))
    world.clock.wait(3600)
    for _ in range(2):  # pressed twice it is the same
        flags.judge(world.db, admin, task, wrong.id, "dismiss")
        flags.judge(world.db, admin, task, right.id, "uphold")
    assert review.flags(world.db, "support") == []
    assert {(one.id, one.verdict) for one in review.flags(world.db, "support", judged=True)} == {
        (wrong.id, "dismiss"),
        (right.id, "uphold"),
    }
    assert [one.labeller for one in snapshots.labels(world.db, "support")] == [wrong.labeller]
    assert [one.flagged for one in told] == [True, True]
    assert snapshots.again(world.db, before.id)[1] == told, "a snapshot from before stays what it was"
    kinds = select(events.c.kind, events.c.seconds).where(events.c.kind.in_(("dismiss", "uphold"))).order_by(events.c.id)
    with world.db.read() as connection:
        assert [tuple(row) for row in connection.execute(kinds)] == [("dismiss", 0.0), ("uphold", 0.0)], "two events were added"
    assert [(by, did) for by, did, _ in log_of(world)][:2] == [(admin.pseudonym, "uphold flag"), (admin.pseudonym, "dismiss flag")]
    flags.judge(world.db, admin, task, right.id, "dismiss")
    assert len(snapshots.labels(world.db, "support")) == 2, "one may come to think otherwise"
    assert_replay(world.db)


def test_undo_and_flags_that_were_judged_do_not_disturb_each_other(world: World):
    task, admin, person = world.make_task(pair(1)), world.admin(), world.labeller()
    (given,) = world.give(person)
    world.act(person, given)
    world.act(person, given, "flag", reason="first")
    [first] = review.flags(world.db, "support")
    flags.judge(world.db, admin, task, first.id, "dismiss")
    world.act(person, given, "flag", reason="second")
    [second] = review.flags(world.db, "support")
    assert second.reason == "second" and snapshots.labels(world.db, "support") == []
    world.act(person, given, "undo")  # the second flag
    assert len(snapshots.labels(world.db, "support")) == 1
    world.act(person, given, "undo")  # the first, dismissed as it is
    world.act(person, given, "flag", reason="third")
    assert [(one.reason, one.verdict) for one in review.flags(world.db, "support", judged=True)] == [("third", "")]
    with pytest.raises(InputError, match="no flag"):
        flags.judge(world.db, admin, task, first.id, "dismiss")
    world.act(person, given, "undo")
    world.act(person, given, "undo")
    with pytest.raises(Conflict):
        world.act(person, given, "undo")
    assert_replay(world.db)


def test_an_answer_that_is_kept_out_gives_its_place_to_another(world: World):
    task, admin, first, second, third = world.make_task(pair(1)), world.admin(), world.labeller(), world.labeller(), world.labeller()
    flag = flagged_answer(world, first)
    assert world.give(second) == [] and projects.progress(world.db, task)["labels"] == 1
    flags.judge(world.db, admin, task, flag.id, "uphold")
    assert projects.progress(world.db, task)["labels"] == 0 and world.give(first) == []
    (given,) = world.give(second)
    flags.judge(world.db, admin, task, flag.id, "dismiss")
    assert_replay(world.db)
    world.act(second, given)
    assert world.give(third) == [], "one label more than was wanted, and no more than that"
    assert {(one.labeller, one.extra) for one in snapshots.labels(world.db, "support")} == {
        (first.pseudonym, True),
        (second.pseudonym, False),
    }
    assert_replay(world.db)


def test_a_place_that_nobody_took_is_there_when_the_answer_comes_back(world: World):
    task, admin, first = world.make_task(pair(1)), world.admin(), world.labeller()
    flag = flagged_answer(world, first)
    flags.judge(world.db, admin, task, flag.id, "uphold")
    [own] = review.flags(world.db, "support", judged=True)
    assert own.verdict == "uphold"
    flags.judge(world.db, admin, task, flag.id, "dismiss")
    assert [one.extra for one in snapshots.labels(world.db, "support")] == [False]
    assert world.give(world.labeller()) == []
    assert_replay(world.db)


def test_an_upheld_flag_that_is_undone_takes_no_place_from_another(world: World):
    task, first, second = world.make_task(pair(1)), world.labeller(), world.labeller()
    (given,) = world.give(first)
    world.act(first, given)
    world.act(first, given, "flag", reason="x")
    flags.judge(world.db, world.admin(), task, review.flags(world.db, "support")[0].id, "uphold")
    world.act(second, world.give(second)[0])
    world.act(first, given, "undo")
    assert {(one.labeller, one.extra) for one in snapshots.labels(world.db, "support")} == {
        (first.pseudonym, True),
        (second.pseudonym, False),
    }
    assert_replay(world.db)


def test_a_flag_is_shown_with_the_letters_that_its_labeller_saw(world: World):
    task, admin = world.make_task(pair(1), overlap=2), world.admin()
    office = world.client(admin)
    pages = {}
    for _ in range(2):  # of two labellers one sees each order
        flag = flagged_answer(world, world.labeller())
        pages[flag.order] = office.get("/admin/p/support/disagreements").text, flag
        office.post(f"/admin/tasks/{task.id}/flags/{flag.id}", data={"verdict": "uphold"}, headers=OWN)
    words, here = "their A is B here, their B is A here", blinded(pages[1, 0][1].item, 2)
    assert words in pages[here[::-1]][0] and words not in pages[here][0]
    item = office.get(f"/admin/tasks/{task.id}/items/{pages[0, 1][1].item}").text
    assert item.count(words) == 1 and item.count("kept out of exports") == 2
    told = office.get(f"/api/tasks/{task.id}/items/{pages[0, 1][1].item}").json()["flags"]
    assert {tuple(one["order"]) for one in told} == {(0, 1), (1, 0)} and {one["verdict"] for one in told} == {"uphold"}


def test_a_flag_is_judged_by_the_page_and_by_the_api(world: World):
    task, admin = world.make_task(pair(1), pair(2), pair(3)), world.admin()
    office, labeller = world.client(admin), world.client(world.labeller())
    one, other, third = (flagged_answer(world, world.labeller()) for _ in range(3))
    page = office.get("/admin/p/support/disagreements").text
    assert f'action="/admin/tasks/{task.id}/flags/{one.id}"' in page
    done = office.post(f"/admin/tasks/{task.id}/flags/{one.id}", data={"verdict": "dismiss"}, follow_redirects=False)
    assert done.status_code == 303 and done.headers["location"] == "/admin/p/support/disagreements"
    assert office.post(f"/admin/tasks/{task.id}/flags/{other.id}", data={"verdict": "shrug"}).status_code == 422
    assert office.post(f"/api/tasks/{task.id}/flags/{other.id}", json={"verdict": "uphold"}).status_code == 204
    assert office.post(f"/api/tasks/{task.id}/flags/999", json={"verdict": "uphold"}).status_code == 404
    assert labeller.post(f"/api/tasks/{task.id}/flags/{third.id}", json={"verdict": "uphold"}).status_code == 403
    assert [flag.id for flag in review.flags(world.db, "support")] == [third.id]


# Skips.


def test_what_everybody_has_skipped_is_shown_and_may_be_offered_again(world: World):
    task, admin = world.make_task(pair(1), overlap=2), world.admin()
    one, other = world.labeller(), world.labeller()
    (given,), (beside,) = world.give(one), world.give(other)
    world.act(one, given, "skip", reason="unclear")
    assert skips.stuck(world.db, "support") == [], "another is at it"
    world.act(other, beside)
    [left] = skips.stuck(world.db, "support")
    assert (left.item, left.labels, left.wanted, left.by) == (given.item, 1, 2, ((one.pseudonym, "unclear"),))
    assert world.give(one) == [] and world.give(other) == []
    assert not assignment.anything(world.db, task, one)
    office = world.client(admin)
    page = office.get("/admin/p/support/disagreements").text
    assert "unclear" in page and "1 of 2 labels" in page and "question 1" in page
    assert [each["by"] for each in office.get("/api/projects/support/skipped").json()] == [[[one.pseudonym, "unclear"]]]
    assert office.post(f"/admin/tasks/{task.id}/items/{left.item}/offer", headers=OWN, follow_redirects=False).status_code == 303
    assert skips.stuck(world.db, "support") == [] and assignment.anything(world.db, task, one)
    (again,) = world.give(one)
    assert (again.id, again.order, again.offered, given.offered) == (given.id, given.order, 1, 0), "as it stood"
    assert world.give(other) == [], "who answered is not asked again"
    with pytest.raises(Conflict):
        world.act(one, again, "undo")  # the skip was taken back already
    world.act(one, again)
    assert len(snapshots.labels(world.db, "support")) == 2
    assert log_of(world)[0] == (admin.pseudonym, "offer again", {"project": "support", "task": task.name, "item": given.item, "people": 1})
    assert office.post(f"/api/tasks/{task.id}/items/{left.item}/offer").json() == {"people": 0}
    assert_replay(world.db)


def test_an_item_is_stuck_only_while_nobody_is_left(world: World):
    world.make_task(pair(1))
    one, other = world.labeller(), world.labeller()
    for person in (one, other):
        assert skips.stuck(world.db, "support") == []
        world.act(person, world.give(person)[0], "skip")
    assert len(skips.stuck(world.db, "support")) == 1
    third = world.labeller()
    assert skips.stuck(world.db, "support") == [], "somebody new may answer it"
    people.remove(world.db, third.pseudonym)
    assert len(skips.stuck(world.db, "support")) == 1
    alone = world.admin()
    world.make_task(pair(2))
    world.act(alone, world.give(alone)[0], "skip")
    assert len(skips.stuck(world.db, "support")) == 1, "labellers have not had the new one yet"


def test_a_labeller_takes_up_again_what_has_room(world: World):
    task = world.make_task(pair(1), pair(2), pair(3, gold=Compared(better=0)), gold=0.5, overlap=1)
    one, other = world.labeller(), world.labeller()
    first, second = world.give(one, 2)
    world.act(one, first, "skip")
    world.act(one, second, "skip")
    for given in world.give(other):
        world.act(other, given)
    full = {label.item for label in snapshots.labels(world.db, "support")}
    progress = projects.progress(world.db, task, one)
    mine = {given.item for given in (first, second)}
    assert (progress["skipped"], progress["again"]) == (2, len(mine - full))
    client = world.client(one)
    assert client.get(f"/api/tasks/{task.id}").json()["progress"]["again"] == len(mine - full)
    assert client.post(f"/api/tasks/{task.id}/skipped").json() == {"items": len(mine - full)}
    assert client.post(f"/api/tasks/{task.id}/skipped").json() == {"items": 0}
    back = world.give(one, 2)
    assert mine - full <= {given.item for given in back}
    assert client.post("/api/tasks/999/skipped").status_code == 404
    assert_replay(world.db)
    projects.revise(world.db, task, task.settings.model_copy(update={"paused": True}))
    assert skips.take_up(world.db, task, one) == 0


def test_what_an_adjudicator_skips_is_offered_to_nobody(world: World):
    task, admin = world.make_task(pair(1)), world.admin()
    item = review.item_states(world.db, task)[0].id
    answer = world.client(admin).post(f"/api/tasks/{task.id}/items/{item}/adjudicate", json={"key": "the-settling-key", "act": "skip"})
    assert answer.status_code == 200
    assert skips.offer_again(world.db, admin, task, item) == 0 and skips.take_up(world.db, task, admin) == 0


def test_a_number_that_no_database_gives_is_refused(world: World):
    task, office = world.make_task(pair(1)), world.client(world.admin())
    assert office.post(f"/api/tasks/{task.id}/flags/{2**31}", json={"verdict": "dismiss"}).status_code == 422
    assert office.get("/api/audit", params={"before": 2**31}).status_code == 422


@pytest.mark.parametrize("status", [502, 504])
def test_what_may_have_arrived_is_made_once(world: World, status: int):
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(status)

    client = Client("http://127.0.0.1", "token", patience=0.2, transport=httpx2.MockTransport(answer))
    with pytest.raises(RunError, match="broke off"):
        client.make_project("other")
    assert len(asked) == 1
    with pytest.raises(RunError, match="does not answer"):
        client.me()
    assert len(asked) > 2, "what makes nothing is asked again"


def test_whether_there_is_more_is_told_for_each_person(world: World):
    task, one, other = world.make_task(pair(1)), world.labeller(), world.labeller()
    more = lambda person: world.client(person).get("/api/me").json()["tasks"][0]["more"]  # noqa: E731
    assert more(one) and more(other)
    (given,) = world.give(one)
    assert more(one) and not more(other)
    world.clock.wait(task.settings.lease + 1)
    assert more(other), "what the first let go"
    world.act(one, given)
    assert not more(one) and not more(other)
    projects.take_in(world.db, task, [pair(2)])
    assert more(one)
    projects.revise(world.db, task, task.settings.model_copy(update={"paused": True}))
    assert not more(one)


def test_practice_is_no_answer_in_the_count(world: World):
    task, person = world.make_task(pair(1), pair(9, practice=True, gold=Compared(better=0))), world.labeller()
    (practice,) = world.give(person)
    world.act(person, practice)
    assert projects.progress(world.db, task, person)["yours"] == 0
    (work,) = world.give(person)
    world.act(person, work)
    assert projects.progress(world.db, task, person)["yours"] == 1


# Projects.


def test_an_empty_project_can_be_deleted_and_one_with_answers_never(world: World):
    admin, person = world.admin(), world.labeller()
    office = world.client(admin)
    projects.make_project(world.db, "suport")
    typo = projects.make_task(world.db, "suport", "pairs", TaskSettings(kind="compare"))
    projects.take_in(world.db, typo, [pair(1), pair(2)])
    people.join(world.db, person, "suport")
    assignment.give_out(world.db, typo, admin, 1)
    snapshots.take(world.db, "suport")
    page = office.get("/admin/p/suport/delete").text
    assert "the task pairs (2 items)" in page and "Delete the project" in page
    assert office.post("/admin/p/suport/delete", headers=OWN, follow_redirects=False).headers["location"] == "/admin"
    assert {one["name"] for one in projects.all_projects(world.db)} == {"support"}
    assert office.get("/admin/p/suport").status_code == 404
    assert log_of(world)[0] == (admin.pseudonym, "delete project", {"project": "suport", "tasks": 1})
    with world.db.read() as connection:
        assert connection.scalar(select(func.count()).select_from(tasks)) == 0, "nothing of it is left"
    projects.make_project(world.db, "suport")

    world.make_task(pair(1))
    (given,) = world.give(person)
    for why in ("items are before people", "people have answered"):
        assert why in office.get("/admin/p/support/delete").text
        assert "Delete the project" not in office.get("/admin/p/support/delete").text
        refused = office.request("DELETE", "/api/projects/support")
        assert refused.status_code == 422 and why in refused.json()["found"]
        world.act(person, given, "flag", reason="x")
    with pytest.raises(InputError, match="people have answered"):
        projects.remove_project(world.db, "support")
    assert world.client(person).request("DELETE", "/api/projects/suport").status_code == 403
    assert office.request("DELETE", "/api/projects/suport").status_code == 204


# What the pages tell.


def test_the_preview_of_an_import_tells_what_is_known(world: World):
    task, office = world.make_task(pair(1), pair(2)), world.client(world.admin())
    rows = [pair(n, priority=3.0).model_dump(mode="json") for n in (1, 2, 3, 3)]

    def look(*chosen: dict) -> tuple[str, str]:
        file = "".join(json.dumps(row) + "\n" for row in chosen)
        answer = office.post(f"/admin/tasks/{task.id}/import", files={"file": ("f.jsonl", file)}, data={"as": "work"}, headers=OWN)
        return re.sub(r"<[^>]+>", " ", answer.text), answer.url.path

    told, path = look(*rows)
    assert re.search(r"of these new\s+1\s", told) and re.search(r"twice in the file\s+3\s", told) and "Take 1 new item in" in told
    assert "1 item came in; 3 were here already" in office.post(path, headers=OWN).text
    told, path = look(*rows[:2])
    assert "All of them are here already" in told and "Set the priorities" in told
    office.post(path, headers=OWN)
    assert {one.priority for one in review.item_states(world.db, task)} == {3.0}
    assert "of these new" not in look(pair(4).model_dump(mode="json"))[0]


def test_items_with_one_prompt_are_told_apart(world: World):
    long = "Both of these answers begin with the very same sentence, word for word. "
    items = [Item(prompt=Prompt.of("Same?"), responses=(f"{long}Then {n} roses.", f"{long}Then {n} tulips.")) for n in ("two", "nine")]
    task, office = world.make_task(*items, overlap=2), world.client(world.admin())
    for person, place in ((world.labeller(), 0), (world.labeller(), 1)):
        for given in world.give(person, 2):
            world.act(person, given, answer=Compared(better=given.order.index(place)))
    for address in (f"/admin/tasks/{task.id}", "/admin/p/support/disagreements"):
        page = office.get(address).text
        assert all(word in page for word in ("two roses", "two tulips", "nine roses", "nine tulips")), address


def test_the_quality_page_names_people_and_tasks(world: World):
    task, office = world.make_task(*map(pair, range(12)), overlap=2), world.client(world.admin())
    for person, seconds in ((world.labeller(), 5.0), (world.labeller(), 0.1)):
        for given in world.give(person, 12):
            world.clock.wait(5)
            world.act(person, given, seconds=seconds, answer=Compared(better=given.order.index(0)))
    page = office.get("/admin/p/support/quality").text
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert f"Task {task.name}: 24 first answers" in text
    assert f"Labeller {person.pseudonym}" in text, "the name and the pseudonym"
    assert "100 % (100 to 100; n = 12)" in text
    assert f"in {task.name}" in text, "a concern says in which task"
    assert f"Quality of {task.name}" in office.get(f"/admin/p/support/quality?task={task.name}").text


def test_admins_land_on_their_pages_and_labellers_on_theirs(world: World):
    for person, home in ((world.admin(), "/admin"), (world.labeller(), "/")):
        link = people.issue(world.db, person, "link")
        answer = world.client().post(f"/enter/{link}", headers=OWN, follow_redirects=False)
        assert answer.headers["location"] == home


def test_links_and_tokens_stand_in_the_log(world: World):
    admin, person = world.admin(), world.labeller()
    office = world.client(admin)
    assert office.post(f"/api/people/{person.pseudonym}/token").status_code == 201
    office.post(f"/admin/people/{person.pseudonym}/link", headers=OWN)
    told = [(by, did, detail["pseudonym"]) for by, did, detail in log_of(world)[:2]]
    assert told == [(admin.pseudonym, "issue link", person.pseudonym), (admin.pseudonym, "issue token", person.pseudonym)]


def test_a_finished_task_says_so(world: World):
    world.make_task(pair(1))
    office, person = world.client(world.admin()), world.labeller()
    assert "finished" not in office.get("/admin/p/support").text
    world.act(person, world.give(person)[0])
    for address in ("/admin", "/admin/p/support", f"/admin/tasks/{world.task.id}"):
        assert "finished" in office.get(address).text, address


def test_words(where: str):
    assert as_seen((2, 0, 1), (2, 0, 1)) == "" and as_seen((2, 1, 0), (0, 1, 2)) == "their A is C here, their C is A here"
    assert as_seen((0, 1, 2), (1, 2, 0)) == "their A is C here, their B is A here, their C is B here"
    assert in_words(Compared(better=0), (1, 0)) == "B is better" and in_words(Ranked(places=(1, 2, 3)), (2, 0, 1)) == "B > C > A"
    assert begins(("one two", "three"), 0) == "one two" and begins(("same", "same"), 1) == "same"
    assert begins(("word " * 40 + "cat", "word " * 40 + "dog"), 1).endswith("dog")
    assert begins(("x" * 50 + "cat", "x" * 50 + "dog"), 1) == "… " + "x" * 15 + "dog"
    assert begins(("a" * 100, "b"), 0) == "a" * 59 + "…"
    assert measured(wilson(5, 5), share=True) == "100 % (57 to 100; n\u00a0=\u00a05)"
