"""The shapes of everything in `handrail.algo`, named once: what goes in, and what must come out.

B sequences, T response tokens, V tokens of the vocabulary, N rankings or pairs, K responses to one prompt,
M heads of an ensemble, or places on a path; of embeddings V stands for their numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from handrail.algo import (
    advantage,
    attribution,
    baseline,
    control,
    direct,
    ensemble,
    kl,
    objective,
    preference,
    regression,
    relaxed,
    selection,
    stats,
    value,
)

B, T, V, N, K, M = 3, 5, 7, 4, 6, 2
SCALAR, RESPONSES, TOKENS, PAIRS = Float[Tensor, ""], Float[Tensor, f"{B}"], Float[Tensor, f"{B} {T}"], Float[Tensor, f"{N}"]
MASK = torch.arange(T) < torch.tensor([[5], [1], [3]])
GROUP, TWICE = torch.tensor([4, 1, 4]), torch.arange(N).repeat(2)
RANKED, PLACES = torch.ones(N, K, dtype=torch.bool), torch.arange(K).expand(N, K)


def lengths() -> Tensor:
    return torch.randint(1, T, (N,)).to(torch.get_default_dtype())


def tokens() -> Tensor:
    return torch.randn(B, T)


CASES: dict[Callable, tuple[Callable[[], Any], tuple]] = {
    advantage.token_rewards: (lambda: advantage.token_rewards(torch.randn(B), tokens(), MASK, 0.1), (TOKENS,)),
    advantage.reward_to_go: (lambda: advantage.reward_to_go(tokens(), MASK, 0.9), (TOKENS,)),
    advantage.whole_return: (lambda: advantage.whole_return(tokens(), MASK, 0.9), (TOKENS,)),
    advantage.carry_over: (lambda: advantage.carry_over(tokens(), MASK, 0.9, torch.tensor([2, -1, -1])), (TOKENS,)),
    baseline.leave_one_out: (lambda: baseline.leave_one_out(torch.randn(2 * N), TWICE), (Float[Tensor, f"{2 * N}"],)),
    baseline.group_mean: (lambda: baseline.group_mean(torch.randn(2 * N), TWICE), (Float[Tensor, f"{2 * N}"],)),
    baseline.group_std: (lambda: baseline.group_std(torch.randn(2 * N), TWICE), (Float[Tensor, f"{2 * N}"],)),
    advantage.gae: (lambda: advantage.gae(tokens(), tokens(), MASK, 1.0, 0.95, torch.zeros(B)), (TOKENS, TOKENS)),
    advantage.gae_over_turns: (
        lambda: advantage.gae_over_turns(tokens(), tokens(), MASK, 1.0, 0.95, torch.zeros(B), torch.tensor([2, -1, -1])),
        (TOKENS, TOKENS),
    ),
    attribution.path_nodes: (lambda: attribution.path_nodes(M), (Float[Tensor, f"{M}"], Float[Tensor, f"{M}"])),
    attribution.straight_path: (
        lambda: attribution.straight_path(torch.randn(T, V), torch.randn(T, V), torch.rand(M)),
        (Float[Tensor, f"{M} {T} {V}"],),
    ),
    attribution.integrated_gradients: (
        lambda: attribution.integrated_gradients(torch.randn(M, T, V), torch.rand(M), torch.randn(T, V), torch.randn(T, V)),
        (Float[Tensor, f"{T}"],),
    ),
    control.adaptive_beta: (lambda: control.adaptive_beta(0.1, 5.0, 6.0, 1e4, 64), (float,)),
    control.ppo_penalty_beta: (lambda: control.ppo_penalty_beta(0.1, 0.02, 0.01), (float,)),
    kl.kl_k1: (lambda: kl.kl_k1(tokens(), tokens()), (TOKENS,)),
    kl.kl_k2: (lambda: kl.kl_k2(tokens(), tokens()), (TOKENS,)),
    kl.kl_k3: (lambda: kl.kl_k3(tokens(), tokens()), (TOKENS,)),
    kl.kl_full: (lambda: kl.kl_full(torch.randn(B, T, V), torch.randn(B, T, V)), (TOKENS,)),
    objective.ppo_clip_loss: (
        lambda: objective.ppo_clip_loss(tokens(), tokens(), tokens(), MASK, 9, 0.2, 0.2),
        (SCALAR, dict),
    ),
    objective.gspo_loss: (lambda: objective.gspo_loss(tokens(), tokens(), tokens(), MASK, 9, 0.2, 0.2), (SCALAR, dict)),
    objective.reinforce_loss: (lambda: objective.reinforce_loss(tokens(), tokens(), MASK, 9), (SCALAR,)),
    objective.importance_loss: (lambda: objective.importance_loss(tokens(), tokens(), tokens(), MASK, 9), (SCALAR,)),
    objective.ppo_penalty_loss: (lambda: objective.ppo_penalty_loss(tokens(), tokens(), tokens(), MASK, 9, 0.5), (SCALAR,)),
    objective.response_weight: (lambda: objective.response_weight(MASK.sum(1)), (Float[Tensor, f"{B}"],)),
    objective.length_weight: (lambda: objective.length_weight(MASK.sum(1)), (Float[Tensor, f"{B}"],)),
    objective.entropy_bonus: (lambda: objective.entropy_bonus(tokens(), MASK, 9), (SCALAR,)),
    ensemble.ensemble_mean: (lambda: ensemble.ensemble_mean(torch.randn(B, T, M)), (TOKENS,)),
    ensemble.ensemble_minimum: (lambda: ensemble.ensemble_minimum(torch.randn(B, T, M)), (TOKENS,)),
    ensemble.ensemble_spread: (lambda: ensemble.ensemble_spread(torch.randn(B, T, M)), (TOKENS,)),
    ensemble.ensemble_mean_minus_std: (lambda: ensemble.ensemble_mean_minus_std(torch.randn(B, T, M), 0.5), (TOKENS,)),
    preference.bradley_terry_loss: (lambda: preference.bradley_terry_loss(tokens(), 0.1), (TOKENS,)),
    preference.ranking_loss: (
        lambda: preference.ranking_loss(torch.randn(N, K), PLACES, RANKED, torch.zeros(N), torch.ones(N), N),
        (SCALAR,),
    ),
    preference.plackett_luce_loss: (
        lambda: preference.plackett_luce_loss(torch.randn(N, K), PLACES, RANKED, torch.zeros(N), torch.ones(N), N),
        (SCALAR,),
    ),
    preference.centring_loss: (lambda: preference.centring_loss(torch.randn(N, K), RANKED, N), (SCALAR,)),
    relaxed.expected_choice: (lambda: relaxed.expected_choice(torch.randn(B, T, V)), (Float[Tensor, f"{B} {T} {V}"],)),
    relaxed.gumbel_given: (
        lambda: relaxed.gumbel_given(torch.randn(B, T, V), torch.zeros(B, T, dtype=torch.int64), torch.rand(B, T, V), torch.rand(B, T)),
        (Float[Tensor, f"{B} {T} {V}"],),
    ),
    relaxed.straight_through_choice: (
        lambda: relaxed.straight_through_choice(torch.randn(B, T, V), torch.zeros(B, T, dtype=torch.int64), torch.randn(B, T, V), 0.5),
        (Float[Tensor, f"{B} {T} {V}"],),
    ),
    direct.implicit_reward: (lambda: direct.implicit_reward(torch.randn(N), torch.randn(N), 0.1), (PAIRS,)),
    direct.mean_reward: (lambda: direct.mean_reward(torch.randn(N), lengths(), 2.0), (PAIRS,)),
    direct.log_odds: (lambda: direct.log_odds(-torch.rand(N), lengths()), (PAIRS,)),
    direct.dpo_loss: (lambda: direct.dpo_loss(*torch.rand(5, N), N, 0.1, 0.1), (SCALAR, dict)),
    direct.ipo_loss: (lambda: direct.ipo_loss(*torch.rand(5, N), N, 0.1), (SCALAR, dict)),
    direct.kto_loss: (
        lambda: direct.kto_loss(torch.rand(N), torch.rand(N), torch.arange(N) > 1, torch.tensor(0.5), torch.ones(N), 2, 2, 0.1, 1.0, 1.3),
        (SCALAR, dict),
    ),
    direct.orpo_loss: (
        lambda: direct.orpo_loss(-torch.rand(N), -torch.rand(N), lengths(), lengths(), torch.ones(N), N, 0.1, 0.1),
        (SCALAR, dict),
    ),
    direct.simpo_loss: (
        lambda: direct.simpo_loss(-torch.rand(N), -torch.rand(N), lengths(), lengths(), torch.ones(N), N, 2.0, 1.0, 0.1),
        (SCALAR, dict),
    ),
    regression.best_of_n_mean: (lambda: regression.best_of_n_mean(torch.randn(N, K), torch.randn(N, K), 3), (PAIRS,)),
    regression.best_of_n_weights: (lambda: regression.best_of_n_weights(torch.randn(B), GROUP), (RESPONSES,)),
    regression.group_best: (lambda: regression.group_best(torch.randn(B), GROUP), (RESPONSES,)),
    regression.reward_weights: (lambda: regression.reward_weights(torch.randn(B), 0.5), (RESPONSES,)),
    regression.advantage_weights: (lambda: regression.advantage_weights(*torch.randn(2, B), 0.5, 20.0), (RESPONSES,)),
    regression.weighted_nll: (lambda: regression.weighted_nll(tokens(), torch.rand(B), MASK, 9), (SCALAR,)),
    regression.best_of_n_kl: (lambda: regression.best_of_n_kl(4), (float,)),
    selection.disagreement: (lambda: selection.disagreement(torch.randn(B, T, K, M)), (TOKENS,)),
    selection.information_gain: (lambda: selection.information_gain(torch.randn(B, T, K, M)), (TOKENS,)),
    stats.masked_sum: (lambda: stats.masked_sum(tokens(), MASK), (SCALAR,)),
    stats.response_sum: (lambda: stats.response_sum(tokens(), MASK), (Float[Tensor, f"{B}"],)),
    stats.mean_and_std: (lambda: stats.mean_and_std(tokens(), MASK), (SCALAR, SCALAR)),
    stats.masked_mean: (lambda: stats.masked_mean(tokens(), MASK), (SCALAR,)),
    stats.whiten: (lambda: stats.whiten(tokens(), MASK), (TOKENS,)),
    stats.rescale: (lambda: stats.rescale(tokens(), MASK), (TOKENS,)),
    stats.explained_variance: (lambda: stats.explained_variance(tokens(), tokens(), MASK), (SCALAR,)),
    value.value_loss: (lambda: value.value_loss(tokens(), tokens(), MASK, 9), (SCALAR,)),
    value.clipped_value_loss: (lambda: value.clipped_value_loss(tokens(), tokens(), tokens(), MASK, 9, 0.2), (SCALAR,)),
}
