"""The enumerable model is what it says: a law, with the values and the optimum that theory gives it.

These tests hold the oracle itself, and `handrail` through it in test_algo_oracle.py.
"""

import torch

import tabular
from handrail.algo.stats import masked_sum


def test_every_response_is_there_once_and_the_probabilities_sum_to_one():
    assert (tabular.N, tabular.S) == (121, 40)
    assert len(set(tabular.RESPONSES)) == tabular.N
    for seed in range(3):
        torch.testing.assert_close(tabular.probability(tabular.random_logits(seed)).sum().item(), 1.0, rtol=0, atol=1e-14)


def test_the_sum_of_token_log_probabilities_is_the_responses():
    logits = tabular.random_logits(0)
    for row in (0, 7, 50, 120):
        by_hand = sum(
            logits[tabular.NUMBER[tabular.RESPONSES[row][:t]]].log_softmax(-1)[token] for t, token in enumerate(tabular.RESPONSES[row])
        )
        of_row = masked_sum(tabular.token_logp(logits)[row], tabular.MASK[row])
        torch.testing.assert_close(of_row, by_hand, rtol=1e-14, atol=0)


def test_the_value_of_the_empty_response_is_the_objective():
    logits, reference, scores = tabular.random_logits(0), tabular.random_logits(1), tabular.random_scores(2)
    value = tabular.state_values(logits, reference, scores, 0.3)[0]
    torch.testing.assert_close(value, tabular.objective(logits, reference, scores, 0.3), rtol=1e-13, atol=0)


def test_the_best_policy_reaches_beta_log_z_and_no_other_does():
    reference, scores = tabular.random_logits(1), tabular.random_scores(2)
    best, value = tabular.best_policy(reference, scores, 0.3)
    torch.testing.assert_close(tabular.objective(best, reference, scores, 0.3), value, rtol=1e-12, atol=0)
    assert tabular.objective_gradient(best, reference, scores, 0.3).abs().max() < 1e-12
    for seed in range(20):
        assert tabular.objective(best + tabular.random_logits(seed, 0.1), reference, scores, 0.3) < value
