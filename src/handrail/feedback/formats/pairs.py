"""Formats of pairs: a ranking taken apart into each of its pairs that is not tied."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from handrail.feedback.formats.asked import scale
from handrail.feedback.formats.options import Made, Options, jsonl
from handrail.feedback.formats.said import Said, Sayings
from handrail.records import Prompt, Ranking, Rating

TIED = "a pair of equal place, which chosen and rejected cannot say"

_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_TURNS = ("\n\nHuman:", "\n\nAssistant:")


@dataclass(frozen=True, slots=True)
class Pair:
    """One response preferred to another.  Of K responses each pair has 1 / C(K, 2) of the ranking's weight."""

    prompt: Prompt
    chosen: str
    rejected: str
    about: dict[str, Any]


def pairs(rankings: Sequence[Said[Ranking]]) -> tuple[list[Pair], Counter[str]]:
    """Every pair that is not tied, in order, and how many are tied."""
    found: list[Pair] = []
    left_out: Counter[str] = Counter()
    for said in rankings:
        untied, every = said.record.pairs(), comb(len(said.record.responses), 2)
        found += [_pair(said.record, better, worse, every) for better, worse in untied]
        left_out[TIED] += every - len(untied)
    return found, +left_out


def _pair(ranking: Ranking, better: int, worse: int, every: int) -> Pair:
    about = {
        "margin": ranking.margin,
        "weight": ranking.weight / every,
        "labeller": ranking.labeller,
        "criterion": ranking.criterion,
        "models": [ranking.models[better], ranking.models[worse]] if ranking.models else [],
        "label_id": ranking.label,
    }
    return Pair(ranking.prompt, ranking.responses[better], ranking.responses[worse], about)


def trl(said: Sayings, options: Options) -> Made:
    """TRL's dataset types, each conversational with an explicit prompt: preference, unpaired preference, prompt-completion.

    What TRL calls `label` is true or false, so the label's id is `label_id`.  RewardTrainer subtracts `margin`.
    """
    found, left_out = pairs(said.rankings)
    preference = ({"prompt": _messages(p.prompt), "chosen": _reply(p.chosen), "rejected": _reply(p.rejected), **p.about} for p in found)
    completions = (
        {"prompt": _messages(r.prompt), "completion": _reply(r.response), "author": r.author, "label_id": r.label}
        for r in (s.record for s in said.demonstrations)
    )
    files = jsonl({"preference": preference, "unpaired": _unpaired(said, options, left_out), "demonstrations": completions})
    return Made(files, "For TRL's DPOTrainer and RewardTrainer (preference), KTOTrainer (unpaired), SFTTrainer (demonstrations).", left_out)


def _unpaired(said: Sayings, options: Options, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Above the threshold a response is wanted, below it not; by default it is the middle of the scale that the rater saw."""
    alike: dict[tuple[str, str, int], list[Said[Rating]]] = {}
    for s in said.ratings:
        alike.setdefault((s.record.criterion, s.label.task, s.label.revision), []).append(s)
    middle = {seen: sum(scale(seen[0], some, options)) / 2 for seen, some in alike.items()}
    for s in said.ratings:
        rating = s.record
        threshold = middle[rating.criterion, s.label.task, s.label.revision] if options.threshold is None else options.threshold
        if rating.score == threshold:
            left_out[f"a rating of exactly the threshold, {threshold:g}"] += 1
        else:
            yield {
                "prompt": _messages(rating.prompt),
                "completion": _reply(rating.response),
                "label": rating.score > threshold,
                "score": rating.score,
                "criterion": rating.criterion,
                "labeller": rating.labeller,
                "label_id": rating.label,
            }


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def transcripts(said: Sayings, options: Options) -> Made:
    """Pairs of whole transcripts in the manner of Bai et al. 2022.

    A text with the heading of a turn in it would be read as a turn that nobody said: such pairs are left out.
    """
    found, left_out = pairs(said.rankings)
    rows = []
    for pair in found:
        reason = _no_transcript(pair)
        if reason:
            left_out[reason] += 1
            continue
        before = "".join(f"\n\n{_SPEAKERS[m.role]}: {m.content}" for m in pair.prompt.messages)
        sides = {side: f"{before}\n\nAssistant: {text}" for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))}
        rows.append(sides | pair.about)
    for kind, records in (("rating", said.ratings), ("demonstration", said.demonstrations)):
        if records:
            left_out[f"a {kind}, which is no pair"] += len(records)
    return Made(jsonl({"transcripts": rows}), "Transcripts: text before and after each turn's words is not significant.", left_out)


def _no_transcript(pair: Pair) -> str:
    if pair.prompt.messages[0].role == "system":
        return "a system message, which a transcript has no turn for"
    texts = [m.content for m in pair.prompt.messages] + [pair.chosen, pair.rejected]
    if any(turn in f"\n\n{text}\n\n" for text in texts for turn in _TURNS):
        return "a text with the heading of a turn in it"
    if pair.chosen.strip() == pair.rejected.strip():
        return "two responses that differ by space around them alone"
    return ""
