"""Controllers of the KL coefficient.  Plain numbers: they are part of a checkpoint."""


def adaptive_beta(beta: float, kl: float, target: float, horizon: float, steps: float) -> float:
    """beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) steps / horizon).  Ziegler et al. 2019, section 2.2.

    Args:
        beta: reward per nat.
        kl: mean divergence from the reference, nats a response.
        target: the divergence that is wanted, nats a response.
        horizon: responses over which the coefficient may change by a fifth.
        steps: responses seen since the last call.

    Returns:
        The new beta.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * steps / horizon)


def ppo_penalty_beta(beta: float, kl: float, target: float) -> float:
    """beta / 2 where KL < target / 1.5, 2 beta where KL > 1.5 target, else beta.  Schulman et al. 2017, section 4.

    Args:
        beta: advantage per nat, what the next step is to use.
        kl: how far the last step moved, KL(pi_old || pi), nats a token.
        target: how far it should, in the same unit.

    Returns:
        The new beta.
    """
    if kl < target / 1.5:
        return beta / 2
    return 2 * beta if kl > 1.5 * target else beta
