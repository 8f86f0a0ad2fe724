"""Real data, where it is at hand: human comparisons, instructions, summaries."""

import os
from pathlib import Path

import pytest

from data_tokenizers import byte_level
from handrail.data import Codec, Source, load_demonstrations, load_prompts, load_rankings, load_responses, split_by_prompt

ROOT = Path(os.environ.get("HANDRAIL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def source(name: str, **settings: object) -> Source:
    if not (ROOT / name).exists():
        pytest.skip(f"{ROOT / name} is not here; set HANDRAIL_TEST_DATA to the folder with the data")
    return Source.model_validate({"path": str(ROOT / name), **settings})


def test_human_comparisons() -> None:
    loaded = load_rankings(source("hh_harmless"))
    assert loaded.format == "transcripts"
    assert len(loaded.records) == 748
    assert loaded.dropped == {"turns of the transcript out of order": 2}
    for ranking in loaded.records:
        assert ranking.places == (1, 2)
        assert not any("\n\nHuman:" in message.content or "\n\nAssistant:" in message.content for message in ranking.prompt.messages)
    train, test = split_by_prompt(loaded.records, 0.1, seed=0)
    assert not {r.prompt.text for r in train} & {r.prompt.text for r in test}
    assert len(load_rankings(source("hh_harmless", split="test")).records) == 150


def test_a_whole_transcript_comes_back() -> None:
    """The parts that are found, put together again, are the transcript."""
    import json

    path = Path(source("hh_harmless/test.jsonl").path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    loaded = load_rankings(source("hh_harmless/test.jsonl"))
    assert len(rows) == len(loaded.records)
    names = {"user": "Human", "assistant": "Assistant"}
    for row, ranking in zip(rows, loaded.records, strict=True):
        for side, response in zip(("chosen", "rejected"), ranking.responses, strict=True):
            turns = [(names[m.role], m.content) for m in ranking.prompt.messages] + [("Assistant", response)]
            again = "".join(f"\n\n{name}: {content}" for name, content in turns)
            assert again.split() == row[side].split()


def test_chosen_replies_as_demonstrations() -> None:
    loaded = load_demonstrations(source("hh_harmless"))
    assert len(loaded.records) == 747
    assert loaded.dropped == {"turns of the transcript out of order": 2, "empty response": 1}


def test_instructions_and_candidates() -> None:
    demonstrations = load_demonstrations(source("self_instruct/demonstrations.jsonl"))
    assert (demonstrations.format, len(demonstrations.records), demonstrations.dropped) == ("alpaca", 252, {})
    candidates = load_responses(source("self_instruct/candidates.jsonl"))
    assert (candidates.format, len(candidates.records)) == ("candidates", 252 * 8)
    asked = {record.prompt.text for record in demonstrations.records}
    assert asked == {record.prompt.text for record in candidates.records}
    assert len(load_prompts(source("self_instruct/candidates.jsonl")).records) == 252


def test_summaries_through_columns_and_tokens() -> None:
    loaded = load_demonstrations(source("cnn_dailymail/summaries.jsonl", columns={"response": "summary"}, limit=20))
    codec = Codec(byte_level())
    assert len(loaded.records) == 20
    for record in loaded.records:
        assert codec.decode(codec.encode_response(record.response, end=True)) == record.response
