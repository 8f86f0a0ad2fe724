"""Which tokens a score comes from: integrated gradients of a function of T embeddings of D numbers each."""

import torch
from torch import Tensor


def path_nodes(steps: int) -> tuple[Tensor, Tensor]:
    """Places a_s and weights w_s with  sum_s w_s f(a_s) = int_0^1 f(a) da, by Gauss and Legendre.

    Exact for polynomials of degree 2 S - 1, and dense at both ends, where a normalised network bends most.  The places
    are the eigenvalues of the polynomials' recursion, the weights the squared first entries of its eigenvectors: Golub
    and Welsch 1969.

    Args:
        steps: S, how many.

    Returns:
        [S] within (0, 1), rising; [S] positive, with the sum 1.
    """
    k = torch.arange(1, steps, dtype=torch.float64)
    recursion = torch.diag(k / (4 * k**2 - 1).sqrt(), 1)
    places, vectors = torch.linalg.eigh(recursion + recursion.T)
    dtype = torch.get_default_dtype()
    return ((places + 1) / 2).to(dtype), vectors[0].square().to(dtype)


def straight_path(inputs: Tensor, baseline: Tensor, at: Tensor) -> Tensor:
    """x(a) = b + a (x - b)  for every place a.  Sundararajan et al. 2017, section 3.

    Args:
        inputs: [T, D] embeddings x.
        baseline: [T, D] embeddings b; equal to x where a token is to stay.
        at: [S] places in [0, 1].

    Returns:
        [S, T, D] embeddings.
    """
    return baseline + at[:, None, None] * (inputs - baseline)


def integrated_gradients(gradients: Tensor, weights: Tensor, inputs: Tensor, baseline: Tensor) -> Tensor:
    """A_t = sum_d (x_td - b_td) sum_s w_s dF/dx_td at x(a_s).  Sundararajan et al. 2017, eq. 1, summed over a token's numbers.

    Complete: sum_t A_t = F(x) - F(b), up to the error of the quadrature.

    Args:
        gradients: [S, T, D] score per unit of embedding, at the places of `straight_path`.
        weights: [S] of the places; those of a part of them give that part of the sum.
        inputs: [T, D] x.
        baseline: [T, D] b.

    Returns:
        [T] score.
    """
    return torch.einsum("std,s,td->t", gradients, weights, inputs - baseline)
