"""What each direct loss converges to, on the model that can be enumerated: all pairs of 121 responses, exact labels.

A response beats another with the probability of Bradley and Terry for the scores below.
"""

import pytest
import torch
from torch import Tensor

import tabular
from handrail.algo.direct import dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss
from handrail.algo.preference import ranking_loss

REFERENCE, SCORES = tabular.random_logits(1), tabular.random_scores(2)
BETA = 0.7
FIRST, SECOND = (~torch.eye(tabular.N, dtype=torch.bool)).nonzero(as_tuple=True)
WIN = torch.sigmoid(SCORES[FIRST] - SCORES[SECOND])  # of each ordered pair: P(first beats second)
LOGP_REF = tabular.response_logp(REFERENCE)
LENGTH = tabular.LENGTHS.to(torch.float64)


def minimise(loss, start: Tensor) -> Tensor:
    """Where `loss` is least, from `start`."""
    variable = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([variable], max_iter=1500, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(variable)
        value.backward()
        return value

    optimizer.step(closure)
    return variable.detach()


def distance(logits: Tensor, law: Tensor) -> float:
    """Total variation between the policy and a law over responses."""
    return 0.5 * float((tabular.probability(logits) - law).abs().sum())


def reweighted(exponent: Tensor) -> Tensor:
    """pi_ref exp(exponent) / Z."""
    return torch.softmax(LOGP_REF + exponent, 0)


def dpo(logits: Tensor, sign: int = 1) -> Tensor:
    logp = tabular.response_logp(logits)
    won, lost = (FIRST, SECOND) if sign == 1 else (SECOND, FIRST)
    return dpo_loss(logp[won], logp[lost], LOGP_REF[won], LOGP_REF[lost], WIN, WIN.sum(), BETA, 0.0)[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_dpo_reaches_the_best_policy_and_with_swapped_labels_that_of_the_negative_reward(sign):
    found = minimise(lambda logits: dpo(logits, sign), REFERENCE)
    best = reweighted(sign * SCORES / BETA)
    assert distance(REFERENCE, best) > 0.25, "there is a way to go"
    assert distance(found, best) < 1e-5
    known, _ = tabular.best_policy(REFERENCE, sign * SCORES, BETA)
    assert distance(found, tabular.probability(known)) < 1e-5


@pytest.mark.parametrize("sign", [1, -1])
def test_the_reward_model_recovers_the_same_reward_up_to_a_constant(sign):
    """All pairs as rankings of two, and the policy's implicit reward is the reward model's."""
    places = torch.tensor([[1, 2] if sign == 1 else [2, 1]]).expand(len(WIN), 2)
    mask, nothing = torch.ones_like(places, dtype=torch.bool), torch.zeros(len(WIN), dtype=torch.float64)

    def loss(table: Tensor) -> Tensor:
        return ranking_loss(torch.stack([table[FIRST], table[SECOND]], 1), places, mask, nothing, WIN, WIN.sum())

    table = minimise(loss, torch.zeros_like(SCORES))
    torch.testing.assert_close(table - table.mean(), sign * (SCORES - SCORES.mean()), rtol=0, atol=1e-5)
    policy = minimise(lambda logits: dpo(logits, sign), REFERENCE)
    implicit = BETA * (tabular.response_logp(policy) - LOGP_REF)
    torch.testing.assert_close(implicit - implicit.mean(), table - table.mean(), rtol=0, atol=1e-3)


def test_ipo_reaches_the_reference_reweighted_by_the_probability_of_winning():
    """pi_ref exp(E[P(y beats y')] / tau), y' as the pairs were drawn (Azar et al. 2023, section 5); bounded by exp(1 / tau)."""
    drawn = torch.softmax(tabular.random_scores(7), 0)
    weight, tau = drawn[FIRST] * drawn[SECOND] * WIN, 0.25

    def loss(logits: Tensor) -> Tensor:
        logp = tabular.response_logp(logits)
        return ipo_loss(logp[FIRST], logp[SECOND], LOGP_REF[FIRST], LOGP_REF[SECOND], weight, weight.sum(), tau)[0]

    wins = (torch.sigmoid(SCORES[:, None] - SCORES) * drawn).sum(1)
    best = reweighted(wins / tau)
    assert distance(REFERENCE, best) > 0.2 and distance(tabular.best_policy(REFERENCE, SCORES, tau)[0], best) > 0.2
    assert distance(minimise(loss, REFERENCE), best) < 1e-5


def test_kto_gives_up_what_is_more_often_undesirable():
    """Desirable with probability sigmoid(score): the sign of the score decides, not how large it is."""
    good, beta = torch.sigmoid(SCORES), 0.5
    twice, desirable = torch.arange(tabular.N).repeat(2), torch.arange(2 * tabular.N) < tabular.N
    weight = torch.cat([good, 1 - good])
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(1500):
        optimizer.zero_grad()
        logp, kl = tabular.response_logp(logits), tabular.kl(logits, REFERENCE)
        loss, _ = kto_loss(logp[twice], LOGP_REF[twice], desirable, kl, weight, good.sum(), (1 - good).sum(), beta, 1.0, 1.0)
        loss.backward()
        optimizer.step()
    left, best = tabular.probability(logits.detach()), reweighted(SCORES / beta)
    assert float(left[SCORES < 0].sum()) < 1e-2 < float(best[SCORES < 0].sum())


def test_simpo_reaches_a_law_that_knows_no_reference():
    """With gamma = 0: pi(y) = exp(|y| (r(y) / beta + c)), where c makes the probabilities sum to 1."""
    beta = 2.0

    def loss(logits: Tensor) -> Tensor:
        logp = tabular.response_logp(logits)
        return simpo_loss(logp[FIRST], logp[SECOND], LENGTH[FIRST], LENGTH[SECOND], WIN, WIN.sum(), beta, 0.0, 0.0)[0]

    low, high = -20.0, 20.0
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if float((LENGTH * (SCORES / beta + c)).logsumexp(0)) < 0 else (low, c)
    best = (LENGTH * (SCORES / beta + low)).exp()
    assert abs(float(best.sum()) - 1) < 1e-10
    found = [minimise(loss, start) for start in (REFERENCE, tabular.random_logits(9))]
    assert max(distance(logits, best) for logits in found) < 1e-4
    assert distance(REFERENCE, best) > 0.3


def test_orpo_without_odds_imitates_the_chosen_responses_and_more_so_the_short_ones():
    """The mean over tokens gives pi(y) in proportion to P(y is chosen) / |y|; the odds then push what loses down."""

    def policy(lam: float) -> Tensor:
        def loss(logits: Tensor) -> Tensor:
            logp = tabular.response_logp(logits)
            return orpo_loss(logp[FIRST], logp[SECOND], LENGTH[FIRST], LENGTH[SECOND], WIN, WIN.sum(), lam, 0.0)[0]

        return minimise(loss, REFERENCE)

    chosen = torch.zeros_like(SCORES).index_add(0, FIRST, WIN) / LENGTH
    imitation, pushed = policy(0.0), policy(3.0)
    assert distance(imitation, chosen / chosen.sum()) < 1e-5
    assert float((tabular.probability(pushed) * SCORES).sum()) > float((tabular.probability(imitation) * SCORES).sum()) + 0.1
