"""Runs with the feedback store that they learnt from: a reward model, a policy trained with it, and people who do all sorts of things."""

import json
from contextlib import closing
from pathlib import Path

from handrail.feedback import provenance
from handrail.feedback.kinds import Item, TaskSettings
from handrail.feedback.store import Database, assignment, flags, labels, people, projects, snapshots
from handrail.feedback.store.labels import Submission
from handrail.pipeline.labels import rankings_of
from handrail.records import Prompt
from inspector_world import made_run
from office_world import HOSTILE, key, prefers, worked_in

STORE = "demo/round-1/labels/feedback.db"
REASON = f"It answers. {HOSTILE}"


def runs_with_labels(root: Path) -> dict[str, str]:
    """The runs demo/round-1/reward and .../ppo, and the store; secrets and names that must never be shown, and ids of items."""
    folder = root / "demo/round-1"
    (folder / "labels").mkdir(parents=True)
    with closing(Database.open(root / STORE)) as db:
        worked_in(db)
        told = all_sorts(db)
        snapshot, found = snapshots.take(db, "support", snapshots.Rules(tasks=("ranking",)))
        told["link"] = people.issue(db, people.named(db, "labeller-1"), "link")
        told["token"] = people.issue(db, people.named(db, "labeller-2"), "token")
    rankings = folder / "labels/rankings.jsonl"
    rankings.write_text("".join(one.to_json() + "\n" for one in rankings_of(found)))
    provenance.write(snapshot, rankings, str(root / STORE))
    reward = made_run(folder / "reward", steps=1, data={"path": str(rankings)})
    hashed = {"stage": "reward", "inputs": {"data": provenance.sha256(rankings)}}
    (reward / "inputs.json").write_text(json.dumps(hashed))
    verdict = {"prompt": "Name a film 0", "prompt_id": Prompt.of("Name a film 0").id, "criterion": "", "unit": 1.0, "labeller": "x"}
    verdict |= {"responses": ["a", "b", "c"], "places": [1, 2, 3], "scores": [0.5, 1.25, -0.75]}
    pair = {"prompt": "odd", "prompt_id": Prompt.of("odd").id, "criterion": "", "unit": 2.0, "labeller": "x"}
    pair |= {"responses": ["yes", "no"], "places": [1, 2], "scores": [0.0, 1.0]}
    (reward / "verdicts.jsonl").write_text(json.dumps(verdict) + "\n" + json.dumps(pair) + "\n")
    made_run(folder / "ppo", steps=1, reward={"path": str(reward / "model")})
    (reward / "model").mkdir()
    made_run(root / "alone", steps=1)
    return told | {"film": next(label.item for label in found if label.prompt.text == "Name a film 0")}


def all_sorts(db: Database) -> dict[str, str]:
    """A task in which somebody answers, takes it back and answers otherwise, somebody flags, and somebody skips; its item."""
    task = projects.make_task(db, "support", "odd", TaskSettings(kind="compare", overlap=3, title="An <i>odd</i> one"))
    asked = [Item(prompt=Prompt.of("odd"), responses=("yes", "no"), models=("model-one", "model-two"))]
    projects.take_in(db, task, [*asked, Item(prompt=Prompt.of("nobody had this"), responses=("x", "y"))])
    first, second, third = (people.named(db, f"labeller-{n}") for n in (1, 2, 3))

    def act(person: people.Person, one: str, **body: object) -> None:
        labels.submit(db, person, one, Submission.model_validate({"key": key(), "seconds": 4.0, **body}))

    def given(person: people.Person) -> assignment.Assignment:
        return next(one for one in assignment.give_out(db, task, person, 2) if one.content.prompt.text == "odd")

    mine = given(first)
    act(first, mine.id, answer=prefers(False)(mine), reason="too quick")
    act(first, mine.id, act="undo")
    act(first, mine.id, answer=prefers(True)(mine), reason=REASON)
    other = given(second)
    act(second, other.id, answer=prefers(False)(other))
    act(second, other.id, act="flag", reason="neither is true")
    act(third, given(third).id, act="skip", reason="I cannot tell")
    (flag,) = flags.flags(db, "support")
    assert flag.item == mine.item
    return {"odd": mine.item, "label": mine.id}
