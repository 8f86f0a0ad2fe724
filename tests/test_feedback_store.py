"""The feedback store: nothing that was acknowledged is lost, and what stands follows from what people did.

Each test runs on SQLite, and in the slow suite on PostgreSQL too.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from itertools import permutations, product
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from scipy.stats import binomtest, chisquare
from sqlalchemy import event, func, select, text

from feedback_world import DATABASES, Clock, World, assert_replay, new_key, pair, together
from handrail.errors import InputError, StorageError
from handrail.feedback import exports
from handrail.feedback.formats import records_of
from handrail.feedback.kinds import Chatted, Compared, Criterion, Item, Ranked, Rated, TaskSettings, restored
from handrail.feedback.store import Database, assignment, chats, labels, people, projects, snapshots
from handrail.feedback.store import database as database_module
from handrail.feedback.store.chats import Chosen, Said
from handrail.feedback.store.labels import Conflict, NotThere, Submission
from handrail.feedback.store.snapshots import Rules
from handrail.feedback.store.tables import METADATA, assignments, events, items
from handrail.records import Prompt

pytestmark = pytest.mark.parametrize("where", DATABASES, indirect=True)


def labels_of(world: World, **rules: object) -> list:
    return snapshots.labels(world.db, "support", Rules.model_validate({"tasks": (world.task.name,), **rules}))


def counted(world: World, query: object) -> int:
    with world.db.read() as connection:
        return int(connection.scalar(query) or 0)


# The same key is the same event.


def test_the_same_key_and_body_are_one_event_and_give_one_answer(world: World):
    world.make_task(pair(1))
    person = world.labeller()
    (given,) = world.give(person)
    first = world.act(person, given, key="the-same-key", reason="clear", seconds=2.0)
    world.clock.wait(100)
    assert world.act(person, given, key="the-same-key", reason="clear", seconds=2.0) == first
    assert counted(world, select(func.count()).select_from(events)) == 1
    world.act(person, given, "undo")
    assert world.act(person, given, key="the-same-key", reason="clear", seconds=2.0) == first, "also after something else was done"
    assert labels_of(world) == []
    assert_replay(world.db)


@pytest.mark.parametrize("other", [{"answer": Compared(better=1)}, {"reason": "other"}, {"seconds": 3.0}, {"act": "flag"}])
def test_the_same_key_with_another_body_is_refused(world: World, other: dict):
    world.make_task(pair(1), pair(2))
    person = world.labeller()
    given = world.give(person, 2)
    world.act(person, given[0], key="the-same-key")
    if other.get("act") == "flag":
        other = other | {"reason": "x"}
    with pytest.raises(Conflict):
        world.act(person, given[0], key="the-same-key", **other)
    with pytest.raises(Conflict):
        world.act(person, given[1], key="the-same-key")
    assert [label.answer for label in labels_of(world)] == [Compared(better=given[0].order[0])]


def test_a_key_of_another_person_is_refused_and_tells_nothing(world: World):
    world.make_task(pair(1), overlap=2)
    one, other = world.labeller(), world.labeller()
    (a,), (b,) = world.give(one), world.give(other)
    world.act(one, a, key="the-same-key", reason="secret words")
    with pytest.raises(Conflict) as refused:
        world.act(other, b, key="the-same-key", reason="secret words")
    assert "secret" not in str(refused.value) and one.pseudonym not in str(refused.value)


def test_one_key_sent_at_the_same_moment_is_one_event(world: World):
    """Also to items of different tasks, which do not wait for each other."""
    person, found = world.labeller(), []
    for number in range(4):
        world.make_task(pair(number))
        found.append(world.give(person)[0])
    for given in (found, [found[0]] * 4):
        key = new_key()
        done = together(*[lambda one=one, key=key: world.act(person, one, key=key) for one in given])
        refused = [one for one in done if isinstance(one, Exception)]
        assert all(isinstance(one, Conflict) for one in refused), refused
        assert len(refused) == (3 if given is found else 0)
        assert counted(world, select(func.count()).select_from(events).where(events.c.key == key)) == 1
        for one in given:  # so that the second round begins where the first did
            with world.db.read() as connection:
                _, standing = labels.stand(connection, one.id)
            if standing.answers:
                world.act(person, one, "undo")
    assert_replay(world.db)


# Overlap, leases, who is given what.


@pytest.mark.parametrize("overlap", [1, 3])
def test_the_overlap_is_never_exceeded(world: World, overlap: int):
    """Eight threads ask, answer, skip and undo at once."""
    world.make_task(*map(pair, range(12)), overlap=overlap)
    everybody = [world.labeller() for _ in range(8)]

    def work(number: int) -> int:
        rng, done = random.Random(number), 0
        while given := world.give(everybody[number], rng.randint(1, 3)):
            for one in given:
                act = rng.choice(["submit", "submit", "submit", "skip"])
                world.act(everybody[number], one, act)
                done += act == "submit"
                taken = counted(world, select(func.max(items.c.taken)))
                assert taken <= overlap
        return done

    done = together(*[lambda number=number: work(number) for number in range(8)])
    assert all(isinstance(one, int) for one in done), done
    found = Counter(label.item for label in labels_of(world))
    assert max(found.values()) <= overlap and sum(found.values()) == sum(done)
    assert not any(label.extra for label in labels_of(world))
    assert_replay(world.db)


def test_one_item_is_not_given_to_one_person_twice_by_two_windows(world: World):
    world.make_task(*map(pair, range(6)), overlap=8)
    person = world.labeller()
    given = together(*[lambda: world.give(person, 4)] * 6)
    assert len({one.id for found in given for one in found}) == 4, "what is open is given again, not more of it"
    assert counted(world, select(func.count()).select_from(assignments)) == 4


def test_a_lease_ends_and_the_item_goes_to_another(world: World):
    world.make_task(pair(1), lease=60)
    one, other = world.labeller(), world.labeller()
    (first,) = world.give(one)
    assert world.give(other) == []
    world.clock.wait(59)
    assert [again.id for again in world.give(one)] == [first.id], "asking again keeps it"
    world.clock.wait(59)
    assert world.give(other) == [], "the lease began anew"
    world.clock.wait(2)
    (second,) = world.give(other)
    assert second.item == first.item and second.order == first.order[::-1]
    assert_replay(world.db)


def test_a_late_answer_is_kept_and_counts_where_there_is_room(world: World):
    world.make_task(pair(1), lease=60)
    one, other = world.labeller(), world.labeller()
    (given,) = world.give(one)
    world.clock.wait(61)
    assert world.give(other) != [] and world.act(other, world.give(other)[0], "skip")
    world.act(one, given)
    assert [label.extra for label in labels_of(world)] == [False]
    assert world.give(world.labeller()) == []
    assert_replay(world.db)


def test_a_late_answer_beyond_the_overlap_is_kept_as_an_extra(world: World):
    world.make_task(pair(1), lease=60)
    one, other = world.labeller(), world.labeller()
    (late,) = world.give(one)
    world.clock.wait(61)
    (given,) = world.give(other)
    world.act(one, late)
    world.act(other, given)
    assert [(label.labeller, label.extra) for label in labels_of(world)] == [(one.pseudonym, True), (other.pseudonym, False)]
    assert [label.labeller for label in labels_of(world, extra=False)] == [other.pseudonym]
    world.act(one, late, answer=Compared(better=1))
    assert [label.extra for label in labels_of(world)] == [True, False], "an edit does not change that"
    assert_replay(world.db)


def test_an_extra_that_was_taken_back_is_none_when_it_comes_in_time(world: World):
    """One answers too late, takes it back, is given the item again when there is room, and answers in time."""
    world.make_task(pair(1), lease=60)
    one, other = world.labeller(), world.labeller()
    (late,) = world.give(one)
    world.clock.wait(61)
    (given,) = world.give(other)
    world.act(one, late)
    world.act(one, late, "undo")
    world.act(other, given, "skip")
    (again,) = world.give(one)
    world.act(one, again)
    assert [(label.labeller, label.extra) for label in labels_of(world)] == [(one.pseudonym, False)]
    assert world.give(world.labeller()) == []
    assert_replay(world.db)


def test_nobody_is_given_an_item_twice(world: World):
    world.make_task(*map(pair, range(20)), overlap=3)
    for _ in range(3):
        person, seen = world.labeller(), []
        while given := world.give(person, 2):
            seen += [one.item for one in given]
            for one in given:
                world.act(person, one, random.choice(["submit", "skip"]))
        assert len(seen) == len(set(seen))


def test_what_is_urgent_comes_first_and_what_is_begun_is_finished(world: World):
    world.make_task(*[pair(number, priority=float(number % 3)) for number in range(9)], overlap=2)
    one, other = world.labeller(), world.labeller()
    order = {}
    for person in (one, other):
        order[person.id] = [found.content.priority for found in world.give(person, 5)]
    assert order == {one.id: [2, 2, 2, 1, 1], other.id: [2, 2, 2, 1, 1]}
    assert world.give(world.labeller(), 1)[0].content.priority == 1
    projects.take_in(world.db, world.task, [pair(0, priority=9.0)])
    first, second = world.give(world.labeller(), 2)
    assert first.content.prompt.text == "question 0" and second.content.priority == 1, "a new priority holds at once"


def test_no_more_is_begun_than_is_soon_finished_and_the_same_people_do_not_share_all_their_items(world: World):
    world.make_task(*map(pair, range(300)), overlap=3)
    people_, shared = [world.labeller() for _ in range(12)], {}
    for _ in range(12):
        for person in people_:
            for one in world.give(person, 4):
                world.act(person, one, "submit")
                shared.setdefault(one.item, []).append(person.id)
    unfinished = [who for who in shared.values() if len(who) < 3]
    assert len(unfinished) <= 64 and sum(map(len, shared.values())) == 12 * 12 * 4
    partners = {person.id: {other for who in shared.values() if person.id in who for other in who} for person in people_}
    assert min(map(len, partners.values())) == 12, "everybody has shared items with everybody"


def test_a_paused_task_gives_nothing_and_still_takes_answers(world: World):
    world.make_task(pair(1))
    person = world.labeller()
    (given,) = world.give(person)
    world.task = projects.revise(world.db, world.task, world.task.settings.model_copy(update={"paused": True}))
    assert world.give(person) == []
    world.act(person, given)
    assert len(labels_of(world)) == 1


def test_new_settings_hold_for_what_nobody_answered(world: World):
    """A lease from before is asked by the settings that its labeller is shown now; an answer keeps those it was given under."""
    scale = {"criteria": (Criterion(name="clear"),)}
    world.make_task(pair(1), pair(2), kind="rate", **scale)
    person = world.labeller()
    answered, waiting = world.give(person, 2)
    world.act(person, answered, answer=Rated(ratings=({"clear": 1},) * 2))
    taken, before = snapshots.take(world.db, "support")
    settings = world.task.settings.model_copy(update={"criteria": (Criterion(name="kind"),)})
    world.task = projects.revise(world.db, world.task, settings)
    (again,) = world.give(person)
    assert (again.id, again.revision) == (waiting.id, 2) and again.shown != waiting.shown
    world.act(person, again, answer=Rated(ratings=({"kind": 1},) * 2))
    world.act(person, answered, answer=Rated(ratings=({"clear": 2},) * 2))
    assert [label.revision for label in labels_of(world)] == [1, 2]
    assert snapshots.again(world.db, taken.id)[1] == before


# Gold, practice, repeats.


def test_gold_and_repeats_come_at_the_shares_of_the_settings(world: World):
    gold = [pair(1000 + number, gold=Compared(better=0)) for number in range(60)]
    world.make_task(*map(pair, range(200)), *gold, overlap=9, gold=0.2, repeats=0.1)
    found: Counter[str] = Counter()
    person = world.labeller()
    for _ in range(130):
        (given,) = world.give(person)
        found[given.purpose] += 1
        world.act(person, given)
    assert sum(found.values()) == 130
    assert binomtest(found["gold"], 130, 0.2).pvalue > 1e-6
    assert binomtest(found["repeat"], 130, 0.1).pvalue > 1e-6


def test_a_repeat_is_the_persons_own_a_while_ago_once_and_takes_no_place(world: World):
    world.make_task(*map(pair, range(30)), overlap=1, repeats=0.5)
    person, order, shown, repeated = world.labeller(), [], [], {}
    for _ in range(80):
        given = world.give(person)
        if not given:
            break
        (one,) = given
        if one.purpose == "repeat":
            assert one.item in shown[: 1 - assignment.AGO] and one.item not in repeated
            repeated[one.item] = one.order
        else:
            order.append(one.item)
        shown.append(one.item)
        world.act(person, one)
    assert len(order) == 30 and repeated
    first = {label.item: label.order for label in labels_of(world)}
    assert all(repeated[item] == first[item][::-1] for item in repeated), "shown the other way round"
    again = labels_of(world, purposes=("repeat",))
    assert [label.repetition for label in again] == [1] * len(repeated)
    assert_replay(world.db)


def test_many_at_once_are_as_good_as_one_by_one(world: World):
    """No item stands twice among those given at once, neither gold nor repeat."""
    gold = [pair(1000 + number, gold=Compared(better=0)) for number in range(9)]
    world.make_task(*map(pair, range(90)), *gold, overlap=1, gold=0.4, repeats=0.5)
    person, purposes = world.labeller(), Counter()
    while given := world.give(person, 30):
        assert len({(one.item, one.purpose == "repeat") for one in given}) == len(given) <= 30
        purposes.update(one.purpose for one in given)
        for one in given:
            world.act(person, one)
    assert (purposes["work"], purposes["gold"]) == (90, 9) and purposes["repeat"] > 0
    assert_replay(world.db)


def test_practice_comes_first_and_is_judged(world: World):
    practice = [pair(n, practice=True, gold=Compared(better=0), explanation=f"because of {n}") for n in (101, 102)]
    world.make_task(*map(pair, range(5)), *practice)
    person, verdicts = world.labeller(), []
    for wanted in (True, False):
        (given,) = world.give(person)
        assert given.purpose == "practice"
        place = given.order.index(0)
        done = world.act(person, given, answer=Compared(better=place if wanted else 1 - place))
        assert done.verdict is not None and done.verdict["gold"]["better"] == place
        verdicts.append((done.verdict["right"], done.verdict["explanation"]))
    assert verdicts == [(True, "because of 101"), (False, "because of 102")]
    (given,) = world.give(person)
    assert given.purpose == "work" and world.act(person, given).verdict is None
    assert len(labels_of(world)) == 1


# The order on the screen.


def test_two_responses_stand_half_and_half(world: World):
    """Of an even number of people half are shown either order, whatever they do and in whatever order they came."""
    world.make_task(*map(pair, range(6)), overlap=10)
    everybody = [world.labeller() for _ in range(10)]
    random.Random(5).shuffle(everybody)
    orders: dict[str, Counter] = {}
    for number, person in enumerate(everybody, 1):
        for given in world.give(person, 6):
            orders.setdefault(given.item, Counter())[given.order] += 1
            world.act(person, given, random.choice(["submit", "skip"]))
        assert all(abs(found[(0, 1)] - found[(1, 0)]) == number % 2 for found in orders.values())


def test_an_adjudicator_does_not_disturb_the_halves(world: World):
    world.make_task(pair(1), overlap=2)
    one, other = world.labeller(), world.labeller()
    (a,) = world.give(one)
    snapshots.adjudicate(world.db, world.admin(), world.task, a.item, Submission(key=new_key(), answer=Compared(better=0)))
    (b,) = world.give(other)
    assert {a.order, b.order} == {(0, 1), (1, 0)}


def test_every_response_stands_at_every_place_equally_often(world: World):
    said = tuple("abcd")
    world.make_task(*[Item(prompt=Prompt.of(f"q {n}"), responses=said) for n in range(150)], kind="rank")
    person, found = world.labeller(), Counter()
    for given in world.give(person, 150):
        found.update((place, response) for place, response in enumerate(given.order))
    assert chisquare([found[cell] for cell in product(range(4), repeat=2)]).pvalue > 1e-6


def test_one_who_always_takes_the_left_says_nothing_of_the_models(world: World):
    world.make_task(*map(pair, range(20)), overlap=2)
    for person in (world.labeller(), world.labeller()):
        for given in world.give(person, 20):
            world.act(person, given, answer=Compared(better=0))
    assert Counter(label.answer.better for label in labels_of(world)) == {0: 20, 1: 20}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_answers_are_stored_in_the_order_of_the_item(world: World, order: tuple[int, ...]):
    world.make_task(Item(prompt=Prompt.of("q"), responses=("a", "b", "c")), kind="rank")
    person = world.labeller()
    (given,) = world.give(person)
    wish = {"a": 2, "b": 1, "c": 2}
    world.act(person, given, answer=Ranked(places=tuple(wish[said] for said in given.responses)))
    (label,) = labels_of(world)
    assert label.answer.places == (2, 1, 2)
    answer = Ranked(places=tuple(wish["abc"[i]] for i in order))
    assert restored(answer, order).places == (2, 1, 2)


# What people do: in every order.


def test_undo_takes_back_the_last_act_in_every_order(world: World):
    """Every sequence of five acts, against a plain model: a stack of the states."""
    acts = ("submit", "skip", "flag", "undo")
    plans = [plan for plan in product(acts, repeat=5)]
    plans = random.Random(3).sample(plans, 30)
    world.make_task(*map(pair, range(len(plans))))
    person = world.labeller()
    for plan, given in zip(plans, world.give(person, len(plans)), strict=True):
        stack = [("open", 0, None)]
        for number, act in enumerate(plan):
            state, flags, answer = stack[-1]
            if (act == "undo" and len(stack) == 1) or (act == "skip" and answer is not None):
                with pytest.raises(Conflict):
                    world.act(person, given, act)
                continue
            if act == "submit":
                body, now = {"answer": Compared(better=number % 2)}, given.order[number % 2]
                stack.append(("done", flags, now))
            elif act == "undo":
                body = {}
                stack.pop()
            else:
                body = {"reason": "why"}
                stack.append((state if act == "flag" else "skipped", flags + (act == "flag"), answer))
            done = world.act(person, given, act, **body)
            assert done.state == stack[-1][0], plan[: number + 1]
            found = {label.id: label for label in labels_of(world, flagged=True)}.get(given.id)
            assert (found.answer.better, found.flagged) == (stack[-1][2], stack[-1][1] > 0) if found else stack[-1][2] is None
    assert_replay(world.db)


def test_events_are_only_ever_added(world: World):
    """Whatever is done, no statement changes or removes an event, and each has who, when and which version."""
    said: list[str] = []
    event.listen(world.db.engine, "before_cursor_execute", lambda *given: said.append(given[2].lower()))
    world.make_task(pair(1), pair(2), overlap=2)
    person, admin = world.labeller(), world.admin()
    a, b = world.give(person, 2)
    for act in ("submit", "submit", "flag", "undo", "undo"):
        world.clock.wait(1)
        world.act(person, a, act)
    world.act(person, b, "skip")
    snapshots.adjudicate(world.db, admin, world.task, b.item, Submission(key=new_key(), answer=Compared(better=1)))
    people.remove(world.db, person.pseudonym, admin)
    snapshots.take(world.db, "support")
    written = [one for one in said if "events" in one and not one.lstrip().startswith("select")]
    assert len(written) == 7 and all(one.startswith("insert into events") for one in written)
    with world.db.read() as connection:
        rows = connection.execute(select(events).order_by(events.c.id)).all()
    assert [row.kind for row in rows] == ["submit", "edit", "flag", "undo", "undo", "skip", "adjudicate"]
    assert [row.version for row in rows] == [1, 2, 3, 4, 5, 1, 1]
    assert [row.person for row in rows] == [person.id] * 6 + [admin.id]
    assert [row.at for row in rows[:5]] == [world.clock.at - 4 + n for n in range(5)]


def test_no_more_time_is_kept_than_has_passed(world: World):
    world.make_task(pair(1), pair(2), pair(3))
    person = world.labeller()
    given = world.give(person, 3)
    world.clock.wait(10)
    for one, seconds in zip(given, (4.0, 1e9, 0.0), strict=True):
        world.act(person, one, seconds=seconds)
    assert [label.seconds for label in labels_of(world)] == [4.0, 10.0, 10.0]


def test_nobody_acts_on_what_was_given_to_another(world: World):
    world.make_task(pair(1))
    (given,) = world.give(world.labeller())
    for person in (world.labeller(), world.admin()):
        with pytest.raises(NotThere):
            world.act(person, given)
        with pytest.raises(NotThere):
            labels.own(world.db, person, given.id)


@pytest.mark.parametrize(
    "answer", [Compared(better=None), Compared(better=0, strength="clearly"), Ranked(places=(1, 2)), Chatted.model_construct(turns=())]
)
def test_an_answer_that_does_not_fit_leaves_no_trace(world: World, answer: object):
    world.make_task(pair(1), ties=False, strength=False)
    person = world.labeller()
    (given,) = world.give(person)
    submission = Submission.model_construct(key=new_key(), act="submit", answer=answer, reason="", seconds=0.0)
    with pytest.raises(InputError):
        labels.submit(world.db, person, given.id, submission)
    assert counted(world, select(func.count()).select_from(events)) == 0


def test_an_adjudicated_answer_holds_in_place_of_the_others(world: World):
    world.make_task(pair(1), overlap=2)
    one, other, admin, second = world.labeller(), world.labeller(), world.admin(), world.admin()
    given = [(person, *world.give(person)) for person in (one, other)]
    for person, found in given:
        world.act(person, found, answer=Compared(better=found.order.index(0)))
    item = given[0][1].item

    def settle(by: people.Person, key: str = "", **body: object) -> labels.Acknowledged:
        return snapshots.adjudicate(world.db, by, world.task, item, Submission.model_validate({"key": key or new_key(), **body}))

    first = settle(admin, "adjudicator-key", answer={"kind": "compare", "better": 1}, reason="the goose is right")
    assert settle(admin, "adjudicator-key", answer={"kind": "compare", "better": 1}, reason="the goose is right") == first
    with pytest.raises(Conflict):
        settle(admin, "adjudicator-key", answer={"kind": "compare", "better": 0})
    assert [(label.answer.better, label.purpose) for label in labels_of(world)] == [(1, "adjudication")]
    assert len(labels_of(world, settled=False)) == 3
    assert [label.seconds for label in labels_of(world)] == [0.0], "nobody told how long it took"
    settle(second, answer={"kind": "compare", "better": None}, seconds=12.5)
    assert [(label.answer.better, label.seconds) for label in labels_of(world)] == [(None, 12.5)], "nothing was given out, so nothing ran"
    assert [label.labeller for label in labels_of(world)] == [second.pseudonym], "who settled it last"
    settle(second, act="undo")
    assert [(label.answer.better, label.labeller) for label in labels_of(world)] == [(1, admin.pseudonym)]
    settle(admin, act="undo")
    assert [label.answer.better for label in labels_of(world)] == [0, 0]
    assert world.give(admin) == [], "what an adjudicator takes back does not become work of theirs"
    assert_replay(world.db)


# Chats.


def test_a_chat_goes_on_where_it_stood_and_becomes_one_label(world: World):
    world.make_task(Item(prompt=Prompt.of("Talk about trains.")), kind="chat", models=("model-owl", "model-goose"), turns=2)
    person = world.labeller()
    (given,) = world.give(person)
    with pytest.raises(Conflict):
        world.act(person, given, answer=None)
    on_screen = []
    for turn in range(2):
        said = Said(key=f"message-{turn}", message=f"message {turn}")
        _, models = chats.ready(world.db, person, given.id, said)
        assert models == ("model-owl", "model-goose")
        found = chats.say(world.db, person, given.id, said, (f"owl {turn}", f"goose {turn}"))
        assert found.waiting is not None and chats.ready(world.db, person, given.id, said)[1] is None
        assert chats.say(world.db, person, given.id, said, ("never", "never")) == found, "the same message is answered once"
        with pytest.raises(Conflict):
            chats.say(world.db, person, given.id, Said(key=f"another-{turn}", message="x"), ("", ""))
        with pytest.raises(Conflict):
            world.act(person, given, answer=None)
        on_screen.append(list(found.waiting))
        chosen = Chosen(key=f"choice-of-{turn}", better=found.waiting.index(f"owl {turn}"))
        assert chats.choose(world.db, person, given.id, chosen) == chats.choose(world.db, person, given.id, chosen)
    with pytest.raises(Conflict):
        chats.ready(world.db, person, given.id, Said(key="message-3", message="x"))
    world.act(person, given, answer=None)
    (label,) = labels_of(world)
    assert [(turn.message, turn.responses, turn.better) for turn in label.answer.turns] == [
        (f"message {n}", (f"owl {n}", f"goose {n}"), 0) for n in range(2)
    ]
    assert label.models == ("model-owl", "model-goose")
    assert [[turn.responses[i] for i in turn.order] for turn in label.answer.turns] == on_screen
    assert [r.models for r in records_of([label])] == [("model-owl", "model-goose")] * 2
    assert_replay(world.db)


def test_the_answers_of_a_chat_stand_in_either_order(world: World):
    world.make_task(*[Item(prompt=Prompt.of(f"{n}")) for n in range(50)], kind="chat", models=("a", "b"))
    person, first = world.labeller(), 0
    for given in world.give(person, 50):
        found = chats.say(world.db, person, given.id, Said(key=new_key(), message="hello"), ("by a", "by b"))
        first += found.waiting == ("by a", "by b")
    assert binomtest(first, 50, 0.5).pvalue > 1e-6


# Snapshots.


def test_a_snapshot_is_the_same_bytes_later(world: World):
    world.make_task(*map(pair, range(30)), overlap=2)
    everybody = [world.labeller(), world.labeller()]
    given = [(person, one) for person in everybody for one in world.give(person, 30)]
    rng, taken = random.Random(1), []
    for number, (person, one) in enumerate(rng.sample(given, len(given))):
        world.act(person, one, rng.choice(["submit", "submit", "skip"]), reason=f"{number} \u2028 é 🦢 \x00")
        world.clock.wait(1)
        if number % 6 == 0:
            taken.append((snapshots.take(world.db, "support"), [label.to_json() for label in labels_of(world)]))
    admin = world.admin()
    for person, one in given:
        world.act(person, one, "undo")
    snapshots.adjudicate(world.db, admin, world.task, given[0][1].item, Submission(key=new_key(), answer=Compared(better=None)))
    world.task = projects.revise(world.db, world.task, world.task.settings.model_copy(update={"overlap": 5}))
    people.remove(world.db, everybody[0].pseudonym, admin)
    assert len({made.id for (made, _), _ in taken}) == len(taken)
    for (made, found), lines in taken:
        again, labels_again = snapshots.again(world.db, made.id)
        assert again == made and labels_again == found
        assert "".join(map(snapshots.line, labels_again)) == "".join(map(snapshots.line, found))
        assert [label.to_json() for label in found] == lines
    assert [made.id for made in snapshots.all_snapshots(world.db, "support")][-1] == taken[0][0][0].id


def test_the_same_state_has_the_same_snapshot(world: World):
    world.make_task(pair(1))
    person = world.labeller()
    world.act(person, *world.give(person))
    (first, _), _, (second, _) = snapshots.take(world.db, "support"), world.clock.wait(9), snapshots.take(world.db, "support")
    assert first == second
    assert snapshots.take(world.db, "support", Rules(flagged=True))[0].id != first.id


def test_a_snapshot_is_the_same_though_people_write_while_it_is_taken(world: World):
    """Four people write in two tasks, and tasks are added, while snapshots are taken; each can be made again."""
    found, everybody, done = [], [world.labeller() for _ in range(4)], []
    for _ in range(2):
        world.make_task(*map(pair, range(12)), overlap=4)
        found += [(person, one, world.task) for person in everybody for one in world.give(person, 12)]
    random.Random(2).shuffle(found)

    def write(part: int) -> None:
        for person, one, _ in found[part::4]:
            world.act(person, one)
        done.append(part)

    def take() -> list:
        taken = []
        while len(done) < 4:
            taken.append(snapshots.take(world.db, "support"))
            projects.make_task(world.db, "support", f"more-{len(taken)}", world.task.settings)
        return taken

    *_, taken = together(*[lambda part=part: write(part) for part in range(4)], take)
    assert isinstance(taken, list) and taken, taken
    for made, kept in taken:
        again, labels_again = snapshots.again(world.db, made.id)
        assert again.sha256 == made.sha256 and labels_again == kept
    assert len(snapshots.labels(world.db, "support")) == len(found)
    assert_replay(world.db)


def test_a_snapshot_whose_labels_were_changed_by_hand_is_refused(world: World):
    world.make_task(pair(1))
    person = world.labeller()
    world.act(person, *world.give(person))
    made, _ = snapshots.take(world.db, "support")
    with world.db.write() as connection:
        connection.execute(text("update events set seconds = seconds + 1"))
    with pytest.raises(InputError, match="not what they were"):
        snapshots.again(world.db, made.id)


# People.


def test_a_deleted_person_is_gone_and_the_labels_stay(world: World, memory: Path):
    world.make_task(pair(1), pair(2))
    admin = world.admin()
    person = people.invite(world.db, "Labeller Whose Name Must Go", to=["support"], pseudonym="labeller-gone")
    secrets = [people.issue(world.db, person, kind) for kind in ("link", "session", "token")]
    given = world.give(person, 2)
    world.act(person, given[0])
    made, before = snapshots.take(world.db, "support")
    people.remove(world.db, "labeller-gone", admin)
    assert [label.labeller for label in labels_of(world)] == ["labeller-gone"]
    assert snapshots.again(world.db, made.id)[1] == before
    for secret in secrets:
        assert not any(people.known(world.db, secret, kind) for kind in ("link", "session", "token"))
        assert people.enter(world.db, secret) is None
    assert "Must Go" not in str(people.everybody(world.db)) + str(people.log(world.db))
    with pytest.raises(InputError):
        people.named(world.db, "labeller-gone")
    with pytest.raises(InputError):
        people.invite(world.db, "Another", pseudonym="labeller-gone")
    with pytest.raises(InputError):
        people.remove(world.db, admin.pseudonym, admin)
    if world.db.sqlite:
        kept = b"".join(path.read_bytes() for path in memory.glob("feedback.db*"))
        assert b"Must Go" not in kept and b"labeller-gone" in kept, "not even in a page that is free"


def test_a_link_lets_one_in_once_also_at_the_same_moment(world: World):
    secret = people.issue(world.db, world.labeller(), "link")
    entered = together(*[lambda: people.enter(world.db, secret)] * 6)
    assert sum(one is not None for one in entered) == 1 and not any(isinstance(one, Exception) for one in entered)


@pytest.mark.parametrize("name", ["", ".x", "a b", "a/b", "../x", "a\n", "a\x00", "ü", "a" * 65])
def test_names_that_cannot_be_are_refused(world: World, name: str):
    with pytest.raises(InputError):
        projects.make_project(world.db, name)
    with pytest.raises(InputError):
        projects.make_task(world.db, "support", name, TaskSettings(kind="rate"))
    if name:
        with pytest.raises(InputError):
            people.invite(world.db, "Labeller", pseudonym=name)
        with pytest.raises(InputError):
            people.invite(world.db, "Labeller", to=[name])


def test_items_come_in_all_or_none_and_each_once(world: World):
    world.make_task()
    with pytest.raises(InputError, match="item 3"):
        projects.take_in(world.db, world.task, [pair(1), pair(2), Item(prompt=Prompt.of("x"), responses=("one",))])
    assert projects.progress(world.db, world.task)["items"] == 0
    assert projects.take_in(world.db, world.task, [pair(1), pair(2), pair(1)]) == projects.TakenIn(2, 1)
    assert projects.take_in(world.db, world.task, [pair(2), pair(3)]) == projects.TakenIn(1, 1)
    assert sum(one.new for one in together(*[lambda: projects.take_in(world.db, world.task, map_of(20))] * 4)) == 17


def map_of(number: int) -> list[Item]:
    return [pair(n) for n in range(1, number + 1)]


def test_every_text_comes_back_as_it_went_in(world: World):
    texts = ("\x00\x01\x1f", "\u2028\u202e\ufeff", "😀 e\u0301 é", "x" * 100_000, "' \" \\ %s :x ?", "")
    world.make_task(*[Item(prompt=Prompt.of(f"{n}{one}"), responses=(one, "other")) for n, one in enumerate(texts)])
    person = world.labeller()
    for given in world.give(person, 9):
        world.act(person, given, reason=given.content.responses[0][:1000])
    assert [(label.responses[0], label.reason) for label in labels_of(world)] == [(one, one[:1000]) for one in texts]


# The schema.


def alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).parents[1] / "migrations"))
    return config


def test_the_migrations_make_the_tables_that_the_code_knows(world: World):
    with world.db.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []


def test_every_older_version_is_brought_up_to_date(where: str):
    """From each version there ever was, with a project in it."""
    script = ScriptDirectory.from_config(alembic())
    versions = [one.revision for one in script.walk_revisions()][::-1]
    assert len(script.get_heads()) == 1
    engine = database_module.connect(where)
    for version in versions:
        with engine.begin() as connection:
            METADATA.drop_all(connection)
            connection.execute(text("drop table if exists alembic_version"))
            config = alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, version)
            connection.execute(text("insert into projects (name, title, created) values ('old', '\"Old\"', 1.5)"))
        with closing(Database.open(where)) as db:
            assert projects.all_projects(db) == [{"name": "old", "title": "Old"}]
            with db.read() as connection:
                assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_a_store_of_a_later_version_is_refused_and_left_alone(world: World):
    with world.db.write() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(StorageError, match="newer"):
        Database.open(world.where)
    with world.db.read() as connection:
        assert connection.scalar(text("select version_num from alembic_version")) == "9999"


@pytest.mark.slow
def test_two_processes_that_open_a_new_store_at_once_do_not_disturb_each_other(where: str):
    code = "import sys; from handrail.feedback.store import Database; Database.open(sys.argv[1]).close()"
    started = [subprocess.Popen([sys.executable, "-c", code, where], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(one.wait(), one.communicate()[1][-500:]) for one in started] == [(0, "")] * 3


def test_the_clock_of_the_store_is_the_one_given(where: str):
    with closing(Database.open(where, Clock(5.0))) as db:
        assert db.now() == 5.0


def test_a_rating_means_what_it_meant_when_it_was_given(world: World):
    """A snapshot is the same files for ever, whatever its task asks later; each rating is read on the scale that its rater saw."""
    items = [Item(prompt=Prompt.of(f"Question {i}"), responses=("An answer",)) for i in range(2)]
    old = (Criterion(name="help", low=1, high=5),)
    task, person = world.make_task(*items, kind="rate", criteria=old, instructions="Old words"), world.labeller()
    four = {"answer": Rated(ratings=({"help": 4.0},))}
    world.act(person, world.give(person)[0], **four)
    taken, _ = snapshots.take(world.db, "support")
    forms = ("trl", "argilla", "labelstudio")
    before = [exports.make(world.db, taken.id, form)[1].files for form in forms]
    wider = task.settings.model_copy(update={"criteria": (Criterion(name="help", low=1, high=9),), "instructions": "New words"})
    world.task = projects.revise(world.db, task, wider)
    assert [exports.make(world.db, taken.id, form)[1].files for form in forms] == before
    world.act(person, world.give(person)[0], **four)
    later, _ = snapshots.take(world.db, "support")
    rows = [json.loads(line) for line in exports.make(world.db, later.id, "trl")[1].files["unpaired.jsonl"].splitlines()]
    assert [row["label"] for row in rows] == [True, False], "above the middle of 1 to 5, below the middle of 1 to 9"
