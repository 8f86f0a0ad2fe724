"""Estimators against exact truth: on the enumerable model both are finite sums and agree to rounding."""

import pytest
import torch
from torch import Tensor

import tabular
from handrail.algo.advantage import gae, token_rewards
from handrail.algo.kl import kl_full, kl_k1, kl_k3
from handrail.algo.objective import ppo_clip_loss
from handrail.algo.value import clipped_value_loss, value_loss
from tabular import MASK, STATES

BETA = 0.3
POLICY, REFERENCE, SCORES = tabular.random_logits(0), tabular.random_logits(1), tabular.random_scores(2)
TRUE_VALUES = tabular.state_values(POLICY, REFERENCE, SCORES, BETA)
WRONG_VALUES = TRUE_VALUES + torch.randn(tabular.S, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
TRUTH = tabular.objective_gradient(POLICY, REFERENCE, SCORES, BETA)
ENDED = torch.zeros(tabular.N, dtype=torch.float64)  # every response ends by itself or at the horizon, which is an end here
NAN = float("nan")


def relative_error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def rewards(scores: Tensor = SCORES, mask: Tensor = MASK) -> Tensor:
    divergence = kl_k1(tabular.token_logp(POLICY), tabular.token_logp(REFERENCE))
    return token_rewards(scores, divergence.masked_fill(~mask, NAN), mask, BETA)


def expected(loss_of_row, policy: Tensor = POLICY) -> Tensor:
    """[S, V] the gradient of a response's loss, each response weighted with its probability."""
    logits = policy.detach().requires_grad_()
    logp, weight = tabular.token_logp(logits), tabular.probability(policy)
    loss = sum(weight[n] * loss_of_row(logp[n : n + 1], slice(n, n + 1)) for n in range(tabular.N))
    return torch.autograd.grad(loss, logits)[0]


def ppo_gradient(advantage: Tensor, mask: Tensor = MASK) -> Tensor:
    """[S, V] what PPO ascends at theta = theta_old, over all responses."""
    old = tabular.token_logp(POLICY)

    def loss(logp: Tensor, n: slice) -> Tensor:
        return ppo_clip_loss(logp, old[n], advantage[n], mask[n], 1, 0.2, 0.2)[0]

    return -expected(loss)


# O1: the expected gradient is the gradient of J = E[R] - beta KL.


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_gae_with_the_exact_critic_is_unbiased_for_any_lambda(lam):
    advantage, _ = gae(rewards(), TRUE_VALUES[STATES], MASK, 1.0, lam, ENDED)
    assert relative_error(ppo_gradient(advantage), TRUTH) < 1e-10


def test_gae_with_a_wrong_critic_is_unbiased_when_lambda_is_one():
    advantage, _ = gae(rewards(), WRONG_VALUES[STATES], MASK, 1.0, 1.0, ENDED)
    assert relative_error(ppo_gradient(advantage), TRUTH) < 1e-10


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95])
def test_gae_with_a_wrong_critic_is_biased_when_lambda_is_less(lam):
    advantage, _ = gae(rewards(), WRONG_VALUES[STATES], MASK, 1.0, lam, ENDED)
    assert relative_error(ppo_gradient(advantage), TRUTH) > 0.01


def test_k3_in_the_reward_is_another_objective():
    divergence = kl_k3(tabular.token_logp(POLICY), tabular.token_logp(REFERENCE))
    advantage, _ = gae(token_rewards(SCORES, divergence, MASK, BETA), WRONG_VALUES[STATES], MASK, 1.0, 1.0, ENDED)
    assert relative_error(ppo_gradient(advantage), TRUTH) > 0.03


def test_the_gradient_vanishes_at_the_best_policy():
    best, _ = tabular.best_policy(REFERENCE, SCORES, BETA)
    logp, reference = tabular.token_logp(best), tabular.token_logp(REFERENCE)
    reward = token_rewards(SCORES, kl_k1(logp, reference), MASK, BETA)
    advantage, _ = gae(reward, torch.zeros_like(reward), MASK, 1.0, 1.0, ENDED)
    gradient = expected(lambda now, n: ppo_clip_loss(now, logp[n], advantage[n], MASK[n], 1, 0.2, 0.2)[0], best)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_responses_cut_after_two_tokens_are_made_whole_by_the_bootstrap(lam):
    """Cut after two tokens, a response gets no score but the value of where it stands: on the states that it went
    through (the prefixes of fewer than two tokens) the expected gradient is that of whole responses."""
    mask = MASK & (torch.arange(tabular.T) < 2)
    cut = tabular.LENGTHS > 2
    bootstrap = torch.where(cut, TRUE_VALUES[STATES[:, 2]], 0)
    advantage, _ = gae(rewards(torch.where(cut, 0, SCORES), mask), TRUE_VALUES[STATES], mask, 1.0, lam, bootstrap)
    gradient = ppo_gradient(advantage, mask)
    early = torch.tensor([len(prefix) < 2 for prefix in tabular.PREFIXES])
    assert relative_error(gradient[early], TRUTH[early]) < 1e-10
    assert (gradient[~early] == 0).all()

    ended, _ = gae(rewards(torch.where(cut, 0, SCORES), mask), TRUE_VALUES[STATES], mask, 1.0, lam, ENDED)
    assert relative_error(ppo_gradient(ended, mask)[early], TRUTH[early]) > 0.03, "a cut taken for an end must show"

    twice, _ = gae(rewards(SCORES, mask), TRUE_VALUES[STATES], mask, 1.0, lam, bootstrap)
    assert relative_error(ppo_gradient(twice, mask)[early], TRUTH[early]) > 0.03, "score and bootstrap together count twice"


# The critic's loss is least at the exact value function.


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_value_losses_are_stationary_at_the_exact_critic(lam):
    _, returns = gae(rewards(), TRUE_VALUES[STATES], MASK, 1.0, lam, ENDED)
    weight = tabular.probability(POLICY)
    old = TRUE_VALUES[STATES]
    losses = (
        lambda values, n: value_loss(values, returns[n], MASK[n], 1),
        lambda values, n: clipped_value_loss(values, old[n], returns[n], MASK[n], 1, 0.2),
    )
    for loss in losses:
        critic = TRUE_VALUES.detach().clone().requires_grad_()
        total = sum(weight[n] * loss(critic[STATES[n : n + 1]], slice(n, n + 1)) for n in range(tabular.N))
        assert torch.autograd.grad(total, critic)[0].abs().max() < 1e-13


def test_the_value_loss_pulls_a_wrong_critic_to_the_exact_one():
    """With lambda = 1 the gradient at state s is P(s) (V(s) - V*(s))."""
    _, returns = gae(rewards(), WRONG_VALUES[STATES], MASK, 1.0, 1.0, ENDED)
    weight, critic = tabular.probability(POLICY), WRONG_VALUES.detach().clone().requires_grad_()
    total = sum(weight[n] * value_loss(critic[STATES[n : n + 1]], returns[n : n + 1], MASK[n : n + 1], 1) for n in range(tabular.N))
    pull = tabular.visits(POLICY) * (WRONG_VALUES - TRUE_VALUES)
    torch.testing.assert_close(torch.autograd.grad(total, critic)[0], pull, rtol=1e-11, atol=1e-14)


# O2: finite differences.


def test_finite_differences_of_the_objective_agree_with_the_estimator():
    advantage, _ = gae(rewards(), WRONG_VALUES[STATES], MASK, 1.0, 1.0, ENDED)
    h = 1e-5
    difference = torch.empty_like(POLICY)
    for s in range(tabular.S):
        for token in range(tabular.V):
            step = torch.zeros_like(POLICY)
            step[s, token] = h
            ahead, behind = (tabular.objective(POLICY + sign * step, REFERENCE, SCORES, BETA) for sign in (1, -1))
            difference[s, token] = (ahead - behind) / (2 * h)
    assert relative_error(ppo_gradient(advantage), difference) < 1e-5


# O3 and O4: divergences, as numbers, as rewards and as losses.


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_k1_and_k3_have_the_divergence_as_their_mean(estimator):
    tokens = estimator(tabular.token_logp(POLICY), tabular.token_logp(REFERENCE))
    mean = (tabular.probability(POLICY) * torch.where(MASK, tokens, 0).sum(1)).sum()
    assert abs(mean - tabular.kl(POLICY, REFERENCE)) < 1e-12
    assert tabular.kl(POLICY, REFERENCE) > 0.1


def test_the_exact_divergence_of_each_state_sums_to_that_of_responses():
    each = kl_full(POLICY[None], REFERENCE[None])[0]
    assert abs((tabular.visits(POLICY) * each).sum() - tabular.kl(POLICY, REFERENCE)) < 1e-12
    assert (each > 0).all()
    assert kl_full(POLICY[None], POLICY[None] + 5).abs().max() < 1e-14, "logits are free up to a constant"


def test_k1_in_the_reward_gives_the_gradient_of_the_divergence():
    advantage, _ = gae(rewards(torch.zeros_like(SCORES)), torch.zeros_like(WRONG_VALUES)[STATES], MASK, 1.0, 1.0, ENDED)
    variable = POLICY.detach().requires_grad_()
    truth = torch.autograd.grad(-BETA * tabular.kl(variable, REFERENCE), variable)[0]
    assert relative_error(ppo_gradient(advantage), truth) < 1e-10


def test_k1_as_a_loss_has_no_expected_gradient():
    reference = tabular.token_logp(REFERENCE)
    gradient = expected(lambda logp, n: torch.where(MASK[n], kl_k1(logp, reference[n]), 0).sum())
    assert gradient.abs().max() < 1e-14


def test_k3_as_a_loss_has_the_gradient_of_the_forward_divergence():
    reference = tabular.token_logp(REFERENCE)
    gradient = expected(lambda logp, n: torch.where(MASK[n], kl_k3(logp, reference[n]), 0).sum())
    variable = POLICY.detach().requires_grad_()
    log_ref, visits = REFERENCE.log_softmax(-1), tabular.visits(POLICY)
    forward = (visits[:, None] * log_ref.exp() * (log_ref - variable.log_softmax(-1))).sum()
    assert relative_error(gradient, torch.autograd.grad(forward, variable)[0]) < 1e-10
    reverse = (visits[:, None] * variable.softmax(-1) * (variable.log_softmax(-1) - log_ref)).sum()
    assert relative_error(gradient, torch.autograd.grad(reverse, variable)[0]) > 0.1


# Off policy: the ratio makes up for sampling from an older policy, as long as no clip acts.


def test_the_ratio_corrects_the_expected_loss_of_one_token():
    """At theta != theta_old with a clip that never acts, -loss is the importance-weighted advantage: on the first
    token, where the state is the same for both, that is the exact mean of A under the new policy."""
    new, old = tabular.random_logits(4, 0.5) + POLICY, tabular.token_logp(POLICY)
    q = torch.randn(tabular.V, dtype=torch.float64)
    mask = MASK & (torch.arange(tabular.T) < 1)
    advantage = torch.where(mask, q[tabular.TOKENS], NAN)
    weight, logp = tabular.probability(POLICY), tabular.token_logp(new)
    losses = [
        ppo_clip_loss(logp[n : n + 1], old[n : n + 1], advantage[n : n + 1], mask[n : n + 1], 1, 1e3, 1e3)[0] for n in range(tabular.N)
    ]
    torch.testing.assert_close(-(weight * torch.stack(losses)).sum(), (new[0].softmax(-1) * q).sum(), rtol=1e-12, atol=0)


def test_approximate_kl_has_the_divergence_of_old_from_new_as_its_mean():
    new, old = tabular.random_logits(4, 0.5) + POLICY, tabular.token_logp(POLICY)
    logp, weight = tabular.token_logp(new), tabular.probability(POLICY)
    zero = torch.zeros_like(old)
    stats = [ppo_clip_loss(logp[n : n + 1], old[n : n + 1], zero[n : n + 1], MASK[n : n + 1], 1, 0.2, 0.2)[1] for n in range(tabular.N)]
    mean = (weight * torch.stack([s["approx_kl"] for s in stats])).sum()
    assert abs(mean - tabular.kl(POLICY, new)) < 1e-12
