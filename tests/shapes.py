"""The shapes of everything in `handrail.algo`, named once: what goes in, and what must come out.

B sequences, T response tokens, V tokens of the vocabulary, N rankings or pairs, K responses to one prompt,
M heads of an ensemble.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from handrail.algo import advantage, control, ensemble, kl, objective, preference, stats, value

B, T, V, N, K, M = 3, 5, 7, 4, 6, 2
SCALAR, TOKENS = Float[Tensor, ""], Float[Tensor, f"{B} {T}"]
MASK = torch.arange(T) < torch.tensor([[5], [1], [3]])
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
    stats.masked_sum: (lambda: stats.masked_sum(tokens(), MASK), (SCALAR,)),
    stats.masked_mean: (lambda: stats.masked_mean(tokens(), MASK), (SCALAR,)),
    stats.whiten: (lambda: stats.whiten(tokens(), MASK), (TOKENS,)),
    stats.rescale: (lambda: stats.rescale(tokens(), MASK), (TOKENS,)),
    stats.explained_variance: (lambda: stats.explained_variance(tokens(), tokens(), MASK), (SCALAR,)),
    value.value_loss: (lambda: value.value_loss(tokens(), tokens(), MASK, 9), (SCALAR,)),
    value.clipped_value_loss: (lambda: value.clipped_value_loss(tokens(), tokens(), tokens(), MASK, 9, 0.2), (SCALAR,)),
}
