"""Splitting by prompt, batches by token budget, and examples that are never cut."""

import random

import pytest
import torch

from data_tokenizers import BEGINS, byte_level
from handrail.data import Codec, demonstration_example, prompt_of, ranking_batch, split_by_prompt, token_budget_batches, within_context
from handrail.errors import ConfigError, DataError
from handrail.records import Demonstration, Prompt, Ranking, Rating, Response

CODEC = Codec(byte_level(BEGINS, bos="<|bos|>"))


def demonstrations(prompts: int, each: int = 3) -> list[Demonstration]:
    return [Demonstration(prompt=Prompt.of(f"prompt {i}"), response=f"{j}") for j in range(each) for i in range(prompts)]


@pytest.mark.parametrize(("held_out", "count"), [(0.25, 10), (7, 7), (0.001, 1), (0, 0), (0.0, 0), (1, 1)])
def test_split_by_prompt(held_out: float, count: int) -> None:
    records = demonstrations(40)
    train, test = split_by_prompt(records, held_out, seed=3)
    texts = {r.prompt.text for r in train}, {r.prompt.text for r in test}
    assert not texts[0] & texts[1]
    assert len(texts[1]) == count
    assert len(train) + len(test) == len(records)
    assert train == [r for r in records if r.prompt.text in texts[0]]


def test_the_split_depends_on_prompts_and_seed_alone() -> None:
    records = demonstrations(40)
    held = {r.prompt.text for r in split_by_prompt(records, 10, seed=0)[1]}
    shuffled = random.Random(0).sample(records, len(records))
    assert {r.prompt.text for r in split_by_prompt(shuffled, 10, seed=0)[1]} == held
    assert {r.prompt.text for r in split_by_prompt(demonstrations(40, each=1), 10, seed=0)[1]} == held
    assert {r.prompt.text for r in split_by_prompt(records, 10, seed=1)[1]} != held
    prompts = [r.prompt for r in records]
    assert {prompt_of(p).text for p in split_by_prompt(prompts, 10, seed=0)[1]} == held


@pytest.mark.parametrize(("held_out", "error"), [(1.0, ConfigError), (-0.1, ConfigError), (-1, ConfigError), (40, DataError)])
def test_a_split_that_cannot_be(held_out: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        split_by_prompt(demonstrations(40), held_out, seed=0)


def drawn(lengths: list[int], budget: int, seed: int) -> list[list[int]]:
    return token_budget_batches(lengths, budget, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("budget", [200, 512, 5000])
def test_batches_within_the_budget(budget: int) -> None:
    lengths = random.Random(1).choices(range(1, budget // 2), k=500)
    batches = drawn(lengths, budget, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in batch) for batch in batches) <= budget
    assert len(batches) <= 1.3 * sum(lengths) / budget + 2
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded <= 1.35 * sum(lengths), "similar lengths stand together"


def test_batches_are_shuffled_deterministic_and_of_one_number() -> None:
    lengths = random.Random(2).choices(range(1, 200), k=400)
    assert drawn(lengths, 512, 0) == drawn(lengths, 512, 0)
    epochs = [drawn(lengths, 512, seed) for seed in range(8)]
    assert len({len(batches) for batches in epochs}) == 1
    assert len({tuple(sorted(map(tuple, map(sorted, batches)))) for batches in epochs}) == 8, "batches differ in what they hold"
    longest = [max(range(len(batches)), key=lambda n, b=batches: max(lengths[i] for i in b[n])) for batches in epochs]
    assert len(set(longest)) > 4, "long and short batches come in random order"


def test_one_that_is_longer_than_the_budget_stands_alone() -> None:
    assert sorted(map(sorted, drawn([5, 100, 5], 12, 0))) == [[0, 2], [1]]
    assert drawn([], 12, 0) == []


def test_examples_are_whole_or_refused() -> None:
    record = Demonstration(prompt=Prompt.of("hello"), response="world")
    example = demonstration_example(CODEC, record, 100)
    assert example.response_ids[-1] == CODEC.end_id
    assert demonstration_example(CODEC, record, len(example)) == example
    with pytest.raises(DataError, match=f"have {len(example)} tokens"):
        demonstration_example(CODEC, record, len(example) - 1)


def test_ranking_batch() -> None:
    rankings = [
        Ranking(prompt=Prompt.of("one"), responses=("a", "bb", "ccc"), places=(2, 1, 2), margin=0.5),
        Ranking(prompt=Prompt.of("two two"), responses=("dd", "e"), places=(1, 2), weight=3.0),
    ]
    batch = ranking_batch(CODEC, rankings, 100)
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.index.tolist() == [[0, 1, 2], [3, 4, 0]]
    assert batch.places[batch.mask].tolist() == [2, 1, 2, 1, 2]
    assert (batch.margin.tolist(), batch.weight.tolist()) == ([0.5, 0.0], [1.0, 3.0])
    for n, ranking in enumerate(rankings):
        for k, text in enumerate(ranking.responses):
            row = batch.sequences[batch.index[n, k : k + 1]]
            start, stop = int(row.prompt_lengths), int(row.lengths)
            assert row.ids[0, :start].tolist() == CODEC.encode_prompt(ranking.prompt)
            assert row.ids[0, start:stop].tolist() == CODEC.encode_response(text, end=True)
    with pytest.raises(DataError, match="'two two'"):
        ranking_batch(CODEC, rankings, int(batch.sequences.lengths.max()) - 1)
    assert len(ranking_batch(CODEC, [], 100).margin) == 0


def test_what_is_longer_than_the_context_is_left_out_and_counted() -> None:
    short, long = Prompt.of("hello"), Prompt.of("hello " * 30)
    edge = len(CODEC.encode_prompt(short)) + len(CODEC.encode_response("world", end=True))
    for make in (
        lambda prompt: Demonstration(prompt=prompt, response="world"),
        lambda prompt: Ranking(prompt=prompt, responses=("a", "world"), places=(1, 2)),
        lambda prompt: Rating(prompt=prompt, response="world", score=1.0),
        lambda prompt: Response(prompt=prompt, text="world"),
    ):
        assert within_context(CODEC, [make(short), make(long)], edge) == ([make(short)], {f"longer than {edge} tokens": 1})
        with pytest.raises(DataError, match="all 2 records are longer"):
            within_context(CODEC, [make(short), make(long)], edge - 1)
    assert within_context(CODEC, [short, long], len(CODEC.encode_prompt(short)))[0] == [short]
    assert within_context(CODEC, [short], 100) == ([short], {})


def test_a_prompt_of_50_megabytes_is_too_long_at_once() -> None:
    short = Prompt.of("hello")
    assert within_context(CODEC, [Prompt.of("word " * 10_000_000), short], 100) == ([short], {"longer than 100 tokens": 1})
