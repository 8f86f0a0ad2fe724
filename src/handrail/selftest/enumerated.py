"""A language so small that all of it can be written down: three words and an end, at most four tokens a response.

It has 40 prefixes that can go on and 121 responses.  A policy is a table of logits, a row for each prefix of each
prompt, so every expectation is a finite sum and the policy that maximises J = E[R] - beta KL is known.

P prompts, S = 40 states (prefixes), V = 4 tokens, N = 121 responses, T = 4 tokens; float64 throughout.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

END, V, T = 3, 4, 4
PENALTY = 0.25  # reward; what a missing end costs
PREFIXES = [prefix for length in range(T) for prefix in product(range(END), repeat=length)]
RESPONSES = [*((*prefix, END) for prefix in PREFIXES), *product(range(END), repeat=T)]
S, N = len(PREFIXES), len(RESPONSES)

LENGTHS = torch.tensor([len(response) for response in RESPONSES])  # [N]
ENDED = torch.tensor([response[-1] == END for response in RESPONSES])  # [N], False where the fourth token cut it
MASK = torch.arange(T) < LENGTHS[:, None]  # [N, T]
TOKENS = torch.tensor([[*response, *[0] * (T - len(response))] for response in RESPONSES])  # [N, T]


def states(tokens: Tensor) -> Tensor:
    """[B, W + 1] the number of the prefix before each of W <= T tokens, and after the last.

    Prefixes of one length are the numbers of base three, behind all shorter ones.  What follows an end has no meaning.
    """
    value, first, found = torch.zeros_like(tokens[:, 0]), 0, []
    for t, column in enumerate(tokens.unbind(1)):
        found.append(first + value)
        value, first = END * value + column, first + END**t
    return torch.stack([*found, first + value], 1)


STATES = torch.where(MASK, states(TOKENS)[:, :T], 0)  # [N, T]


def token_logp(logits: Tensor) -> Tensor:
    """[P, N, T] log-probability of each token of each response, zero beyond it; logits [P, S, V]."""
    return torch.where(MASK, logits.log_softmax(-1)[:, STATES, TOKENS], 0)


def probability(logits: Tensor) -> Tensor:
    """[P, N] of each response; they sum to 1 for each prompt."""
    return token_logp(logits).sum(-1).exp()


@dataclass(frozen=True)
class World:
    """A reference, and what each response to each prompt is worth."""

    reference: Tensor  # [P, S, V] logits
    scores: Tensor  # [P, N] reward
    beta: float  # reward per nat

    @classmethod
    def random(cls, seed: int, prompts: int = 2, beta: float = 1.0) -> "World":
        """Normal logits and scores, these exact in float32; a response that was cut costs `PENALTY`."""
        generator = torch.Generator().manual_seed(seed)
        reference = torch.randn(prompts, S, V, dtype=torch.float64, generator=generator)
        scores = torch.randn(prompts, N, dtype=torch.float64, generator=generator)
        return cls(reference, (64 * scores).round() / 64 - PENALTY * (~ENDED).double(), beta)

    def objective(self, logits: Tensor) -> Tensor:
        """[P] J = E[R] - beta KL(pi || pi_ref)."""
        logp = token_logp(logits).sum(-1)
        kl = logp - token_logp(self.reference).sum(-1)
        return (logp.exp() * (self.scores - self.beta * kl)).sum(-1)

    def values(self, logits: Tensor) -> Tensor:
        """[P, S] V(s) of the policy: the score and the cost of the tokens to come, averaged over what passes through s."""
        logp = token_logp(logits)
        cost = self.beta * (logp - token_logp(self.reference))
        ahead = self.scores[..., None] - cost.flip(-1).cumsum(-1).flip(-1)
        weight = torch.where(MASK, logp.sum(-1, keepdim=True).exp(), 0)
        empty, through = torch.zeros_like(logits[..., 0]), STATES.flatten()
        return empty.index_add(1, through, (weight * ahead).flatten(1)) / empty.index_add(1, through, weight.flatten(1))

    def gradient(self, logits: Tensor) -> Tensor:
        """[P, S, V] of the mean of J over prompts, by differentiating the sum."""
        variable = logits.detach().clone().requires_grad_()
        return torch.autograd.grad(self.objective(variable).mean(), variable)[0]

    def best(self) -> Tensor:
        """[P, N] the law that maximises J: pi* = pi_ref exp(R / beta) / Z."""
        return (token_logp(self.reference).sum(-1) + self.scores / self.beta).softmax(-1)

    def most(self) -> Tensor:
        """[P] the maximum of J, beta log Z."""
        return self.beta * (token_logp(self.reference).sum(-1) + self.scores / self.beta).logsumexp(-1)

    def distance(self, logits: Tensor) -> float:
        """Total variation between the policy and the best law, in the worst prompt."""
        return float(0.5 * (probability(logits) - self.best()).abs().sum(-1).max())

    def gain(self, logits: Tensor) -> float:
        """(J - J_ref) / (J* - J_ref), of the mean over prompts: 0 at the reference, 1 at the best."""
        start = self.objective(self.reference).mean()
        return float((self.objective(logits).mean() - start) / (self.most().mean() - start))
