"""The evaluation of a round by people: answers of the model before and after, side by side in the feedback app."""

import json
from pathlib import Path

from handrail.data import write_records
from handrail.evaluate import people as judged_by_people
from handrail.feedback import provenance
from handrail.feedback.kinds import Item, TaskSettings
from handrail.feedback.store import Database, snapshots
from handrail.feedback.store.snapshots import Rules
from handrail.pipeline.labels import place, put_up, rankings_of, wait
from handrail.pipeline.settings import Round
from handrail.pipeline.stages import write
from handrail.records import Pair, Prompt

INSTRUCTIONS = """Which of the two responses is better?

Read the request first. A good response does what was asked, is true, and says no more than it needs to. Where neither is
better, say so.
"""


def ask_which(cfg: Round, number: int, evaluation: Path, folder: Path) -> None:
    """Put pairs of the evaluation before people, wait, and write their verdicts and the win rate that follows.

    Killed and started again it goes on waiting; what people said is in the store.
    """
    asked = cfg.people
    pairs = every_pair(evaluation)
    differing = [pair for pair in pairs if pair.responses[0] != pair.responses[1]][: asked.pairs]
    db = Database.open(place(asked.db))
    try:
        settings = TaskSettings(kind="compare", title="Which is better?", instructions=INSTRUCTIONS, overlap=asked.overlap, strength=False)
        items = [Item(prompt=pair.prompt, responses=pair.responses, models=pair.models) for pair in differing]
        task = put_up(db, cfg, f"round-{number}-evaluation", settings, items)
        wait(db, task, asked)
        snapshot, labels = snapshots.take(db, task.project, Rules(tasks=(task.name,)))
    finally:
        db.close()
    rankings = rankings_of(labels)
    write_records(folder / "rankings.jsonl", rankings)
    provenance.write(snapshot, folder / "rankings.jsonl", asked.db)
    write(folder / "summary.json", judged_by_people(pairs, rankings, str(folder / "rankings.jsonl"), cfg.seed).told())


def every_pair(evaluation: Path) -> list[Pair]:
    """The pairs of an evaluation: those that differ, from pairs.jsonl, and those whose responses are the same."""
    lines = (evaluation / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    differing = [Pair.model_validate_json(line) for line in lines]
    samples = [json.loads(line) for line in (evaluation / "samples.jsonl").read_text(encoding="utf-8").split("\n") if line]
    same = [s for s in samples if s["before"] == s["after"]]
    return differing + [Pair(prompt=Prompt.of(s["prompt"]), responses=(s["before"], s["after"]), models=("", "")) for s in same]


def row(folder: Path) -> dict:
    """People as one of the judges of an evaluation."""
    return {"kind": "people", "name": "people", **json.loads((folder / "summary.json").read_text(encoding="utf-8"))}
