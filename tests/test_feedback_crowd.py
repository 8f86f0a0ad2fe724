"""Twenty labellers of differing reliability rank real models' answers through the app, and the app knows who is good."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from feedback_labels import ROOT, candidates, crew
from handrail.feedback.client import Client
from handrail.feedback.kinds import Item, Ranked, TaskSettings
from handrail.feedback.quality import reliability, sheet
from handrail.feedback.server import ServerSettings, served
from handrail.feedback.store import Database, people
from handrail.records import Prompt
from handrail.tasks import Labeller
from test_feedback_quality_rankers import BACKWARDS, World, order_right, true_accuracy

OVERLAP = 5  # of an item; the app draws who shares which items, anew in each run, and with three it now and then draws badly
Worth = dict[str, dict[str, float]]  # of each text to each prompt


def real_answers() -> list[tuple[Prompt, tuple[str, ...]]]:
    """Each prompt with its different answers, in the order of `candidates`."""
    lines = (ROOT / "self_instruct" / "candidates.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    asked = [
        (Prompt.of(f"{row['instruction']}\n\n{row['input']}".strip()), tuple(dict.fromkeys(row["responses"].values()))) for row in rows
    ]
    return [(prompt, texts) for prompt, texts in asked if len(texts) > 2]


def a_sitting(client: Client, task: int, labeller: Labeller, worth: Worth, sign: float, chance: np.random.Generator) -> int:
    """A labeller ranks what they are given, and says how many that were."""
    given = client.next_items(task, 4)
    for item in given:
        told, texts = worth[item.messages[0].text], [response.text for response in item.responses]
        said = labeller.rank(Prompt.of("?"), texts, lambda _, text, told=told: sign * told[text], chance, first=texts[0])
        client.submit(item.id, Ranked(places=said.places), seconds=20.0)
    return len(given)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_known_from_what_twenty_labellers_say_over_http(tmp_path: Path, seed: int):
    """Estimated and true accuracies correlate above 0.9; a consensus weighted by them is nearer the truth than one that is not."""
    features, rng = candidates(), np.random.default_rng([seed, 0xC0DE])
    direction = rng.normal(size=5)
    direction /= np.linalg.norm(direction)
    utility = [each @ direction + 0.5 * rng.normal(size=len(each)) for each in features]
    asked = real_answers()
    worth = {p.text: dict(zip(texts, map(float, u), strict=True)) for (p, texts), u in zip(asked, utility, strict=True)}
    labellers = crew(rng)
    db = Database.open(tmp_path / "feedback.db")
    admin = people.invite(db, "Admin", "admin")
    with served(db, ServerSettings(port=0)) as address, Client(address, people.issue(db, admin, "token")) as client:
        client.make_project("answers")
        task = client.make_task("answers", "rank", TaskSettings(kind="rank", overlap=OVERLAP))
        client.put_items(task.id, [Item(prompt=p, responses=t) for p, t in asked])
        tokens = [client.token(client.invite(one.id, ["answers"], one.id).pseudonym) for one in labellers]
        with ExitStack() as stack:
            desks = [stack.enter_context(Client(address, token)) for token in tokens]
            pool = stack.enter_context(ThreadPoolExecutor(len(desks)))
            chances = [np.random.default_rng([seed, 3, n]) for n in range(len(desks))]
            signs = [-1.0 if n == BACKWARDS else 1.0 for n in range(len(desks))]
            # all at once, and all as long as each other: no labeller is so fast that others are left without work
            while sum(pool.map(lambda *one: a_sitting(one[0], task.id, one[1], worth, *one[2:]), desks, labellers, signs, chances)):
                pass
        found = client.labels(client.snapshot("answers").id)
    db.close()
    assert len(found) == OVERLAP * len(worth)
    judged = reliability(sheet(found, "rank"))
    truth = true_accuracy(World(features, utility, labellers, found), seed)
    estimated = [each.accuracy.value for each in judged.labellers]
    correlation = np.corrcoef(estimated, [truth[each.labeller] for each in judged.labellers])[0, 1]

    of_item = {label.item: label for label in found}
    places: dict[str, list[tuple[int, ...]]] = {}
    for label in found:
        places.setdefault(label.item, []).append(label.answer.places)
    true = [np.array([worth[of_item[one.item].prompt.text][text] for text in of_item[one.item].responses]) for one in judged.items]
    weighted = order_right([np.array(one.utility) for one in judged.items], true)
    plain = order_right([-np.mean(places[one.item], axis=0) for one in judged.items], true)
    print(f"seed {seed}: correlation {correlation:.3f}, pairs right {weighted:.3f} weighted, {plain:.3f} not")
    assert correlation > 0.9 and weighted > plain
