"""Encoder-decoders: log-probabilities and values are the library's, whatever stands beside; what is saved loads again."""

import shutil
from copy import deepcopy

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    FSMTConfig,
    FSMTForConditionalGeneration,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import Seq2SeqLMOutput

from encoder_decoder_models import CONFIGS, CONTEXT, T5, V, by_definition, law_of, new_tokenizer, random_model, some, write_model
from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models import LanguageModel, Lora, ModelSettings, OneTrunk, ScalarModel, load_causal, load_tokenizer
from handrail.models.adapters import add_adapter, lora_config
from handrail.models.encoder_decoder import EncoderDecoderForSequenceClassification, trunk_of
from handrail.models.forward import recompute_layers

torch.set_num_threads(1)
PAIRS = [(5, 7), (1, 9), (12, 1), (20, 20), (3, 4), (2, 6)]
TWO = ["t5", "bart"]


@pytest.fixture(params=sorted(CONFIGS))
def hf(request):
    return random_model(request.param)


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer("t5", ["have you seen the quiet river", "i am sorry"])


def rows(sequences: Sequences) -> list[tuple[list[int], list[int]]]:
    """The (prompt, response) of each sequence."""
    cuts = zip(sequences.ids.tolist(), sequences.prompt_lengths.tolist(), sequences.lengths.tolist(), strict=True)
    return [(row[:p], row[p:n]) for row, p, n in cuts]


# --- log-probabilities ---


@torch.no_grad()
def test_log_probabilities_are_those_of_the_librarys_own_forward(hf):
    sequences, plain = some(PAIRS), by_definition(hf)
    logp, entropy = LanguageModel(hf).logp_and_entropy(sequences, 0.7)
    for row, (prompt, response) in enumerate(rows(sequences)):
        law = torch.log_softmax(law_of(plain, prompt, response).double() / 0.7, -1)
        expected = law.gather(1, torch.tensor(response)[:, None])[:, 0].float()
        n = len(response)
        torch.testing.assert_close(logp[row, :n], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy[row, :n], -(law.exp() * law).sum(-1).float(), atol=1e-4, rtol=0)
        assert (logp[row, n:] == 0).all() and (entropy[row, n:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "flan-t5", "bart", "pegasus", "marian"])
def test_log_probabilities_are_those_of_labels(name):
    hf = random_model(name)
    plain, sequences = by_definition(hf), some(PAIRS)
    logp = LanguageModel(hf).logp(sequences)
    for row, (prompt, response) in enumerate(rows(sequences)):
        loss = plain(input_ids=torch.tensor([prompt]), labels=torch.tensor([response])).loss  # the mean, shifted by the library
        torch.testing.assert_close(-logp[row].sum() / len(response), loss, atol=1e-5, rtol=0)


@torch.no_grad()
def test_nothing_beyond_a_length_is_read_and_neighbours_change_nothing(hf):
    sequences, model = some(PAIRS), LanguageModel(hf)
    logp = model.logp(sequences)
    garbage = Sequences(sequences.ids.clone(), sequences.prompt_lengths, sequences.lengths)
    garbage.ids[torch.arange(sequences.ids.shape[1]) >= sequences.lengths[:, None]] = V - 1
    assert torch.equal(model.logp(garbage), logp)
    for row in range(len(sequences)):
        n = int(sequences.response_lengths[row])
        torch.testing.assert_close(model.logp(sequences[row : row + 1])[0, :n], logp[row, :n], atol=1e-5, rtol=0)
    padding = Sequences.of([(prompt, [0, *response[1:-1], 0]) for prompt, response in rows(sequences)])  # real tokens all the same
    for row, (prompt, response) in enumerate(rows(padding)):
        expected = torch.log_softmax(law_of(by_definition(hf), prompt, response), -1).gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(model.logp(padding)[row, : len(response)], expected, atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", TWO)
def test_a_prompt_is_encoded_once_for_all_its_responses(name):
    drawn = some([(9, 7), (9, 3), (4, 20), (9, 1)])
    ids = drawn.ids.clone()
    ids[[1, 3], :9] = ids[0, :9]
    sequences, hf = Sequences(ids, drawn.prompt_lengths, drawn.lengths), random_model(name)
    model, encoded = LanguageModel(hf), []
    hook = hf.get_encoder().register_forward_pre_hook(lambda _, args, given: encoded.append(given["input_ids"].shape), with_kwargs=True)
    logp = model.logp(sequences)
    hook.remove()
    assert encoded == [(2, 9)]
    for row, (prompt, response) in enumerate(rows(sequences)):
        law = torch.log_softmax(law_of(by_definition(hf), prompt, response), -1)
        expected = law.gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(logp[row, : len(response)], expected, atol=1e-5, rtol=0)


def test_the_gradient_is_that_of_the_definition_and_reaches_encoder_and_decoder(hf):
    sequences = some([*PAIRS[:3], PAIRS[0]])
    sequences.ids[3, :5] = sequences.ids[0, :5]  # shares its prompt
    model, plain = LanguageModel(hf), by_definition(hf)
    model.logp(sequences, 0.7).sum().backward()
    total = torch.zeros(())
    for prompt, response in rows(sequences):
        law = torch.log_softmax(law_of(plain, prompt, response) / 0.7, -1)
        total = total + law.gather(1, torch.tensor(response)[:, None]).sum()
    total.backward()
    wanted, reached = dict(plain.named_parameters()), set()
    for name, parameter in model.parameters().items():
        if wanted[name].grad is None:
            assert parameter.grad is None, name
            continue
        limit = 1e-4 * max(1.0, float(wanted[name].grad.abs().max()))
        assert (parameter.grad - wanted[name].grad).abs().max() <= limit, name
        reached |= {part for part in ("encoder", "decoder") if part in name and parameter.grad.abs().max() > 0}
    assert reached == {"encoder", "decoder"}


@pytest.mark.parametrize("name", TWO)
def test_recomputed_layers_give_the_same_gradient(name):
    hf, sequences = random_model(name), some(PAIRS)
    found = []
    for again in (False, True):
        hf.zero_grad()
        if again:
            recompute_layers(hf)
        LanguageModel(hf).logp(sequences).sum().backward()
        found.append([p.grad.clone() for p in hf.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", TWO)
def test_a_compiled_model_gives_the_same_output_and_gradient(name):
    found = []
    for compiled in (False, True):
        hf = random_model(name)
        logp = LanguageModel(hf, compiled=compiled).logp(some(PAIRS))
        logp.sum().backward()
        found.append([logp.detach(), *(p.grad for p in hf.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", TWO)
def test_dropout_is_off_in_a_frozen_model_and_on_where_the_library_trains(name):
    hf, sequences = random_model(name), some(PAIRS)
    model = LanguageModel(hf)
    hf.train()
    assert not torch.equal(model.logp(sequences), model.logp(sequences))
    model.freeze()
    assert torch.equal(model.logp(sequences), model.logp(sequences))
    assert LanguageModel(hf.train()).hf.training  # wrapping a model leaves its mode


# --- values and scores ---


@torch.no_grad()
def test_values_and_scores_are_read_at_the_decoder(hf):
    sequences = some(PAIRS)
    model = ScalarModel.from_causal(hf, "normal")
    model.mean, model.std = 0.3, 2.0
    values, after = model.values(sequences)
    torch.testing.assert_close(after, model.score(sequences), atol=1e-5, rtol=0)
    assert values.shape == sequences.mask.shape
    plain = by_definition(trunk_of(hf))
    for row, (prompt, response) in enumerate(rows(sequences)):
        fed = torch.tensor([[hf.config.decoder_start_token_id, *response]])
        hidden = plain(input_ids=torch.tensor([prompt]), decoder_input_ids=fed, use_cache=False).last_hidden_state[0]
        everywhere = ((hidden @ model.head.weight.T)[:, 0] - 0.3) / 2.0
        n = len(response)
        torch.testing.assert_close(values[row, :n], everywhere[:n], atol=1e-5, rtol=0)
        torch.testing.assert_close(after[row], everywhere[n], atol=1e-5, rtol=0)
        assert (values[row, n:] == 0).all()


@torch.no_grad()
def test_a_critic_starts_from_the_reward_model_or_from_zero(hf):
    sequences = some(PAIRS)
    assert (ScalarModel.from_causal(hf, "zero").values(sequences)[0] == 0).all()
    scorer = ScalarModel.from_causal(hf, "normal")
    scorer.mean, scorer.std = 0.3, 2.0
    critic = ScalarModel.from_scalar(scorer.freeze())
    torch.testing.assert_close(critic.values(sequences)[1], scorer.score(sequences), atol=1e-5, rtol=0)
    assert critic.parameters() and not scorer.parameters()


def test_a_reward_model_has_no_weights_that_nothing_trains(hf):
    model = ScalarModel.from_causal(hf, "normal")
    model.values(some(PAIRS))[1].sum().backward()
    unused = {name for name, p in model.parameters().items() if p.grad is None}
    assert unused == set()


# --- folders ---


@torch.no_grad()
def test_saved_models_load_in_transformers_with_equal_logits(hf, tokenizer, tmp_path):
    prompt, fed = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
    model = LanguageModel(hf)
    model.save(tmp_path / "lm", tokenizer)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "lm")
    given = {"input_ids": prompt, "decoder_input_ids": fed}
    torch.testing.assert_close(again(**given).logits, hf(**given).logits, atol=1e-5, rtol=0)
    loaded = LanguageModel(load_causal(ModelSettings(path=str(tmp_path / "lm"))))
    torch.testing.assert_close(loaded.logp(some(PAIRS)), model.logp(some(PAIRS)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_saved_reward_model_gives_the_same_scores_and_its_trunk_loads_in_transformers(hf, tokenizer, tmp_path):
    sequences, model = some(PAIRS), ScalarModel.from_causal(hf, "normal")
    model.mean, model.std = 0.5, 2.0
    model.save(tmp_path / "rm", tokenizer)
    loaded = ScalarModel.load(ModelSettings(path=str(tmp_path / "rm")))
    assert (loaded.mean, loaded.std) == (0.5, 2.0) and type(loaded.hf) is EncoderDecoderForSequenceClassification
    torch.testing.assert_close(loaded.score(sequences), model.score(sequences), atol=1e-5, rtol=0)
    assert loaded.hf.config.pad_token_id == hf.config.pad_token_id
    trunk = AutoModel.from_pretrained(tmp_path / "rm")
    given = {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_input_ids": torch.tensor([[8, 9]])}
    expected = trunk_of(hf)(**given).last_hidden_state
    torch.testing.assert_close(trunk(**given).last_hidden_state, expected, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="a model that gives scores"):
        load_causal(ModelSettings(path=str(tmp_path / "rm")))
    LanguageModel(hf).save(tmp_path / "lm", tokenizer)
    with pytest.raises(ModelError, match="a sequence classifier with one output"):
        ScalarModel.load(ModelSettings(path=str(tmp_path / "lm")))


# --- adapters ---


@pytest.mark.parametrize("name", TWO)
def test_lora_trains_adapters_only_and_merges_on_save(name, tokenizer, tmp_path):
    from peft import PeftModel

    hf, sequences = random_model(name), some(PAIRS)
    with torch.no_grad():
        before = LanguageModel(hf).logp(sequences)
    LanguageModel(hf).save(tmp_path / "base", tokenizer)
    add_adapter(hf, lora_config(Lora(rank=2), "base"), "default")
    model = LanguageModel(hf)
    names = model.parameters()
    assert {part for name in names for part in ("encoder", "decoder") if part in name} == {"encoder", "decoder"}
    assert all(".lora_" in n for n in names) and model.state().keys() == names.keys()
    with torch.no_grad():
        assert torch.equal(model.logp(sequences), before)
        for parameter in names.values():
            torch.nn.init.normal_(parameter, std=0.1)
        after = model.logp(sequences)
    assert (after - before).abs().max() > 1e-3
    model.save(tmp_path / "lm", tokenizer)
    with torch.no_grad():
        merged = LanguageModel(load_causal(ModelSettings(path=str(tmp_path / "lm")))).logp(sequences)
        torch.testing.assert_close(merged, after, atol=1e-5, rtol=0)
        adapted = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"), str(tmp_path / "lm" / "adapter"))
        assert type(adapted).__name__ == "PeftModelForSeq2SeqLM"
        torch.testing.assert_close(LanguageModel(adapted).logp(sequences), after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["t5", "flan-t5", "bart"])
def test_four_roles_stand_on_one_trunk(name, shared, tmp_path):
    path, sequences, lora = str(write_model(name, tmp_path / "base", ["a quiet river"])), some(PAIRS), Lora(rank=2)
    scorer = ScalarModel.from_causal(load_causal(ModelSettings(path=path, lora=lora)), "normal")
    with torch.no_grad():
        for parameter in scorer.parameters().values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    scorer.mean, scorer.std = 0.4, 0.5
    scorer.save(tmp_path / "reward", load_tokenizer(ModelSettings(path=path)))
    trunk = OneTrunk.load(ModelSettings(path=path, lora=lora), str(tmp_path / "reward"), shared)
    with torch.no_grad():
        assert torch.equal(trunk.policy.logp(sequences), trunk.reference.logp(sequences))
        reference, score = trunk.reference.logp(sequences), trunk.reward.score(sequences)
        torch.testing.assert_close(score, scorer.score(sequences), atol=1e-5, rtol=0)
        first = trunk.critic.values(sequences)
        assert (first[0] == 0).all() if shared else torch.allclose(first[1], score, atol=1e-5)
    for _ in range(2):  # an adapter's first half has no gradient until the second has moved
        if shared:
            logp, _, values = trunk.policy.logp_entropy_values(sequences)
        else:
            logp, values = trunk.policy.logp(sequences), trunk.critic.values(sequences)[0]
        (logp.sum() + ((values - 1) ** 2).sum()).backward()
        trained = [*trunk.policy.parameters().values(), *trunk.critic.parameters().values()]
        with torch.no_grad():
            for parameter in trained:
                parameter.sub_(0.1 * parameter.grad.sign())
                parameter.grad = None
    with torch.no_grad():
        assert torch.equal(trunk.reference.logp(sequences), reference) and torch.equal(trunk.reward.score(sequences), score)
        assert not torch.allclose(trunk.policy.logp(sequences), reference)
        assert not torch.equal(trunk.critic.values(sequences)[0], first[0])


# --- what is refused ---


def test_a_model_whose_head_is_of_another_build_is_refused():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "decoder_start_token_id": 2, "max_position_embeddings": 32}
    hf = FSMTForConditionalGeneration(FSMTConfig(langs=["en", "de"], src_vocab_size=50, tgt_vocab_size=50, **sizes))
    with pytest.raises(ModelError, match="do not add up"):
        LanguageModel(hf)
    capped, whole = random_model("bart"), BartForConditionalGeneration.forward
    capped.forward = lambda **given: Seq2SeqLMOutput(logits=whole(capped, **given).logits.tanh())
    with pytest.raises(ModelError, match="do not add up"):
        LanguageModel(capped)


def test_a_config_without_the_decoders_start_is_refused():
    config = deepcopy(CONFIGS["t5"])
    config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        LanguageModel(T5ForConditionalGeneration(config))


def test_the_librarys_own_classifier_is_no_reward_model_here(tokenizer, tmp_path):
    config = deepcopy(CONFIGS["bart"])
    config.num_labels = 1
    BartForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="without telling a prompt from a response"):
        ScalarModel.load(ModelSettings(path=str(tmp_path)))


def test_the_context_is_the_models_and_t5_has_none():
    assert LanguageModel(random_model("bart")).context == CONTEXT
    assert LanguageModel(random_model("t5")).context > 10**6
    with pytest.raises(ModelError, match=f"the model's context is {CONTEXT} tokens"):
        LanguageModel(random_model("bart")).logp(some([(40, 25)]))
    assert "max_position_embeddings" not in T5
