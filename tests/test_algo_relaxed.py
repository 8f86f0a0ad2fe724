"""The relaxed choice: its noise has the law it claims, and its gradient is right exactly where theory says so."""

import torch
from torch import Tensor

from handrail.algo.relaxed import expected_choice, gumbel_given, straight_through_choice

V = 4
LOGITS = torch.tensor([0.3, -1.0, 1.2, 0.1], dtype=torch.float64)
P = LOGITS.softmax(-1)


def uniforms(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).clamp(1e-12, 1 - 1e-12)


def test_the_sampled_token_is_the_largest():
    token = torch.randint(V, (5000,), generator=torch.Generator().manual_seed(0))
    perturbed = gumbel_given(LOGITS.expand(5000, V), token, uniforms(1, 5000, V), uniforms(2, 5000))
    assert torch.equal(perturbed.argmax(-1), token)


def test_noise_for_sampled_tokens_is_gumbel_noise():
    """Tokens drawn from the law, then noise given the tokens: together independent Gumbel numbers about log pi.
    Held against the distribution function exp(-exp(-g)) by Kolmogorov and Smirnov, at one in a thousand."""
    n = 20000
    token = torch.multinomial(P, n, replacement=True, generator=torch.Generator().manual_seed(0))
    noise = gumbel_given(LOGITS.expand(n, V), token, uniforms(1, n, V), uniforms(2, n)) - LOGITS.log_softmax(-1)
    for v in range(V):
        claimed = torch.exp(-torch.exp(-noise[:, v].sort().values))
        found = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        assert (claimed - found).abs().max() < 1.95 / n**0.5
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 4 / n**0.5


def test_in_value_the_choice_is_the_sampled_token():
    token = torch.tensor([2, 0, 1])
    perturbed = gumbel_given(LOGITS.expand(3, V), token, uniforms(1, 3, V), uniforms(2, 3))
    choice = straight_through_choice(LOGITS.expand(3, V), token, perturbed, 0.5)
    torch.testing.assert_close(choice, torch.nn.functional.one_hot(token, V).double(), rtol=0, atol=1e-15)


def mean_gradient(f, temperature: float) -> Tensor:
    """[V] of f on straight-through choices, over many tokens from the law."""
    n = 40000
    logits = LOGITS.clone().requires_grad_()
    token = torch.multinomial(P, n, replacement=True, generator=torch.Generator().manual_seed(0))
    perturbed = gumbel_given(LOGITS.expand(n, V), token, uniforms(1, n, V), uniforms(2, n))
    choice = straight_through_choice(logits.expand(n, V), token, perturbed, temperature)
    return torch.autograd.grad(f(choice).mean(), logits)[0]


def true_gradient(f) -> Tensor:
    """[V] of the sum over tokens of pi(v) f(v)."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad((logits.softmax(-1) * f(torch.eye(V, dtype=torch.float64))).sum(), logits)[0]


W = torch.tensor([1.0, -0.5, 0.2, 2.0], dtype=torch.float64)


def test_the_expected_choice_is_exact_where_the_reward_is_linear_and_only_there():
    logits = LOGITS.clone().requires_grad_()
    linear, squared = (lambda x: x @ W), (lambda x: (x @ W) ** 2)
    found = torch.autograd.grad(linear(expected_choice(logits)), logits)[0]
    torch.testing.assert_close(found, true_gradient(linear), rtol=1e-12, atol=0)
    found = torch.autograd.grad(squared(expected_choice(logits)), logits)[0]
    assert (found - true_gradient(squared)).norm() > 0.2 * true_gradient(squared).norm()


def test_straight_through_is_biased_and_less_so_when_it_is_cold():
    """For a linear reward the relaxed gradient nears the true one as the temperature falls, while its noise grows."""
    truth = true_gradient(lambda x: x @ W)
    warm, cool = (float((mean_gradient(lambda x: x @ W, t) - truth).norm() / truth.norm()) for t in (2.0, 0.3))
    assert warm > 0.1 and cool < 0.6 * warm
