"""The shapes of everything in `handrail.algo`, named once: what goes in, and what must come out.

B sequences, T response tokens, V tokens of the vocabulary, N rankings or pairs, K responses to one prompt.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from handrail.algo import advantage, control, kl, objective, preference, regression, stats, value

B, T, V, N, K = 3, 5, 7, 4, 6
SCALAR, RESPONSES, TOKENS = Float[Tensor, ""], Float[Tensor, f"{B}"], Float[Tensor, f"{B} {T}"]
MASK = torch.arange(T) < torch.tensor([[5], [1], [3]])
GROUP = torch.tensor([4, 1, 4])
RANKED, PLACES = torch.ones(N, K, dtype=torch.bool), torch.arange(K).expand(N, K)


def tokens() -> Tensor:
    return torch.randn(B, T)


CASES: dict[Callable, tuple[Callable[[], Any], tuple]] = {
    advantage.token_rewards: (lambda: advantage.token_rewards(torch.randn(B), tokens(), MASK, 0.1), (TOKENS,)),
    advantage.gae: (lambda: advantage.gae(tokens(), tokens(), MASK, 1.0, 0.95, torch.zeros(B)), (TOKENS, TOKENS)),
    control.adaptive_beta: (lambda: control.adaptive_beta(0.1, 5.0, 6.0, 1e4, 64), (float,)),
    kl.kl_k1: (lambda: kl.kl_k1(tokens(), tokens()), (TOKENS,)),
    kl.kl_k3: (lambda: kl.kl_k3(tokens(), tokens()), (TOKENS,)),
    kl.kl_full: (lambda: kl.kl_full(torch.randn(B, T, V), torch.randn(B, T, V)), (TOKENS,)),
    objective.ppo_clip_loss: (
        lambda: objective.ppo_clip_loss(tokens(), tokens(), tokens(), MASK, 9, 0.2, 0.2),
        (SCALAR, dict),
    ),
    objective.entropy_bonus: (lambda: objective.entropy_bonus(tokens(), MASK, 9), (SCALAR,)),
    preference.bradley_terry_loss: (lambda: preference.bradley_terry_loss(*torch.rand(4, N)), (SCALAR,)),
    preference.ranking_loss: (
        lambda: preference.ranking_loss(torch.randn(N, K), PLACES, RANKED, torch.zeros(N), torch.ones(N), N),
        (SCALAR,),
    ),
    preference.centring_loss: (lambda: preference.centring_loss(torch.randn(N, K), RANKED, N), (SCALAR,)),
    regression.best_of_n_weights: (lambda: regression.best_of_n_weights(torch.randn(B), GROUP), (RESPONSES,)),
    regression.reward_weights: (lambda: regression.reward_weights(torch.randn(B), 0.5), (RESPONSES,)),
    regression.group_mean: (lambda: regression.group_mean(torch.randn(B), GROUP), (RESPONSES,)),
    regression.advantage_weights: (lambda: regression.advantage_weights(*torch.randn(2, B), 0.5, 20.0), (RESPONSES,)),
    regression.weighted_nll: (lambda: regression.weighted_nll(tokens(), torch.rand(B), MASK, 9), (SCALAR,)),
    regression.best_of_n_kl: (lambda: regression.best_of_n_kl(4), (float,)),
    stats.masked_sum: (lambda: stats.masked_sum(tokens(), MASK), (SCALAR,)),
    stats.masked_mean: (lambda: stats.masked_mean(tokens(), MASK), (SCALAR,)),
    stats.whiten: (lambda: stats.whiten(tokens(), MASK), (TOKENS,)),
    stats.rescale: (lambda: stats.rescale(tokens(), MASK), (TOKENS,)),
    stats.explained_variance: (lambda: stats.explained_variance(tokens(), tokens(), MASK), (SCALAR,)),
    value.value_loss: (lambda: value.value_loss(tokens(), tokens(), MASK, 9), (SCALAR,)),
    value.clipped_value_loss: (lambda: value.clipped_value_loss(tokens(), tokens(), tokens(), MASK, 9, 0.2), (SCALAR,)),
}
