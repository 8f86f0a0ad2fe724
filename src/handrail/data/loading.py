"""Records from a source: the format found or named, each row read, what a rule leaves out counted."""

import difflib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from handrail.data.fields import Drop
from handrail.data.files import Row, open_rows
from handrail.data.formats import FORMATS, Format
from handrail.data.ratings import rankings_of
from handrail.data.settings import Source
from handrail.data.split import prompt_of
from handrail.errors import ConfigError, DataError
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

R = TypeVar("R", Prompt, Demonstration, Response, Ranking, Rating)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[R]):
    """What was read, and how."""

    records: list[R]
    format: str
    described: str  # one sentence: the format, what became what, how many rows, how many left out and why
    dropped: dict[str, int]  # records that a rule left out, by reason
    sha256: str  # of the content of the files


# Who was asked what, and the answer: one question with two answers is a contradiction.
Label = tuple[Hashable, Hashable]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is asked for: from which types of record it can be taken, and which labels it holds."""

    name: str
    takes: dict[type, Callable[[Any], Any]]  # in the order in which they are tried
    labels: Callable[[Any], Iterable[Label]] = lambda record: ()
    repeats: bool = True  # whether two equal prompts are two records
    gathered: Callable[[list[Any], Counter[str]], list[Any]] = lambda records, dropped: records  # what several rows make together


def load_demonstrations(source: Source) -> Loaded[Demonstration]:
    """Demonstrations; of comparisons and rankings, the best response is taken.  Raises DataError, ConfigError."""
    return _load(source, _Kind("demonstrations", {Demonstration: _itself, Ranking: _best}))


def load_prompts(source: Source) -> Loaded[Prompt]:
    """Distinct prompts; of any other kind of record, its prompt is taken.  Raises DataError, ConfigError."""
    kinds = (Prompt, Ranking, Demonstration, Response, Rating)
    return _load(source, _Kind("prompts", dict.fromkeys(kinds, prompt_of), repeats=False))


def load_rankings(source: Source) -> Loaded[Ranking]:
    """Rankings; a comparison is one of two, and ratings of a prompt's responses are one.  Raises DataError, ConfigError."""
    return _load(source, _Kind("rankings", {Ranking: _itself, Rating: _itself}, _labels, gathered=_rankings))


def load_verdicts(source: Source) -> Loaded[Ranking]:
    """Rankings as they were given, those that contradict each other too: for counting what was said.  Raises DataError, ConfigError."""
    return _load(source, _Kind("rankings", {Ranking: _itself}))


def load_ratings(source: Source) -> Loaded[Rating]:
    """Ratings.  Raises DataError, ConfigError."""
    return _load(source, _Kind("ratings", {Rating: _itself}, _rating_labels))


def load_responses(source: Source) -> Loaded[Response]:
    """What models answered.  Raises DataError, ConfigError."""
    return _load(source, _Kind("responses", {Response: _itself}))


def _itself(record: Any) -> Any:
    return record


def _best(ranking: Ranking) -> Demonstration:
    return Demonstration(prompt=ranking.prompt, response=ranking.responses[ranking.places.index(min(ranking.places))])


def _rankings(records: list[Any], dropped: Counter[str]) -> list[Any]:
    if not (records and isinstance(records[0], Rating)):
        return records
    rankings, alone = rankings_of(records)
    if alone:
        dropped["the only rating of its prompt by its labeller"] = alone
    return rankings


def _labels(record: Ranking | Rating) -> Iterable[Label]:
    return _rating_labels(record) if isinstance(record, Rating) else _ranking_labels(record)


def _ranking_labels(ranking: Ranking) -> Iterable[Label]:
    for better, worse in ranking.pairs():
        pair = frozenset((ranking.responses[better], ranking.responses[worse]))
        yield (ranking.labeller, ranking.criterion, ranking.prompt.text, pair), ranking.responses[better]


def _rating_labels(rating: Rating) -> Iterable[Label]:
    yield (rating.labeller, rating.prompt.text, rating.response, rating.criterion), rating.score


def _load(source: Source, kind: _Kind) -> Loaded:
    known = [form for made in kind.takes for form in FORMATS if form.makes is made]
    named = None if source.format == "auto" else _named(source.format, known, kind.name)
    _check_columns(source, [named] if named else known)
    rows = open_rows(source)
    mapped = (_mapped(row, source.columns) for row in islice(rows.stream, source.limit or None))
    first = next(mapped, None)
    if first is None:
        raise DataError(f"{rows.name}: it has no records", f"at least one of the {kind.name}", "give another file")
    form = named or _detected(first, known, kind.name)
    dropped: Counter[str] = Counter()
    records: list[Any] = []
    count = 0
    for row in chain([first], mapped):
        count += 1
        try:
            found = [kind.takes[form.makes](record) for record in form.read(row)]
        except Drop as drop:
            dropped[str(drop)] += 1
        else:
            records += found if kind.repeats else found[:1]  # the records of one row share their prompt
    records = kind.gathered(_kept(records, kind, dropped), dropped)
    if not records:
        raise DataError(
            f"{rows.name}: none of {count} rows can be used ({_counts(dropped)})", f"at least one of the {kind.name}", "mend the data"
        )
    described = f"{_describe(form, first, source)}; {count} rows, {len(records)} {kind.name}, {sum(dropped.values())} dropped"
    return Loaded(records, form.name, described + (f" ({_counts(dropped)})" if dropped else ""), dict(dropped), rows.sha256)


def _kept(records: list[Any], kind: _Kind, dropped: Counter[str]) -> list[Any]:
    """The records that the rules leave; the others are counted."""
    kept = [record for record in records if not (isinstance(record, Demonstration) and not record.response.strip())]
    dropped["empty response"] += len(records) - len(kept)
    if not kind.repeats:
        by_text: dict[str, Prompt] = {}
        for record in kept:
            by_text.setdefault(record.text, record)
        distinct = list(by_text.values())
        dropped["the same prompt again"] += len(kept) - len(distinct)
        kept = distinct
    trusted = _without_contradictions(kept, kind.labels)
    dropped["contradicts another label of the same labeller"] += len(kept) - len(trusted)
    for reason in [reason for reason, number in dropped.items() if not number]:
        del dropped[reason]
    return trusted


def _without_contradictions(records: list[Any], labels: Callable[[Any], Iterable[Label]]) -> list[Any]:
    """The records without those that hold a label which its labeller gave otherwise elsewhere: neither can be trusted."""
    answers: dict[Hashable, set[Hashable]] = {}
    for record in records:
        for question, answer in labels(record):
            answers.setdefault(question, set()).add(answer)
    return [record for record in records if all(len(answers[question]) == 1 for question, _ in labels(record))]


def _named(name: str, known: list[Format], kind: str) -> Format:
    found = next((form for form in known if form.name == name), None)
    if found:
        return found
    names = list(dict.fromkeys(form.name for form in known))
    near = difflib.get_close_matches(name, names, n=1)
    other = any(form.name == name for form in FORMATS)
    raise ConfigError(
        f"format: '{name}' holds no {kind}" if other else f"format: there is no format '{name}'",
        f"for {kind}: auto, {', '.join(names)}",
        f"did you mean '{near[0]}'?" if near and not other else "leave it at 'auto' to have it found",
    )


def _check_columns(source: Source, forms: list[Format]) -> None:
    ours = sorted(set().union(*(form.fields for form in forms)))
    for field in source.columns:
        if field not in ours:
            near = difflib.get_close_matches(field, ours, n=1)
            raise ConfigError(
                f"columns: '{field}' is none of our fields", ", ".join(ours), f"did you mean '{near[0]}'?" if near else "ours: theirs"
            )


def _mapped(row: Row, columns: dict[str, str]) -> Row:
    if not columns:
        return row
    theirs = {name: value for name, value in row.values.items() if name not in columns.values()}
    for field, column in columns.items():
        try:
            theirs[field] = _inside(row.values, column)
        except KeyError:
            near = difflib.get_close_matches(column, row.values, n=1)
            raise DataError(
                f"{row.where}: there is no column '{column}' to take as {field}",
                f"the columns {', '.join(row.values)}",
                f"did you mean '{near[0]}'?" if near else "correct `columns`",
            ) from None
    return Row(row.where, theirs)


def _inside(values: dict[str, Any], column: str) -> Any:
    """The value of a column, or inside it: `data.question`.  Raises KeyError if there is none."""
    if column in values:
        return values[column]
    name, _, rest = column.partition(".")
    inner = values[name]
    if not rest or not isinstance(inner, dict):
        raise KeyError(column)
    return _inside(inner, rest)


def _detected(row: Row, known: list[Format], kind: str) -> Format:
    found = next((form for form in known if form.fits(row.values)), None)
    if found:
        return found
    needs = "; ".join(f"{form.name} ({', '.join(form.needs).replace('|', ' or ')})" for form in known)
    raise DataError(
        f"{row.where}: the fields {', '.join(row.values) or '(none)'} are no format of {kind}",
        f"one of {needs}",
        "map the fields with `columns`, for example columns: {prompt: question}",
    )


def _describe(form: Format, first: Row, source: Source) -> str:
    mapping = "".join(f", {theirs} read as {ours}" for ours, theirs in source.columns.items())
    unused = [name for name in first.values if name not in form.fields]
    return f"{form.name}: {form.says}{mapping}" + (f" (not used: {', '.join(unused)})" if unused else "")


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in dropped.most_common())
