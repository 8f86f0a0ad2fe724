"""Attributions of a reward model's score: through every architecture's embeddings, complete, and right where the truth is planted."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

import encoder_decoder_models
import rollout_models
from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models import Combine, Heads, ScalarModel, mean_embedding, token_attributions

torch.set_num_threads(1)
WORD, TOKENS = 7, 40
TINY = LlamaConfig(
    vocab_size=TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64
)


def random_sequences(pairs: list[tuple[int, int]], seed: int, tokens: int = TOKENS) -> Sequences:
    g = torch.Generator().manual_seed(seed)
    return Sequences.of([tuple(torch.randint(4, tokens, (n,), generator=g).tolist() for n in pair) for pair in pairs])


def all_but_the_last(sequences: Sequences) -> Tensor:
    """[B, T] bool: the token at which the score is read stays."""
    return torch.arange(sequences.mask.shape[1]) < sequences.response_lengths[:, None] - 1


def attributed(model: ScalarModel, sequences: Sequences, criterion: int = 0, steps: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    neutral = mean_embedding(model, sequences.tokens[sequences.mask])
    rows = len(sequences)
    which = torch.full((rows,), criterion)
    return token_attributions(model, sequences, all_but_the_last(sequences), neutral.expand(rows, -1), which, steps)


def assert_complete(model: ScalarModel, sequences: Sequences, criterion: int = 0, within: float = 0.02) -> None:
    found, scores, baselines = attributed(model, sequences, criterion)
    with torch.no_grad():
        torch.testing.assert_close(scores, model.by_criterion(model.head_scores(sequences))[:, criterion], rtol=1e-3, atol=1e-4)
    assert found.shape == sequences.mask.shape and (found[~all_but_the_last(sequences)] == 0).all()
    gap = scores - baselines
    assert (found.sum(1) - gap).abs().max() < within * gap.abs().max()


@pytest.mark.parametrize("name", rollout_models.CONFIGS)
def test_the_embeddings_of_every_decoder_give_its_score_and_its_attributions_add_up(name):
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(deepcopy(rollout_models.CONFIGS[name])).eval()
    assert_complete(ScalarModel.from_causal(hf, "normal"), random_sequences([(3, 6), (9, 2)], 1, rollout_models.V))


@pytest.mark.parametrize("name", encoder_decoder_models.CONFIGS)
def test_the_embeddings_of_every_encoder_decoder_do_the_same(name):
    hf = encoder_decoder_models.random_model(name, scale=0.05)
    assert_complete(ScalarModel.from_causal(hf, "normal"), random_sequences([(3, 6), (9, 2)], 1, encoder_decoder_models.V))


@pytest.mark.parametrize("rule", ["mean", "minimum", "mean_minus_std"])
def test_several_criteria_and_members_are_differentiated_as_they_are_combined(rule):
    torch.manual_seed(0)
    heads = Heads(("concise", "helpful"), 3, Combine(rule=rule))
    model = ScalarModel.from_causal(AutoModelForCausalLM.from_config(TINY).eval(), "normal", heads=heads)
    sequences = random_sequences([(3, 6), (4, 5)], 2)
    with torch.no_grad():
        model.normalise(model.head_scores(random_sequences([(3, 5)] * 20, 3)))
    for criterion in range(2):
        assert_complete(model, sequences, criterion, within=0.05)
    assert (attributed(model, sequences, 0)[0] - attributed(model, sequences, 1)[0]).abs().max() > 1e-2


def test_a_model_that_takes_no_embeddings_is_refused(monkeypatch):
    model = ScalarModel.from_causal(AutoModelForCausalLM.from_config(TINY), "normal")
    monkeypatch.setattr(model.forward.module, "forward", lambda input_ids: None)
    with pytest.raises(ModelError, match="takes no embeddings"):
        attributed(model, random_sequences([(2, 3)], 0))


@pytest.fixture(scope="module")
def planted() -> ScalarModel:
    """A reward model that pays 1 for each place with one word, and nothing else."""
    torch.manual_seed(0)
    model = ScalarModel.from_causal(AutoModelForCausalLM.from_config(TINY), "normal")
    optimizer = torch.optim.Adam(model.parameters().values(), lr=1e-2)
    for step in range(120):
        sequences = with_the_word(24, step)
        loss = (model.score(sequences) - pay(sequences)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    return model.freeze()


def with_the_word(rows: int, seed: int) -> Sequences:
    """Random responses, about half of them with the word in one or two places, all with the same last token."""
    sequences = random_sequences([(3, 9)] * rows, seed)
    g = torch.Generator().manual_seed(seed + 10_000)
    sequences.ids[sequences.ids == WORD] = WORD + 1
    for row in range(rows):
        for place in torch.randint(3, 11, (int(torch.randint(0, 3, (), generator=g)),), generator=g).tolist():
            sequences.ids[row, place] = WORD
    sequences.ids[:, 11] = 1
    return sequences


def pay(sequences: Sequences) -> Tensor:
    return (sequences.ids[:, 3:] == WORD).sum(1).float()


def test_the_word_that_is_paid_for_gets_the_attribution_and_leaving_out_agrees(planted):
    sequences = with_the_word(24, 77)
    found, scores, baselines = attributed(planted, sequences)
    paid = sequences.tokens == WORD
    assert (found.sum(1) - (scores - baselines)).abs().max() < 0.02
    assert found[paid].mean() > 0.6 and found[paid].min() > 2 * found[~paid & all_but_the_last(sequences)].abs().mean()
    first = found[paid.any(1)].argmax(1)
    assert paid[paid.any(1)].gather(1, first[:, None]).all(), "where the word stands, no other token counts more"
    alone = left_out(planted, sequences)
    both = torch.stack([found[all_but_the_last(sequences)], alone[all_but_the_last(sequences)]])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


@torch.no_grad()
def left_out(model: ScalarModel, sequences: Sequences) -> Tensor:
    """[B, T] what the score loses where one token gives way to the average one: occlusion."""
    neutral = mean_embedding(model, sequences.tokens[sequences.mask])
    inputs, found = model.forward.embedded(sequences), torch.zeros(sequences.mask.shape)
    whole = model.read(model.forward.last(inputs, sequences))
    for t in range(found.shape[1]):
        without = inputs.clone()
        without[torch.arange(len(sequences)), sequences.prompt_lengths + t] = neutral
        found[:, t] = whole - model.read(model.forward.last(without, sequences))
    return found
