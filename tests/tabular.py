"""A language model so small that every expectation is a finite sum.

Four tokens, one of them end-of-sequence, and at most four steps: 40 prefixes that can be continued and 121 responses.
Each prefix is a state with logits of its own, so a policy is a table [40, 4] and any law over responses is one.
Nothing here calls `handrail`: it is the truth that the package is held against.

S = 40 states, V = 4 tokens, N = 121 responses, T = 4 steps.
"""

from itertools import product

import torch
from torch import Tensor

END, CONTENT, STEPS = 3, 3, 4
V = CONTENT + 1

PREFIXES = [p for length in range(STEPS) for p in product(range(CONTENT), repeat=length)]
NUMBER = {prefix: number for number, prefix in enumerate(PREFIXES)}
RESPONSES = [(*p, END) for p in PREFIXES] + list(product(range(CONTENT), repeat=STEPS))
S, N, T = len(PREFIXES), len(RESPONSES), STEPS

LENGTHS = torch.tensor([len(y) for y in RESPONSES])
MASK = torch.arange(T) < LENGTHS[:, None]
TOKENS = torch.tensor([[*y, *[0] * (T - len(y))] for y in RESPONSES])
STATES = torch.tensor([[NUMBER[y[:t]] if t < len(y) else 0 for t in range(T)] for y in RESPONSES])
ROW = {y: row for row, y in enumerate(RESPONSES)}


def random_logits(seed: int, scale: float = 1.0) -> Tensor:
    """[S, V] a policy."""
    return scale * torch.randn(S, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_scores(seed: int) -> Tensor:
    """[N] a reward of each response."""
    return torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def token_logp(logits: Tensor) -> Tensor:
    """[N, T] log-probability of each token given its prefix, zero beyond the response."""
    return torch.where(MASK, logits.log_softmax(-1)[STATES, TOKENS], 0)


def response_logp(logits: Tensor) -> Tensor:
    """[N] log-probability of each response."""
    return token_logp(logits).sum(1)


def probability(logits: Tensor) -> Tensor:
    """[N] probability of each response; they sum to 1."""
    return response_logp(logits).exp()


def kl(logits: Tensor, logits_ref: Tensor) -> Tensor:
    """KL(pi || pi_ref) over responses, nats."""
    return (probability(logits) * (response_logp(logits) - response_logp(logits_ref))).sum()


def objective(logits: Tensor, logits_ref: Tensor, scores: Tensor, beta: float) -> Tensor:
    """J = E[R] - beta KL(pi || pi_ref)."""
    return (probability(logits) * scores).sum() - beta * kl(logits, logits_ref)


def objective_gradient(logits: Tensor, logits_ref: Tensor, scores: Tensor, beta: float) -> Tensor:
    """[S, V] gradient of J, by autograd through the enumeration."""
    variable = logits.detach().requires_grad_()
    return torch.autograd.grad(objective(variable, logits_ref, scores, beta), variable)[0]


def state_values(logits: Tensor, logits_ref: Tensor, scores: Tensor, beta: float) -> Tensor:
    """[S] V(s): what is still to come on average, score less beta times the divergence of the tokens to come."""
    policy = logits.log_softmax(-1)
    cost = beta * (policy - logits_ref.log_softmax(-1))
    values = torch.zeros(S, dtype=torch.float64)
    for prefix in reversed(PREFIXES):
        s = NUMBER[prefix]
        for token in range(V):
            y = (*prefix, token)
            ahead = scores[ROW[y]] if y in ROW else values[NUMBER[y]]
            values[s] += policy[s, token].exp() * (ahead - cost[s, token])
    return values


def visits(logits: Tensor) -> Tensor:
    """[S] probability that a response passes through the state."""
    weight = torch.where(MASK, probability(logits)[:, None], 0).flatten()
    return torch.zeros(S, dtype=torch.float64).index_add(0, STATES.flatten(), weight)


def best_policy(logits_ref: Tensor, scores: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The policy that maximises J, pi* = pi_ref exp(R / beta) / Z, as logits [S, V], and J* = beta log Z."""
    logp = response_logp(logits_ref) + scores / beta
    log_z = logp.logsumexp(0)
    law = (logp - log_z).exp()
    logits = torch.empty(S, V, dtype=torch.float64)
    for prefix in PREFIXES:
        for token in range(V):
            y = (*prefix, token)
            logits[NUMBER[prefix], token] = sum(law[row] for other, row in ROW.items() if other[: len(y)] == y).log()
    return logits, beta * log_z
