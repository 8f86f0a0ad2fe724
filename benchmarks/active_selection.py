"""Does it pay to have those prompts labelled on which an ensemble has most to learn?

    python benchmarks/active_selection.py                 # movie-night, five seeds

For each seed: a model after SFT answers a pool of prompts, four times each.  Simulated labellers rank the answers to some
prompts drawn at random, and an ensemble learns from them.  Then as many more prompts are labelled, chosen in three ways:
at random, by information gain, by disagreement.  From each of the three sets of labels a new reward model starts, and is
tested on pairs of answers to other prompts in the order of the gold score, without a labeller's noise.  What a prompt's
label says is the same in every way of choosing.

The result is the accuracy less that of random choice, with a 95 % interval by Student's t over the seeds.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np

from handrail.compare.figures import Mean
from handrail.data import Codec, write_records
from handrail.models import ModelSettings, load_tokenizer
from handrail.recipes import progress, reward, sample, sft
from handrail.recipes.reward_parts import Reward
from handrail.recipes.sample import BY, Priority, Sample, ensemble_of, prioritised
from handrail.recipes.sft import SFT
from handrail.records import Ranking, Response, places_of
from handrail.tasks import TASKS, crew

NEW = {"hidden": 96, "layers": 2, "heads": 4, "vocabulary": 800, "context": 160}
WAYS = ("random", "information", "disagreement")


def grouped(responses: list[Response]) -> list[list[Response]]:
    """The responses to each prompt of which at least two differ."""
    found: dict[str, list[Response]] = {}
    for response in responses:
        found.setdefault(response.prompt.text, []).append(response)
    return [group for group in found.values() if len({r.text for r in group}) > 1]


def labelled(task, group: list[Response], seed: int) -> Ranking:
    """What the labellers say of a prompt; the same whenever they are asked."""
    rng = np.random.default_rng([seed, int(group[0].prompt.id, 16)])
    labellers = crew(8, seed)
    return labellers[int(rng.integers(8))].rank(group[0].prompt, list(dict.fromkeys(r.text for r in group)), task.gold, rng)


def truth(task, group: list[Response]) -> Ranking:
    """The order of the gold score."""
    texts = tuple(dict.fromkeys(r.text for r in group))
    return Ranking(prompt=group[0].prompt, responses=texts, places=places_of([task.gold(group[0].prompt, t) for t in texts]))


def experiment(task, seed: int, first: int, more: int, pool: int, out: Path) -> dict[str, float]:
    """The accuracy after each way of choosing, and after the first labels alone."""
    prompts = task.prompts(pool + 400, seed)
    write_records(out / "demonstrations.jsonl", task.demonstrations(3000, seed, frozenset(p.text for p in prompts)))
    write_records(out / "pool.jsonl", prompts[:pool])
    write_records(out / "tested.jsonl", prompts[pool:])
    common = {"seed": seed, "model": {"new": NEW}, "data": {"path": str(out / "demonstrations.jsonl")}}
    sft.run(SFT.model_validate(common | {"out": str(out / "sft"), "lr": 2e-3, "batch_tokens": 1024}))

    def sampled(prompts: str) -> list[list[Response]]:
        asked = {"model": {"path": str(out / "sft")}, "prompts": {"path": str(out / f"{prompts}.jsonl")}, "seed": seed}
        sizes = {"responses": 4, "sampling": {"max_new_tokens": 40}, "out": str(out / f"{prompts}.responses.jsonl")}
        return grouped(sample.run(Sample.model_validate(asked | sizes)))

    def trained(name: str, rankings: list[Ranking]) -> float:
        write_records(out / f"{name}.rankings.jsonl", rankings)
        learned = {"out": str(out / name), "seed": seed, "model": {"path": str(out / "sft")}, "heads": 8, "lr": 5e-4}
        learned |= {"data": {"path": str(out / f"{name}.rankings.jsonl")}, "test": {"path": str(out / "truth.jsonl")}}
        learned |= {"epochs": 6, "batch_size": 8, "token_weight": 1.0, "sampling": {"max_new_tokens": 40}}
        return float((reward.run(Reward.model_validate(learned)).summary or {})["accuracy"]["value"])

    write_records(out / "truth.jsonl", [truth(task, group) for group in sampled("tested")])
    groups = sampled("pool")
    random.Random(seed).shuffle(groups)
    begun = [labelled(task, group, seed) for group in groups[:first]]
    found = {"first": trained("first", begun)}
    ensemble = ensemble_of(Priority(reward=str(out / "first")), Codec(load_tokenizer(ModelSettings(path=str(out / "sft")))))
    for way in WAYS:
        rest = groups[first:]  # in a random order
        if way in BY:
            ranked = prioritised(ensemble, BY[way], [r for group in rest for r in group])
            rest = sorted(grouped(ranked), key=lambda group: -group[0].priority)
        found[way] = trained(f"after-{way}", begun + [labelled(task, group, seed) for group in rest[:more]])
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--task", default="movie-night", choices=sorted(TASKS))
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments.add_argument("--first", type=int, default=150, help="prompts that are labelled to begin with")
    arguments.add_argument("--more", type=int, default=300, help="prompts that are chosen")
    arguments.add_argument("--pool", type=int, default=1500, help="prompts to choose from, those of the beginning among them")
    arguments.add_argument("--out", type=Path, default=Path("runs/active-selection"))
    given = arguments.parse_args()
    progress.console.quiet = True
    seeds = []
    for seed in given.seeds:
        folder = given.out / f"seed-{seed}"
        seeds.append({"seed": seed, **experiment(TASKS[given.task], seed, given.first, given.more, given.pool, folder)})
        print(json.dumps(seeds[-1]), flush=True)
    for way in WAYS[1:]:
        gain = Mean.of([one[way] - one["random"] for one in seeds])
        interval = "" if gain.low is None else f" ({gain.low:+.4f} to {gain.high:+.4f})"
        print(f"{way} less random: {gain.value:+.4f}{interval}")


if __name__ == "__main__":
    main()
