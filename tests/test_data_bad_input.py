"""Bad input: file, line, what was found, what is allowed, what to do; exit status 2."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from handrail.data import Loaded, Source, load_demonstrations, load_prompts, load_rankings, load_ratings, load_responses
from handrail.errors import DataError, InputError

GOOD = b'{"prompt": "why?", "response": "so"}\n'
BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has no records"),
    "blank lines": (b"\n  \n\r\n", "it has no records"),
    "missing field": (GOOD + b'{"prompt": "why?"}\n', "line 2: the field 'response' is missing; found 'prompt'"),
    "null field": (GOOD + b'{"prompt": "why?", "response": null}\n', r"line 2: the field 'response' is null\n"),
    "no object": (GOOD + b'["why?", "so"]\n', "line 2: found a list"),
    "another type": (GOOD + b'{"prompt": "why?", "response": 3}\n', "line 2: 'response' is a number: 3"),
    "not json": (GOOD + b'{"prompt": why}\n' + GOOD, "line 2: not JSON at column 12"),
    "a control character in a text": (
        b'{"prompt": "why?", "response": "so\t"}\n',
        "line 1: not JSON at column 35: Invalid control character; it",
    ),
    "bad utf-8": (GOOD + b'{"prompt": "caf\xe9", "response": "so"}\n', "line 2: byte 16 is 0xe9, which is not UTF-8"),
    "utf-16": (GOOD.decode().encode("utf-16"), "line 1: the file is in UTF-16"),
    "utf-16 without a mark": (GOOD.decode().encode("utf-16-be"), "line 1: the file is in UTF-16"),
    "surrogate": (GOOD + b'{"prompt": "half \\ud83d", "response": "so"}\n', "line 2: a lone surrogate, .ud83d"),
    "cut line": (GOOD + GOOD[:20], "line 2: the last line is cut off"),
    "cut character": (GOOD + '{"prompt": "é'.encode()[:-1], "line 2: the last line is cut off"),
    "NaN": (GOOD + b'{"prompt": "why?", "response": "so", "x": NaN}\n', "line 2: found NaN as a number"),
    "infinity": (b'{"prompt": "why?", "response": "so", "x": -Infinity}\n', "line 1: found -Infinity as a number"),
    "1e999": (GOOD + b'{"prompt": "why?", "response": "so", "x": 1e999}\n', "line 2: found 1e999 as a number"),
    "many digits": (b'{"prompt": "why?", "response": "so", "x": ' + b"9" * 5000 + b"}\n", "line 1: .*digits"),
    "deep lists": (GOOD + b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 2: lists or objects are nested too deeply"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n", "line 1: lists or objects are nested too deeply"),
    "deep, not too deep for json": (GOOD[:-2] + b', "x": ' + b"[" * 150 + b"]" * 150 + b"}\n", "line 1: .* nested too deeply"),
    "deep and open": (b"[" * 100_000 + b"\n", "line 1: lists or objects are nested too deeply"),
    "key twice": (b'{"prompt": "a", "prompt": "b", "response": "c"}\n', "line 1: the key 'prompt' stands twice"),
    "roles out of order": (
        b'{"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "response": "c"}\n',
        "line 1: the roles are out of order: user, user",
    ),
    "assistant first": (
        b'{"prompt": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "response": "c"}\n',
        "line 1: the roles are out of order: assistant, user",
    ),
    "late system": (
        b'{"prompt": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "response": "c"}\n',
        "line 1: the roles are out of order: user, system",
    ),
    "ends with a user": (b'{"messages": [{"role": "user", "content": "a"}]}\n', "line 1: the roles in 'messages' are out of order: user"),
    "no messages": (b'{"messages": []}\n', "line 1: the roles in 'messages' are out of order: none"),
    "unknown role": (b'{"messages": [{"role": "human", "content": "a"}]}\n', "line 1: 'messages' has the role 'human'"),
    "message without content": (b'{"messages": [{"role": "user"}]}\n', "line 1: 'messages' has an object"),
    "content of another type": (b'{"messages": [{"role": "user", "content": ["a"]}]}\n', "line 1: a content in 'messages' is a list"),
    "role of another type": (b'{"messages": [{"role": ["user"], "content": "a"}]}\n', "line 1: 'messages' has the role"),
    "only empty responses": (b'{"prompt": "a", "response": " "}\n' * 3, r"none of 3 rows can be used \(empty response: 3\)"),
    "only empty prompts": (b'{"prompt": "", "response": "b"}\n' * 2, r"none of 2 rows can be used \(empty prompt: 2\)"),
}


def written(folder: Path, content: bytes, name: str = "rows.jsonl") -> Source:
    (folder / name).write_bytes(content)
    return Source(path=str(folder / name))


def refused(load: Callable[[Source], Loaded], source: Source, match: str) -> None:
    """The source is refused with its file, with what is allowed, and with status 2; nothing is written."""
    folder = Path(source.path).parent
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=match) as caught:
        load(source)
    assert Path(source.path).name in str(caught.value)
    assert caught.value.allowed
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("case", BYTES)
def test_bad_lines(case: str, tmp_path: Path) -> None:
    content, match = BYTES[case]
    refused(load_demonstrations, written(tmp_path, content), match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it has no records"),
        (b"[]", "it has no records"),
        (b'[{"prompt": "a", "response": "b"}, 3]', "record 2: found a int: 3|record 2: found a number: 3"),
        (b'[{"prompt": "a", "response": "b"}, {"prompt": "a"}]', "record 2: the field 'response' is missing"),
        (b'[\n{"prompt": "a", "response": "b"},\n{"prompt" "a"}]', "not JSON at line 3, column 11"),
        (b'[{"prompt": "a", "response": "b"}', "not JSON at column 34"),
        (b"[" * 100_000, "nested too deeply"),
        ('[{"prompt": "a"}]'.encode("utf-16"), "UTF-16"),
    ],
)
def test_bad_json_files(content: bytes, match: str, tmp_path: Path) -> None:
    refused(load_demonstrations, written(tmp_path, content, "rows.json"), match)


def test_a_mark_and_line_separators_are_no_fault(tmp_path: Path) -> None:
    text = '\ufeff{"prompt": "one\u2028two\u2029three\x85four", "response": "so"}\r\n\n{"prompt": "five", "response": "so"}'
    loaded = load_demonstrations(written(tmp_path, text.encode()))
    assert [record.prompt.text for record in loaded.records] == ["one\u2028two\u2029three\x85four", "five"]


def test_escaped_pairs_are_whole_characters(tmp_path: Path) -> None:
    assert load_prompts(written(tmp_path, b'{"prompt": "\\ud83d\\ude42"}\n')).records[0].text == "🙂"


def test_special_tokens_in_data_are_text(tmp_path: Path) -> None:
    assert load_prompts(written(tmp_path, b'{"prompt": "<|end|></s>"}\n')).records[0].text == "<|end|></s>"


def test_a_prompt_of_50_megabytes_is_read(tmp_path: Path) -> None:
    text = "word " * 10_000_000
    assert load_prompts(written(tmp_path, json.dumps({"prompt": text}).encode() + b"\n")).records[0].text == text


@pytest.mark.parametrize(
    ("load", "row", "match"),
    [
        (load_rankings, {"prompt": "a", "responses": ["b", "c"], "places": [1]}, "2 responses have 1 places"),
        (load_rankings, {"prompt": "a", "responses": ["b"], "places": [1]}, "at least 2 items"),
        (load_rankings, {"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1]}, "places count from 1"),
        (load_rankings, {"prompt": "a", "responses": ["b", "c"], "places": [1, "2"]}, "'places' has text: '2'"),
        (load_rankings, {"prompt": "a", "responses": ["b", "c"], "places": [True, 2]}, "'places' has a boolean"),
        (load_rankings, {"prompt": "a", "responses": "bc", "places": [1, 2]}, "'responses' is text"),
        (load_rankings, {"prompt": "a", "responses": ["b", 3], "places": [1, 2]}, "an item of 'responses' is a number"),
        (load_rankings, {"prompt": "a", "chosen": "b", "rejected": "c", "margin": "big"}, "'margin' is text"),
        (load_rankings, {"prompt": "a", "chosen": "b", "rejected": "c", "weight": -1}, "'weight' is -1"),
        (load_rankings, {"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}, "of the roles: user"),
        (load_rankings, {"prompt": "a", "response": "b"}, "no format of rankings"),
        (load_ratings, {"prompt": "a", "response": "b", "score": "5"}, "'score' is text: '5'"),
        (load_ratings, {"prompt": "a", "response": "b", "score": True}, "'score' is a boolean"),
        (load_responses, {"prompt": "a", "text": "b", "finish": "eos"}, "'finish' is 'eos'"),
        (load_responses, {"prompt": "a", "text": "b", "seed": "x"}, "'seed' is 'x'"),
        (load_responses, {"instruction": "a", "responses": {"m": 3}}, "'m' is a number"),
        (load_prompts, {"messages": [{"role": "user", "content": "a"}], "meta": 3}, "'meta' is a number"),
    ],
)  # fmt: skip
def test_bad_fields(load: Callable[[Source], Loaded], row: dict, match: str, tmp_path: Path) -> None:
    refused(load, written(tmp_path, json.dumps(row).encode() + b"\n"), f"line 1: .*{match}")


def test_bad_parquet(tmp_path: Path) -> None:
    refused(load_ratings, written(tmp_path, b"PAR1 nothing", "rows.parquet"), "not a whole Parquet file")
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": ["a", "b"], "response": ["c", "d"], "score": [1.0, float("nan")]}), tmp_path / "n.parquet"
    )
    refused(load_ratings, Source(path=str(tmp_path / "n.parquet")), "row 2: found nan as a number")
    whole = (tmp_path / "n.parquet").read_bytes()
    refused(load_ratings, written(tmp_path, whole[: len(whole) // 2], "cut.parquet"), "not a whole Parquet file")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    refused(load_prompts, written(tmp_path, b"a,b\n", "rows.xlsx"), "this kind of file is not known")
    refused(load_prompts, written(tmp_path, b"nothing", "rows.jsonl.gz"), "cannot be read")
    (tmp_path / "empty").mkdir()
    refused(load_prompts, Source(path=str(tmp_path / "empty")), "no file for the split 'train'; found no such file")


def comparisons(folder: Path, *rows: tuple[str, str, str, str]) -> Loaded:
    keys = ("prompt", "chosen", "rejected", "labeller")
    return load_rankings(written(folder, b"".join(json.dumps(dict(zip(keys, row, strict=True))).encode() + b"\n" for row in rows)))


def test_equal_responses_are_left_out_and_counted(tmp_path: Path) -> None:
    loaded = comparisons(tmp_path, ("a", "same", "same", ""), ("a", "b", "c", ""))
    assert loaded.dropped == {"equal responses in different places": 1}
    assert loaded.described.endswith("2 rows, 1 rankings, 1 dropped (equal responses in different places: 1)")
    with pytest.raises(DataError, match=r"none of 1 rows can be used \(equal responses in different places: 1\)"):
        comparisons(tmp_path, ("a", "same", "same", ""))


def test_contradictory_labels_of_one_labeller_are_left_out(tmp_path: Path) -> None:
    loaded = comparisons(tmp_path, ("a", "b", "c", "ann"), ("a", "c", "b", "ann"), ("a", "b", "d", "ann"), ("z", "c", "b", "ann"))
    assert loaded.dropped == {"contradicts another label of the same labeller": 2}
    assert [(r.prompt.text, r.responses) for r in loaded.records] == [("a", ("b", "d")), ("z", ("c", "b"))]
    assert comparisons(tmp_path, ("a", "b", "c", "ann"), ("a", "c", "b", "bob")).dropped == {}
    assert comparisons(tmp_path, ("a", "b", "c", ""), ("a", "b", "c", "")).dropped == {}


def test_contradictory_rankings_and_ratings(tmp_path: Path) -> None:
    rows: list[dict] = [{"prompt": "a", "responses": ["b", "c", "d"], "places": places} for places in ([1, 2, 3], [1, 3, 2], [1, 2, 2])]
    loaded = load_rankings(written(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    assert [record.places for record in loaded.records] == [(1, 2, 2)]
    rows = [{"prompt": "a", "response": "b", "score": score, "criterion": name} for score, name in ((1, "x"), (2, "x"), (2, "y"))]
    loaded = load_ratings(written(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    assert [record.criterion for record in loaded.records] == ["y"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: z\n\nAssistant: b", "chosen and rejected answer different prompts"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "\n\nHuman: a\n\nAssistant: x\n\nHuman: c\n\nAssistant: d",
         "chosen and rejected answer different prompts"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "\n\nHuman: a\n\nHuman: b\n\nAssistant: d", "turns of the transcript out of order"),
        ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "\n\nHuman: a\n\nAssistant: d", "turns of the transcript out of order"),
        ("\n\nAssistant: hi\n\nAssistant: c", "\n\nAssistant: hi\n\nAssistant: d", "turns of the transcript out of order"),
        ("\n\nHuman: \n\nAssistant: b", "\n\nHuman: \n\nAssistant: c", "empty prompt"),
        ("\n\nHuman: a\n\nAssistant: b ", "\n\nHuman: a\n\nAssistant: b", "equal responses in different places"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "equal responses in different places"),
    ],
)  # fmt: skip
def test_transcripts_that_are_left_out(chosen: str, rejected: str, reason: str, tmp_path: Path) -> None:
    good = {"chosen": "\n\nHuman: q\n\nAssistant: r", "rejected": "\n\nHuman: q\n\nAssistant: s"}
    rows = [good, {"chosen": chosen, "rejected": rejected}]
    loaded = load_rankings(written(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    assert loaded.dropped == {reason: 1}
    assert len(loaded.records) == 1


def test_conversations_that_answer_different_prompts_are_left_out(tmp_path: Path) -> None:
    said = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        for asked, answer in (("a", "x"), ("b", "y"), ("a", "z"))
    ]
    rows = [{"chosen": said[0], "rejected": said[1]}, {"chosen": said[0], "rejected": said[2]}]
    loaded = load_rankings(written(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    assert loaded.dropped == {"chosen and rejected answer different prompts": 1}
    assert [record.responses for record in loaded.records] == [("x", "z")]


def test_repeated_prompts_are_one(tmp_path: Path) -> None:
    loaded = load_prompts(written(tmp_path, b'{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "a"}\n'))
    assert [record.text for record in loaded.records] == ["a", "b"]
    assert loaded.dropped == {"the same prompt again": 1}
