"""From several scores of one response to one, and how far they lie apart.  [..., M]: the last dimension are the members."""

from torch import Tensor


def ensemble_mean(scores: Tensor) -> Tensor:
    """1/M sum_m r_m.  Coste et al. 2023: mean optimisation.

    Args:
        scores: [..., M] reward, each member's normalised.

    Returns:
        [...] reward.
    """
    return scores.mean(-1)


def ensemble_minimum(scores: Tensor) -> Tensor:
    """min_m r_m: a response is as good as its harshest judge says.  Coste et al. 2023: worst-case optimisation.

    Args:
        scores: [..., M] reward, each member's normalised.

    Returns:
        [...] reward.
    """
    return scores.amin(-1)


def ensemble_spread(scores: Tensor) -> Tensor:
    """sqrt(1/M sum_m (r_m - mean)^2): the members' disagreement, as the population's standard deviation.

    Args:
        scores: [..., M] reward, each member's normalised.

    Returns:
        [...] reward; 0 for one member.
    """
    return (scores - scores.mean(-1, keepdim=True)).square().mean(-1).sqrt()


def ensemble_mean_minus_std(scores: Tensor, k: float) -> Tensor:
    """mean_m r_m - k std_m r_m: what the members disagree about is worth less.  Eisenstein et al. 2023.

    Coste et al. 2023 (uncertainty-weighted optimisation) take off the variance; the standard deviation has the unit of
    the reward, so that k does not depend on its scale.

    Args:
        scores: [..., M] reward, each member's normalised.
        k: reward taken off for one of spread.

    Returns:
        [...] reward.
    """
    return ensemble_mean(scores) - k * ensemble_spread(scores)
