"""Checks of what learns from people's words: imitation, reward models, direct preferences."""

from dataclasses import replace
from typing import Any

import numpy as np

from handrail.doctor.case import Case, lasting
from handrail.doctor.finding import Held

ABOVE, ABOVE_SICK = 1.3, 1.0  # times the lowest loss so far; sick once above the loss at the start
HIGHER, ROSE = 1.1, 1  # times the loss at the start; steps in a row beyond a window
FLAT = 0.99  # of the loss at the start, after a fifth of the run
OVERFIT, OVERFIT_SICK = 1.03, 1.15  # times the lowest evaluation loss
FEW_PAIRS = 40
SWAPPED = 0.45  # upper end of the accuracy's interval
CHANCE = 0.56
MEMORY, GAP = 0.9, 0.2  # accuracy in training, and how far the test is below it
MISCALIBRATED, MANY_PAIRS = 0.12, 200
FALLS, FALLS_NATS, FALLS_FAR = 0.25, 10.0, 3.0  # of the log-probability at the start; runs that learn well lose once as much


def loss_diverges(case: Case) -> Held | None:
    """The loss rises."""
    curve = case.curve("loss", 6) if case.stage in ("sft", "reward", "dpo") else None
    if curve is None:
        return None
    curve = replace(curve, window=max(curve.window, len(curve) // 10))  # batches of preferences scatter
    lowest, again = np.minimum.accumulate(curve.trailing), curve.window + ROSE  # a single one is in the mean for a window
    held = lasting((curve.trailing > np.maximum(ABOVE * np.abs(lowest), lowest + 6 * curve.noise)) & (np.arange(len(curve)) > 4), again)
    above = lasting((curve.trailing > curve.start + 6 * curve.noise) & (curve.trailing > HIGHER * curve.start), again)
    if not (held | above).any():
        return None
    rose = float(curve.trailing[int(np.argmin(curve.trailing)) :].max())
    return Held(
        "sick" if curve.trailing.max() > ABOVE_SICK * curve.start else "warning",
        curve.where(held | above),
        f"the loss was {lowest.min():.3f} and rose to {rose:.3f}; it began at {curve.start:.3f}",
        "the learning rate is too high, or rises too fast",
        "lower the learning rate, or let it rise longer (warmup)",
        f"lr={case.setting('lr') / 5:.1g}" if case.setting("lr") else "",
    )


def loss_flat(case: Case) -> Held | None:
    """The loss of imitation does not fall."""
    curve = case.curve("loss", 10) if case.stage == "sft" else None
    if curve is None or case.done < max(10, case.planned // 5):
        return None
    if curve.trailing.min() < FLAT * curve.start or curve.last < curve.start - 4 * curve.noise:
        return None
    lr = case.setting("lr", 0)
    return Held(
        "warning",
        curve.where(curve.trailing >= FLAT * curve.start),
        f"the loss began at {curve.start:.3f} and is {curve.last:.3f} after {case.done} steps; lr is {lr:g}",
        "the learning rate is too small, or what is trained is frozen",
        "raise the learning rate tenfold",
        f"lr={10 * lr:.1g}" if lr else "",
    )


def overfit(case: Case) -> Held | None:
    """The loss on held-out prompts rises while the loss on the data falls."""
    curve, loss = case.curve("eval_loss", 2), case.curve("loss", 2)
    if curve is None or loss is None:
        return None
    lowest = np.minimum.accumulate(curve.values)
    held = curve.values > OVERFIT * lowest
    if not held.any() or not held[-1] or loss.last > loss.start:
        return None
    at = int(curve.steps[int(np.argmin(curve.values))])
    return Held(
        "sick" if curve.values[-1] > OVERFIT_SICK * lowest[-1] else "warning",
        list(range(curve.where(held)[0], int(curve.steps[-1]) + 1)),
        f"on held-out prompts the loss was lowest at step {at}, {curve.values.min():.3f}, and is {curve.values[-1]:.3f}; "
        f"on the data it fell to {loss.last:.3f}",
        "the demonstrations are learned by heart: too many passes over too few of them",
        "make fewer passes, or stop when the evaluation does not get better",
        "patience=2",
    )


def labels_swapped(case: Case) -> Held | None:
    """What people preferred scores below what they did not."""
    found = tested(case)
    curve = case.curve("eval_accuracy", 2)
    if found is not None and found["n"] >= FEW_PAIRS and found["high"] < SWAPPED:
        said, steps = f"on held-out pairs the accuracy is {share(found)}", [case.done - 1]
    elif curve is not None and found is None and curve.last < SWAPPED - 0.1:
        said, steps = f"on held-out pairs the accuracy is {curve.last:.0%}", curve.where(curve.values < SWAPPED)
    else:
        return None
    return Held(
        "sick",
        steps,
        f"{said}, and it is {_trained(case):.0%} on the pairs that are learned from; a coin has 50%",
        "the labels that are learned from, or those that are tested on, are swapped: chosen where rejected is meant",
        "look at a few of both by hand, and at the columns that `data.columns` names",
        "data.columns={chosen: rejected, rejected: chosen}",
    )


def reward_at_chance(case: Case) -> Held | None:
    """A reward model that knows no more than a coin."""
    found = tested(case)
    if found is None or found["n"] < FEW_PAIRS or found["high"] < SWAPPED or found["value"] > CHANCE or found["low"] > 0.5:
        return None
    trained = _trained(case)
    return Held(
        "sick" if case.stage == "reward" else "warning",
        [case.done - 1],
        f"on {found['n']} held-out pairs the accuracy is {share(found)}, that of a coin; on the pairs learned from it is {trained:.0%}",
        "the labels are noise, or there are too few of them, or they are of other responses than they name",
        "have some pairs labelled twice and look at how often two people agree; look at a few labels by hand",
    )


def reward_is_length(case: Case) -> Held | None:
    """A reward model that knows no more than a rule on length."""
    found, rule = tested(case), by_length(case)
    if found is None or rule is None or found["n"] < FEW_PAIRS or rule["value"] < 0.6 or found["low"] > rule["value"]:
        return None
    return Held(
        "warning",
        [case.done - 1],
        f"on held-out pairs the accuracy is {share(found)}; going by length alone, "
        f"the {rule.get('rule', 'longer')} one, reaches {rule['value']:.0%}",
        "the labels go by length, or length is all that was learned of them: a policy will grow to please it",
        "have pairs of equal length compared, and give length a price of its own in the policy's reward",
    )


def few_held_out_pairs(case: Case) -> Held | None:
    """Too few held-out pairs to tell a reward model from a coin, or from a rule on length."""
    found, rule = tested(case), by_length(case)
    if case.stage != "reward" or found is None:
        return None
    within = ["a coin's 50%"] if found["low"] <= 0.5 else []
    within += [f"the {rule['value']:.0%} of length alone"] if rule is not None and found["low"] <= rule["value"] else []
    if not within or any(check(case) is not None for check in (labels_swapped, reward_at_chance, reward_is_length)):
        return None
    rankings = (case.view.summary or {}).get("test_rankings")
    return Held(
        "notice",
        [case.done - 1],
        f"on {found['n']} held-out pairs{f' of {rankings} rankings' if rankings else ''} the accuracy is {share(found)}, "
        f"no more than {' and '.join(within)} as far as so many can tell",
        "too few held-out pairs to tell, or it has learned nothing",
        "have more pairs compared, and hold more of them out (held_out), before a policy learns from it",
    )


def reward_overfit(case: Case) -> Held | None:
    """Pairs are learned by heart."""
    found, curve = tested(case), case.curve("accuracy", 4)
    if found is None or curve is None or found["n"] < FEW_PAIRS or curve.last < MEMORY or found["value"] > curve.last - GAP:
        return None
    return Held(
        "warning",
        curve.where(curve.trailing > MEMORY),
        f"on the pairs learned from the accuracy is {curve.last:.0%}, on held-out ones {found['value']:.0%}",
        "too many passes over too few comparisons: they are learned by heart",
        "make one pass, or collect more comparisons",
        "epochs=1",
    )


def miscalibrated(case: Case) -> Held | None:
    """A reward model that is more certain than it is right."""
    found, error = tested(case), (case.view.summary or {}).get("calibration_error")
    if found is None or not isinstance(error, float) or error < MISCALIBRATED or found["n"] < MANY_PAIRS:
        return None
    return Held(
        "notice",
        [case.done - 1],
        f"what the reward model says of a pair's probability is off by {error:.0%} on average",
        "it is too certain: too many passes, or labels noisier than it takes them for",
        "make fewer passes, or tell it how often labellers err",
        "label_smoothing=0.1",
    )


def chosen_falls(case: Case) -> Held | None:
    """The preferred responses become unlikely too."""
    curve = case.curve("logp_chosen", 5) if case.stage == "dpo" else None
    if curve is None or case.setting("online"):
        return None
    lost = curve.start - curve.trailing
    held = lasting(lost > np.maximum(FALLS_NATS, max(FALLS * abs(curve.start), 4 * curve.noise)), 2)
    if not held.any():
        return None
    return Held(
        "warning" if lost.max() > FALLS_FAR * abs(curve.start) else "notice",
        curve.where(held),
        f"the preferred responses' log-probability went from {curve.start:.0f} to {curve.last:.0f} nats",
        "the loss asks only for a distance between the two: both fall, and the mass goes to responses that nobody judged",
        "raise loss.beta, make fewer passes, or add the supervised term of orpo",
        f"loss.beta={3 * float(case.setting('loss.beta', 0.1)):.1g}",
    )


def tested(case: Case) -> dict[str, Any] | None:
    """The accuracy on held-out pairs of what learns from people's preferences, with its interval: value, low, high, n."""
    return _of(case, "accuracy") if case.stage in ("reward", "dpo") else None


def by_length(case: Case) -> dict[str, Any] | None:
    """The accuracy on the same pairs of the better of two rules: the longer one, the shorter one."""
    return _of(case, "length_baseline")


def share(found: dict[str, Any]) -> str:
    """56% (38% to 72%)."""
    return f"{found['value']:.0%} ({found['low']:.0%} to {found['high']:.0%})"


def _of(case: Case, name: str) -> dict[str, Any] | None:
    found = (case.view.summary or {}).get(name)
    return found if isinstance(found, dict) and isinstance(found.get("value"), float) else None


def _trained(case: Case) -> float:
    curve = case.curve("accuracy")
    return curve.last if curve is not None else float("nan")
