"""One item with all that was said of it, by people and by reward models, and the runs that learnt from it."""

import math
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from handrail.errors import DataError, HandrailError
from handrail.feedback.kinds import ANSWER, Item, Label, Turn
from handrail.feedback.quality import Consensus
from handrail.feedback.store import browse, review
from handrail.feedback.store.labels import Standing
from handrail.feedback.store.looking import Looked
from handrail.feedback.store.projects import Task
from handrail.feedback.store.review import Past
from handrail.feedback.words import in_words, letter
from handrail.inspector.origins import Origin, origins
from handrail.inspector.rewarded import FILE, read_verdicts
from handrail.inspector.server.runs import Entry, Runs
from handrail.inspector.server.stores import Store, may_keep
from handrail.records import places_of

ACTS = {
    "submit": "answered",
    "edit": "changed the answer",
    "adjudicate": "settled it",
    "skip": "skipped it",
    "flag": "flagged it",
    "undo": "took back",
    "offer": "offered it again",
    "dismiss": "dismissed the flag",
    "uphold": "found the flag right",
    "turn": "wrote a message",
    "choose": "chose an answer",
}


def one_item(db: Looked, task: Task, item: str) -> dict[str, Any]:
    """The item, and what everybody said of it, in the letters of the item's own order.  Raises InputError, StorageError."""
    found, said = review.of_item(db, task, item)
    labels = {label.id: label for label in said}
    content = found.content
    return {
        "id": found.id,
        "number": found.position + 1,
        "purpose": found.purpose,
        "overlap": task.settings.overlap,
        "kind": task.settings.kind,
        "title": task.settings.title or task.name,
        "content": content,
        "letters": [letter(i) for i in range(len(content.responses))],
        "gold": in_words(content.gold) if content.gold else "",
        "asked": [asked_of(one, labels.get(one.id)) for one in browse.asked(db, item)],
    }


def asked_of(one: browse.Asked, label: Label | None) -> dict[str, Any]:
    """An item before somebody: what they answered, if they did, and all that was done."""
    stood = "".join(letter(i) for i in one.order)
    about = {"id": one.id, "labeller": label.labeller if label else one.person, "purpose": one.purpose, "repetition": one.repetition}
    about |= {"state": one.state, "stood": stood, "past": list(history(one.past)), "answer": "", "turns": []}
    if label is None:
        return about
    turns = [told_turn(turn) for turn in getattr(label.answer, "turns", ())]
    return about | {
        "answer": in_words(label.answer),
        "turns": turns,
        "reason": label.reason,
        "at": label.at,
        "seconds": label.seconds,
        "flagged": label.flagged,
        "extra": label.extra,
        "revision": label.revision,
        "shown": label.shown,
    }


def told_turn(turn: Turn) -> dict[str, Any]:
    """A turn of a chat."""
    return {"message": turn.message, "responses": list(turn.responses), "better": None if turn.tie else turn.better}


def history(past: Sequence[Past]) -> Iterator[dict[str, Any]]:
    """What was done, in words, in order."""
    standing = Standing()
    for one in past:
        act = ACTS.get(one.act, one.act)
        if one.act == "undo" and standing.acts:
            act = f"{act}: {ACTS.get(standing.acts[-1], standing.acts[-1])}"
        told = in_words(ANSWER.validate_python(one.body["answer"])) if "answer" in one.body else ""
        yield {"at": one.at, "by": one.by, "act": act, "answer": told, "reason": one.body.get("reason", ""), "seconds": one.seconds}
        standing.apply(one.act, one.body, one.at, one.seconds)


def together(consensus: Sequence[tuple[str, Consensus]]) -> list[dict[str, Any]]:
    """The ranking that all answers give together, by each criterion."""
    return [
        {"criterion": criterion, "places": list(one.places), "utility": list(one.utility), "spread": list(one.spread)}
        for criterion, one in consensus
    ]


def rewards(runs: Runs, content: Item) -> list[dict[str, Any]]:
    """What reward models said of these very texts when they were tested: the score and the place of each response.

    A response that the model was not asked about has None.
    """
    found = []
    prompt = content.prompt.id
    for entry in runs.all():
        for criterion, verdict in tested(entry).get(prompt, {}).items():
            scores = dict(zip(verdict["responses"], verdict["scores"], strict=True))
            mine = [scores.get(text) for text in content.responses]
            known = [score for score in mine if score is not None]
            if known:
                places = iter(places_of(known))
                told = {"run": entry.path, "criterion": criterion, "scores": mine, "unit": verdict.get("unit", 1.0)}
                found.append(told | {"places": [None if score is None else next(places) for score in mine]})
    return found


def tested(entry: Entry) -> dict[str, dict[str, dict[str, Any]]]:
    """The verdicts of a reward model's run by the prompt's id and the criterion; none of any other run."""
    try:
        found = (entry.folder / FILE).stat() if entry.stage == "reward" else None
        return verdicts_of(entry.folder, found.st_size, found.st_mtime_ns) if found else {}
    except (OSError, DataError):  # of a damaged file the page of its run tells
        return {}


@lru_cache(maxsize=64)
def verdicts_of(folder: Path, size: int, written: int) -> dict[str, dict[str, dict[str, Any]]]:
    """The same of a file of this size that was written then: it is read once."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for verdict in read_verdicts(folder):
        of_prompt = found.setdefault(str(verdict.get("prompt_id", "")), {})
        known = of_prompt.setdefault(str(verdict.get("criterion", "")), {"responses": [], "scores": [], "unit": verdict.get("unit", 1.0)})
        known["responses"] += verdict["responses"]
        known["scores"] += verdict["scores"]
    return found


def compared(letters: Sequence[str], people: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]]) -> list[str]:
    """What each reward model holds, beside what people say together, in a sentence each."""
    told = []
    for one in models:
        known = [i for i, score in enumerate(one["scores"]) if score is not None]
        same = next((each for each in people if each["criterion"] == one["criterion"]), people[0] if people else None)
        if len(known) == 2 and (gap := one["scores"][known[0]] - one["scores"][known[1]]):
            better, sure = known[gap < 0], 1 / (1 + math.exp(-min(700.0, abs(gap) * one["unit"])))
            sentence = f"{one['run']} holds {letters[better]} to be better, {100 * sure:.0f} % likely"
            first = [letters[i] for i in known if same and same["places"][i] < max(same["places"][j] for j in known)]
            told.append(f"{sentence}; people put {first[0]} first." if len(first) == 1 else f"{sentence}.")
        elif same and len(known) > 2:
            apart = [(i, j) for i in known for j in known if same["places"][i] < same["places"][j]]
            right = sum(one["scores"][i] > one["scores"][j] for i, j in apart)
            told.append(f"{one['run']} orders {right} of the {len(apart)} pairs as people do together.")
    return told


def learnt_by(runs: Runs, store: Store, labels: Collection[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs that have learnt from one of these labels of a store, from how many, through which run; and what could not be read."""
    found, unread = [], list[str]()
    wanted = set(labels)
    counted: dict[Path, int] = {}
    for entry in runs.all():
        try:
            behind = origins(entry.folder)
        except (HandrailError, OSError) as error:
            unread.append(f"{entry.path}: {error}".splitlines()[0])
            continue
        for origin in (one for one in behind if may_keep(store, one)):
            if (number := counted_in(counted, origin, wanted)) > 0:
                found.append({"run": entry.path, "stage": entry.title, "labels": number, "through": through(runs, entry, origin)})
    return found, unread


def counted_in(counted: dict[Path, int], origin: Origin, wanted: set[str]) -> int:
    """How many of the wanted labels a file has; many runs read one file."""
    if origin.file not in counted:
        counted[origin.file] = sum(label in wanted for label in origin.labels)
    return counted[origin.file]


def through(runs: Runs, entry: Entry, origin: Origin) -> str:
    """The run behind this one that read the labels; "" where it was this one."""
    if origin.run.resolve() == entry.folder.resolve():
        return ""
    behind = origin.run.resolve()
    return behind.relative_to(runs.root).as_posix() if behind.is_relative_to(runs.root) else str(behind)
