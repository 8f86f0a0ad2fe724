"""Numbers and sentences as a person would write them."""

from typing import Any

from handrail.inspector.folders import finite

REWARD_MODEL = "reward model"  # how that judge is named
FEW = 30  # prompts, below which a share says little
NARROW = "\u202f"  # a narrow space that does not break


def decimal(value: float, places: int | None = None) -> str:
    """A number with as many decimals as its size asks for, or with `places` of them, and a true minus sign."""
    if places is None:
        if 0 < abs(value) < 0.001:
            return f"{value:.1e}".replace("-", "−")
        places = places_of(value)
    written = f"{value:,.{places}f}".replace(",", NARROW)
    return written.replace("-", "−") if float(f"{value:.{places}f}") else written.replace("-", "")


def places_of(*values: float) -> int:
    """The decimals that suit the largest of some numbers."""
    size = max(map(abs, values))
    return 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 0.1 or size == 0 else 3


def change_of(before: float, after: float) -> str:
    """before → after, with the same number of decimals."""
    places = places_of(before, after)
    return f"{decimal(before, places)} → {decimal(after, places)}"


def percent(share: float, places: int = 1) -> str:
    return f"{decimal(100 * share, places)}{NARROW}%"


def span(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def duration(seconds: float) -> str:
    """8.4 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest}{NARROW}s"
    return f"{minutes // 60}{NARROW}h {minutes % 60}{NARROW}min"


def agreement(told: Any) -> str:
    """How far the reward model orders responses as the people did whose word it learned from; "" where none were asked."""
    every = interval(told.get("all")) if isinstance(told, dict) else None
    if every is None or every["value"] is None:
        return ""
    who = "you" if told.get("labellers") == ["you"] else "people"
    shares = []
    for name, begins in (("all", f"Of the rankings that {who} gave"), ("held_out", "Of those that it had not learned from")):
        if (found := interval(told.get(name))) and None not in found.values():
            pairs = f"{decimal(found['n'] or 0, 0)} pairs of {told[name].get('rankings', 0)} rankings"
            said = f"{percent(found['value'] or 0)} of {pairs} (95{NARROW}% interval {span(found['low'] or 0, found['high'] or 0)})"
            shares.append(f"{begins}, the reward model orders {said} the same way.")
    if len(shares) == 1:
        shares.append("None of them was held out from it.")
    return " ".join(shares)


def interval(value: Any) -> dict[str, float | None] | None:
    """{"value", "low", "high", "n"} from such a mapping or from a bare number; None where there is no number."""
    if not isinstance(value, dict):
        value = {"value": value}
    if finite(value.get("value")) is None:
        return None
    return {key: finite(value.get(key)) for key in ("value", "low", "high", "n")}


JUDGED = (
    "The training made the model {how}better",
    "The training made the model worse",
    "The training shows no improvement",
)
TRAINED_AGAINST = (  # a judge that was trained against can say no more than this
    "The training raised the reward model’s score",
    "The training lowered the reward model’s score",
    "The training shows no change of the reward model’s score",
)


def headline(summary: dict[str, Any]) -> tuple[str, str] | None:
    """(verdict, sentence) on the win rate; the verdict is "better", "worse" or "unclear".  None without a win rate."""
    win = interval(summary.get("win_rate"))
    if win is None:
        return None
    value, low, high = win["value"], win["low"], win["high"]
    assert value is not None
    on = f" of {win['n']:.0f} held-out prompts" if win["n"] else " of the held-out prompts"
    trained_against = summary.get("judge") == REWARD_MODEL
    by = " by the reward model" if trained_against else ""
    shown = f"On {percent(value)}{on} the trained model’s reply was preferred{by}"
    if low is None or high is None:
        return "unclear", f"{shown}. No interval was computed, so how sure this is cannot be said."
    shown += f" (95{NARROW}% interval {span(low, high)})"
    better, worse, unclear = TRAINED_AGAINST if trained_against else JUDGED
    if low > 0.5:
        return "better", f"{better.format(how='clearly ' * (low >= 0.6))}. {shown}, and the whole interval lies above one half."
    if high < 0.5:
        return "worse", f"{worse}. {shown}, and the whole interval lies below one half."
    return "unclear", f"{unclear}. {shown}; the interval includes one half, which is chance."


def judges(summary: dict[str, Any]) -> list[str]:
    """A sentence on each judge whose win rate needs one: how far a model at an endpoint went by the place, whom people were."""
    return [said for judge in listed(summary) if (said := _endpoint(judge) if judge["kind"] == "endpoint" else _people(judge))]


def listed(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the judges; none in a summary that has none."""
    found = summary.get("judges")
    return [j for j in found if isinstance(j, dict) and {"kind", "name"} <= j.keys()] if isinstance(found, list) else []


def _endpoint(judge: dict[str, Any]) -> str:
    said = [f"{judge['name']} was asked about each pair in both orders."]
    if position := interval(judge.get("contradictions")):
        first, second = (judge["contradictions"].get(f"for_{place}") for place in ("first", "second"))
        sure = f" ({span(position['low'], position['high'])})" if position["low"] is not None and position["high"] is not None else ""
        said.append(
            f"In {percent(position['value'] or 0.0)}{sure} of them it preferred one reply in one order and the other in the other, "
            f"{first} times what stood first and {second} times what stood second; these are ties."
        )
    if judge.get("left_out"):
        said.append(
            f"{judge['left_out']} pairs are left out: {judge.get('unparsable', 0)} answers held no verdict, "
            f"{judge.get('refused', 0)} questions were refused."
        )
    tokens = judge.get("tokens") or {}
    cost = " and ".join(f"{decimal(tokens[kind], 0)} tokens {where}" for kind, where in TOKENS if finite(tokens.get(kind)) is not None)
    untold = f", without {tokens['answers_untold']} answers whose cost was not told" if tokens.get("answers_untold") else ""
    return " ".join([*said, f"It took {cost}{untold}."] if cost else said)


TOKENS = (("prompt", "in the questions"), ("completion", "in the answers"))


def _people(judge: dict[str, Any]) -> str:
    if judge["kind"] != "people" or not judge.get("rankings"):
        return ""
    who = "1 labeller" if judge.get("labellers") == 1 else f"{judge.get('labellers')} labellers"
    return f"People: {who} gave {judge['rankings']} rankings of {judge.get('pairs')} of the {judge.get('of')} pairs whose replies differ."


def caveats(summary: dict[str, Any]) -> list[str]:
    """What a reader should hold against the headline, from the figures that stand beside it."""
    found = []
    if summary.get("judge") == REWARD_MODEL:
        found.append(
            "The judge is the reward model that was trained against: this shows that its score was raised, "
            "not that people would prefer the replies."
        )
    win = interval(summary.get("win_rate"))
    if win and win["n"] and win["n"] < FEW:
        found.append(f"Only {win['n']:.0f} prompts were judged: a few other ones could turn every share here, the control’s too.")
    control = interval(summary.get("control"))
    if control and control["value"] is not None and _off_half(control["value"], control["low"], control["high"]):
        found.append(
            f"The control, start against itself, came to {percent(control['value'])}, not to about one half: "
            "the judge or the sampling favours one side."
        )
    ratio = finite(summary.get("length_ratio"))
    if ratio is not None and ratio > 1.4:
        found.append(f"Replies grew to {decimal(ratio, 2)} times their length: part of the gain may be length alone.")
    rise = change(summary, "reward"), change(summary, "gold")
    if rise[0] is not None and rise[1] is not None and rise[0] > 0 >= rise[1]:
        found.append("The reward rose and the gold score did not: the policy learned to please the reward model.")
    content = part_change(summary, "content_parts")
    if content is not None and content < 0:
        found.append(f"The content’s parts fell by {decimal(-content)} together{_beside_content(part_change(summary, 'manner_parts'))}.")
    distinct = finite(summary.get("distinct_before")), finite(summary.get("distinct_after"))
    if distinct[0] and distinct[1] is not None and distinct[1] < 0.7 * distinct[0]:
        share = percent(distinct[1] / distinct[0], 0)
        found.append(f"The replies became more alike: different word pairs fell to {share} of what they were.")
    return found


def _beside_content(manner: float | None) -> str:
    """What manner did where content fell."""
    if manner is None or manner == 0:
        return ""
    return ": what was gained is manner" if manner > 0 else f", those of manner by {decimal(-manner)}"


def disagreement(found: Any) -> str | None:
    """What an ensemble's disagreement is worth; None where there is no ensemble."""
    if not isinstance(found, dict) or finite(found.get("unanimous")) is None:
        return None
    said = f"The heads of the ensemble order {percent(found['unanimous'])} of the held-out pairs alike."
    spread, closeness = finite(found.get("by_spread")), finite(found.get("by_closeness"))
    if spread is None or closeness is None:
        return said
    return (
        f"{said} Take a pair that the score gets wrong and one that it gets right: the heads differ more over the wrong one "
        f"{percent(spread)} of the time, and its two scores lie closer together {percent(closeness)} of the time; one half is chance."
    )


def _off_half(value: float, low: float | None, high: float | None) -> bool:
    """Whether a share differs from one half by more than 0.05, and by more than its interval leaves open."""
    if 0.45 <= value <= 0.55:
        return False
    return low is None or high is None or not low <= 0.5 <= high


def mean(value: Any) -> float | None:
    """A mean that is given alone, as {"mean", "sd"}, or as [mean, sd]."""
    if isinstance(value, dict):
        value = value.get("mean")
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return finite(value)


def change(summary: dict[str, Any], name: str) -> float | None:
    """After minus before of a mean."""
    before, after = mean(summary.get(f"{name}_before")), mean(summary.get(f"{name}_after"))
    return None if before is None or after is None else after - before


def part_change(summary: dict[str, Any], group: str) -> float | None:
    """The sum of what the parts named in `group` gained; None where there are none."""
    before, after = summary.get("parts_before") or {}, summary.get("parts_after") or {}
    names = [p for p in summary.get(group) or [] if p in before and p in after]
    return sum(after[p] - before[p] for p in names) if names else None


def overlap_sentence(summary: dict[str, Any]) -> str | None:
    """What ROUGE and the preference say of each other; None where one of them is missing."""
    win, rouge = interval(summary.get("win_rate")), change(summary, "rouge")
    if win is None or rouge is None or win["value"] is None:
        return None
    better = (win["low"] if win["low"] is not None else win["value"]) > 0.5
    worse = (win["high"] if win["high"] is not None else win["value"]) < 0.5
    if better and rouge < 0:
        return (
            "They disagree: the replies are preferred more and overlap less with the demonstrations. Overlap measures "
            "likeness to what was demonstrated, and what was demonstrated is not what is preferred most."
        )
    if worse and rouge > 0:
        return (
            "They disagree: the replies overlap more with the demonstrations and are preferred less. Likeness to "
            "demonstrations is not what was asked for."
        )
    if better or worse:
        return "They agree here in direction. They need not: overlap measures likeness to the demonstrations, no more."
    return "The preference did not move, so a change in overlap says nothing about quality."
