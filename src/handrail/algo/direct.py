"""What a policy minimises when it learns from preferences directly, without a reward model between.

A pair is two numbers, the log-probability of the chosen and of the rejected response as a whole: the sum over its
tokens, its end included.  A tie is two pairs, one each way round, of half the weight.  A ranking is all its pairs,
each weighted 1 / C(K, 2).  Each loss is a weighted sum over pairs divided by a given count.

Every loss returns, beside itself, weighted sums divided by the count:

    margin             the chosen response's implicit reward less the rejected one's
    accuracy           share of pairs whose margin is positive; one of zero counts a half
    reward_chosen      mean implicit reward of the chosen responses
    reward_rejected    and of the rejected ones
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Statistics = dict[str, Tensor]


def implicit_reward(logp: Tensor, logp_ref: Tensor, beta: float) -> Tensor:
    """beta log(pi(y) / pi_ref(y)): the reward whose best policy is pi, up to a constant.  Rafailov et al. 2023, eq. 5.

    Args:
        logp: [N] nats a response, under the policy.
        logp_ref: [N] nats a response, under the reference.
        beta: reward per nat.

    Returns:
        [N] reward.
    """
    return beta * (logp - logp_ref)


def mean_reward(logp: Tensor, length: Tensor, beta: float) -> Tensor:
    """beta / |y| log pi(y): SimPO's reward, which knows no reference.  Meng et al. 2024, eq. 4.

    Args:
        logp: [N] nats a response, under the policy.
        length: [N] tokens of the response, its end included.
        beta: reward per nat a token.

    Returns:
        [N] reward.
    """
    return beta * logp / length


def log_odds(logp: Tensor, length: Tensor) -> Tensor:
    """log(p / (1 - p))  with  p = exp(log pi(y) / |y|), the mean probability of a token.  Hong et al. 2024, eq. 4.

    Beyond 1 - p = the spacing of floating-point numbers at 1 it stays as it is, and carries no gradient.

    Args:
        logp: [N] nats a response, under the policy.
        length: [N] tokens of the response, its end included.

    Returns:
        [N] nats.
    """
    mean = (logp / length).clamp(max=-torch.finfo(logp.dtype).eps)
    return mean - torch.log(-torch.expm1(mean))


def dpo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    logp_ref_chosen: Tensor,
    logp_ref_rejected: Tensor,
    weight: Tensor,
    count: Tensor | float,
    beta: float,
    smoothing: float,
) -> tuple[Tensor, Statistics]:
    """-log sigmoid(r_chosen - r_rejected)  with  r = beta log(pi / pi_ref).  Rafailov et al. 2023, eq. 7.

    The gradient pushes chosen and rejected apart with the force beta sigmoid(-margin): it fades as the pair is learnt.
    With `smoothing` eps it is the mean loss of labels that are wrong that often (conservative DPO, Mitchell 2023):
    -(1 - eps) log sigmoid(margin) - eps log sigmoid(-margin), least at margin = log((1 - eps) / eps), not at infinity.

    Args:
        logp_chosen, logp_rejected: [N] nats a response, under the policy; the only arguments with a gradient.
        logp_ref_chosen, logp_ref_rejected: [N] nats a response, under the reference.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.
        beta: reward per nat.
        smoothing: share of labels taken to be wrong, 0 to 1/2.

    Returns:
        The loss in nats a pair, and the statistics named above.
    """
    chosen = implicit_reward(logp_chosen, logp_ref_chosen, beta)
    rejected = implicit_reward(logp_rejected, logp_ref_rejected, beta)
    loss = (weight * _mislabelled(chosen - rejected, smoothing)).sum() / count
    return loss, _statistics(chosen, rejected, weight, count)


def ipo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    logp_ref_chosen: Tensor,
    logp_ref_rejected: Tensor,
    weight: Tensor,
    count: Tensor | float,
    beta: float,
) -> tuple[Tensor, Statistics]:
    """(h - 1 / (2 beta))^2  with  h = log(pi / pi_ref)_chosen - log(pi / pi_ref)_rejected.  Azar et al. 2023, eq. 17.

    Least at h = 1 / (2 beta), which is a margin of 1/2 in reward: a pair is never pushed further apart than that.

    Args:
        logp_chosen, logp_rejected: [N] nats a response, under the policy; the only arguments with a gradient.
        logp_ref_chosen, logp_ref_rejected: [N] nats a response, under the reference.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.
        beta: reward per nat; tau in the paper, where the reward is the probability of winning.

    Returns:
        The loss in nats squared a pair, and the statistics named above, with beta log(pi / pi_ref) as implicit reward.
    """
    chosen = implicit_reward(logp_chosen, logp_ref_chosen, beta)
    rejected = implicit_reward(logp_rejected, logp_ref_rejected, beta)
    distance = (chosen - rejected - 0.5) / beta
    return (weight * distance**2).sum() / count, _statistics(chosen, rejected, weight, count)


def kto_loss(
    logp: Tensor,
    logp_ref: Tensor,
    desirable: Tensor,
    kl: Tensor,
    weight: Tensor,
    count_desirable: Tensor | float,
    count_undesirable: Tensor | float,
    beta: float,
    lam_desirable: float,
    lam_undesirable: float,
) -> tuple[Tensor, Statistics]:
    """lam_D (1 - sigmoid(beta (d - z))) or lam_U (1 - sigmoid(beta (z - d))), d = log(pi / pi_ref).  Ethayarajh et al. 2024, eq. 8.

    Responses are judged alone, as desirable or undesirable.  The divergence z of the policy from the reference is what
    they are measured against; it is an estimate, and carries no gradient.

    Args:
        logp: [N] nats a response, under the policy; the only argument with a gradient.
        logp_ref: [N] nats a response, under the reference.
        desirable: [N] bool.
        kl: scalar, not negative: KL(pi || pi_ref) in nats a response, the same for the whole global minibatch.
        weight: [N] not negative.
        count_desirable, count_undesirable: sums of weights in the whole global minibatch.
        beta: reward per nat.
        lam_desirable, lam_undesirable: how much a gain and a loss count.

    Returns:
        The loss in shares of what could be lost, and the statistics named above with two changes, as there are no
        pairs: `margin` is the mean of beta (d - z), of z - d where undesirable, and `accuracy` the share above 0.
        `reward_chosen` and `reward_rejected`, of the desirable and the undesirable, are divided by counts of their own
        (0 where there are none).
    """
    reward = implicit_reward(logp, logp_ref, beta)
    signed = torch.where(desirable, 1, -1) * (reward - beta * kl.detach())
    lam_weight = torch.where(desirable, lam_desirable * weight, lam_undesirable * weight)
    count = count_desirable + count_undesirable
    loss = (lam_weight * torch.sigmoid(-signed)).sum() / count
    with torch.no_grad():
        apart = [
            torch.where(kind, weight * reward, 0).sum() / max(own, torch.finfo(weight.dtype).tiny)
            for kind, own in ((desirable, count_desirable), (~desirable, count_undesirable))
        ]
        return loss, {
            "margin": (weight * signed).sum() / count,
            "accuracy": (weight * _right(signed)).sum() / count,
            "reward_chosen": apart[0],
            "reward_rejected": apart[1],
        }


def orpo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    length_chosen: Tensor,
    length_rejected: Tensor,
    weight: Tensor,
    count: Tensor | float,
    lam: float,
    smoothing: float,
) -> tuple[Tensor, Statistics]:
    """-log pi(chosen) / |chosen| - lam log sigmoid(log odds(chosen) - log odds(rejected)).  Hong et al. 2024, eqs. 6 and 7.

    Supervised fine-tuning on the chosen response, and a push away from the rejected one.  `smoothing` as in `dpo_loss`
    acts on the second term.

    Args:
        logp_chosen, logp_rejected: [N] nats a response, under the policy, with gradient.
        length_chosen, length_rejected: [N] tokens of the response, its end included.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.
        lam: weight of the odds against the demonstration.
        smoothing: share of labels taken to be wrong, 0 to 1/2.

    Returns:
        The loss in nats, and the statistics named above, with the log-odds as implicit reward.
    """
    chosen, rejected = log_odds(logp_chosen, length_chosen), log_odds(logp_rejected, length_rejected)
    each = -logp_chosen / length_chosen + lam * _mislabelled(chosen - rejected, smoothing)
    return (weight * each).sum() / count, _statistics(chosen, rejected, weight, count)


def simpo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    length_chosen: Tensor,
    length_rejected: Tensor,
    weight: Tensor,
    count: Tensor | float,
    beta: float,
    gamma: float,
    smoothing: float,
) -> tuple[Tensor, Statistics]:
    """-log sigmoid(r_chosen - r_rejected - gamma)  with  r = beta / |y| log pi(y).  Meng et al. 2024, eq. 6.

    With `smoothing` eps it is the mean loss of labels that are wrong that often; such a label asks for the same gamma
    the other way round.

    Args:
        logp_chosen, logp_rejected: [N] nats a response, under the policy, with gradient.
        length_chosen, length_rejected: [N] tokens of the response, its end included.
        weight: [N] not negative.
        count: sum of weights in the whole global minibatch.
        beta: reward per nat a token.
        gamma: by how much the chosen one is to be ahead, in reward.
        smoothing: share of labels taken to be wrong, 0 to 1/2.

    Returns:
        The loss in nats a pair, and the statistics named above.
    """
    chosen, rejected = mean_reward(logp_chosen, length_chosen, beta), mean_reward(logp_rejected, length_rejected, beta)
    loss = (weight * _mislabelled(chosen - rejected, smoothing, gamma)).sum() / count
    return loss, _statistics(chosen, rejected, weight, count)


def _mislabelled(margin: Tensor, smoothing: float, gamma: float = 0.0) -> Tensor:
    """Mean of -log sigmoid(margin - gamma) over labels of which the share `smoothing` is the wrong way round."""
    return -(1 - smoothing) * logsigmoid(margin - gamma) - smoothing * logsigmoid(-margin - gamma)


def _right(margin: Tensor) -> Tensor:
    """1 where positive, 1/2 where zero, 0 where negative."""
    return (torch.sign(margin) + 1) / 2


@torch.no_grad()
def _statistics(chosen: Tensor, rejected: Tensor, weight: Tensor, count: Tensor | float) -> Statistics:
    margin = chosen - rejected
    return {
        "margin": (weight * margin).sum() / count,
        "accuracy": (weight * _right(margin)).sum() / count,
        "reward_chosen": (weight * chosen).sum() / count,
        "reward_rejected": (weight * rejected).sum() / count,
    }
