"""Batches by token budget."""

import torch


def token_budget_batches(lengths: list[int], budget: int, generator: torch.Generator) -> list[list[int]]:
    """Indices in batches of at most `budget` tokens, similar lengths together, in random order.

    Lengths are first rounded up by at most a 32nd; within such a class the order is random.  The number of batches
    depends on the lengths alone, so that it is the same in every epoch.  An example that is longer than the budget
    stands in a batch of its own: the budget limits memory, it does not choose examples.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    order.sort(key=lambda i: -_rounded(lengths[i]))  # stable: random within a class
    batches: list[list[int]] = []
    room = 0
    for i in order:
        size = min(_rounded(lengths[i]), budget)
        if not batches or size > room:
            batches.append([])
            room = budget
        batches[-1].append(i)
        room -= size
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _rounded(length: int) -> int:
    step = 1 << max(0, length.bit_length() - 6)
    return -(-length // step) * step
