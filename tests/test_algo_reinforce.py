"""The ladder from REINFORCE to PPO: every rung has the gradient that theory gives it, and the variance it promises.

On the enumerated model an expectation is a finite sum, so that an estimator and the truth agree to rounding; and its
variance is a finite sum too.
"""

import math

import pytest
import torch
from torch import Tensor

import tabular
from handrail.algo.advantage import carry_over, gae, gae_over_turns, reward_to_go, token_rewards, whole_return
from handrail.algo.baseline import group_mean, group_std, leave_one_out
from handrail.algo.control import ppo_penalty_beta
from handrail.algo.kl import kl_k1, kl_k2
from handrail.algo.objective import (
    gspo_loss,
    importance_loss,
    length_weight,
    ppo_clip_loss,
    ppo_penalty_loss,
    reinforce_loss,
    response_weight,
)
from handrail.algo.stats import whiten
from tabular import MASK, STATES

BETA = 0.3
POLICY, REFERENCE, SCORES = tabular.random_logits(0), tabular.random_logits(1), tabular.random_scores(2)
OLDER = POLICY + tabular.random_logits(7, 0.4)
TRUE_VALUES = tabular.state_values(POLICY, REFERENCE, SCORES, BETA)
WRONG_VALUES = TRUE_VALUES + torch.randn(tabular.S, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
TRUTH = tabular.objective_gradient(POLICY, REFERENCE, SCORES, BETA)
CREDITS = {"whole_return": whole_return, "reward_to_go": reward_to_go}
LENGTHS = torch.tensor([6, 1, 4, 3])
ROWS = torch.arange(6) < LENGTHS[:, None]


def relative_error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def rewards(policy: Tensor = POLICY) -> Tensor:
    return token_rewards(SCORES, kl_k1(tabular.token_logp(policy), tabular.token_logp(REFERENCE)), MASK, BETA)


def each_gradient(advantage: Tensor, policy: Tensor = POLICY) -> Tensor:
    """[N, S, V] what each response alone would have the policy ascend."""
    logits = policy.detach().requires_grad_()
    logp = tabular.token_logp(logits)
    return torch.stack(
        [
            torch.autograd.grad(-reinforce_loss(logp[n : n + 1], advantage[n : n + 1], MASK[n : n + 1], 1), logits, retain_graph=True)[0]
            for n in range(tabular.N)
        ]
    )


def mean_and_variance(advantage: Tensor) -> tuple[Tensor, float]:
    """The expected gradient, and the trace of its covariance for one sampled response; both exact."""
    weight, found = tabular.probability(POLICY), each_gradient(advantage)
    mean = torch.einsum("n,nsv->sv", weight, found)
    return mean, float((weight * ((found - mean) ** 2).sum((1, 2))).sum())


def expected(loss_of_row, policy: Tensor, sampled_from: Tensor) -> Tensor:
    """[S, V] the gradient of a response's loss, each response weighted with its probability under another policy."""
    logits = policy.detach().requires_grad_()
    logp, weight = tabular.token_logp(logits), tabular.probability(sampled_from)
    loss = sum(weight[n] * loss_of_row(logp[n : n + 1], slice(n, n + 1)) for n in range(tabular.N))
    return torch.autograd.grad(loss, logits)[0]


# O1: every rung's expected gradient is that of J = E[R] - beta KL.


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("baseline", ["none", "constant", "learned"])
def test_reinforce_is_unbiased_with_either_credit_and_any_baseline(credit, baseline):
    subtracted = {"none": torch.zeros(1), "constant": torch.tensor(0.7), "learned": WRONG_VALUES[STATES]}[baseline]
    mean, _ = mean_and_variance(CREDITS[credit](rewards(), MASK, 1.0) - subtracted)
    assert relative_error(mean, TRUTH) < 1e-10


@pytest.mark.parametrize("credit", CREDITS)
def test_leave_one_out_is_unbiased_and_the_group_mean_is_a_share_of_it(credit):
    """Two independent responses to one prompt: all 121 x 121 pairs, each with its probability."""
    returns, total = CREDITS[credit](rewards(), MASK, 1.0), rewards().sum(1)
    weight, n = tabular.probability(POLICY), tabular.N
    first, second = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    pairs = torch.stack([total[first], total[second]], 1).flatten()
    group = torch.arange(n * n).repeat_interleave(2)
    found = {}
    for name, function in (("leave one out", leave_one_out), ("group", group_mean)):
        baseline = function(pairs, group).view(-1, 2)[:, 0].view(n, n)  # of the first response, by both
        average = (weight * baseline).sum(1)  # over the second; the advantage is linear in the baseline
        found[name], _ = mean_and_variance(torch.where(MASK, returns - average[:, None], 0))
    assert relative_error(found["leave one out"], TRUTH) < 1e-10
    if credit == "whole_return":
        assert relative_error(found["group"], TRUTH / 2) < 1e-10, "(K - 1) / K of it, K = 2"


def test_dividing_by_the_groups_deviation_is_another_objective():
    """GRPO's division: with two responses to a prompt every difference becomes +1 or -1, however large it was."""
    total, weight, n = rewards().sum(1), tabular.probability(POLICY), tabular.N
    first, second = torch.arange(n).repeat_interleave(n), torch.arange(n).repeat(n)
    pairs, group = torch.stack([total[first], total[second]], 1).flatten(), torch.arange(n * n).repeat_interleave(2)
    normalised = ((pairs - group_mean(pairs, group)) / (group_std(pairs, group) + 1e-12)).view(-1, 2)[:, 0].view(n, n)
    assert torch.equal(normalised.round(), torch.sign(total[:, None] - total[None]))
    mean, _ = mean_and_variance(torch.where(MASK, (weight * normalised).sum(1)[:, None], 0))
    scale = (mean * TRUTH).sum() / (TRUTH**2).sum()
    assert relative_error(mean, scale * TRUTH) > 0.1, "not even in its direction"

    variable = POLICY.detach().requires_grad_()  # what it is the gradient of: the share of duels won, rewards held
    law = tabular.probability(variable)
    wins = (law[:, None] * weight[None] * torch.sign(total[:, None] - total[None])).sum()
    assert relative_error(mean, torch.autograd.grad(wins, variable)[0]) < 1e-10


def test_importance_sampling_is_unbiased_from_any_older_policy():
    """At theta != theta_old, with the rewards of theta: the weight of a whole response makes up for who sampled it."""
    old = tabular.token_logp(OLDER)
    for credit in CREDITS.values():
        advantage = credit(rewards(), MASK, 1.0) - torch.where(MASK, WRONG_VALUES[STATES], 0)
        gradient = -expected(lambda logp, n, a=advantage: importance_loss(logp, old[n], a[n], MASK[n], 1), POLICY, OLDER)
        assert relative_error(gradient, TRUTH) < 1e-10
        uncorrected = -expected(lambda logp, n, a=advantage: reinforce_loss(logp, a[n], MASK[n], 1), POLICY, OLDER)
        assert relative_error(uncorrected, TRUTH) > 0.05, "without the weight it is another gradient"


def test_a_ratio_of_single_tokens_does_not_make_up_for_other_states():
    advantage, old = reward_to_go(rewards(), MASK, 1.0), tabular.token_logp(OLDER)
    gradient = -expected(lambda logp, n: ppo_clip_loss(logp, old[n], advantage[n], MASK[n], 1, 0.999, 1e3)[0], POLICY, OLDER)
    assert relative_error(gradient, TRUTH) > 0.02


@pytest.mark.parametrize(
    "loss",
    [
        lambda logp, old, a, m: ppo_clip_loss(logp, old, a, m, 1, 0.2, 0.2)[0],
        lambda logp, old, a, m: ppo_penalty_loss(logp, old, a, m, 1, 0.5),
        lambda logp, old, a, m: importance_loss(logp, old, a, m, 1),
        lambda logp, old, a, m: gspo_loss(logp, old, a, m, 1, 0.1, 0.1)[0],
    ],
    ids=["ppo_clip", "ppo_penalty", "importance", "gspo"],
)
@pytest.mark.parametrize("credit", [whole_return, reward_to_go])
def test_every_objective_begins_as_the_policy_gradient(loss, credit):
    """At theta = theta_old, with one advantage for all tokens of a response or one for each."""
    advantage, old = credit(rewards(), MASK, 1.0), tabular.token_logp(POLICY)
    gradient = -expected(lambda logp, n: loss(logp, old[n], advantage[n], MASK[n]).sum(), POLICY, POLICY)
    assert relative_error(gradient, TRUTH) < 1e-10


def test_the_penalty_has_value_and_gradient_of_the_divergence_from_the_old_policy():
    old, nothing = tabular.token_logp(OLDER), torch.zeros_like(MASK, dtype=torch.float64)
    gradient = expected(lambda logp, n: ppo_penalty_loss(logp, old[n], nothing[n], MASK[n], 1, 0.5), POLICY, OLDER)
    variable = POLICY.detach().requires_grad_()
    truth = torch.autograd.grad(0.5 * tabular.kl(OLDER, variable), variable)[0]
    assert relative_error(gradient, truth) < 1e-10
    logp, weight = tabular.token_logp(POLICY), tabular.probability(OLDER)
    values = [ppo_penalty_loss(logp[n : n + 1], old[n : n + 1], nothing[n : n + 1], MASK[n : n + 1], 1, 0.5) for n in range(tabular.N)]
    assert abs((weight * torch.stack(values)).sum() - 0.5 * tabular.kl(OLDER, POLICY)) < 1e-12


# O3, O4: k2.


def test_k2_is_not_the_divergence_in_the_mean_but_has_its_gradient_as_a_loss_on_responses():
    reference = tabular.response_logp(REFERENCE)
    mean = (tabular.probability(POLICY) * kl_k2(tabular.response_logp(POLICY), reference)).sum()
    assert abs(mean - tabular.kl(POLICY, REFERENCE)) > 0.01
    variable, weight = POLICY.detach().requires_grad_(), tabular.probability(POLICY)
    gradient = torch.autograd.grad((weight * kl_k2(tabular.response_logp(variable), reference)).sum(), variable)[0]
    truth = torch.autograd.grad(tabular.kl(variable, REFERENCE), variable)[0]
    assert relative_error(gradient, truth) < 1e-10
    tokens = torch.autograd.grad(
        (weight * torch.where(MASK, kl_k2(tabular.token_logp(variable), tabular.token_logp(REFERENCE)), 0).sum(1)).sum(), variable
    )[0]
    assert relative_error(tokens, truth) > 0.01, "token by token it leaves out what a token does to later ones"


# O7: variance, measured exactly.


def variances(offset: float) -> dict[str, float]:
    """Of each rung's gradient, for a reward that is `offset` higher everywhere, which changes nothing that matters."""
    divergence = kl_k1(tabular.token_logp(POLICY), tabular.token_logp(REFERENCE))
    reward = token_rewards(SCORES + offset, divergence, MASK, BETA)
    whole, to_go = whole_return(reward, MASK, 1.0), reward_to_go(reward, MASK, 1.0)
    mean_return = (tabular.probability(POLICY) * reward.sum(1)).sum()
    rungs = {"whole return": whole, "reward to go": to_go}
    rungs |= {"constant": to_go - mean_return, "value": to_go - TRUE_VALUES[STATES] - offset}
    return {name: mean_and_variance(torch.where(MASK, advantage, 0))[1] for name, advantage in rungs.items()}


def test_every_rung_of_the_ladder_scatters_less():
    found = variances(2.0)
    assert found["value"] < found["constant"] < found["reward to go"] < found["whole return"]
    assert found["value"] < 0.5 * found["reward to go"]


def test_the_mean_is_not_always_the_best_baseline():
    """With a reward that is near 0 on the average anyway, subtracting the mean makes this policy's gradient scatter more:
    a baseline takes away what all responses have in common, and here that is little."""
    found = variances(0.0)
    assert found["constant"] > found["value"] > found["reward to go"]
    moved = variances(-2.0)
    assert moved["constant"] == pytest.approx(found["constant"], rel=1e-10) and moved["value"] == pytest.approx(found["value"], rel=1e-10)


def test_near_the_best_policy_a_baseline_takes_all_the_noise():
    """At pi* every response earns beta log Z after its divergence: the whole return less that is zero."""
    best, value = tabular.best_policy(REFERENCE, SCORES, BETA)
    total = rewards(best).sum(1)
    assert (total - value).abs().max() < 1e-12


# The formulas, coded again as a reviewer would.


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_returns_are_the_sums_that_they_are_said_to_be(gamma):
    r = randn(1, 4, 6)
    to_go, whole = reward_to_go(r, ROWS, gamma), whole_return(r, ROWS, gamma)
    for row, length in enumerate(LENGTHS.tolist()):
        for t in range(6):
            ahead = math.fsum(gamma ** (k - t) * float(r[row, k]) for k in range(t, length)) if t < length else 0.0
            all_of_it = math.fsum(gamma**k * float(r[row, k]) for k in range(length)) if t < length else 0.0
            assert math.isclose(float(to_go[row, t]), ahead, rel_tol=1e-12, abs_tol=1e-15)
            assert math.isclose(float(whole[row, t]), all_of_it, rel_tol=1e-12, abs_tol=1e-15)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_a_turn_earns_what_later_turns_of_its_conversation_earn(gamma):
    """Rows 0, 3 and 1 are one conversation, row 2 another: laid end to end, the returns are those of one long response."""
    r, nan = randn(1, 4, 6), float("nan")
    chained = carry_over(r.masked_fill(~ROWS, nan), ROWS, gamma, torch.tensor([3, -1, -1, 1]))
    found = reward_to_go(chained, ROWS, gamma)
    turns = [r[row, : LENGTHS[row]] for row in (0, 3, 1)]
    long = torch.cat(turns)[None]
    expected = reward_to_go(long, torch.ones_like(long, dtype=torch.bool), gamma)[0].split([len(t) for t in turns])
    for row, returns in zip((0, 3, 1), expected, strict=True):
        torch.testing.assert_close(found[row, : LENGTHS[row]], returns, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[2, :4], reward_to_go(r, ROWS, gamma)[2, :4], rtol=1e-14, atol=0)


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.8), (0.9, 0.0), (1.0, 1.0)])
def test_advantages_look_across_the_turns_of_a_conversation(gamma, lam):
    """Rows 0, 3 and 1 are one conversation, cut at its end, row 2 another: laid end to end, they are one long response."""
    r, v, nan = randn(1, 4, 6), randn(2, 4, 6), float("nan")
    after = torch.tensor([9.0, 0.7, 0.3, 9.0], dtype=torch.float64)  # where a turn follows nothing is bootstrapped
    hollow = (x.masked_fill(~ROWS, nan) for x in (r, v))
    found = gae_over_turns(*hollow, ROWS, gamma, lam, after, torch.tensor([3, -1, -1, 1]))
    lengths = [int(LENGTHS[row]) for row in (0, 3, 1)]
    long_r, long_v = (torch.cat([x[row, : LENGTHS[row]] for row in (0, 3, 1)])[None] for x in (r, v))
    expected = gae(long_r, long_v, torch.ones_like(long_r, dtype=torch.bool), gamma, lam, after[1:2])
    for ours, long in zip(found, expected, strict=True):
        for row, part in zip((0, 3, 1), long[0].split(lengths), strict=True):
            torch.testing.assert_close(ours[row, : LENGTHS[row]], part, rtol=1e-12, atol=1e-14)
    alone = gae(r, v, ROWS, gamma, lam, after)
    for ours, single, untied in zip(found, alone, gae_over_turns(r, v, ROWS, gamma, lam, after, torch.full((4,), -1)), strict=True):
        assert torch.equal(ours[2], single[2]) and torch.equal(untied, single)


def test_a_reward_that_is_no_number_reaches_the_turns_before_it_and_ends():
    """What is not finite is the guard's to find, after this."""
    r = randn(1, 4, 6).masked_fill(torch.arange(4)[:, None] == 1, float("nan"))
    advantage, _ = gae_over_turns(r, r, ROWS, 1.0, 0.9, torch.zeros(4, dtype=torch.float64), torch.tensor([3, -1, -1, 1]))
    assert advantage[:, 0].isnan().tolist() == [True, True, False, True]


def test_group_baselines_by_hand():
    score, group = torch.tensor([1.0, 2.0, 6.0, 10.0, 20.0], dtype=torch.float64), torch.tensor([7, 7, 7, 3, 3])
    assert leave_one_out(score, group).tolist() == [4.0, 3.5, 1.5, 20.0, 10.0]
    assert group_mean(score, group).tolist() == [3.0, 3.0, 3.0, 15.0, 15.0]
    assert group_std(score, group).tolist() == pytest.approx([math.sqrt(14 / 3)] * 3 + [5.0, 5.0], rel=1e-14)
    order = torch.tensor([3, 0, 4, 2, 1])
    for function in (leave_one_out, group_mean, group_std):
        torch.testing.assert_close(function(score[order], group[order]), function(score, group)[order], rtol=1e-14, atol=0)
    assert group_std(torch.full((3,), 0.1), torch.zeros(3, dtype=torch.int64)).tolist() == pytest.approx([0] * 3, abs=1e-8)


def test_a_response_without_others_has_no_leave_one_out():
    with pytest.raises(ValueError, match="response 1 is the only one to its prompt"):
        leave_one_out(torch.zeros(3), torch.tensor([0, 1, 0]))


def test_objectives_by_hand():
    logp, old, advantage = -randn(1, 4, 6).abs(), -randn(2, 4, 6).abs(), randn(3, 4, 6)
    plain = weighted = penalised = 0.0
    for row, length in enumerate(LENGTHS.tolist()):
        ratio = math.exp(math.fsum(float(logp[row, t] - old[row, t]) for t in range(length)))
        for t in range(length):
            a, difference = float(advantage[row, t]), float(logp[row, t] - old[row, t])
            plain -= a * float(logp[row, t])
            weighted -= ratio * a * float(logp[row, t])
            penalised += 0.5 * (math.exp(difference) - 1 - difference) - math.exp(difference) * a
    assert math.isclose(float(reinforce_loss(logp, advantage, ROWS, 10)), plain / 10, rel_tol=1e-12)
    assert math.isclose(float(importance_loss(logp, old, advantage, ROWS, 10)), weighted / 10, rel_tol=1e-12)
    assert math.isclose(float(ppo_penalty_loss(logp, old, advantage, ROWS, 10, 0.5)), penalised / 10, rel_tol=1e-12)


def test_gspo_by_hand():
    logp, old, advantage = -randn(1, 4, 6).abs(), -randn(2, 4, 6).abs(), randn(3, 4)
    loss, clipped = 0.0, 0
    for row, length in enumerate(LENGTHS.tolist()):
        s = math.exp(math.fsum(float(logp[row, t] - old[row, t]) for t in range(length)) / length)
        a, bounded = float(advantage[row]), min(max(s, 0.9), 1.3)
        loss -= min(s * a, bounded * a) / 4
        clipped += length * (bounded * a < s * a)
    weight = length_weight(LENGTHS)[:, None]
    found, stats = gspo_loss(logp, old, weight * advantage[:, None].expand(4, 6), ROWS, int(LENGTHS.sum()), 0.1, 0.3)
    assert math.isclose(float(found), loss, rel_tol=1e-6)  # the weights are float32
    assert math.isclose(float(stats["clip_fraction"]), clipped / int(LENGTHS.sum()), rel_tol=1e-6)


def ratio_differentiated(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """[B] -sum over tokens of s A_t, with the gradient of s = exp(mean log ratio) itself."""
    s = torch.where(mask, logp - old, 0).sum(1, keepdim=True).div(mask.sum(1, keepdim=True)).exp()
    return -(s * torch.where(mask, advantage, 0)).sum(1)


def test_gspo_has_the_gradient_of_its_ratio_where_all_tokens_of_a_response_have_one_advantage():
    """And away from theta_old."""
    advantage, old = randn(3, 4, 1).expand(4, 6), -randn(2, 4, 6).abs()
    logp = (-randn(1, 4, 6).abs()).requires_grad_()
    (found,) = torch.autograd.grad(gspo_loss(logp, old, advantage, ROWS, 1, 0.999, 1e6)[0], logp)
    (truth,) = torch.autograd.grad(ratio_differentiated(logp, old, advantage, ROWS).sum(), logp)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=0)


def test_differentiating_gspos_ratio_would_be_biased_where_each_token_has_an_advantage_of_its_own():
    """It gives every token the mean advantage of its response, and in that mean stand values of states that come later."""
    credit, old = whole_return(rewards(), MASK, 1.0), tabular.token_logp(POLICY)
    values = torch.randn(len(tabular.PREFIXES), dtype=torch.float64, generator=torch.Generator().manual_seed(7))[tabular.STATES]

    def gradient(advantage: Tensor) -> Tensor:
        return -expected(lambda logp, n: ratio_differentiated(logp, old[n], advantage[n], MASK[n]), POLICY, POLICY)

    assert relative_error(gradient(credit), TRUTH) < 1e-10
    assert relative_error(gradient(credit - values), TRUTH) > 0.05
    ours = -expected(lambda logp, n: gspo_loss(logp, old[n], (credit - values)[n], MASK[n], 1, 0.1, 0.1)[0], POLICY, POLICY)
    assert relative_error(ours, TRUTH) < 1e-10


def test_weights_turn_a_mean_over_tokens_into_one_over_responses():
    x, count = randn(1, 4, 6), int(LENGTHS.sum())
    sums = [float(row[:length].sum()) for row, length in zip(x, LENGTHS.tolist(), strict=True)]

    def mean(weight: Tensor) -> float:
        return -float(reinforce_loss(x, weight[:, None].expand(4, 6), ROWS, count))

    assert math.isclose(mean(response_weight(LENGTHS)), math.fsum(sums) / 4, rel_tol=1e-12)
    by_length = math.fsum(total / length for total, length in zip(sums, LENGTHS.tolist(), strict=True)) / 4
    assert math.isclose(mean(length_weight(LENGTHS)), by_length, rel_tol=1e-6)  # as above


def test_the_penalty_follows_a_golden_sequence():
    """Doubled above 1.5 times the target, halved below two thirds of it, kept between."""
    beta, seen = 1.0, []
    for kl in (0.02, 0.015, 0.0151, 0.01, 0.0067, 0.0066, 0.0, 0.4):
        beta = ppo_penalty_beta(beta, kl, 0.01)
        seen.append(beta)
    assert seen == [2.0, 2.0, 4.0, 4.0, 4.0, 2.0, 1.0, 2.0]


def test_whitening_the_returns_is_batch_normalisation():
    x = randn(1, 4, 6)
    real = x[ROWS]
    torch.testing.assert_close(whiten(x, ROWS)[ROWS], (real - real.mean()) / real.std(correction=0), rtol=1e-7, atol=0)
