"""The losses of direct preference learning against their published formulas, written out for one pair at a time."""

import math

import pytest
import torch
from torch import Tensor

from handrail.algo.direct import dpo_loss, implicit_reward, ipo_loss, kto_loss, log_odds, mean_reward, orpo_loss, simpo_loss
from handrail.algo.preference import bradley_terry_loss, ranking_loss

N = 7
BETA, GAMMA, LAM, SMOOTHING = 0.3, 0.8, 0.25, 0.15


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def numbers() -> dict[str, Tensor]:
    """Log-probabilities of short responses, so that no sigmoid is flat."""
    generator = torch.Generator().manual_seed(11)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(N, dtype=torch.float64, generator=generator)

    return {
        "won": draw(-9, -1),
        "lost": draw(-9, -1),
        "won_ref": draw(-9, -1),
        "lost_ref": draw(-9, -1),
        "weight": draw(0.2, 2),
        "won_length": torch.tensor([3, 1, 4, 2, 7, 5, 6], dtype=torch.float64),
        "lost_length": torch.tensor([2, 6, 4, 1, 3, 9, 5], dtype=torch.float64),
        "desirable": torch.tensor([1, 0, 0, 1, 1, 0, 1], dtype=torch.bool),
    }


KL = 0.7


def of_pairs(x: dict[str, Tensor], name: str, count: float = 3.5):
    """The loss `name` on numbers like those above, and its statistics."""
    ours, reference, lengths = (x["won"], x["lost"]), (x["won_ref"], x["lost_ref"]), (x["won_length"], x["lost_length"])
    match name:
        case "dpo":
            return dpo_loss(*ours, *reference, x["weight"], count, BETA, 0.0)
        case "cdpo":
            return dpo_loss(*ours, *reference, x["weight"], count, BETA, SMOOTHING)
        case "ipo":
            return ipo_loss(*ours, *reference, x["weight"], count, BETA)
        case "orpo":
            return orpo_loss(*ours, *lengths, x["weight"], count, LAM, 0.0)
        case "orpo smoothed":
            return orpo_loss(*ours, *lengths, x["weight"], count, LAM, SMOOTHING)
        case "simpo":
            return simpo_loss(*ours, *lengths, x["weight"], count, BETA, GAMMA, 0.0)
        case "simpo smoothed":
            return simpo_loss(*ours, *lengths, x["weight"], count, BETA, GAMMA, SMOOTHING)
    good, bad = (float(x["weight"][kind].sum()) for kind in (x["desirable"], ~x["desirable"]))
    share = count / 3.5
    kl = torch.tensor(KL, dtype=torch.float64)
    return kto_loss(x["won"], x["won_ref"], x["desirable"], kl, x["weight"], share * good, share * bad, BETA, 1.3, 0.6)


LOSSES = ("dpo", "cdpo", "ipo", "kto", "orpo", "orpo smoothed", "simpo", "simpo smoothed")


def published(x: dict[str, list[float]], n: int, name: str) -> tuple[float, float, float]:
    """Loss of the pair n, or of the one response that kto judges, and the implicit rewards, from the papers' equations."""
    won, lost, won_ref, lost_ref = x["won"][n], x["lost"][n], x["won_ref"][n], x["lost_ref"][n]
    if name in ("dpo", "cdpo"):  # Rafailov et al. 2023, eq. 7: ratios of probabilities; Mitchell 2023
        chosen = BETA * math.log(math.exp(won) / math.exp(won_ref))
        rejected = BETA * math.log(math.exp(lost) / math.exp(lost_ref))
        plain, turned = -math.log(sigmoid(chosen - rejected)), -math.log(sigmoid(rejected - chosen))
        return (plain if name == "dpo" else (1 - SMOOTHING) * plain + SMOOTHING * turned), chosen, rejected
    if name == "ipo":  # Azar et al. 2023, eqs. 16 and 17
        h = math.log(math.exp(won) * math.exp(lost_ref) / (math.exp(lost) * math.exp(won_ref)))
        return (h - 1 / (2 * BETA)) ** 2, BETA * (won - won_ref), BETA * (lost - lost_ref)
    if name == "kto":  # Ethayarajh et al. 2024, eq. 8
        reward = math.log(math.exp(won) / math.exp(won_ref))
        if x["desirable"][n]:
            lam, value = 1.3, 1.3 * sigmoid(BETA * (reward - KL))
        else:
            lam, value = 0.6, 0.6 * sigmoid(BETA * (KL - reward))
        return lam - value, BETA * reward, BETA * reward
    mean_won, mean_lost = won / x["won_length"][n], lost / x["lost_length"][n]
    if name.startswith("orpo"):  # Hong et al. 2024, eqs. 3 to 7
        odds = [p / (1 - p) for p in (math.exp(mean_won), math.exp(mean_lost))]
        ratio = math.log(odds[0] / odds[1])
        plain, turned = -math.log(sigmoid(ratio)), -math.log(sigmoid(-ratio))
        push = plain if name == "orpo" else (1 - SMOOTHING) * plain + SMOOTHING * turned
        return -mean_won + LAM * push, math.log(odds[0]), math.log(odds[1])
    difference = BETA * mean_won - BETA * mean_lost  # Meng et al. 2024, eq. 6
    plain, turned = -math.log(sigmoid(difference - GAMMA)), -math.log(sigmoid(-difference - GAMMA))
    return (plain if name == "simpo" else (1 - SMOOTHING) * plain + SMOOTHING * turned), BETA * mean_won, BETA * mean_lost


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_its_published_formula(name):
    x = numbers()
    loss, stats = of_pairs(x, name)
    plain = {key: value.tolist() for key, value in x.items()}
    found = [published(plain, n, name) for n in range(N)]
    weight, total = plain["weight"], sum(plain["weight"]) if name == "kto" else 3.5
    assert float(loss) == pytest.approx(sum(w * f[0] for w, f in zip(weight, found, strict=True)) / total, rel=1e-12)
    if name == "kto":
        judged = list(zip(weight, found, plain["desirable"], strict=True))
        good, bad = ([(w, f[1]) for w, f, desirable in judged if desirable is side] for side in (True, False))
        assert float(stats["reward_chosen"]) == pytest.approx(sum(w * r for w, r in good) / sum(w for w, _ in good))
        assert float(stats["reward_rejected"]) == pytest.approx(sum(w * r for w, r in bad) / sum(w for w, _ in bad))
        signed = [(w, r - BETA * KL) for w, r in good] + [(w, BETA * KL - r) for w, r in bad]
    else:
        assert float(stats["reward_chosen"]) == pytest.approx(sum(w * f[1] for w, f in zip(weight, found, strict=True)) / 3.5)
        assert float(stats["reward_rejected"]) == pytest.approx(sum(w * f[2] for w, f in zip(weight, found, strict=True)) / 3.5)
        signed = [(w, f[1] - f[2]) for w, f in zip(weight, found, strict=True)]
    assert float(stats["margin"]) == pytest.approx(sum(w * m for w, m in signed) / total)
    assert float(stats["accuracy"]) == pytest.approx(sum(w for w, m in signed if m > 0) / total)
    assert 0 < float(stats["accuracy"]) < sum(weight) / total, "the numbers hold pairs of both kinds"


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    x = numbers()
    for key in ("won",) if name == "kto" else ("won", "lost"):
        variable = x[key].clone().requires_grad_()
        gradient = torch.autograd.grad(of_pairs({**x, key: variable}, name)[0], variable)[0]
        for n in range(N):
            step = torch.zeros(N, dtype=torch.float64)
            step[n] = 1e-6
            ahead, behind = (float(of_pairs({**x, key: x[key] + sign * step}, name)[0]) for sign in (1, -1))
            assert float(gradient[n]) == pytest.approx((ahead - behind) / 2e-6, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_slices_with_the_global_count_add_up_to_the_whole(name):
    x = numbers()
    whole, stats = of_pairs(x, name, 3.5)
    total = 0.0
    sums = dict.fromkeys(stats, 0.0)
    if name == "kto":
        good, bad = (float(x["weight"][kind].sum()) for kind in (x["desirable"], ~x["desirable"]))
    for part in (slice(0, 2), slice(2, 6), slice(6, 7)):
        y = {key: value[part] for key, value in x.items()}
        if name == "kto":
            kl = torch.tensor(KL, dtype=torch.float64)
            loss, some = kto_loss(y["won"], y["won_ref"], y["desirable"], kl, y["weight"], good, bad, BETA, 1.3, 0.6)
        else:
            loss, some = of_pairs(y, name, 3.5)
        total += float(loss)
        sums = {key: sums[key] + float(value) for key, value in some.items()}
    assert total == pytest.approx(float(whole), rel=1e-13)
    assert sums == {key: pytest.approx(float(value), rel=1e-12, abs=1e-14) for key, value in stats.items()}


def gradient_of(loss, *arguments: Tensor) -> list[Tensor]:
    variables = [a.clone().requires_grad_() for a in arguments]
    return list(torch.autograd.grad(loss(*variables), variables))


def test_the_force_on_a_dpo_pair_is_beta_times_the_probability_that_it_is_wrong():
    """Rafailov et al. 2023, after eq. 7: chosen up, rejected down, both by beta sigmoid(-margin) for each pair."""
    x = numbers()
    won, lost = gradient_of(lambda a, b: dpo_loss(a, b, x["won_ref"], x["lost_ref"], x["weight"], 1.0, BETA, 0.0)[0], x["won"], x["lost"])
    margin = [BETA * (a - b - c + d) for a, b, c, d in zip(*(x[k].tolist() for k in ("won", "lost", "won_ref", "lost_ref")), strict=True)]
    force = [w * BETA * sigmoid(-m) for w, m in zip(x["weight"].tolist(), margin, strict=True)]
    assert won.tolist() == pytest.approx([-f for f in force], rel=1e-12) and lost.tolist() == pytest.approx(force, rel=1e-12)


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def dpo_slope(margin: float, smoothing: float, beta: float = BETA) -> float:
    """d loss / d logp_chosen of one pair with the margin."""
    (slope,) = gradient_of(lambda a: dpo_loss(a, one(-3), one(-5), one(-3), one(1), 1.0, beta, smoothing)[0], one(-5 + margin / beta))
    return float(slope)


def test_smoothing_puts_the_minimum_where_that_many_labels_are_wrong():
    assert dpo_slope(0.0, 0.5) == 0
    for smoothing in (0.05, 0.2, 0.4):
        best = math.log((1 - smoothing) / smoothing)
        assert abs(dpo_slope(best, smoothing)) < 1e-15
        assert dpo_slope(best - 0.1, smoothing) < 0 < dpo_slope(best + 0.1, smoothing)
    assert dpo_slope(40.0, 0.0) < 0, "without it a pair is never far enough apart"


def test_smoothing_by_a_half_has_no_gradient_at_equal_rewards():
    equal = [one(-4.0)] * 2
    assert [float(g) for g in gradient_of(lambda a, b: dpo_loss(a, b, one(-2), one(-2), one(1), 1.0, BETA, 0.5)[0], *equal)] == [0, 0]
    assert [float(g) for g in gradient_of(lambda a, b: simpo_loss(a, b, one(3), one(3), one(1), 1.0, 2.0, GAMMA, 0.5)[0], *equal)] == [0, 0]
    with_odds = gradient_of(lambda a, b: orpo_loss(a, b, one(3), one(3), one(1), 1.0, 5.0, 0.5)[0], *equal)
    assert [float(g) for g in with_odds] == pytest.approx([-1 / 3, 0], abs=1e-15), "the demonstration alone"


def test_ipo_is_least_at_a_difference_of_one_over_two_beta():
    def slope(h: float) -> float:
        (found,) = gradient_of(lambda a: ipo_loss(a, one(-3), one(-5), one(-3), one(1), 1.0, BETA)[0], one(-5 + h))
        return float(found)

    assert abs(slope(1 / (2 * BETA))) < 1e-14 and slope(1.5) < 0 < slope(1.8)
    loss, stats = ipo_loss(one(-5 + 1 / (2 * BETA)), one(-3), one(-5), one(-3), one(1), 1.0, BETA)
    assert float(loss) == pytest.approx(0, abs=1e-25) and float(stats["margin"]) == pytest.approx(0.5)
    start, _ = ipo_loss(one(-5), one(-3), one(-5), one(-3), one(1), 1.0, 0.1)
    assert float(start) == pytest.approx(25), "(1 / (2 beta))^2 where policy and reference are one"


def test_simpo_and_orpo_look_at_the_mean_of_a_response():
    """The same words said twice change neither; dpo and the length of a response know nothing of each other."""
    x = numbers()
    twice = {**x, **{key: 2 * x[key] for key in ("won", "lost", "won_length", "lost_length")}}
    for name in ("simpo", "simpo smoothed", "orpo", "orpo smoothed"):
        torch.testing.assert_close(of_pairs(twice, name)[0], of_pairs(x, name)[0], rtol=1e-13, atol=0)
    assert abs(float(of_pairs(twice, "dpo")[0] - of_pairs(x, "dpo")[0])) > 0.1


def test_simpo_asks_the_chosen_response_to_be_ahead_by_gamma():
    def loss(difference: float, gamma: float) -> float:
        return float(simpo_loss(one(-3.0 + 1.5 * difference), one(-3), one(3), one(3), one(1), 1.0, 2.0, gamma, 0.0)[0])

    assert loss(0.8, 0.8) == pytest.approx(math.log(2)) and loss(0.0, 0.0) == pytest.approx(math.log(2))
    assert loss(0.3, 0.8) == pytest.approx(-math.log(sigmoid(-0.5)))


def test_kto_pulls_hardest_at_the_reference_point_and_lets_go_far_from_it():
    kl = torch.tensor(1.5, dtype=torch.float64)

    def slope(d: float, desirable: bool) -> float:
        kind = torch.tensor([desirable])
        (found,) = gradient_of(lambda a: kto_loss(a, one(-4), kind, kl, one(1), 1.0, 0.0, BETA, 1.0, 1.0)[0], one(-4 + d))
        return float(found)

    for desirable, sign in ((True, -1), (False, 1)):
        assert slope(1.5, desirable) == pytest.approx(sign * BETA / 4)
        assert slope(4.0, desirable) == pytest.approx(slope(-1.0, desirable))  # as far on the other side
        assert sign * slope(1.5, desirable) > sign * slope(9.0, desirable) > sign * slope(40.0, desirable) > 0


def test_kto_measures_against_the_divergence_and_never_learns_through_it():
    x, kl = numbers(), torch.tensor(KL, dtype=torch.float64, requires_grad=True)
    won = x["won"].clone().requires_grad_()
    loss, _ = kto_loss(won, x["won_ref"], x["desirable"], kl, x["weight"], 3.0, 3.0, BETA, 1.0, 1.0)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(loss, kl)


def test_kto_does_without_responses_of_one_kind():
    none, kl = torch.zeros(0, dtype=torch.float64), torch.tensor(KL, dtype=torch.float64)
    loss, stats = kto_loss(none, none, none.bool(), kl, none, 0.0, 2.0, BETA, 1.0, 1.0)
    assert float(loss) == 0 and float(stats["reward_chosen"]) == 0
    bad = torch.tensor([False])
    loss, stats = kto_loss(one(-3), one(-4), bad, kl, one(1), 0.0, 2.0, BETA, 1.0, 1.0)
    assert float(loss) == pytest.approx(sigmoid(BETA * (1 - KL)) / 2)
    assert (float(stats["reward_chosen"]), float(stats["reward_rejected"])) == (0, pytest.approx(BETA / 2))


def test_loss_aversion_counts_a_loss_more_than_a_gain():
    kl = torch.zeros((), dtype=torch.float64)
    d, both = one(-4.0).repeat(2), torch.tensor([True, False])
    for lam in ((1.0, 1.0), (1.0, 2.5), (0.4, 1.0)):
        (slope,) = gradient_of(lambda a, lam=lam: kto_loss(a, d, both, kl, torch.ones_like(d), 1.0, 1.0, BETA, *lam)[0], d)
        assert slope.tolist() == pytest.approx([-lam[0] * BETA / 8, lam[1] * BETA / 8])


def test_dpo_is_the_reward_models_loss_on_the_implicit_reward():
    x = numbers()
    chosen, rejected = implicit_reward(x["won"], x["won_ref"], BETA), implicit_reward(x["lost"], x["lost_ref"], BETA)
    expected = (x["weight"] * bradley_terry_loss(chosen - rejected)).sum() / x["weight"].sum()
    torch.testing.assert_close(of_pairs(x, "dpo", float(x["weight"].sum()))[0], expected, rtol=1e-13, atol=0)


def test_pairs_of_a_ranking_and_the_ranking_itself_agree():
    """Ties are two pairs of half the weight; K = 2 without one is a single pair of weight 1."""
    logp, logp_ref = -9 * torch.rand(2, 5, dtype=torch.float64)
    for places in ([1, 2], [2, 1], [1, 1], [1, 2, 2, 3, 5], [3, 1, 4, 1, 5]):
        k = len(places)
        pairs = [(i, j) for i in range(k) for j in range(k) if i != j and places[i] <= places[j]]
        better, worse = torch.tensor(pairs).T
        weight = torch.tensor([0.5 if places[i] == places[j] else 1.0 for i, j in pairs], dtype=torch.float64) / math.comb(k, 2)
        assert float(weight.sum()) == pytest.approx(1)
        loss, _ = dpo_loss(logp[better], logp[worse], logp_ref[better], logp_ref[worse], weight, 1.0, BETA, 0.0)
        scores, every = (BETA * (logp - logp_ref))[None, :k], torch.ones(1, k, dtype=torch.bool)
        whole = ranking_loss(scores, torch.tensor([places]), every, torch.zeros(1), torch.ones(1, dtype=torch.float64), 1.0)
        torch.testing.assert_close(loss, whole, rtol=1e-13, atol=0)


def test_rewards_and_log_odds_are_their_formulas():
    logp, length = torch.tensor([-2.0, -6.0, -0.3], dtype=torch.float64), torch.tensor([4.0, 3.0, 1.0], dtype=torch.float64)
    assert mean_reward(logp, length, 2.5).tolist() == pytest.approx([-1.25, -5.0, -0.75])
    p = [math.exp(a / b) for a, b in zip(logp.tolist(), length.tolist(), strict=True)]
    assert log_odds(logp, length).tolist() == pytest.approx([math.log(x / (1 - x)) for x in p], rel=1e-13)
    assert implicit_reward(logp, length, 0.5).tolist() == pytest.approx([-3.0, -4.5, -0.65])


def test_a_response_that_is_certain_or_far_off_stays_finite():
    logp = torch.tensor([0.0, -1e-12, -4e4], requires_grad=True)  # float32
    odds = log_odds(logp, torch.ones(3))
    assert odds.isfinite().all() and torch.autograd.grad(odds.sum(), logp)[0].isfinite().all()
    assert odds[0] > 15 and odds[2] == -4e4
    far = [torch.tensor([x], requires_grad=True) for x in (-1e4, -10.0)]
    for loss in (
        dpo_loss(*far, torch.zeros(1), torch.zeros(1), torch.ones(1), 1.0, 1.0, 0.1)[0],
        simpo_loss(*far, torch.ones(1), torch.ones(1), torch.ones(1), 1.0, 2.0, 1.0, 0.1)[0],
        orpo_loss(*far, torch.ones(1), torch.ones(1), torch.ones(1), 1.0, 1.0, 0.1)[0],
    ):
        assert loss.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(loss, far))
