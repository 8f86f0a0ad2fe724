"""Records to items, native items, and a project as one file."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from handrail.errors import DataError, InputError
from handrail.feedback.formats import (
    Archive,
    ArchiveEvent,
    ArchiveHeader,
    ArchiveItem,
    ArchivePerson,
    ArchiveTask,
    items_of,
    read_archive,
    read_items,
    write_archive,
    write_items,
)
from handrail.feedback.kinds import Compared, Item, Kind, Rated, TaskSettings, fits
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

P, Q = Prompt.of("p"), Prompt.of("q")


def responses(*given: tuple[str, str], prompt: Prompt = P) -> list[Response]:
    return [Response(prompt=prompt, text=text, model=model) for text, model in given]


def test_responses_are_gathered_by_prompt_with_their_models():
    given = [*responses(("a", "sft"), ("b", "ppo")), *responses(("z", "sft"), prompt=Q), *responses(("a", "ppo"), ("c", ""))]
    found = items_of(given, "rank")
    assert found.items == [Item(prompt=P, responses=("a", "b", "c"), models=("sft", "ppo", ""))]
    assert found.left_out == {"the same text again, to the same prompt": 1, "a prompt with one response": 1}
    assert items_of(given, "rate").items[1] == Item(prompt=Q, responses=("z",), models=("sft",))


def test_pairs_are_made_and_what_is_over_is_counted():
    five = responses(*((text, "m") for text in "abcde"))
    found = items_of(five, "compare")
    assert [item.responses for item in found.items] == [("a", "b"), ("c", "d")]
    assert found.left_out == {"a response left over when the others are in pairs": 1}
    twelve = responses(*((str(n), "") for n in range(12)))
    assert [len(item.responses) for item in items_of(twelve, "rank").items] == [9]
    assert items_of(twelve, "rank").left_out == {"a response beyond 9 to a prompt": 3}
    assert [item.responses for item in items_of(twelve, "rate", most=2).items] == [("0", "1")]
    with pytest.raises(InputError, match=r"at most 10 responses an item(.|\n)*2 to 9"):
        items_of(twelve, "rank", most=10)


def test_comparisons_are_compared_again_and_ratings_rated_anew():
    rankings = [
        Ranking(prompt=P, responses=("a", "b"), places=(1, 2), models=("m", "n")),
        Ranking(prompt=P, responses=("b", "a"), places=(1, 1)),
    ]
    found = items_of(rankings, "compare")
    assert found.items == [Item(prompt=P, responses=("a", "b"), models=("m", "n"))] and found.left_out == {"the same item again": 1}
    ratings = [Rating(prompt=P, response=text, score=score, criterion=c) for text, score in (("a", 1), ("b", 2)) for c in ("Kind", "Short")]
    assert items_of(ratings, "rate").items == [Item(prompt=P, responses=("a", "b"))]


def test_prompts_and_demonstrations():
    demonstration = Demonstration(prompt=P, response="ideal")
    assert items_of([P, Q, P], "demonstrate").items == [Item(prompt=P), Item(prompt=Q)]
    assert items_of([P, Q, P], "demonstrate").left_out == {"the same item again": 1}
    assert items_of([demonstration, *responses(("a", "sft"))], "demonstrate").items == [
        Item(prompt=P, responses=("ideal",)),
        Item(prompt=P, responses=("a",), models=("sft",)),
    ]
    assert items_of([demonstration, Q], "chat").items == [Item(prompt=P), Item(prompt=Q)]
    assert items_of([P], "rank").left_out == {"a prompt without a response": 1}


@pytest.mark.parametrize("kind", ["demonstrate", "compare", "rank", "rate", "chat"])
def test_every_item_fits_its_task(kind: Kind):
    settings = TaskSettings(kind=kind, models=("m", "n") if kind == "chat" else ())
    given = [P, *responses(*((t, "m") for t in "abcdefghijk")), Ranking(prompt=Q, responses=("a", "a", "b"), places=(1, 1, 2))]
    found = items_of(given, kind)
    assert found.items
    for item in found.items:
        fits(settings, item)


NATIVE = [
    Item(prompt=P, responses=("a\u2028\x00", "b"), models=("m", "n"), meta={"batch": 1}, priority=2.5),
    Item(prompt=P, responses=("a", "b"), gold=Compared(better=1, strength="clearly")),
    Item(prompt=P, responses=("a", "b"), gold=Compared(better=0), practice=True, explanation="It says why."),
    Item(prompt=Q, responses=("a",), gold=Rated(ratings=({"overall": 3},))),
    Item(prompt=Q),
]


def test_native_items_come_back(tmp_path: Path):
    path = tmp_path / "new" / "items.jsonl"
    write_items(path, [*NATIVE, NATIVE[0]])
    assert len(path.read_text().splitlines()) == 6
    found = read_items(path)
    assert found.items == NATIVE and found.left_out == {"the same item again": 1}
    path.write_text('\ufeff{"prompt": {"messages": [{"role": "user", "content": "p"}]}}\n\n')
    assert read_items(path).items == [Item(prompt=P)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"promt": 1}', "line 2: 'prompt': Field required"),
        ('{"prompt": {"messages": [{"role": "user", "content": "p"}]}, "gold": {"kind": "compare", "better": 2}}', "'gold.compare.better'"),
        ('{"prompt": {"messages": [{"role": "user", "content": "p"}]}, "practice": true}', "a practice item needs gold"),
        ('{"prompt": {"messages": [{"role": "user", "content": "\\ud800"}]}}', "Invalid JSON: unexpected end of hex escape"),
        ('{"prompt"', "Invalid JSON"),
    ],
)
def test_items_that_are_wrong_are_refused_with_their_line(line: str, said: str, tmp_path: Path):
    path = tmp_path / "items.jsonl"
    write_items(path, NATIVE[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_items(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")


def test_items_that_no_file_can_hold(tmp_path: Path):
    with pytest.raises(DataError, match="item 2"):
        write_items(tmp_path / "items.jsonl", [NATIVE[0], Item(prompt=Prompt.of("\ud800"))])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


# --- archive ---


def archive() -> Archive:
    settings = TaskSettings(kind="compare", instructions="Compare.\u2028Well.")
    return Archive(
        ArchiveHeader(project="films", written=1.7e9),
        tasks=[ArchiveTask(id="t", settings=settings), ArchiveTask(id="t", revision=2, at=5.0, settings=settings)],
        people=[ArchivePerson(pseudonym="labeller-1"), ArchivePerson(pseudonym="admin-1", role="admin")],
        items=[ArchiveItem(id=f"i{n}", task="t", item=item) for n, item in enumerate(NATIVE[:3])],
        events=[
            ArchiveEvent(
                number=1, at=1.0, actor="labeller-1", action="submit", task="t", item="i0", body={"answer": {"better": 0}, "order": [1, 0]}
            ),
            ArchiveEvent(number=2, at=2.0, action="expire", item="i1"),
        ],
    )


def test_an_archive_comes_back_and_is_the_same_bytes(tmp_path: Path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    digest = write_archive(first, archive())
    assert read_archive(first) == archive()
    assert write_archive(second, read_archive(first)) == digest and first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text().splitlines()[-1]) == {"record": "end", "lines": 10, "sha256": digest}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda raw: raw[: len(raw) // 2], "it is cut off"),
        (lambda raw: raw[:-1], "it is cut off"),
        (lambda raw: b"\n".join(raw.split(b"\n")[:-2]) + b"\n", "it is cut off"),
        (lambda raw: b"", "it is cut off"),
        (lambda raw: raw.replace(b"labeller-1", b"labeller-2"), "it was altered"),
        (lambda raw: b"\n".join(line for n, line in enumerate(raw.split(b"\n")) if n != 3), "it has 9 lines where its end counts 10"),
        (lambda raw: raw + b"more\n", "it is cut off"),
    ],
)
def test_an_archive_that_is_not_whole_is_refused(harm: Callable[[bytes], bytes], said: str, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    write_archive(path, archive())
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        read_archive(path)


def test_every_byte_counts(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    write_archive(path, archive())
    raw = path.read_bytes()
    for place in range(0, len(raw), 41):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(DataError):
            read_archive(path)


def _event(**change: object) -> Callable[[Archive], None]:
    return lambda a: a.events.append(ArchiveEvent.model_validate({"number": 3, "at": 3.0, "action": "submit"} | change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_event(number=4), "event 4 where 3 should be"),
        (_event(actor="nobody"), "event 3 names the person 'nobody'"),
        (_event(item="i9"), "event 3 names the item 'i9'"),
        (_event(body={"x": float("nan")}), "record 11: Out of range float"),
        (lambda a: a.items.append(a.items[0]), "the item 'i0' stands twice"),
        (lambda a: a.items.append(ArchiveItem(id="i7", task="u", item=NATIVE[0])), "item 'i7' names the task 'u'"),
    ],
)
def test_an_archive_that_does_not_fit_together_is_not_written(change: Callable[[Archive], None], said: str, tmp_path: Path):
    given = archive()
    change(given)
    with pytest.raises(DataError, match=said):
        write_archive(tmp_path / "a.jsonl", given)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_another_version_is_refused(tmp_path: Path):
    given = archive()
    write_archive(tmp_path / "a.jsonl", Archive(given.header.model_copy(update={"version": 2})))
    with pytest.raises(DataError, match=r"line 1: version 2(.|\n)*version 1"):
        read_archive(tmp_path / "a.jsonl")
