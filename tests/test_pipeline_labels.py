"""Labels of a round: simulated labellers and people rank through the feedback app; people's ratings are a reward."""

import json
import random
import threading
import time
from pathlib import Path

import pytest

from handrail.config import validate
from handrail.data import Codec, Source, load_rankings, split_by_prompt, write_records
from handrail.errors import ConfigError, RunError
from handrail.evaluate.reward_model import scores_of
from handrail.feedback import provenance
from handrail.feedback.ask import Ratings
from handrail.feedback.kinds import Compared, Criterion, Ranked, Rated
from handrail.feedback.store import Database, assignment, flags, labels, people, projects, review, snapshots
from handrail.feedback.store.labels import Submission
from handrail.models import ModelSettings, NewModel, ScalarModel, new_model, new_tokenizer
from handrail.pipeline import Round
from handrail.pipeline.agreement import agree
from handrail.pipeline.labels import ask_people, simulate
from handrail.pipeline.verdicts import ask_which, row
from handrail.recipes.reward_parts import Reward
from handrail.records import Pair, Prompt, Ranking, Response, places_of
from handrail.tasks import TASKS

TASK = TASKS["movie-night"]


def a_round(folder: Path, prompts: int = 34, **more) -> Round:
    """A round whose responses have been sampled: four to each prompt, two of them the same."""
    chance = random.Random(0)
    asked = TASK.prompts(prompts, 5)
    drawn = [(p, [TASK.draw_response(chance, p) for _ in range(3)]) for p in asked]
    write_records(folder / "responses.jsonl", [Response(prompt=p, text=t, model="sft") for p, texts in drawn for t in [*texts, texts[0]]])
    task = {"name": "movie-night", "labellers": 4}
    return validate(Round, {"out": str(folder), "task": task, "labels": "simulated", "seed": 3, **more}, "test")


def by_hand(db: Database, project: str, name: str, pseudonym: str, judge, stop: threading.Event | None = None) -> threading.Thread:
    """A person who answers whatever is put up, until `stop` is set, or until nothing is left."""

    def work() -> None:
        while project not in {p["name"] for p in projects.all_projects(db)} or not projects.all_tasks(db, project):
            time.sleep(0.01)
        person = people.invite(db, pseudonym, to=[project], pseudonym=pseudonym)
        task = projects.find_task(db, project, name)
        while stop is None or not stop.is_set():
            given = assignment.give_out(db, task, person, 3)
            if not given and stop is None and projects.progress(db, task)["items"]:
                return
            for one in given:
                labels.submit(db, person, one.id, Submission(key=db.opaque(), answer=judge(one.responses)))
            time.sleep(0.01)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_simulated_labellers_work_through_the_store_and_say_the_same_each_time(tmp_path):
    cfg = a_round(tmp_path)
    simulate(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    first = (tmp_path / "rankings.jsonl").read_bytes()
    found = load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records
    assert len(found) == 34 and all(len(r.responses) <= 3 and r.models == ("sft",) * len(r.responses) for r in found)
    assert len({r.labeller for r in found}) == 4
    db = Database.open(tmp_path / "feedback.db")
    stored = {label.prompt.text: label for label in snapshots.labels(db, "simulated")}
    assert {p: (s.answer.places, s.labeller) for p, s in stored.items()} == {r.prompt.text: (r.places, r.labeller) for r in found}
    assert len({label.order for label in stored.values()}) > 2  # shown in different orders
    db.close()
    simulate(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    assert (tmp_path / "rankings.jsonl").read_bytes() == first


def test_simulated_labellers_agree_with_the_gold_more_often_than_not(tmp_path):
    cfg = a_round(tmp_path, prompts=40)
    simulate(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    right = []
    for r in load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records:
        gold = [TASK.gold(r.prompt, text) for text in r.responses]
        right += [gold[i] > gold[j] for i, j in r.pairs() if gold[i] != gold[j]]
    assert len(right) > 30 and sum(right) > 0.8 * len(right)


def test_a_round_waits_for_people_and_takes_what_they_say(tmp_path):
    asked = {"db": str(tmp_path / "people.db"), "project": "films", "poll": 0.02, "overlap": 2}
    cfg = a_round(tmp_path, prompts=6, labels="people", people=asked)
    db = Database.open(asked["db"])
    workers = [by_hand(db, "films", "round-1", name, longest_first) for name in ("first", "second")]
    ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    for worker in workers:
        worker.join(10)
    found = load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records
    assert len(found) == 12 and {r.labeller for r in found} == {"first", "second"}
    for r in found:
        best = r.responses[r.places.index(1)]
        assert len(best) == max(map(len, r.responses))  # what they said, in the order of the responses as they were sampled
    note = provenance.read(tmp_path / "rankings.jsonl")
    assert note is not None and note.project == "films" and note.labels == 12
    assert {label.id for label in snapshots.again(db, note.snapshot)[1]} == {label.id for label in snapshots.labels(db, "films")}


def longest_first(responses) -> Ranked:
    order = sorted({len(r) for r in responses}, reverse=True)
    return Ranked(places=tuple(order.index(len(r)) + 1 for r in responses))


def test_rankings_weigh_as_much_as_their_labellers_are_reliable(tmp_path):
    asked = {"db": str(tmp_path / "people.db"), "poll": 0.02, "overlap": 3, "weights": True}
    cfg = a_round(tmp_path, prompts=40, labels="people", people=asked)
    db, chance = Database.open(asked["db"]), random.Random(1)

    def careless(responses) -> Ranked:
        return Ranked(places=tuple(chance.sample(range(1, len(responses) + 1), len(responses))))

    workers = [by_hand(db, "round", "round-1", n, judge) for n, judge in (("a", longest_first), ("b", longest_first), ("c", careless))]
    ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    for worker in workers:
        worker.join(30)
    weight = {r.labeller: r.weight for r in load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records}
    assert weight["c"] < 0.5 * min(weight["a"], weight["b"])


def test_a_round_that_is_not_to_wait_says_how_many_are_missing_and_keeps_what_is_there(tmp_path):
    asked = {"db": str(tmp_path / "people.db"), "project": "films", "wait": False, "enough": 0.5}
    cfg = a_round(tmp_path, prompts=6, labels="people", people=asked)
    with pytest.raises(RunError, match="3 of 3 answers are missing"):
        ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    assert not (tmp_path / "rankings.jsonl").exists()
    db = Database.open(asked["db"])
    person = people.invite(db, "One", to=["films"])
    task = projects.find_task(db, "films", "round-1")
    for one in assignment.give_out(db, task, person, 3):
        labels.submit(db, person, one.id, Submission(key=db.opaque(), answer=longest_first(one.responses)))
    ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    assert len(load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records) == 3
    assert projects.progress(db, task)["items"] == 6  # put up once, though asked twice


def test_people_rank_some_and_simulated_labellers_the_rest(tmp_path):
    asked = {"db": str(tmp_path / "people.db"), "poll": 0.02, "prompts": 5, "simulated": True}
    cfg = a_round(tmp_path, prompts=12, labels="people", people=asked)
    worker = by_hand(Database.open(asked["db"]), "round", "round-1", "you", longest_first)
    ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    worker.join(10)
    found = load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records
    assert [r.labeller for r in found].count("you") == 5 and len(found) == 12
    assert len({r.prompt.text for r in found}) == 12


def test_the_reward_model_is_held_against_the_peoples_own_rankings_and_not_the_simulated_ones(tmp_path):
    cfg = a_round(tmp_path, labels="people", people={"prompts": 12, "simulated": True})
    asked = [(p, tuple(TASK.draw_response(random.Random(i * 9 + k), p) for k in range(3))) for i, p in enumerate(TASK.prompts(40, 2))]
    asked = [(p, texts) for p, texts in asked if len(set(texts)) == 3]
    tokenizer = new_tokenizer([text for _, texts in asked for text in texts] + [p.text for p, _ in asked], 600)
    new = NewModel(hidden=16, layers=1, heads=2, vocabulary=600, context=96)
    model = ScalarModel.from_causal(new_model(new, tokenizer), "normal")
    model.save(tmp_path / "reward/model", tokenizer)
    reward = Reward(out=str(tmp_path / "reward"), model=ModelSettings(path="none"), data=Source(path="none"), held_out=0.25)
    plain = [Ranking(prompt=p, responses=texts, places=(1, 2, 3)) for p, texts in asked]
    scores = [model.combined(s).tolist() for s in scores_of(model, Codec(tokenizer, reward.template), plain)]
    better = [places_of(s) for s in scores]
    labellers = ["you" if i < 12 else "simulated-01" for i in range(len(asked))]
    worse = {0, 5}  # where the person says the opposite
    said = [
        r.model_copy(update={"places": tuple(4 - p for p in b) if i in worse or i >= 12 else b, "labeller": labellers[i]})
        for i, (r, b) in enumerate(zip(plain, better, strict=True))
    ]
    write_records(tmp_path / "rankings.jsonl", said)
    agree(cfg, reward, tmp_path / "rankings.jsonl", tmp_path)
    told = json.loads((tmp_path / "agreement.json").read_text())
    assert told["labellers"] == ["you"] and (told["all"]["n"], told["all"]["rankings"]) == (36, 12)
    assert told["all"]["value"] == pytest.approx(10 / 12) and told["all"]["low"] < 10 / 12 < told["all"]["high"]
    unseen = {r.prompt.text for r in split_by_prompt(said, 0.25, reward.seed)[1]}
    held = [i for i in range(12) if asked[i][0].text in unseen]
    assert held and told["held_out"]["rankings"] == len(held)
    assert told["held_out"]["value"] == pytest.approx(1 - len(worse & set(held)) / len(held))


def test_one_and_the_same_response_cannot_be_ranked(tmp_path):
    write_records(tmp_path / "same.jsonl", [Response(prompt=Prompt.of("hello"), text="yes") for _ in range(4)])
    with pytest.raises(ConfigError, match="one and the same response"):
        simulate(a_round(tmp_path), 1, tmp_path / "same.jsonl", [], tmp_path / "rankings.jsonl")


def test_a_password_stands_in_the_environment_alone(tmp_path, monkeypatch):
    cfg = a_round(tmp_path, prompts=4, labels="people", people={"db": "$THE_STORE", "wait": False})
    with pytest.raises(ConfigError, match="no such environment variable"):
        ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    monkeypatch.setenv("THE_STORE", str(tmp_path / "people.db"))
    with pytest.raises(RunError, match="missing"):
        ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    assert (tmp_path / "people.db").exists()


def asked_of_raters(prompts, responses):
    return [[{"role": "user", "content": p}] for p in prompts], responses


def test_ratings_of_people_are_a_reward_that_waits(tmp_path):
    scales = (Criterion(name="helpful"), Criterion(name="short", low=0, high=4))
    reward = Ratings(str(tmp_path / "people.db"), project="live", criteria=scales, overlap=2, poll=0.02)
    db = Database.open(tmp_path / "people.db")
    given = {"good": {"helpful": 5, "short": 4}, "bad": {"helpful": 1, "short": 0}, "half": {"helpful": 5, "short": 0}}

    def judge(responses):
        return Rated(ratings=({k: float(v) for k, v in given[responses[0]].items()},))

    stop = threading.Event()
    raters = [by_hand(db, "live", "ratings", name, judge, stop) for name in ("first", "second")]
    assert reward(*asked_of_raters(["a", "a", "b", "c"], ["good", "bad", "half", "good"])) == [1.0, -1.0, 0.0, 1.0]
    assert reward(*asked_of_raters(["a", "d"], ["good", "bad"])) == [1.0, -1.0]
    stop.set()
    for rater in raters:
        rater.join(10)
    assert projects.progress(db, projects.find_task(db, "live", "ratings"))["items"] == 5  # the same one is rated once


def test_ratings_wait_for_what_is_made_of_a_flag_and_take_what_is_settled(tmp_path):
    """Three responses: one whose flag is dismissed, one that is settled, one rated before the scale had another name."""
    db, acts = Database.open(tmp_path / "people.db"), []
    reward = Ratings(str(tmp_path / "people.db"), overlap=2, patience=60, poll=0.01, pause=lambda _: acts.pop(0)())
    admin, raters = people.invite(db, "Admin", "admin"), []

    def rate(person, one, name, act="submit"):
        answer = Rated(ratings=({name: 5.0},)) if act == "submit" else None
        labels.submit(db, person, one.id, Submission(key=db.opaque(), act=act, answer=answer))

    def begin():
        task = projects.find_task(db, "ratings", "ratings")
        raters.extend(people.invite(db, f"Rater {n}", to=["ratings"]) for n in range(2))
        given = {one.content.responses[0]: one for one in assignment.give_out(db, task, raters[0], 3)}
        for one in given.values():
            rate(raters[0], one, "overall")
        rate(raters[0], given["flagged"], "overall", "flag")
        new = task.settings.model_copy(update={"criteria": (Criterion(name="worth", low=0, high=5),)})
        task = projects.revise(db, task, new)
        mine = {one.content.responses[0]: one for one in assignment.give_out(db, task, raters[1], 3)}
        for name in ("flagged", "scaled"):
            rate(raters[1], mine[name], "worth")

    def settle():
        task = projects.find_task(db, "ratings", "ratings")
        item = next(one.id for one in review.item_states(db, task) if one.content.responses == ("settled",))
        snapshots.adjudicate(db, admin, task, item, Submission(key=db.opaque(), answer=Rated(ratings=({"worth": 0.0},))))
        assert projects.spared(db, task) == 1

    def dismiss():
        [flag] = review.flags(db, "ratings")
        flags.judge(db, admin, projects.find_task(db, "ratings", "ratings"), flag.id, "dismiss")

    acts += [begin, lambda: None, settle, dismiss]
    assert reward(*asked_of_raters(["a", "b", "c"], ["flagged", "settled", "scaled"])) == [1.0, -1.0, 1.0]
    assert acts == []
    db.close()


def test_a_round_waits_no_longer_for_what_is_settled(tmp_path):
    asked = {"db": str(tmp_path / "people.db"), "wait": False}
    cfg = a_round(tmp_path, prompts=2, labels="people", people=asked)
    with pytest.raises(RunError, match="2 of 2 answers are missing"):
        ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    db = Database.open(asked["db"])
    (task,), admin = projects.all_tasks(db), people.invite(db, "Admin", "admin")
    for state in review.item_states(db, task):
        ranked = Ranked(places=tuple(range(1, len(state.content.responses) + 1)))
        snapshots.adjudicate(db, admin, task, state.id, Submission(key=db.opaque(), answer=ranked))
    db.close()
    ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    assert len(load_rankings(Source(path=str(tmp_path / "rankings.jsonl"))).records) == 2


def test_ratings_that_do_not_come_end_the_run_with_a_count_and_stay(tmp_path):
    reward = Ratings(str(tmp_path / "people.db"), patience=0.1, poll=0.02)
    with pytest.raises(RunError, match="2 of 2 responses are not rated"):
        reward(*asked_of_raters(["a", "b"], ["x", "y"]))
    db = Database.open(tmp_path / "people.db")
    person = people.invite(db, "One", to=["ratings"])
    for one in assignment.give_out(db, projects.find_task(db, "ratings", "ratings"), person, 5):
        labels.submit(db, person, one.id, Submission(key=db.opaque(), answer=Rated(ratings=({"overall": 4.0},))))
    assert reward(*asked_of_raters(["a", "b"], ["x", "y"])) == [0.5, 0.5]


def test_the_note_beside_a_file_is_refused_when_the_file_has_changed(tmp_path):
    asked = {"db": str(tmp_path / "people.db"), "poll": 0.02}
    cfg = a_round(tmp_path, prompts=4, labels="people", people=asked)
    worker = by_hand(Database.open(asked["db"]), "round", "round-1", "one", longest_first)
    ask_people(cfg, 1, tmp_path / "responses.jsonl", [], tmp_path / "rankings.jsonl")
    worker.join(10)
    assert json.loads(provenance.beside(tmp_path / "rankings.jsonl").read_text())["labels"] == 4
    with (tmp_path / "rankings.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(Exception, match="is not the file that was written from snapshot"):
        provenance.read(tmp_path / "rankings.jsonl")


def test_people_compare_before_with_after_and_their_win_rate_counts_equal_answers_as_ties(tmp_path):
    evaluation, folder = tmp_path / "evaluation", tmp_path / "verdicts"
    evaluation.mkdir()
    folder.mkdir()
    told = [{"prompt": f"q{i}", "before": f"short {i}", "after": "the same" if i < 4 else f"much longer {i}"} for i in range(12)]
    for sample in told[:4]:
        sample["before"] = sample["after"]
    (evaluation / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in told))
    differing = [Pair(prompt=Prompt.of(s["prompt"]), responses=(s["before"], s["after"]), models=("a", "b")) for s in told[4:]]
    write_records(evaluation / "pairs.jsonl", differing)
    asked = {"db": str(tmp_path / "people.db"), "poll": 0.02, "pairs": 6}
    cfg = a_round(tmp_path, prompts=4, labels="people", people=asked)

    def longer(responses) -> Compared:
        return Compared(better=int(len(responses[1]) > len(responses[0])))

    worker = by_hand(Database.open(asked["db"]), "round", "round-1-evaluation", "one", longer)
    ask_which(cfg, 1, evaluation, folder)
    worker.join(10)
    found = row(folder)
    assert (found["kind"], found["labellers"], found["rankings"], found["pairs"], found["of"]) == ("people", 1, 6, 6, 8)
    # all six judged pairs are won; the four equal ones weigh 6 / 8 each, a tie each: (6 + 4 * 0.75 / 2) / (6 + 4 * 0.75)
    assert found["win_rate"]["value"] == pytest.approx(7.5 / 9, abs=1e-12)
