"""Coefficients of agreement, from sums over items.

Every one is a function of sums that add up over items, so that a bootstrap over items is a product of matrices.  Leading
dimensions are resamples.  NaN where a coefficient is not defined: where chance alone would agree fully.
"""

import numpy as np


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=np.abs(bottom) > 1e-12)


def cohen_kappa(table: np.ndarray) -> np.ndarray:
    """(p_o - p_e) / (1 - p_e), Cohen 1960.

    Args:
        table: [..., C, C] how often the first labeller said the row's category and the second the column's.
    """
    p = ratio(table, table.sum((-2, -1))[..., None, None])
    observed = np.trace(p, axis1=-2, axis2=-1)
    chance = (p.sum(-1) * p.sum(-2)).sum(-1)
    return ratio(observed - chance, 1 - chance)


def quadratic_kappa(moments: np.ndarray) -> np.ndarray:
    """Cohen 1968's kappa with weights (a - b)^2: 1 - mean (a - b)^2 / the same of a and b drawn independently.

    Args:
        moments: [..., 6] sums over responses of 1, a, b, a^2, b^2, a b.
    """
    n, a, b, aa, bb, ab = np.moveaxis(moments, -1, 0)
    return 1 - ratio(aa + bb - 2 * ab, aa + bb - 2 * ratio(a * b, n))


def fleiss_kappa(sums: np.ndarray) -> np.ndarray:
    """(P - P_e) / (1 - P_e), Fleiss 1971 equations 3 to 7, for units with differing numbers of labellers.

    Each unit with two answers or more counts alike: P is the mean over units of the share of pairs of its answers that
    agree, P_e the sum over categories of the squared mean over units of the share of its answers in the category.  With
    the same number of answers everywhere it is Fleiss's own.

    Args:
        sums: [..., 2 + C] over units: 1, the share of agreeing pairs, the shares of the categories.
    """
    mean = ratio(sums[..., 1:], sums[..., :1])
    chance = (mean[..., 1:] ** 2).sum(-1)
    return ratio(mean[..., 0] - chance, 1 - chance)


def fleiss_sums(given: np.ndarray) -> np.ndarray:
    """[..., 2 + C] what each unit adds to the sums of `fleiss_kappa`; zeros where fewer than two answered.

    Args:
        given: [..., C] how many answers put the unit into each category.
    """
    m = given.sum(-1, keepdims=True)
    agree = (given * (given - 1)).sum(-1, keepdims=True) / np.maximum(m * (m - 1), 1)
    return np.where(m > 1, np.concatenate([np.ones_like(m), agree, given / np.maximum(m, 1)], axis=-1), 0.0)


def coincidences(given: np.ndarray) -> np.ndarray:
    """[..., V, V] what each unit adds to the matrix of coincidences, Krippendorff 2011 section C.

    Args:
        given: [..., V] how many answers gave the unit each value.
    """
    m = given.sum(-1)[..., None, None]
    pairs = given[..., :, None] * given[..., None, :] - given[..., :, None] * np.eye(given.shape[-1])
    return pairs / np.maximum(m - 1, 1)


def krippendorff_alpha(matrix: np.ndarray, domain: np.ndarray, level: str) -> np.ndarray:
    """1 - D_o / D_e, Krippendorff 2011, from matrices of coincidences; for the resamples of an interval.

    Args:
        matrix: [..., V, V] coincidences.
        domain: [V] the values, in order.
        level: nominal, ordinal or interval.
    """
    n_v = matrix.sum(-1)
    if level == "nominal":
        far = 1.0 - np.eye(len(domain))
    elif level == "interval":
        far = (domain[:, None] - domain[None, :]) ** 2
    else:
        middle = np.cumsum(n_v, axis=-1) - n_v / 2
        far = (middle[..., :, None] - middle[..., None, :]) ** 2
    n = n_v.sum(-1)
    chance = (n_v[..., :, None] * n_v[..., None, :] * far).sum((-2, -1))
    return 1 - ratio((matrix * far).sum((-2, -1)) * (n - 1), chance)


def tau_b(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[...] Kendall's tau-b of two rankings, NaN where one of them is all ties.  Kendall 1945, "The treatment of ties".

    Args:
        first, second: [..., P] the verdicts 1, 0, -1 on each pair of responses, NaN beyond the item's pairs.
    """
    a, b = np.nan_to_num(first), np.nan_to_num(second)
    return ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))
