"""Checks of what is maximised: its scale, what it pays for, and whether that is what people prefer."""

import re
from collections import defaultdict
from functools import lru_cache

import numpy as np

from handrail.doctor.best import best
from handrail.doctor.case import Case, Trace, lasting
from handrail.doctor.finding import Held, figure

MEAN, STD_LOW, STD_HIGH = 1.0, 0.4, 2.5  # of a normalised reward model on a batch; of 32 responses the mean scatters by 0.2
LARGE = 20.0  # the spread of a reward function; a critic's head that starts near 0 needs as many units as its scale
CONSTANT = 1e-6  # relative spread below which rewards are called equal
DEAD, DEAD_SICK = 0.7, 0.95  # share of prompts whose responses all earn the same
AGAINST = -0.25  # correlation of reward and gold in a batch; of 32 responses over 3 steps it scatters by 0.1
BY_LENGTH, BY_LENGTH_ALONE = 0.5, 0.9  # correlation of reward and length
LONGER, SHORTER = 1.3, 0.4  # times the length at the start
EMPTY = 0.3  # share of empty responses
LOST = 0.25  # of the range that gold has gone through
PATTERN_ROWS, PATTERN_SIDES = 24, 6  # responses that a pattern is looked for in; so many have it, and so many have not
PATTERN_EXPLAINS = 0.8  # share of the reward's variance; words of a reward that is more than words explain a half at most
FIRST, LATEST, ROWS = 4, 8, 16  # traces that are compared, and responses of each; more would take seconds a look
WORD = re.compile(r"\w+|[^\w\s]")
SPREADS = 3.0  # of the reward, by which nonsense may score above sense; it was never trained on, and one spread is usual


def reward_scale(case: Case) -> Held | None:
    """A reward model that is not normalised, or a function on a scale that the settings were not made for."""
    spread, model = case.curve("reward_std"), case.curve("reward_model")
    if spread is None or spread.steps[0] != 0:
        return None
    std = float(spread.values[0])
    only = not case.setting("reward.function") and not case.setting("reward.more")
    if model is not None and only:
        mean, std = float(model.values[0]), std / max(1e-9, abs(float(case.setting("reward.model_weight", 1.0))))
        if abs(mean) <= MEAN and STD_LOW <= std <= STD_HIGH:
            return None
        what = f"the reward model's scores on the starting model's responses have mean {mean:+.2f} and spread {std:.2f}, not 0 and 1"
        cause = "the reward model was not normalised on responses of this starting model to such prompts"
        return Held(
            "warning",
            [0],
            what,
            cause,
            "train it from this starting model, which normalises it, or weight it; beta is a price in its units",
            f"reward.model_weight={1 / std:.1g}" if std > 0 else "",
        )
    if std <= LARGE:
        return None
    return Held(
        "warning",
        [0],
        f"the reward's spread is {figure(std)} at the first step",
        "the reward function has large units: the divergence costs nothing beside it, and the critic has to reach such values first",
        "weight the function so that the spread is about 1",
        f"reward.function_weight={1 / std:.1g}",
    )


def reward_constant(case: Case) -> Held | None:
    """All responses earn the same: there is nothing to learn from."""
    found = case.together("reward_std", "reward", least=2)
    if found is None:
        return None
    spread, reward = found
    equal = lasting(spread.values <= CONSTANT * np.maximum(1.0, np.abs(reward.values)), 2)
    if not equal.any():
        return None
    from_start = bool(spread.values[0] <= CONSTANT * max(1.0, abs(reward.values[0])))
    return Held(
        "sick" if from_start else "warning",
        spread.where(equal),
        f"every response of a step earns the same, {figure(reward.values[int(np.argmax(equal))])}, at {int(equal.sum()) + 1} steps",
        "the reward does not depend on the response"
        if from_start
        else "the policy always earns the same by now: it has reached what the reward can tell, or says one thing only",
        "look at what the reward function is given and returns" if from_start else "stop here, or use a reward that tells more apart",
    )


def dead_groups(case: Case) -> Held | None:
    """Most prompts have responses that all earn the same, so that they teach nothing."""
    curve, reward = case.curve("dead_groups", 3), case.curve("reward", 3)
    if curve is None or reward is None:
        return None
    held = lasting(curve.trailing > DEAD, 2)
    if not held.any():
        return None
    early = curve.start > DEAD
    won = not early and reward.last > reward.start + 3 * reward.noise
    return Held(
        "notice" if won else "sick" if curve.trailing.max() > DEAD_SICK and early else "warning",
        curve.where(held),
        f"of {curve.last:.0%} of the prompts all responses earn the same, so that their advantage is 0",
        "the reward is met always: what it can teach is learnt"
        if won
        else "the reward is too rare or too coarse for so few responses to a prompt: most groups never see it met",
        "stop here or take harder prompts"
        if won
        else "take more responses to a prompt, easier prompts, or a reward that also pays half the way",
        "" if won else f"responses={2 * int(case.setting('responses', 4))}",
    )


def reward_against_gold(case: Case) -> Held | None:
    """From the start the reward pays for what the monitor calls worse."""
    curve = case.curve("reward_by_gold", 2)
    if curve is None:
        return None
    by = case.curve("reward_by_length")
    held = lasting(curve.trailing < AGAINST, 2)
    if not held[: max(3, len(curve) // 5) + 1].any() or (by is not None and np.abs(by.trailing).max() > BY_LENGTH_ALONE):
        return None  # where it pays for length alone, that is what is wrong with it
    return Held(
        "sick",
        curve.where(held),
        f"among the responses of a step reward and gold have a correlation of {curve.start:+.2f} in the first steps",
        "the reward has the wrong sign, or its labels are swapped: chosen where rejected is meant",
        "look at a few comparisons by hand, or turn the weight of the reward",
        "reward.function_weight=-1" if case.setting("reward.function") else "reward.model_weight=-1",
    )


def length_gaming(case: Case) -> Held | None:
    """The reward goes by length, or rises because responses grow."""
    found = case.together("reward", "length", "reward_by_length", least=2)
    if found is None or _gold_rises(case):
        return None
    reward, length, by = found
    gold = case.curve("gold")
    longer = (length.trailing > LONGER * length.start) & (length.trailing > length.start + 4 * length.noise)
    grown = lasting(longer & (by.trailing > BY_LENGTH), 2) & (reward.trailing > reward.start)
    alone = lasting(by.trailing > BY_LENGTH_ALONE, 2)
    if not alone.any() and not grown.any():
        return None
    watched = f", and gold went from {gold.start:+.2f} to {gold.last:+.2f}" if gold is not None else ""
    return Held(
        "sick" if grown.any() and gold is not None else "warning",
        reward.where(alone | grown),
        f"among the responses of a step reward and length have a correlation of up to {by.trailing.max():+.2f}; length went from "
        f"{length.start:.0f} to {length.last:.0f} tokens, the reward from {reward.start:+.2f} to {reward.last:+.2f}{watched}",
        "the reward pays for length: labellers, or the model that learned from them, took longer for better",
        "give length a price of its own, or train the reward model on pairs of equal length",
        f"reward.more=[{{length: {max(1, round(length.start))}, weight: 1}}]",
    )


def length_collapse(case: Case) -> Held | None:
    """Responses shrink to nothing."""
    found = case.together("length", "empty", "reward_by_length", least=3)
    if found is None:
        return None
    length, empty, by = found
    if empty.last < EMPTY and _gold_rises(case):
        return None
    held = lasting((length.trailing < SHORTER * length.start) | (empty.trailing > EMPTY), 2)
    alone = lasting(by.trailing < -BY_LENGTH_ALONE, 2)
    if not held.any() and not alone.any():
        return None
    return Held(
        "sick" if empty.last > EMPTY else "warning",
        length.where(held | alone),
        f"length went from {length.start:.0f} to {length.last:.0f} tokens, and {empty.last:.0%} of the responses are empty; "
        f"among the responses of a step reward and length have a correlation down to {by.trailing.min():+.2f}",
        "saying nothing costs least: the reward, or the price of the divergence, is mostly a price on words",
        "make the reward's mean on the starting model's responses 0, or pay for what a response has to hold",
    )


def overoptimised(case: Case) -> Held | None:
    """The reward goes on rising while what it stands for falls."""
    found = case.together("reward", "gold", least=8)
    if found is None:
        return None
    reward, gold = found
    full = np.arange(len(gold)) >= gold.window - 1  # the mean of fewer values is a matter of chance
    smooth = np.where(full, gold.trailing, gold.trailing[gold.window - 1])
    top, worst = np.maximum.accumulate(smooth), np.minimum.accumulate(smooth)
    lost = np.maximum(5 * gold.noise, LOST * (top - worst))
    tops = np.array([int(np.argmax(smooth[: i + 1])) for i in range(len(smooth))])
    rewarded = reward.trailing >= reward.trailing[tops] - reward.noise
    held = lasting((smooth < top - lost) & rewarded & full, 2)
    if not held.any():
        return None
    at, highest = best(gold.values)
    peak = int(gold.steps[at])
    return Held(
        "sick" if gold.last < gold.start - 3 * gold.noise else "warning",
        gold.where(held),
        f"the reward went from {reward.start:+.2f} to {reward.last:+.2f}, but gold was best at step {peak} with {highest:+.2f} "
        f"and is {gold.last:+.2f}",
        "the policy has found what the reward pays and people do not: the reward is optimised beyond what it knows",
        f"take the policy of about step {peak}; raise beta, or train the reward model again on the present responses",
        f"kl.beta={2 * float(case.setting('kl.beta', 0.05)) or 0.05:.1g}",
    )


def reward_pattern(case: Case) -> Held | None:
    """A few words decide over the reward, and the policy has found them."""
    seen = [trace for trace in case.traces if trace.responses and len(trace.scores) == len(trace.responses)]
    seen = seen[:FIRST] + seen[FIRST:][-LATEST:]
    words, explains, shares = _pattern(tuple(seen))
    if explains < PATTERN_EXPLAINS:
        return None
    steps = [trace.step for trace, share in zip(seen, shares, strict=True) if share > 0]
    return Held(
        "sick" if shares[-1] > 0.8 and shares[-1] - shares[0] > 0.3 else "warning",
        list(range(steps[0], steps[-1] + 1)),
        f'whether a response has the words "{words}" explains {explains:.0%} of the reward among the traced responses; '
        f"{shares[0]:.0%} of them had these at step {seen[0].step}, {shares[-1]:.0%} at step {seen[-1].step}",
        "the reward is a pattern: the policy earns it by writing these words, whatever else it says",
        "pay for what the words stand for, or make the pattern one term among several",
    )


@lru_cache(maxsize=2)  # a run that goes on is looked at more often than it is traced
def _pattern(traces: tuple[Trace, ...]) -> tuple[str, float, list[float]]:
    """The words whose presence explains most of the variance of the scores, the share that they explain, and who says them.

    Of each trace a few responses are read, from all over it.  Returns also the share of these that have the words, a number a trace.
    """
    chosen = [sorted({int(row) for row in np.linspace(0, len(trace.responses) - 1, ROWS)}) for trace in traces]
    grams = [[_grams(trace.responses[row]) for row in rows] for trace, rows in zip(traces, chosen, strict=True)]
    scores = np.array([trace.scores[row] for trace, rows in zip(traces, chosen, strict=True) for row in rows])
    if len(scores) < PATTERN_ROWS:
        return "", 0.0, []
    variance, places = float(scores.var()), defaultdict[str, list[int]](list)
    for number, said in enumerate(said for of_trace in grams for said in of_trace):
        for gram in said:
            places[gram].append(number)
    words, explains = "", 0.0
    for gram, rows in places.items():
        share = len(rows) / len(scores)
        if min(len(rows), len(scores) - len(rows)) < PATTERN_SIDES or not variance:
            continue
        within = scores[rows].mean()
        gap = within - (scores.sum() - within * len(rows)) / (len(scores) - len(rows))
        found = share * (1 - share) * gap**2 / variance
        if gap > 0 and (found, len(gram)) > (explains, len(words)):
            words, explains = gram, found
    return words, explains, [float(np.mean([words in said for said in of_trace])) for of_trace in grams]


def _grams(text: str) -> set[str]:
    """One to three words next to each other."""
    words = WORD.findall(text.lower())
    return {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}


def reward_likes_nonsense(case: Case) -> Held | None:
    """A reward model that prefers empty, shuffled or repeated text to what the reference says."""
    look = case.view.preflight
    if "reward_mean" not in look:
        return None
    own, std = look["reward_mean"], max(look.get("reward_std", 1.0), 1e-6)
    kinds = {
        "reward_empty": "nothing at all",
        "reward_shuffled": "the same words shuffled",
        "reward_long": "the same reply three times over",
    }
    ahead = {name: (look[name] - own) / std for name in kinds if name in look and look[name] > own + 0.25 * std}
    if not ahead:
        return None
    said = ", ".join(f"{kinds[name]} {by:+.1f}" for name, by in ahead.items())
    return Held(
        "warning" if max(ahead.values()) > SPREADS else "notice",
        [0],
        f"the reward model scores some nonsense above the starting model's responses, in their spreads: {said}",
        "it has seen only sensible responses, or it has learned little: where the policy leaves these, it is guessing",
        "keep the divergence small and watch the traces; better, have people compare such responses too",
    )


def _gold_rises(case: Case) -> bool:
    """Whether what people want, as far as it is monitored, gets better."""
    gold = case.curve("gold", 3)
    return gold is not None and gold.last > gold.start + 3 * gold.noise
