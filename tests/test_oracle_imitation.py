"""O5 for the methods that are no policy gradient: best of n, weighted regression and online DPO, by their own loops on tables.

Each ends at a law that its theory names.  The laws are computed here by enumeration, without the package's formulas.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tabular
from handrail.parallel import Parallel
from handrail.recipes import best_of_n, best_of_n_parts, dpo
from handrail.recipes.dpo_exam import Exam
from handrail.recipes.dpo_objectives import OBJECTIVES
from handrail.recipes.dpo_sources import Online
from handrail.recipes.parts import Optimizer, open_run
from handrail.recipes.rewards import RewardSource
from handrail.selftest.enumerated import PENALTY, World, probability
from handrail.selftest.loops import Cast
from handrail.selftest.roles import TablePolicy

SEEDS = range(5)
SAMPLING = {"max_new_tokens": tabular.T}
REWARD = {"model": "table", "end_penalty": PENALTY}


def common(folder: Path, seed: int) -> dict[str, Any]:
    return {"out": str(folder), "seed": seed, "policy": {"path": "table"}, "run": {"save_every": 10**6, "trace_every": 0}}


def imitated(world: World, folder: Path, seed: int, **over: Any) -> Tensor:
    """[P, N] the law at which `handrail best_of_n` ends."""
    settings = {"prompts": {"path": "table"}, "reward": REWARD, "sampling": SAMPLING, "batch_size": 512, "n": 2, "warmup": 0}
    settings |= {"eval_every": 10**6, "lr": 0.005, "steps": 700}
    cfg, cast = best_of_n_parts.BestOfN.model_validate(common(folder, seed) | settings | over), Cast.of(world)
    sampler = best_of_n_parts.make_sampler(cfg, cast.policy, cast.reference, lambda: TablePolicy(world.reference))
    reward = RewardSource(cfg.reward, cast.scores, cfg.policy, cast.codec)
    prompts = cast.prompts * cfg.batch_size  # one shuffle a step, where a list of one prompt would be shuffled for each row
    parts = best_of_n_parts.assemble(cfg, cast.codec, cast.policy, cast.reference, sampler, cast.engine, reward, prompts, "")
    with open_run(cfg.out, "best_of_n", cfg, cfg.run, {}) as run:
        best_of_n.train(cfg, parts, run)
    return probability(cast.policy.weights.detach())


def preferred(world: World, folder: Path, seed: int, loss: dict[str, Any], **online: Any) -> Tensor:
    """[P, N] the law at which `handrail dpo` ends with fresh responses."""
    asked = {"prompts": {"path": "table"}, "reward": REWARD, "sampling": SAMPLING, "pairs": "all", "responses": 4, "steps": 400}
    settings = {"online": asked | online, "loss": loss, "batch_size": 128, "lr": 0.02, "eval_every": 10**6}
    cfg, cast = dpo.DPO.model_validate(common(folder, seed) | settings), Cast.of(world)
    assert cfg.online
    reward = RewardSource(cfg.online.reward, cast.scores, cfg.policy, cast.codec)
    reads, reference = cast.policy.logp, cast.reference.logp
    source = Online(cfg.online, cfg.batch_size, seed, cast.codec, cast.engine, cast.policy, reference, reward, cast.prompts)
    exam, parallel = Exam(cast.codec, [], tabular.T, reference), Parallel()
    optimizer = Optimizer({"policy": (cast.policy.parameters(), cfg.lr)}, 0.0, cfg.max_grad_norm, parallel)
    parts = dpo.Parts(cast.codec, cast.policy, OBJECTIVES[cfg.loss.name](cfg.loss), source, exam, reads, optimizer, parallel, "")
    with open_run(cfg.out, "dpo", cfg, cfg.run, {}) as run:
        dpo.train(cfg, parts, run)
    return probability(cast.policy.weights.detach())


def apart(found: Tensor, law: Tensor) -> float:
    """Total variation, in the worst prompt."""
    return float(0.5 * (found - law).abs().sum(-1).max())


# --- what theory says that they end at ---


def best_law(world: World, n: int) -> Tensor:
    """[P, N] the law of the best of n responses of the reference: F^n - G^n, shared by those of one score in proportion."""
    start, scores = probability(world.reference), world.scores
    at_most = (start[:, None] * (scores[:, None] <= scores[:, :, None])).sum(-1)
    less = (start[:, None] * (scores[:, None] < scores[:, :, None])).sum(-1)
    return start * (at_most**n - less**n) / (at_most - less)


def tilted(world: World, strength: float) -> Tensor:
    """[P, N] pi_ref exp(strength R) / Z."""
    return (probability(world.reference).log() + strength * world.scores).softmax(-1)


def duels(world: World) -> Tensor:
    """[P, N, N] 1 where the first scores more, half for a tie."""
    return (torch.sign(world.scores[:, :, None] - world.scores[:, None]) + 1) / 2


def self_play(world: World, beta: float) -> Tensor:
    """[P, N] the law that is pi_ref exp(P(y beats a draw of it) / beta) / Z of itself."""
    start, won = probability(world.reference), duels(world)
    law = start
    for _ in range(3000):
        law = 0.9 * law + 0.1 * (start.log() + (won * law[:, None]).sum(-1) / beta).softmax(-1)
    return law


def at_rest(world: World, beta: float, smoothing: float) -> Tensor:
    """[P, N] the law on whose own responses no log-probability is moved by DPO on smoothed labels."""
    start, won = probability(world.reference), smoothing + (1 - 2 * smoothing) * duels(world)
    moved = torch.zeros_like(start)
    for _ in range(3000):
        law = (start.log() + moved).softmax(-1)
        margin = beta * (moved[:, :, None] - moved[:, None])
        moved = moved + 0.5 * ((won - margin.sigmoid()) * law[:, None]).sum(-1)
    return law


IMITATIONS = {  # settings, and the law that they end at
    "best of 4": ({"n": 4}, lambda world: best_law(world, 4)),
    # Its second round imitates one in two of few responses, whence the larger batch.
    "two rounds of the best of 2": ({"rounds": 2, "steps": 1400, "batch_size": 1024}, lambda world: best_law(world, 4)),
    "reward": ({"weighting": "reward"}, lambda world: tilted(world, 1.0)),
    "two rounds of reward": ({"weighting": "reward", "rounds": 2, "steps": 1400}, lambda world: tilted(world, 2.0)),
    # The mean of n responses holds the response itself, so that beta acts as n / (n - 1) times itself: here 1.
    "two rounds of advantage": (
        {"weighting": "advantage", "n": 4, "beta": 0.75, "max_weight": 1e9, "rounds": 2, "steps": 1400},
        lambda world: tilted(world, 2.0),
    ),
}
PREFERENCES = {
    "bradley_terry": ({"beta": 1.0}, {"pairs": "bradley_terry"}, lambda world: world.best()),
    "bradley_terry, two responses": ({"beta": 1.0}, {"pairs": "bradley_terry", "responses": 2}, lambda world: world.best()),
    "smoothed": ({"beta": 1.0, "smoothing": 0.1}, {"steps": 800}, lambda world: at_rest(world, 1.0, 0.1)),
    "ipo": ({"name": "ipo", "beta": 0.3}, {"steps": 800}, lambda world: self_play(world, 0.3)),
}


def ends_where_theory_says(found: Tensor, law: Tensor, world: World) -> None:
    assert apart(found, law) < 0.02
    assert apart(probability(world.reference), law) > 0.08, "there must be a way to go"


def test_the_best_of_two_is_imitated_and_no_other_law(tmp_path):
    world = World.random(0)
    found = imitated(world, tmp_path / "run", 0)
    ends_where_theory_says(found, best_law(world, 2), world)
    assert apart(found, best_law(world, 3)) > 0.08


@pytest.mark.slow
@pytest.mark.parametrize("name", IMITATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_imitation_ends_at_the_law_of_its_weights_on_three_seeds(name, seed, tmp_path):
    over, law = IMITATIONS[name]
    world = World.random(seed, prompts=1)  # half the noise of two prompts to a batch, which the quick test has
    ends_where_theory_says(imitated(world, tmp_path / "run", seed, **over), law(world), world)


def test_dpo_on_its_own_responses_ends_at_the_best_policy(tmp_path):
    loss, online, law = PREFERENCES["bradley_terry"]
    world = World.random(0)
    ends_where_theory_says(preferred(world, tmp_path / "run", 0, loss, **online, steps=200), law(world), world)


@pytest.mark.slow
@pytest.mark.parametrize("name", PREFERENCES)
@pytest.mark.parametrize("seed", SEEDS)
def test_preferences_on_its_own_responses_end_where_theory_says_on_five_seeds(name, seed, tmp_path):
    loss, online, law = PREFERENCES[name]
    world = World.random(seed)
    found = preferred(world, tmp_path / "run", seed, loss, **online)
    ends_where_theory_says(found, law(world), world)
    assert (apart(found, world.best()) < 0.02) == name.startswith("bradley_terry"), "the others end at laws of their own"


@pytest.mark.slow
def test_certain_labels_have_no_end_but_the_response_that_wins_every_duel(tmp_path):
    """Whatever beta is: the best response always gains, so the law moves on past the best policy to that response alone."""
    world = World.random(0)
    top = world.scores.argmax(-1, keepdim=True)
    shares = [world.best().gather(1, top)]
    for steps in (200, 400):
        law = preferred(world, tmp_path / str(steps), 0, {"beta": 1.0}, steps=steps)
        shares.append(law.gather(1, top))
    assert (shares[0] < shares[1]).all() and (shares[1] < shares[2]).all() and (shares[2] > 0.8).all()
    assert apart(law, world.best()) > 0.5
