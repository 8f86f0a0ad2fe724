"""Every format, from every kind of file, to the same records; and what the loader says about it."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from handrail.data import (
    Loaded,
    Source,
    load_demonstrations,
    load_prompts,
    load_rankings,
    load_ratings,
    load_responses,
    write_records,
)
from handrail.errors import ConfigError, DataError, StorageError
from handrail.records import Demonstration, Message, Prompt, Ranking, Rating, Response


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def prompt(*turns: tuple[str, str]) -> Prompt:
    return Prompt(messages=tuple(Message.model_validate({"role": role, "content": content}) for role, content in turns))


def lines(path: Path, *rows: Any) -> Source:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return Source(path=str(path))


Q, TALK = ("user", "why?"), (("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "why?"))
LONG = "\n\nHuman: hello\n\nAssistant: hi\n\nHuman: why?\n\nAssistant:"
CASES: dict[str, tuple[Callable[[Source], Loaded], dict[str, Any], str, Any]] = {
    "completion": (
        load_demonstrations,
        {"prompt": "why?", "completion": "so"},
        "completion",
        Demonstration(prompt=prompt(Q), response="so"),
    ),
    "response": (load_demonstrations, {"prompt": "why?", "response": "so"}, "completion", Demonstration(prompt=prompt(Q), response="so")),
    "conversational completion": (
        load_demonstrations,
        {"prompt": said(*TALK), "completion": said(("assistant", "so"))},
        "completion",
        Demonstration(prompt=prompt(*TALK), response="so"),
    ),
    "messages": (
        load_demonstrations,
        {"messages": said(*TALK, ("assistant", "so"))},
        "messages",
        Demonstration(prompt=prompt(*TALK), response="so"),
    ),
    "alpaca": (
        load_demonstrations,
        {"instruction": "add", "input": "1 and 2", "output": "3"},
        "alpaca",
        Demonstration(prompt=Prompt.of("add\n\n1 and 2"), response="3"),
    ),
    "alpaca without input": (
        load_demonstrations,
        {"instruction": "add", "input": "", "output": "3"},
        "alpaca",
        Demonstration(prompt=Prompt.of("add"), response="3"),
    ),
    "best of a ranking": (
        load_demonstrations,
        {"prompt": "why?", "responses": ["a", "b", "c"], "places": [2, 1, 3]},
        "ranking",
        Demonstration(prompt=prompt(Q), response="b"),
    ),
    "prompt": (load_prompts, {"prompt": "why?"}, "prompt", prompt(Q)),
    "prompt of messages": (load_prompts, {"messages": said(*TALK)}, "messages", prompt(*TALK)),
    "prompt of a demonstration": (load_prompts, {"prompt": "why?", "response": "so"}, "prompt", prompt(Q)),
    "prompt of an instruction": (load_prompts, {"instruction": "add", "input": "1"}, "instruction", Prompt.of("add\n\n1")),
    "comparison": (
        load_rankings,
        {"prompt": "why?", "chosen": "so", "rejected": "no"},
        "comparison",
        Ranking(prompt=prompt(Q), responses=("so", "no"), places=(1, 2)),
    ),
    "comparison with a margin": (
        load_rankings,
        {"prompt": "why?", "chosen": "so", "rejected": "no", "margin": 2, "labeller": "ann", "weight": 0.5},
        "comparison",
        Ranking(prompt=prompt(Q), responses=("so", "no"), places=(1, 2), margin=2.0, labeller="ann", weight=0.5),
    ),
    "comparison of messages": (
        load_rankings,
        {"prompt": said(*TALK), "chosen": said(("assistant", "so")), "rejected": said(("assistant", "no"))},
        "comparison",
        Ranking(prompt=prompt(*TALK), responses=("so", "no"), places=(1, 2)),
    ),
    "comparison of conversations": (
        load_rankings,
        {"chosen": said(*TALK, ("assistant", "so")), "rejected": said(*TALK, ("assistant", "no"))},
        "conversations",
        Ranking(prompt=prompt(*TALK), responses=("so", "no"), places=(1, 2)),
    ),
    "comparison of conversations with a prompt": (
        load_rankings,
        {"prompt": "why?", "chosen": said(Q, ("assistant", "so")), "rejected": said(Q, ("assistant", "no"))},
        "comparison",
        Ranking(prompt=prompt(Q), responses=("so", "no"), places=(1, 2)),
    ),
    "transcripts": (
        load_rankings,
        {"chosen": f"{LONG} Assistants say so", "rejected": f"{LONG} Assistants say no"},
        "transcripts",
        Ranking(prompt=prompt(*TALK[1:]), responses=("Assistants say so", "Assistants say no"), places=(1, 2)),
    ),
    "transcripts, one the start of the other": (
        load_rankings,
        {"chosen": f"{LONG} so", "rejected": f"{LONG} so it is"},
        "transcripts",
        Ranking(prompt=prompt(*TALK[1:]), responses=("so", "so it is"), places=(1, 2)),
    ),
    "ranking with ties": (
        load_rankings,
        {"prompt": "why?", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]},
        "ranking",
        Ranking(prompt=prompt(Q), responses=("a", "b", "c"), places=(1, 2, 2)),
    ),
    "rating": (
        load_ratings,
        {"prompt": "why?", "response": "so", "score": 3},
        "rating",
        Rating(prompt=prompt(Q), response="so", score=3.0),
    ),
    "response of a model": (
        load_responses,
        {"prompt": "why?", "response": "so", "model": "m"},
        "response",
        Response(prompt=prompt(Q), text="so", model="m"),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "jsonl.gz"])
def test_formats(case: str, kind: str, tmp_path: Path) -> None:
    load, row, form, record = CASES[case]
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        body = (json.dumps([row], indent=1) if kind == "json" else json.dumps(row)).encode()
        path.write_bytes(gzip.compress(body) if kind.endswith("gz") else body)
    for named in ("auto", form):
        loaded = load(Source(path=str(path), format=named))
        assert loaded.records == [record]
        assert loaded.format == form
        assert loaded.dropped == {}
        assert loaded.described.startswith(f"{form}: ")
        assert loaded.described.endswith(", 0 dropped")


OWN: dict[Callable[[Source], Loaded], list[Any]] = {
    load_prompts: [Prompt.of("one", topic="films"), prompt(*TALK)],
    load_demonstrations: [Demonstration(prompt=prompt(*TALK), response="so\u2028it is", author="ann")],
    load_responses: [Response(prompt=Prompt.of("one"), text="", model="m", finish="length", seed=7), Response(prompt=prompt(Q), text="b")],
    load_rankings: [
        Ranking(
            prompt=prompt(*TALK), responses=("a", "b", "a"), places=(1, 2, 1), labeller="ann", margin=0.5, weight=2, models=("x", "y", "z")
        ),
        Ranking(prompt=Prompt.of("one"), responses=("a", ""), places=(2, 1)),
    ],
    load_ratings: [Rating(prompt=prompt(*TALK), response="a", score=-1.5, criterion="tone", labeller="ann")],
}


@pytest.mark.parametrize("load", OWN, ids=lambda load: load.__name__)
def test_own_records_come_back_as_they_were_written(load: Callable[[Source], Loaded], tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "records.jsonl"
    write_records(path, OWN[load])
    assert load(Source(path=str(path))).records == OWN[load]
    assert [file.name for file in path.parent.iterdir()] == ["records.jsonl"]


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [Prompt.of("old")])

    def interrupted() -> Any:
        yield Prompt.of("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, interrupted())
    with pytest.raises(DataError, match=r"record 2.*surrogate"):
        write_records(path, [Prompt.of("new"), Prompt.of("half \ud83d")])
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]
    assert load_prompts(Source(path=str(path))).records == [Prompt.of("old")]


def test_a_disk_that_refuses_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_records(path, [Prompt.of("old")])
    old = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace"):
        monkeypatch.setattr(os, call, full)
        with pytest.raises(StorageError, match="No space left"):
            write_records(path, [Prompt.of("new")])
        monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]
    assert path.read_bytes() == old


def test_candidates_of_several_models(tmp_path: Path) -> None:
    source = lines(tmp_path / "c.jsonl", {"instruction": "add", "input": "1", "responses": {"small": "2", "large": "1"}})
    assert [(r.prompt.text, r.text, r.model) for r in load_responses(source).records] == [
        ("add\n\n1", "2", "small"),
        ("add\n\n1", "1", "large"),
    ]
    loaded = load_prompts(source.model_copy(update={"format": "candidates"}))
    assert loaded.records == load_prompts(source).records == [Prompt.of("add\n\n1")]
    assert loaded.dropped == {}


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\r\n\ntwo\u2028and a half\nthree".encode())
    loaded = load_prompts(Source(path=str(path)))
    assert [p.text for p in loaded.records] == ["one", "two\u2028and a half", "three"]
    assert loaded.format == "lines"


def test_columns_are_mapped(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", {"question": "why?", "best": "so", "id": 3})
    mapped = source.model_copy(update={"columns": {"prompt": "question", "response": "best"}})
    loaded = load_demonstrations(mapped)
    assert loaded.records == [Demonstration(prompt=prompt(Q), response="so")]
    assert "question read as prompt" in loaded.described
    assert "not used: id" in loaded.described
    with pytest.raises(DataError, match=r"line 1: there is no column 'questoin'(.|\n)*did you mean 'question'"):
        load_demonstrations(source.model_copy(update={"columns": {"prompt": "questoin"}}))
    with pytest.raises(ConfigError, match=r"'promt' is none of our fields(.|\n)*did you mean 'prompt'"):
        load_demonstrations(source.model_copy(update={"columns": {"promt": "question"}}))


def test_a_wrong_format_name_offers_the_nearest(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", {"prompt": "why?", "response": "so"})
    with pytest.raises(ConfigError, match=r"no format 'alpacca'(.|\n)*completion(.|\n)*did you mean 'alpaca'"):
        load_demonstrations(source.model_copy(update={"format": "alpacca"}))
    with pytest.raises(ConfigError, match="'response' holds no rankings"):
        load_rankings(source.model_copy(update={"format": "response"}))


def test_a_format_that_is_not_found_lists_the_known(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", {"question": "why?", "answer": "so"})
    with pytest.raises(
        DataError, match=r"a.jsonl, line 1: the fields question, answer are no format(.|\n)*alpaca \(instruction, output\)(.|\n)*columns"
    ):
        load_demonstrations(source)


def test_limit_reads_the_first_rows(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", *({"prompt": str(i), "response": "so"} for i in range(9)))
    loaded = load_demonstrations(source.model_copy(update={"limit": 3}))
    assert [record.prompt.text for record in loaded.records] == ["0", "1", "2"]
    assert loaded.sha256 == load_demonstrations(source).sha256


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl"):
        lines(tmp_path / name, {"prompt": name})
    (tmp_path / "README.md").write_text("not data")
    texts = {split: [p.text for p in load_prompts(Source(path=str(tmp_path), split=split)).records] for split in ("train", "test")}
    assert texts == {"train": ["train-0.jsonl", "train-1.jsonl"], "test": ["test.jsonl"]}
    assert len(load_prompts(Source(path=str(tmp_path / "*.jsonl"))).records) == 3
    with pytest.raises(DataError, match="no file for the split 'dev'"):
        load_prompts(Source(path=str(tmp_path), split="dev"))
    with pytest.raises(DataError, match="no file matches"):
        load_prompts(Source(path=str(tmp_path / "*.parquet")))
    with pytest.raises(DataError, match=r"no such file(.|\n)*did you mean .*test.jsonl"):
        load_prompts(Source(path=str(tmp_path / "tset.jsonl")))


def test_a_path_that_counts_from_another_folder_says_from_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    lines(project / "data" / "d.jsonl", {"prompt": "a"})

    def remedy() -> str:
        with pytest.raises(DataError) as raised:
            load_prompts(Source(path="data/d.jsonl"))
        return raised.value.remedy

    monkeypatch.chdir(tmp_path)
    assert f"the folder that you stand in, {tmp_path}; it is there from project: `cd project`" in remedy()
    (project / "deeper").mkdir()
    monkeypatch.chdir(project / "deeper")
    assert f"`cd {project}`" in remedy()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert remedy() == f"a path counts from the folder that you stand in, {tmp_path / 'elsewhere'}"


def test_sha256_follows_the_content(tmp_path: Path) -> None:
    first, second = (load_prompts(lines(tmp_path / f"{n}.jsonl", {"prompt": "one"})).sha256 for n in "ab")
    assert first == second
    assert len(first) == 64
    assert load_prompts(lines(tmp_path / "a.jsonl", {"prompt": "two"})).sha256 != first


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"prompt": ["one", "two"], "chosen": ["a", "b"], "rejected": ["c", "d"]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(str(tmp_path / "saved"))
    loaded = load_rankings(Source(path=str(tmp_path / "saved")))
    assert [ranking.responses for ranking in loaded.records] == [("a", "c"), ("b", "d")]
    assert len(loaded.sha256) == 64
    with pytest.raises(DataError, match=r"no split 'test'(.|\n)*train"):
        load_rankings(Source(path=str(tmp_path / "saved"), split="test"))


def test_hub_names_are_told_from_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, subset: str | None, split: str) -> Any:
        asked.append((name, subset, split))
        return datasets.Dataset.from_dict({"prompt": ["one", "two", "three"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    for path in ("hub:somebody/films", "somebody/films", "hub:films"):
        loaded = load_prompts(Source(path=path, subset="small", split="test", limit=2))
        assert [record.text for record in loaded.records] == ["one", "two"]
    assert asked == [("somebody/films", "small", "test"), ("somebody/films", "small", "test"), ("films", "small", "test")]
    with pytest.raises(DataError, match="no such file"):
        load_prompts(Source(path="somebody/films.jsonl"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "ranked").mkdir()
    for path, near in (("labels/rankt", "did you mean labels/ranked"), ("runs/labels", "no such file"), ("./x/y", "no such file")):
        with pytest.raises(DataError, match=near):
            load_prompts(Source(path=path))
    assert len(asked) == 3, "a path that looks local is not asked for on the hub"


# --- several turns ---


def conversation(**of_turn) -> dict:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"), ("assistant", "f")]
    return {"messages": [{"role": role, "content": text} | of_turn.get(text, {}) for role, text in turns]}


def test_every_turn_is_a_demonstration_where_that_is_asked_for(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(conversation()) + "\n")
    last = load_demonstrations(Source(path=str(path)))
    assert [d.response for d in last.records] == ["f"] and last.format == "messages"
    every = load_demonstrations(Source(path=str(path), format="turns"))
    assert [(len(d.prompt.messages), d.response) for d in every.records] == [(1, "b"), (3, "d"), (5, "f")]
    assert [m.content for m in every.records[1].prompt.messages] == ["a", "b", "c"]


def test_marked_turns_are_found_and_the_others_left_out(tmp_path):
    path = tmp_path / "chat.jsonl"
    rows = [conversation(b={"train": False}), conversation(b={"train": False}, d={"train": False}, f={"train": False})]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_demonstrations(Source(path=str(path)))
    assert found.format == "turns" and [d.response for d in found.records] == ["d", "f"]
    assert found.dropped == {"no turn to train on": 1}
