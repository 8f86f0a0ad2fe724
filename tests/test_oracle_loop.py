"""O1, O5 and O9 through the recipes themselves: their own loops, on tables in the place of networks.

`handrail.selftest` holds the tables, because `handrail selftest` needs them on a user's machine; here they are first held
against tabular.py, which calls nothing of Handrail.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tabular
from handrail.batch import Rollout, Sequences
from handrail.recipes import ppo
from handrail.rollout import Sampling
from handrail.selftest import enumerated
from handrail.selftest.enumerated import World
from handrail.selftest.loops import LOOPS, Cast, expected_gradient, run_loop, settings
from handrail.selftest.roles import TableEngine, TablePolicy, uniforms

RECIPES = sorted(LOOPS)
WORLD = World.random(0)
POLICY = WORLD.reference + torch.stack([tabular.random_logits(seed) for seed in (5, 6)])
WRONG = torch.randn(POLICY.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def relative_error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


# --- the two enumerations are one ---


def test_responses_states_and_lengths_are_those_of_the_independent_enumeration():
    assert enumerated.RESPONSES == tabular.RESPONSES and enumerated.PREFIXES == tabular.PREFIXES
    for name in ("MASK", "TOKENS", "LENGTHS", "STATES"):
        assert torch.equal(getattr(enumerated, name), getattr(tabular, name)), name
    assert enumerated.ENDED.tolist() == [y[-1] == tabular.END for y in tabular.RESPONSES]


def test_the_objective_its_gradient_its_values_and_its_best_policy_are_those_of_the_independent_enumeration():
    for number in range(2):
        reference, scores, policy = WORLD.reference[number], WORLD.scores[number], POLICY[number]
        close = {"rtol": 1e-12, "atol": 1e-13}
        torch.testing.assert_close(enumerated.probability(POLICY)[number], tabular.probability(policy), **close)
        torch.testing.assert_close(WORLD.objective(POLICY)[number], tabular.objective(policy, reference, scores, WORLD.beta), **close)
        gradient = tabular.objective_gradient(policy, reference, scores, WORLD.beta)
        torch.testing.assert_close(2 * WORLD.gradient(POLICY)[number], gradient, **close)
        torch.testing.assert_close(WORLD.values(POLICY)[number], tabular.state_values(policy, reference, scores, WORLD.beta), **close)
        best, most = tabular.best_policy(reference, scores, WORLD.beta)
        torch.testing.assert_close(WORLD.best()[number], tabular.probability(best), **close)
        torch.testing.assert_close(WORLD.most()[number], most, **close)


def test_distance_and_gain_have_their_landmarks():
    best = torch.stack([tabular.best_policy(r, s, WORLD.beta)[0] for r, s in zip(WORLD.reference, WORLD.scores, strict=True)])
    assert WORLD.distance(best) < 1e-12 and abs(WORLD.gain(best) - 1) < 1e-12
    assert WORLD.distance(WORLD.reference) > 0.3 and WORLD.gain(WORLD.reference) == 0
    half = torch.stack([best[0], WORLD.reference[1]])
    one = 0.5 * (tabular.probability(WORLD.reference[1]) - tabular.probability(best[1])).abs().sum()
    assert abs(WORLD.distance(half) - float(one)) < 1e-12, "the worst prompt counts"


# --- the tables are what they play ---


def sampled(count: int, sampling: Sampling, seed: int = 0) -> Rollout:
    engine = TableEngine()
    engine.sync(TablePolicy(POLICY))
    prompts = [[enumerated.V] * (1 + row % 2) for row in range(count)]
    return engine.generate(prompts, [seed + 7919 * row for row in range(count)], sampling)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_engine_samples_the_policys_law_and_says_with_which_probability(temperature):
    count = 10_000
    rollout = sampled(count, Sampling(max_new_tokens=4, temperature=temperature))
    torch.testing.assert_close(rollout.logp.double(), TablePolicy(POLICY).logp(rollout.sequences, temperature).detach(), atol=1e-6, rtol=0)
    seen = torch.zeros(2, tabular.N, dtype=torch.float64)
    for number, response in zip((rollout.prompt_lengths - 1).tolist(), rollout.responses(), strict=True):
        seen[number, tabular.ROW[tuple(response)]] += 1
    for number in range(2):
        law = tabular.probability(POLICY[number] / temperature) * count / 2
        cells = torch.stack([torch.cat([x[law >= 5], x[law < 5].sum()[None]]) for x in (seen[number], law)])
        statistic = ((cells[0] - cells[1]) ** 2 / cells[1]).sum()
        assert torch.special.gammaincc(torch.tensor((cells.shape[1] - 1) / 2, dtype=torch.float64), statistic / 2) > 1e-3
    assert rollout.ended.tolist() == [response[-1] == tabular.END for response in rollout.responses()]


def test_a_row_of_the_engine_follows_from_its_seed_and_prompt_alone():
    rollout = sampled(50, Sampling(max_new_tokens=4))
    engine = TableEngine()
    engine.sync(TablePolicy(POLICY))
    alone = [
        engine.generate([[enumerated.V] * (1 + row % 2)], [7919 * row], Sampling(max_new_tokens=4)).responses()[0] for row in range(50)
    ]
    assert alone == rollout.responses()
    draws = uniforms(list(range(20_000)))
    assert float(draws.min()) >= 0 and float(draws.max()) < 1 and len(draws.unique()) == draws.numel()
    assert (draws.mean(0) - 0.5).abs().max() < 0.008 and (torch.corrcoef(draws.T) - torch.eye(4)).abs().max() < 0.03


def test_a_response_that_was_cut_early_has_a_value_behind_it_and_a_whole_one_has_none():
    cast = Cast.of(WORLD)
    cast.critic.load_state({"weights": WRONG})
    sequences = Sequences.of([([4], [0, 1]), ([4, 4], [2, 3]), ([4], [0, 1, 2, 2]), ([4, 4], [3])])
    values, after = cast.critic.values(sequences)
    number = tabular.NUMBER
    assert after.tolist() == [float(WRONG[0, number[(0, 1)]]), 0, 0, 0]
    assert values[1].tolist() == [float(WRONG[1, number[()]]), float(WRONG[1, number[(2,)]]), 0, 0]


# --- O1: what a recipe's update ascends on average is the gradient of J ---


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_expected_update_is_the_gradient_of_the_objective(name, temperature, tmp_path):
    """At a temperature the law is that of the divided logits, for policy and reference."""
    cooled = World(WORLD.reference / temperature, WORLD.scores, WORLD.beta)
    truth = cooled.gradient(POLICY / temperature) / temperature
    over = LOOPS[name].unbiased | {"sampling": {"max_new_tokens": 4, "temperature": temperature}}
    assert relative_error(expected_gradient(name, WORLD, POLICY, WRONG, tmp_path, **over), truth) < 1e-10


def test_with_the_exact_critic_any_lambda_is_unbiased_and_with_a_wrong_one_only_the_whole_return(tmp_path):
    truth, plain = WORLD.gradient(POLICY), {"whiten_advantages": False}
    for lam in (0.0, 0.9):
        exact = expected_gradient("ppo", WORLD, POLICY, WORLD.values(POLICY), tmp_path, lam=lam, **plain)
        assert relative_error(exact, truth) < 1e-10
        assert relative_error(expected_gradient("ppo", WORLD, POLICY, WRONG, tmp_path, lam=lam, **plain), truth) > 0.01


def test_one_ratio_for_a_response_leaves_each_token_its_own_advantage(tmp_path):
    over = {"objective": {"kind": "gspo", "clip": 0.003}, "lam": 1.0, "whiten_advantages": False}
    assert relative_error(expected_gradient("ppo", WORLD, POLICY, WRONG, tmp_path, **over), WORLD.gradient(POLICY)) < 1e-10


@pytest.mark.parametrize("over", [{"kl": {"beta": 0.9}}, {"reward": {"model": "table", "end_penalty": 0.5}}], ids=str)
def test_another_objective_has_another_gradient(over, tmp_path):
    found = expected_gradient("ppo", WORLD, POLICY, WRONG, tmp_path, lam=1.0, whiten_advantages=False, **over)
    assert relative_error(found, WORLD.gradient(POLICY)) > 0.01


# --- O5: the loop ends at the policy that maximises the objective ---


def ends_at_the_best(name: str, seed: int, folder: Path, **over) -> None:
    world = World.random(seed)
    assert world.distance(world.reference) > 0.3, "there must be a way to go"
    logits = run_loop(name, world, folder, seed, **over)
    assert world.distance(logits) < 0.02
    assert world.gain(logits) > 0.97


@pytest.mark.parametrize("name", ["ppo", "rloo", "value_baseline"])
def test_the_loop_ends_at_the_best_policy(name, tmp_path):
    ends_at_the_best(name, 0, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("seed", range(5))
def test_every_loop_ends_at_the_best_policy_on_five_seeds(name, seed, tmp_path):
    ends_at_the_best(name, seed, tmp_path / "run")


GSPO = {"objective": {"kind": "gspo", "clip": 0.1}}
WAYS = [{"whiten_advantages": False}, {"lam": 1.0}, {"value_clip": 0.2}, {"minibatches": 1, "epochs": 4}, GSPO]


@pytest.mark.slow
@pytest.mark.parametrize("over", WAYS, ids=str)
def test_ppo_ends_there_by_other_ways(over, tmp_path):
    ends_at_the_best("ppo", 5, tmp_path / "run", **over)


@pytest.mark.slow
def test_at_another_temperature_it_ends_at_the_best_of_the_laws_of_that_temperature(tmp_path):
    world, temperature = World.random(6), 0.7
    logits = run_loop("ppo", world, tmp_path / "run", 6, sampling={"max_new_tokens": 4, "temperature": temperature})
    cooled = World(world.reference / temperature, world.scores, world.beta)
    assert cooled.distance(logits / temperature) < 0.02 and cooled.gain(logits / temperature) > 0.97
    assert world.distance(logits) > 0.02


@pytest.mark.slow
def test_with_another_price_of_the_divergence_it_ends_elsewhere(tmp_path):
    world = World.random(0)
    assert world.distance(run_loop("ppo", world, tmp_path / "run", 0, kl={"beta": 0.8})) > 0.03


def fixed_point_of_grpo(world: World, beta: float) -> Tensor:
    """[P, S, V] where the exact mean of GRPO's update is zero: two responses to a prompt, their scores centred and divided by
    their deviation, which leaves the sign of the difference, and k3 in the loss.  By enumeration, without the package."""
    mask, at, tokens = tabular.MASK, tabular.STATES, tabular.TOKENS
    logits, fair = world.reference.clone().requires_grad_(), world.scores + 0.0
    reference = world.reference.log_softmax(-1)[:, at, tokens]
    adam = torch.optim.Adam([logits], lr=0.05)
    for step in range(3000):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 3000)
        logp = torch.where(mask, logits.log_softmax(-1)[:, at, tokens], 0)
        law = logp.detach().sum(-1).exp()
        duel = (torch.sign(fair[:, :, None] - fair[:, None]) * law[:, None]).sum(-1)
        ratio = torch.where(mask, reference - logp, 0)
        loss = (law[..., None] * (beta * (torch.expm1(ratio) - ratio) - duel[..., None] * logp)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return logits.detach()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_grpo_as_published_ends_where_duels_and_not_rewards_are_won(seed, tmp_path):
    """Dividing by the group's deviation maximises another thing, so that it ends elsewhere: at the point where the exact
    mean of its own update is zero, and not at pi*."""
    world = World.random(seed)
    over = {"baseline": {"kind": "group_normalised"}, "credit": "whole_return", "responses": 2, "batch_size": 1024, "steps": 400}
    over |= {"kl": {"beta": world.beta, "placement": "loss"}, "objective": {"kind": "reinforce", "weigh": "responses"}, "lr": 0.005}
    logits = run_loop("rloo", world, tmp_path / "run", seed, **over)
    ends = fixed_point_of_grpo(world, world.beta)
    apart = 0.5 * (enumerated.probability(logits) - enumerated.probability(ends)).abs().sum(-1).max()
    assert apart < 0.03 < 0.1 < world.distance(logits)


def test_every_step_draws_anew(tmp_path):
    """The same policy at two steps: responses that agree no more often than chance has it."""
    cfg, cast = settings("ppo", WORLD, tmp_path, 0, {"batch_size": 400}), Cast.of(WORLD)
    parts = LOOPS["ppo"].assemble(cfg, cast)
    steps = []
    for step in (0, 1):
        rollout, prompts = ppo.act(cfg, parts, step)
        steps.append({(row, prompt, tuple(y)) for row, (prompt, y) in enumerate(zip(prompts, rollout.responses(), strict=True))})
    assert len(steps[0] & steps[1]) < 100


def test_rescaled_rewards_keep_their_sum_and_whitened_advantages_leave_the_critic_its_returns(off_policy):
    """With a critic of zeros and the whole return, what a response returns from its first token on is the sum of its rewards."""
    cfg, parts, rollout = off_policy
    parts.critic.load_state({"weights": torch.zeros_like(WRONG)})
    found = {}
    for rescaled in (False, True):
        for whitened in (False, True):
            ways = cfg.model_copy(update={"lam": 1.0, "rescale_rewards": rescaled, "whiten_advantages": whitened})
            found[rescaled, whitened] = experience_of(ways, parts, rollout)
    plain, rescaled = (found[key, False].returns for key in (False, True))
    torch.testing.assert_close(plain[:, 0].sum(), rescaled[:, 0].sum(), rtol=1e-11, atol=0)
    assert abs(float(plain[:, 0].sum())) > 1
    rewards = (rescaled - torch.cat([rescaled[:, 1:], torch.zeros(40, 1)], 1))[rollout.mask]
    assert abs(float(rewards.var(correction=0)) - 1) < 1e-6
    for key in (False, True):
        assert torch.equal(found[key, True].returns, found[key, False].returns)
        whitened = found[key, True].advantage[rollout.mask]
        assert abs(float(whitened.mean())) < 1e-12 and abs(float(whitened.var(correction=0)) - 1) < 1e-6


# --- O9: order, padding and slices change nothing ---


def experience_of(cfg: ppo.PPO, parts: ppo.Parts, rollout: Rollout) -> ppo.Experience:
    prompts = (rollout.prompt_lengths - 1).tolist()
    return ppo.credit(cfg, parts, rollout, ppo.judge(parts, rollout, prompts))


def ppo_gradient(parts: ppo.Parts, cfg: ppo.PPO, experience: ppo.Experience) -> tuple[Tensor, Tensor, dict[str, float]]:
    parts.optimizer.clear()
    stats = ppo.gradient(cfg, parts, experience, learn_policy=True)
    return parts.policy.weights.grad.clone(), parts.critic.weights.grad.clone(), stats


@pytest.fixture
def off_policy(tmp_path) -> tuple[ppo.PPO, ppo.Parts, Rollout]:
    """Forty responses, judged by a policy that is not at its reference; then the policy moves, so that ratios differ and clip."""
    over = {"entropy_coef": 0.1, "value_clip": 0.3, "minibatches": 1}
    cfg, cast = settings("ppo", WORLD, tmp_path, 0, over), Cast.of(WORLD)
    cast.policy.load_state({"weights": POLICY})
    cast.critic.load_state({"weights": WRONG})
    return cfg, LOOPS["ppo"].assemble(cfg, cast), sampled(40, cfg.sampling)


def moved(parts: ppo.Parts) -> None:
    for role, seed in ((parts.policy, 8), (parts.critic, 9)):
        noise = torch.randn(role.weights.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        role.load_state({"weights": role.weights.detach() + 0.3 * noise})


def same_update(found: tuple, expected: tuple) -> None:
    for one, other in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)
    assert found[2] == pytest.approx(expected[2], rel=1e-11)


def test_the_order_of_rows_changes_nothing(off_policy):
    cfg, parts, rollout = off_policy
    experience = experience_of(cfg, parts, rollout)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    permuted = experience_of(cfg, parts, rollout[order])
    torch.testing.assert_close(permuted.advantage, experience.advantage[order], rtol=1e-11, atol=1e-14)
    moved(parts)
    expected = ppo_gradient(parts, cfg, experience)
    assert 0 < expected[2]["clip_fraction"] < 1 and expected[2]["approx_kl"] > 0.01
    same_update(ppo_gradient(parts, cfg, permuted), expected)


def test_columns_of_padding_change_nothing_whatever_stands_in_them(off_policy):
    cfg, parts, rollout = off_policy
    experience = experience_of(cfg, parts, rollout)

    ids = torch.where(torch.arange(rollout.ids.shape[1]) < rollout.lengths[:, None], rollout.ids, 2)
    ids = torch.nn.functional.pad(ids, (0, 5), value=enumerated.END)
    strange = Rollout(ids, rollout.prompt_lengths, rollout.lengths, rollout.ended, rollout.logp.masked_fill(~rollout.mask, float("nan")))
    judged = experience_of(cfg, parts, strange)
    assert torch.equal(judged.advantage, experience.advantage) and torch.equal(judged.returns, experience.returns)
    moved(parts)
    expected = ppo_gradient(parts, cfg, experience)

    def hollow(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x.masked_fill(~rollout.mask, float("nan")), (0, 3), value=float("nan"))

    wide = Rollout(ids, rollout.prompt_lengths, rollout.lengths, rollout.ended, hollow(rollout.logp))
    tensors = (experience.logp_old, experience.logp_ref, experience.values_old, experience.advantage, experience.returns)
    same_update(ppo_gradient(parts, cfg, ppo.Experience(wide, *(hollow(x) for x in tensors))), expected)


@pytest.mark.parametrize("tokens", [1, 7, 30])
def test_slices_of_any_size_change_nothing(off_policy, tokens):
    cfg, parts, rollout = off_policy
    experience = experience_of(cfg, parts, rollout)
    moved(parts)
    expected = ppo_gradient(parts, cfg, experience)
    same_update(ppo_gradient(parts, cfg.model_copy(update={"micro_tokens": tokens}), experience), expected)
