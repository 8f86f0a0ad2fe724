"""Habits that show without knowing what is right: haste, a liking for a position, one answer to everything, ties."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np

from handrail.feedback.kinds import Chatted, Demonstrated, Label
from handrail.feedback.quality.concern import Concern, tail
from handrail.feedback.quality.figures import FEWEST
from handrail.feedback.quality.sheets import Sheet, first_answers

READING = 700.0  # words a minute: three times the 238 at which adults read silently, Brysbaert 2019
TYPING = 150.0  # words a minute: three times the 52 at which people type, Dhakal et al. 2018
HASTE = 2.0  # times the pace of the others
ONE_ORDER = 0.8  # share of answers with the same order on the screen above which the order cannot have been random
SAME = 0.8  # share of answers that are one and the same
FEW_TIES = 0.1  # share of verdicts of the others that are ties, above which to have none is odd
ALL_TIES = 0.9


def words(label: Label) -> tuple[int, float]:
    """How many words an answer took, and the words a minute above which it is hasty."""
    if isinstance(label.answer, Demonstrated):
        return len(label.answer.text.split()), TYPING
    texts = [message.content for message in label.prompt.messages] + list(label.responses)
    if isinstance(label.answer, Chatted):
        texts += [response for turn in label.answer.turns for response in turn.responses]
    return sum(len(text.split()) for text in texts), READING


def speed(labels: Sequence[Label]) -> Iterator[Concern]:
    """Who goes faster than reading or typing allows, and far faster than the others.

    Words are what stands between spaces, so that in scripts without spaces nothing is said.  Answers without a time are
    left out, and so are practice and what an adjudicator settled, whose time nobody measured.
    """
    paces: dict[str, dict[str, list[tuple[float, float, int, float]]]] = {}
    for label in labels:
        if label.seconds > 0 and not label.flagged and label.purpose not in ("practice", "adjudication"):
            count, limit = words(label)
            told = (60 * count / label.seconds, label.seconds, count, limit)
            paces.setdefault(label.answer.kind, {}).setdefault(label.labeller, []).append(told)
    for kind in sorted(paces):
        middle = {name: median(each[0] for each in told) for name, told in paces[kind].items() if len(told) >= FEWEST}
        for name, pace in sorted(middle.items()):
            others = [middle[other] for other in middle if other != name]
            limit = paces[kind][name][0][3]
            if pace <= limit or (others and pace <= HASTE * median(others)):
                continue
            seconds, length = (median(each[at] for each in paces[kind][name]) for at in (1, 2))
            evidence: dict[str, float] = {
                "answers": len(paces[kind][name]),
                "seconds": seconds,
                "words": length,
                "words_a_minute": pace,
                "limit": limit,
            }
            beside = ""
            if others:
                evidence["others_words_a_minute"] = median(others)
                beside = f"; the others are at {median(others):.0f} words a minute"
            yield Concern(
                name="speed",
                labeller=name,
                severity="warning",
                evidence=evidence,
                message=f"{name} takes {seconds:.1f} s at the median for {length:.0f} words, {pace:.0f} a minute{beside}. "
                f"More than {limit:.0f} is faster than people {'type' if kind == 'demonstrate' else 'read'}.",
                advice="Ask how the work goes: texts may be read or written elsewhere, the load too high or the task dull. "
                "Show again some of the items to this labeller, and give some of them to others.",
            )


def shuffled(sheet: Sheet, rows: np.ndarray) -> np.ndarray:
    """Which of the rows know their order on the screen; none where nearly all have the same, as labels from files do."""
    known = [row for row in rows.tolist() if len(sheet.labels[row].order) == (~np.isnan(sheet.value[row])).sum() > 1]
    seen = Counter(sheet.labels[row].order for row in known)
    return np.array([] if not seen or max(seen.values()) > ONE_ORDER * len(known) else known, int)


def position(sheet: Sheet, level: float) -> Iterator[Concern]:
    """Whose best response is the one shown first more or less often than chance: the order on the screen is random.

    Two-sided binomial test over the answers with one best response; the chance is 1 / K of each.
    """
    for number, name in enumerate(sheet.labellers):
        rows = shuffled(sheet, np.flatnonzero(sheet.labeller == number))
        best = sheet.score[rows] == np.nanmax(sheet.score[rows], axis=1, keepdims=True) if len(rows) else np.zeros((0, 1), bool)
        rows, best = rows[best.sum(1) == 1], best[best.sum(1) == 1].argmax(1)
        if len(rows) < FEWEST:
            continue
        chance = 1 / (~np.isnan(sheet.value[rows])).sum(1)
        first = np.array([sheet.labels[row].order[0] for row in rows]) == best
        n, wins = len(rows), int(first.sum())
        p = 2 * min(tail(chance, wins), tail(1 - chance, n - wins))
        if p >= level:
            continue
        share, expected = wins / n, float(chance.mean())
        yield Concern(
            name="position",
            labeller=name,
            severity="serious" if abs(share - expected) > 0.3 else "warning",
            evidence={"answers": n, "share_first": share, "chance": expected, "p": min(1.0, p)},
            message=f"{name} puts what is shown first in first place in {share:.0%} of {n} answers; by chance it would be {expected:.0%}.",
            advice="Tell the labeller, kindly, that the order means nothing and that a second look at what stands last pays. "
            "Since the order is random, the labels are noisier but do not favour a model.",
        )


def look(sheet: Sheet, row: int) -> tuple[float, ...]:
    """An answer as it stood on the screen."""
    order = sheet.labels[row].order or range(int((~np.isnan(sheet.value[row])).sum()))
    return tuple(float(sheet.value[row, response]) for response in order)


def same_answer(sheet: Sheet, level: float) -> Iterator[Concern]:
    """Who gives one answer, as it looks on the screen, nearly always, where others do not.  Ties are left to `ties`."""
    usual: dict[str, tuple[tuple[float, ...], int, int]] = {}
    for number, name in enumerate(sheet.labellers):
        mine = np.flatnonzero(sheet.labeller == number)
        rows = mine if sheet.value.shape[1] == 1 else shuffled(sheet, mine)
        looks = [look(sheet, row) for row in rows.tolist()]
        if len(looks) >= FEWEST:
            usual[name] = (*Counter(looks).most_common(1)[0], len(looks))
    for name, (seen, count, n) in usual.items():
        others = [usual[other][1] / usual[other][2] for other in usual if other != name]
        expected = max([0.5, median(others)] if others else [0.5])
        tied = len(seen) > 1 and len(set(seen)) == 1
        if tied or count < SAME * n or tail(np.full(n, expected), count) >= level:
            continue
        yield Concern(
            name="same answer",
            labeller=name,
            severity="serious",
            evidence={"answers": n, "share": count / n, "expected": expected},
            message=f"{name} gives the same answer, as it looks on the screen, in {count} of {n} cases "
            f"({', '.join(f'{each:g}' for each in seen)}); the others' commonest answer makes up {expected:.0%} or less.",
            advice="See whether the page works on this labeller's device, then go through two or three items together. "
            "Until then leave these labels out of training.",
        )


def same_text(labels: Sequence[Label]) -> Iterator[Concern]:
    """Who writes the same demonstration to different items."""
    texts: dict[str, list[str]] = {}
    for label in first_answers(labels):
        if isinstance(label.answer, Demonstrated):
            texts.setdefault(label.labeller, []).append(" ".join(label.answer.text.split()))
    for name in sorted(texts):
        n, count = len(texts[name]), Counter(texts[name]).most_common(1)[0][1]
        if n >= FEWEST and count > n / 2:
            yield Concern(
                name="same answer",
                labeller=name,
                severity="serious",
                evidence={"answers": n, "share": count / n},
                message=f"{name} wrote the same text in {count} of {n} demonstrations.",
                advice="See whether the page works on this labeller's device and whether the instructions are clear. "
                "Until then leave these demonstrations out of training.",
            )


def ties(sheet: Sheet, level: float) -> Iterator[Concern]:
    """Who says tie always, or never, where the others on the same items do otherwise."""
    if sheet.kind == "rate":
        return
    tied = np.mean(sheet.verdict == 0, axis=1, where=~np.isnan(sheet.verdict))
    for number, name in enumerate(sheet.labellers):
        mine = sheet.labeller == number
        rest = ~mine & np.isin(sheet.item, sheet.item[mine])
        n = int(mine.sum())
        if n < FEWEST or rest.sum() < FEWEST:
            continue
        share, others, all_tied, others_all = tied[mine].mean(), tied[rest].mean(), int((tied[mine] == 1).sum()), (tied[rest] == 1).mean()
        never = share == 0 and others >= FEW_TIES and (1 - (tied[rest] > 0).mean()) ** n < level
        always = all_tied >= ALL_TIES * n and others_all <= 0.5 and tail(np.full(n, others_all), all_tied) < level
        if never or always:
            yield Concern(
                name="ties",
                labeller=name,
                severity="serious" if always else "note",
                evidence={"answers": n, "share_ties": float(share), "others_share_ties": float(others)},
                message=f"{name} calls {'no pair' if never else f'{share:.0%} of pairs'} of responses a tie in {n} answers; "
                f"the others, on the same items, {others:.0%}.",
                advice="Go through the rule for ties together: it may be read differently, or stand badly in the instructions.",
            )
