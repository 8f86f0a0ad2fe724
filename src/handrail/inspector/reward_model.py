"""What is shown of a reward model, on its page and in the report: how often it is right, what it pays for, where from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.inspector import attributed, rewarded, words
from handrail.inspector.charts import Share, calibration_chart, histogram, share_chart
from handrail.inspector.curves import Chart

BY_LENGTH = "By which response people preferred, and the number of pairs. One that pays for length alone is right on one side only."
BY_MARGIN = "By how far apart its scores are, and the number of pairs: the further, the more often right."
DIAGONAL = (
    "Pairs that the model calls 80\u202f% sure should come out so 80\u202f% of the time: on the diagonal. A larger dot holds more pairs."
)
LEADS = "How far the preferred response leads; pairs left of 0 are ordered wrongly."


@dataclass(frozen=True)
class Told:
    """All of it; empty where the run has left nothing to say it from."""

    sentences: list[str]
    charts: list[Chart]
    pairs: int
    correlations: list[tuple[str, float, float]]
    words: list[tuple[str, int, float, float]]
    mistakes: list[rewarded.Pair]
    looked_into: list[attributed.Pair]  # token by token
    gained: list[attributed.Word]
    lost: list[attributed.Word]

    @property
    def error(self) -> float:
        """By how much the attributions miss a score, in the mean over the responses."""
        every = [abs(one.error) for pair in self.looked_into for one in (pair.better, pair.worse)]
        return sum(every) / len(every) if every else 0.0


def told(folder: Path | None, own: dict[str, Any], given: dict[str, Any]) -> Told:
    """From a reward model's run folder with its summary, and the summary of the round that it belongs to.  Raises DataError."""
    verdicts = rewarded.read_verdicts(folder) if folder else []
    looked_into = attributed.read_attributions(folder) if folder else []
    found = rewarded.pairs(verdicts)
    gained, lost = attributed.words(looked_into)
    shares = accuracies(own, given)
    return Told(
        sentences=[said for said in sentences(own, given, shares) if said],
        charts=charts(own, list(shares.values()), found),
        pairs=len(found),
        correlations=rewarded.correlations(verdicts),
        words=rewarded.words(verdicts),
        mistakes=rewarded.mistakes(found),
        looked_into=looked_into,
        gained=gained,
        lost=lost,
    )


def accuracies(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Share]:
    """The accuracy on held-out pairs, by name, beside what it must be compared with."""
    reached = given.get("reward_accuracy")
    beside = reached if isinstance(reached, dict) else {}
    found = {}
    for name, value, colour in (
        ("reward model", own.get("accuracy") or reached, "after"),
        *((f"by {name}", one.get("accuracy"), "after") for name, one in (own.get("criteria") or {}).items()),
        ("length alone", own.get("length_baseline", beside.get("length_baseline")), "muted"),
        ("two labellers agree", own.get("agreement", beside.get("agreement")), "muted"),
        ("ceiling: the labellers’ noise", own.get("ceiling", beside.get("ceiling")), "muted"),
    ):
        if (share := words.interval(value)) and share["value"] is not None:
            found[name] = Share(name, share["value"], share["low"], share["high"], colour)
    return found


def sentences(own: dict[str, Any], given: dict[str, Any], shares: dict[str, Share]) -> list[str]:
    """What the accuracy is worth, what people say of it, and what an ensemble's disagreement does."""
    length, ceiling, reached = (shares.get(name) for name in ("length alone", "ceiling: the labellers’ noise", "reward model"))
    noise = ""
    if ceiling and reached and ceiling.value > 0.5:
        part = words.percent((reached.value - 0.5) / (ceiling.value - 0.5), 0)
        noise = f"Of what the labellers’ noise allows, from one half up to the ceiling, this is {part}."
    return [
        accuracy_sentence(
            words.interval(own.get("accuracy")) or words.interval(given.get("reward_accuracy")), length.value if length else None
        ),
        noise,
        words.agreement(given.get("agreement")),
        words.disagreement(own.get("disagreement")) or "",
    ]


def accuracy_sentence(reached: dict[str, float | None] | None, length: float | None) -> str:
    """What the accuracy is, and whether it is more than length."""
    if reached is None or reached["value"] is None:
        return ""
    pairs = f"{words.decimal(reached['n'], 0)} pairs" if reached["n"] else "pairs"
    said = f"On held-out prompts the reward model puts {words.percent(reached['value'])} of {pairs} in the labellers’ order"
    if reached["low"] is not None and reached["high"] is not None:
        said += f" (95\u202f% interval {words.span(reached['low'], reached['high'])})"
    if length is None:
        return said + "."
    low = reached["low"] if reached["low"] is not None else reached["value"]
    if low > length:
        return f"{said}; going by length alone reaches {words.percent(length)}, which lies below that interval."
    return f"{said}; going by length alone reaches {words.percent(length)}, so it is not shown to know more than length."


def charts(own: dict[str, Any], shares: list[Share], found: list[rewarded.Pair]) -> list[Chart]:
    """How often it is right: in all, by how sure it is, by length and by margin."""
    made = []
    if shares:
        made.append(Chart("Accuracy on held-out pairs", share_chart(shares, "Accuracy on held-out pairs")))
    if bins := [b for b in own.get("calibration") or [] if isinstance(b, dict) and b.get("n")]:
        error = sum(b["n"] * abs(b["observed"] - b["predicted"]) for b in bins) / sum(b["n"] for b in bins)
        made.append(Chart("Calibration", calibration_chart(bins), f"{DIAGONAL} Expected calibration error {words.percent(error)}."))
    if margins := [b for b in own.get("margins") or [] if isinstance(b, dict)]:
        made.append(Chart("Margins", histogram(margins, "Margins", "reward, chosen − rejected"), LEADS))
    for title, of, note in (
        ("Accuracy by length", rewarded.by_length(found), BY_LENGTH),
        ("Accuracy by margin", rewarded.by_margin(found), BY_MARGIN),
    ):
        if of:
            made.append(Chart(title, share_chart(of, title, low=0.3), note))
    return made
