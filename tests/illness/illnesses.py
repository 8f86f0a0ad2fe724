"""What can be wrong with a run, one planted illness each; and healthy runs, of which nothing bad may be said.

To add one: a name, what is wrong in a sentence, the stage and the task, what differs from the healthy settings of
`nursery.World`, and the names of the findings that tell its cause.  What no setting gives is planted, see `planted.py`.
`{world}` in a setting is the folder of the world.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from handrail.data import write_records
from illness import nursery, planted
from illness.nursery import World

LEARNED = {"path": "{world}/sft", "new": None}
MOVIE, SHORT = "movie-night", "short-version"


@dataclass(frozen=True)
class Illness:
    """A run, and what the doctor should say of it first."""

    name: str
    what: str
    stage: str
    causes: tuple[str, ...]  # names of findings that tell it; none: the run is healthy
    task: str = MOVIE
    over: dict[str, Any] = field(default_factory=dict)
    plant: planted.Plant = nullcontext
    prepare: Callable[[World], None] | None = None  # files that the settings name
    seldom: bool = False  # left out where time is short: another run shows the same finding


def function(name: str, **more: Any) -> dict[str, Any]:
    """A reward that is a function of `rewards.py` alone."""
    return {"model": "", "function": f"{nursery.HERE / 'rewards.py'}:{name}", **more}


def swap(world: World) -> None:
    """Rankings with the last for the first."""
    found = nursery.rankings(world.task, 400, 10 * world.seed + 2)
    turned = [r.model_copy(update={"places": tuple(max(r.places) + 1 - p for p in r.places)}) for r in found]
    write_records(world.folder / "swapped.jsonl", turned)


def toss(world: World) -> None:
    """Rankings that have to do with nothing, to learn from and to test on."""
    for name, count, seed in (("tossed", 400, 2), ("tossed-test", 120, 3)):
        found = nursery.rankings(world.task, count, 10 * world.seed + seed)
        places = [tuple(sorted(range(1, len(r.responses) + 1), key=lambda p, r=r: hash_of(r.responses[p - 1]))) for r in found]
        write_records(world.folder / f"{name}.jsonl", [r.model_copy(update={"places": p}) for r, p in zip(found, places, strict=True)])


def hash_of(text: str) -> int:
    """A number that follows from a text and means nothing."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def lengthwise(world: World) -> None:
    """Rankings by people who take the longer reply for the better one, nine times of ten."""
    for name, count, seed in (("lengthwise", 400, 2), ("lengthwise-test", 120, 3)):
        found = nursery.rankings(world.task, count, 10 * world.seed + seed)
        made = []
        for number, ranking in enumerate(found):
            order = sorted(ranking.responses, key=len, reverse=number % 10 > 0)
            made.append(ranking.model_copy(update={"places": tuple(order.index(r) + 1 for r in ranking.responses)}))
        write_records(world.folder / f"{name}.jsonl", made)


def handful(world: World) -> None:
    """Too few of everything."""
    write_records(world.folder / "few-demonstrations.jsonl", nursery.TASKS[world.task].demonstrations(60, 10 * world.seed + 5))
    write_records(world.folder / "few-rankings.jsonl", nursery.rankings(world.task, 40, 10 * world.seed + 5))
    write_records(world.folder / "few-prompts.jsonl", nursery.TASKS[world.task].prompts(3, 10 * world.seed + 5))


def data(name: str, test: str = "") -> dict[str, Any]:
    return {"data": {"path": f"{{world}}/{name}.jsonl"}} | ({"test": {"path": f"{{world}}/{test}.jsonl"}} if test else {})


TRUE = {  # the truth itself as the reward
    MOVIE: {"model": "", "function": "handrail.tasks.movie_night:gold"},
    SHORT: {"model": "", "function": "handrail.tasks.short_version:gold"},
}

ILLNESSES = [
    # ---- settings ----
    Illness("lr_too_high", "a learning rate of 0.02", "ppo", ("steps_too_large",), over={"lr": 0.02, "warmup": 0}),
    Illness("lr_nothing", "a learning rate of 1e-9", "ppo", ("not_moving",), over={"lr": 1e-9}),
    Illness("beta_large", "a nat costs 50", "ppo", ("held_too_tight",), SHORT, {"kl": {"beta": 50.0}}),
    Illness("limit_short", "six tokens are all it may say", "ppo", ("cut_short",), SHORT, {"sampling": {"max_new_tokens": 6}}),
    Illness("critic_asleep", "the critic's learning rate is 0", "ppo", ("critic_useless",), SHORT, {"critic_lr": 0.0}),
    Illness(
        "too_many_passes",
        "24 passes over each batch",
        "reinforce",
        ("steps_too_large",),
        over={"epochs": 24, "objective": {"kind": "ppo_clip"}, "lr": 3e-3, "steps": 10},
        seldom=True,
    ),
    # ---- data ----
    Illness(
        "few_prompts", "three prompts", "ppo", ("few_prompts",), over={"prompts": {"path": "{world}/few-prompts.jsonl"}}, prepare=handful
    ),
    Illness(
        "sft_by_heart",
        "sixty demonstrations, forty times",
        "sft",
        ("overfit",),
        over={**data("few-demonstrations"), "epochs": 40, "held_out": 0.2, "eval_every": 10, "model": LEARNED},
        prepare=handful,
    ),
    Illness("sft_lr_high", "imitation with a learning rate of 0.3", "sft", ("loss_diverges", "loss_flat"), over={"lr": 0.3}, seldom=True),
    Illness(
        "labels_swapped",
        "chosen and rejected swapped in what is learned from",
        "reward",
        ("labels_swapped",),
        SHORT,
        data("swapped"),
        prepare=swap,
    ),
    Illness(
        "labels_tossed",
        "labels that have to do with nothing",
        "reward",
        ("reward_at_chance",),
        MOVIE,
        data("tossed", "tossed-test"),
        prepare=toss,
    ),
    Illness(
        "labels_by_length",
        "people took longer for better",
        "reward",
        ("reward_is_length",),
        MOVIE,
        data("lengthwise", "lengthwise-test"),
        prepare=lengthwise,
    ),
    Illness(
        "labels_by_heart",
        "forty rankings, thirty times",
        "reward",
        ("reward_overfit", "reward_at_chance"),
        over={**data("few-rankings"), "epochs": 30},
        prepare=handful,
        seldom=True,
    ),
    Illness(
        "dpo_swapped",
        "direct preferences with chosen and rejected swapped",
        "dpo",
        ("labels_swapped",),
        SHORT,
        data("swapped"),
        prepare=swap,
        seldom=True,
    ),
    # ---- reward ----
    Illness(
        "pays_length", "the reward is the length", "ppo", ("length_gaming",), over={"reward": function("length"), "kl": {"beta": 0.02}}
    ),
    Illness(
        "pays_shortness",
        "each word costs",
        "reinforce",
        ("length_collapse",),
        MOVIE,
        {"reward": function("shortness"), "kl": {"beta": 0.02}},
    ),
    Illness(
        "pays_a_word",
        "the reward is whether it says sorry",
        "ppo",
        ("reward_pattern",),
        over={"reward": function("sorry"), "kl": {"beta": 0.02}},
    ),
    Illness(
        "pays_chatter",
        "the reward is whether it speaks of itself",
        "reinforce",
        ("reward_pattern",),
        SHORT,
        {"reward": function("chatter"), "kl": {"beta": 0.02}},
        seldom=True,
    ),
    Illness(
        "pays_each_word",
        "each good word pays each time",
        "reinforce",
        ("repetition", "length_gaming", "reward_pattern"),
        over={"reward": function("keywords"), "kl": {"beta": 0.0}, "steps": 24},
        seldom=True,
    ),
    Illness(
        "pays_one_reply",
        "the reward is likeness to one reply",
        "reinforce",
        ("one_answer",),
        over={"reward": function("one_sentence"), "kl": {"beta": 0.0}, "steps": 36},
        seldom=True,
    ),
    Illness("pays_everything", "all responses earn the same", "ppo", ("reward_constant",), SHORT, {"reward": function("same")}),
    Illness(
        "pays_too_rarely",
        "the reward is a word that nobody says",
        "reinforce",
        ("dead_groups", "reward_constant"),
        over={"reward": function("rare")},
        seldom=True,
    ),
    Illness(
        "pays_thousands",
        "the reward counts in thousands",
        "ppo",
        ("reward_scale",),
        SHORT,
        {"reward": TRUE[SHORT] | {"function_weight": 1e3}},
    ),
    Illness(
        "sign_wrong",
        "the truth with a minus that was left in",
        "ppo",
        ("reward_against_gold",),
        SHORT,
        {"reward": function("posts_turned")},
    ),
    Illness("minus", "in the other task", "reinforce", ("reward_against_gold",), over={"reward": function("movies_turned")}, seldom=True),
    Illness(
        "proxy",
        "politeness and detail by their words",
        "reinforce",
        ("overoptimised", "length_gaming", "repetition"),
        over={"reward": function("films"), "kl": {"beta": 0.0}, "steps": 24},
        seldom=True,
    ),
    # ---- numerics ----
    Illness("engine_colder", "sampled at 0.7, scored at 1", "ppo", ("engine_disagrees",), plant=planted.engine_colder),
    Illness(
        "engine_cut",
        "the likeliest tokens alone are sampled",
        "reinforce",
        ("engine_disagrees",),
        SHORT,
        plant=planted.engine_cut,
        seldom=True,
    ),
    Illness("engine_stale", "the engine keeps its first weights", "ppo", ("engine_stale",), SHORT, plant=planted.engine_never_told),
    Illness("reference_shared", "the reference is the policy", "ppo", ("reference_moves",), plant=planted.reference_shared),
    Illness(
        "reference_other", "the reference is another checkpoint", "reinforce", ("reference_differs",), SHORT, plant=planted.reference_other
    ),
    Illness("kl_turned", "the divergence has the wrong sign", "ppo", ("kl_negative",), SHORT, plant=planted.kl_turned),
    Illness("dropout_on", "dropout is on while it learns", "ppo", ("ratio_off",), plant=planted.dropout_in_updates),
    Illness("no_number", "every third gradient is no number", "ppo", ("not_finite",), SHORT, plant=planted.no_number),
    Illness(
        "loud_batches",
        "a batch now and then is a thousand times as loud",
        "sft",
        ("gradient_spikes",),
        over={"epochs": 1},
        plant=planted.spikes,
    ),
    Illness(
        "slower", "each step takes longer", "ppo", ("throughput_falls",), SHORT, {"steps": 12, "batch_size": 16}, planted.slower_and_slower
    ),
    Illness("start_twice", "two beginnings of sequence", "ppo", ("double_start",), plant=planted.start_twice),
    Illness("end_unknown", "the engine waits for another end", "reinforce", ("never_ends",), SHORT, {"steps": 6}, planted.end_unknown),
    Illness(
        "not_normalised",
        "a reward model with mean 6 and spread 4",
        "reinforce",
        ("reward_scale",),
        plant=planted.not_normalised,
        seldom=True,
    ),
]

HEALTHY = [
    Illness("ppo_movies", "PPO on a reward model", "ppo", ()),
    Illness("ppo_posts", "PPO on a reward model", "ppo", (), SHORT),
    Illness("ppo_true", "PPO on the truth", "ppo", (), SHORT, {"reward": TRUE[SHORT], "epochs": 4, "minibatches": 2, "lr": 3e-4}),
    Illness("rloo", "REINFORCE, leave one out", "reinforce", ()),
    Illness(
        "grpo",
        "GRPO, clipped, two passes",
        "reinforce",
        (),
        SHORT,
        {"baseline": {"kind": "group_normalised"}, "objective": {"kind": "ppo_clip"}, "epochs": 2, "lr": 5e-4},
    ),
    Illness(
        "reinforce_true",
        "REINFORCE on the truth with a moving average",
        "reinforce",
        (),
        MOVIE,
        {"reward": TRUE[MOVIE], "baseline": {"kind": "moving_average"}, "responses": 1},
    ),
    Illness("best_of_n", "best of four", "best_of_n", ()),
    Illness("relaxed", "through the reward model", "relaxed", (), SHORT),
    Illness("dpo", "direct preferences", "dpo", (), SHORT),
    Illness("sft", "imitation", "sft", (), SHORT, {"epochs": 1}),
    Illness("reward_movies", "a reward model", "reward", ()),
    Illness("reward_posts", "a reward model", "reward", (), SHORT),
]


def settled(illness: Illness, world: World) -> dict[str, Any]:
    """Its settings with the world's folder in place."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put(inner) for key, inner in value.items()}
        return value.replace("{world}", str(world.folder)) if isinstance(value, str) else value

    return put(illness.over)
