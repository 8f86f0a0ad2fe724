"""Every architecture: joined equals single equals padded, scores at lengths, what is saved loads in Transformers."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    DeepseekV3Config,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PhimoeConfig,
    Qwen2Config,
    Qwen3Config,
)

from handrail.batch import Sequences
from handrail.models import LanguageModel, Lora, ModelSettings, ScalarModel, load_causal, new_tokenizer
from handrail.models.adapters import add_adapter, lora_config

torch.set_num_threads(1)
V = 300
SIZES = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen2-window": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "gpt2": GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1, pad_token_id=0),
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "mistral-window": MistralConfig(**GROUPED, sliding_window=4),
    "mistral-wide-window": MistralConfig(**GROUPED, sliding_window=12),
    "qwen2-wide-window": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=12, max_window_layers=1),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=4),
    "opt": OPTConfig(
        vocab_size=V, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        word_embed_proj_dim=32, bos_token_id=1, eos_token_id=1, pad_token_id=0, dropout=0.1,
    ),
    "phi": PhiConfig(**SIZES),
}  # fmt: skip
EXPERTS = GROUPED | {"num_local_experts": 2}
ODD = {
    "bloom": BloomConfig(vocab_size=V, n_embd=32, n_layer=2, n_head=4),  # takes no positions
    "phimoe": PhimoeConfig(**EXPERTS, sliding_window=12),  # a mask alone knows its window
    "deepseek_v3": DeepseekV3Config(  # keys are wider than values
        **SIZES, num_key_value_heads=4, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8,
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1, first_k_dense_replace=2,
    ),
}  # fmt: skip
PAIRS = [(5, 7), (1, 9), (12, 1), (20, 20), (3, 4), (2, 6)]


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer(["have you seen the quiet river", "i am sorry"], V)


@pytest.fixture(params=sorted(CONFIGS))
def hf(request):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    for name, parameter in model.named_parameters():  # wide enough that attention to a wrong token is seen
        if parameter.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def some(pairs=PAIRS, seed=0) -> Sequences:
    g = torch.Generator().manual_seed(seed)
    return Sequences.of([tuple(torch.randint(2, V, (n,), generator=g).tolist() for n in pair) for pair in pairs])


def reference_logp(hf, sequences: Sequences, row: int, temperature: float) -> torch.Tensor:
    """From the whole model on one sequence alone, by the definition."""
    p, n = int(sequences.prompt_lengths[row]), int(sequences.lengths[row])
    ids = sequences.ids[row : row + 1, :n]
    law = torch.log_softmax(hf(ids, use_cache=False).logits[0].double() / temperature, -1)
    return law[p - 1 : n - 1].gather(1, ids[0, p:, None])[:, 0].float()


@torch.no_grad()
def test_joined_single_and_padded_log_probabilities_are_those_of_the_model(hf):
    sequences = some()
    model = LanguageModel(hf)
    assert model.forward.joins == (hf.config._attn_implementation == "sdpa")  # gemma2 computes attention in its own way
    single = LanguageModel(hf)
    single.forward.joins = False
    logp, entropy = model.logp_and_entropy(sequences, 0.7)
    garbage = Sequences(sequences.ids.clone(), sequences.prompt_lengths, sequences.lengths)
    garbage.ids[torch.arange(sequences.ids.shape[1]) >= sequences.lengths[:, None]] = V - 1
    torch.testing.assert_close(single.logp(sequences, 0.7), logp, atol=1e-5, rtol=0)
    assert torch.equal(model.logp(garbage, 0.7), logp)
    assert torch.equal(model.logp(sequences, 0.7), logp)
    for row in range(len(sequences)):
        expected = reference_logp(hf, sequences, row, 0.7)
        torch.testing.assert_close(logp[row, : len(expected)], expected, atol=1e-5, rtol=0)
        assert (logp[row, len(expected) :] == 0).all() and (entropy[row, len(expected) :] == 0).all()


@torch.no_grad()
def test_a_shared_prompt_gives_what_each_sequence_alone_gives(hf):
    drawn = some([(9, 7), (9, 3), (9, 1), (4, 20)])
    ids = drawn.ids.clone()
    ids[1:3, :9] = ids[0, :9]
    sequences = Sequences(ids, drawn.prompt_lengths, drawn.lengths)
    logp = LanguageModel(hf).logp(sequences, 0.7)
    for row, n in enumerate(sequences.response_lengths.tolist()):
        torch.testing.assert_close(logp[row, :n], reference_logp(hf, sequences, row, 0.7), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(ODD))
def test_models_that_attend_in_their_own_way_are_right_too(name):
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(ODD[name]).eval()
    for parameter in hf.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    sequences, model = some(), LanguageModel(hf)
    assert model.forward.joins == (name == "deepseek_v3")
    logp = model.logp(sequences, 0.7)
    for row, n in enumerate(sequences.response_lengths.tolist()):
        torch.testing.assert_close(logp[row, :n], reference_logp(hf, sequences, row, 0.7), atol=1e-5, rtol=0)


@torch.no_grad()
def test_left_padding_gives_the_same(hf):
    sequences = some()
    longest = int(sequences.lengths.max())
    ids, mask = torch.zeros(len(sequences), longest, dtype=torch.long), torch.zeros(len(sequences), longest, dtype=torch.long)
    for row, length in enumerate(sequences.lengths.tolist()):
        ids[row, longest - length :], mask[row, longest - length :] = sequences.ids[row, :length], 1
    law = hf(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False).logits.log_softmax(-1)
    logp = LanguageModel(hf).logp(sequences)
    for row, n in enumerate(sequences.response_lengths.tolist()):
        expected = law[row, -n - 1 : -1].gather(1, ids[row, -n:, None])[:, 0]
        torch.testing.assert_close(logp[row, :n], expected, atol=2e-5, rtol=0)


def test_gradient_is_that_of_the_definition(hf):
    sequences = some(PAIRS[:3])
    model = LanguageModel(hf)
    model.logp(sequences, 0.7).sum().backward()
    found = {n: p.grad.clone() for n, p in model.parameters().items()}
    hf.zero_grad()
    sum(reference_logp(hf, sequences, row, 0.7).sum() for row in range(3)).backward()
    for name, gradient in found.items():
        wanted = model.parameters()[name].grad
        assert (gradient - wanted).abs().max() <= 1e-4 * max(1.0, float(wanted.abs().max())), name


@torch.no_grad()
def test_saved_models_load_in_transformers_with_equal_logits(hf, tokenizer, tmp_path):
    sequences = some()
    ids = sequences.ids[3:4, :20]
    model = LanguageModel(hf)
    model.save(tmp_path / "lm", tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    torch.testing.assert_close(again(ids).logits, hf(ids).logits, atol=1e-5, rtol=0)
    loaded = LanguageModel(load_causal(ModelSettings(path=str(tmp_path / "lm"))))
    torch.testing.assert_close(loaded.logp(sequences), model.logp(sequences), atol=1e-5, rtol=0)

    scalar = ScalarModel.from_causal(hf, "normal")
    scalar.mean, scalar.std = 0.5, 2.0
    scalar.save(tmp_path / "rm", tokenizer)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    score = scalar.score(sequences)
    for padded in (sequences.ids, torch.nn.functional.pad(sequences.ids, (0, 5))):  # 0 is the padding token
        raw = classifier(padded, attention_mask=(padded != 0).long()).logits[:, 0]
        torch.testing.assert_close((raw - 0.5) / 2.0, score, atol=1e-5, rtol=0)
    loaded_scalar = ScalarModel.load(ModelSettings(path=str(tmp_path / "rm")))
    assert (loaded_scalar.mean, loaded_scalar.std) == (0.5, 2.0)
    torch.testing.assert_close(loaded_scalar.score(sequences), score, atol=1e-5, rtol=0)


@torch.no_grad()
def test_score_and_values_are_read_at_lengths(hf):
    sequences = some()
    model = ScalarModel.from_causal(hf, "normal")
    values, after = model.values(sequences)
    torch.testing.assert_close(after, model.score(sequences), atol=1e-5, rtol=0)
    assert values.shape == sequences.mask.shape
    for row, (p, n) in enumerate(zip(sequences.prompt_lengths.tolist(), sequences.lengths.tolist(), strict=True)):
        hidden = model.hf.base_model(sequences.ids[row : row + 1, :n], use_cache=False).last_hidden_state[0]
        everywhere = (hidden @ model.head.weight.T)[:, 0]
        torch.testing.assert_close(values[row, : n - p], everywhere[p - 1 : n - 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(after[row], everywhere[n - 1], atol=1e-5, rtol=0)
        assert (values[row, n - p :] == 0).all()


def test_lora_trains_adapters_only_and_merges_on_save(hf, tokenizer, tmp_path):
    sequences = some()
    with torch.no_grad():
        before = LanguageModel(hf).logp(sequences)
    LanguageModel(hf).save(tmp_path / "base", tokenizer)
    add_adapter(hf, lora_config(Lora(rank=2), "base"), "default")
    model = LanguageModel(hf)
    with torch.no_grad():
        assert torch.equal(model.logp(sequences), before)
    names = model.parameters()
    assert names and all(".lora_" in n for n in names) and model.state().keys() == names.keys()
    with torch.no_grad():
        for parameter in names.values():
            torch.nn.init.normal_(parameter, std=0.1)
        after = model.logp(sequences)
    assert (after - before).abs().max() > 1e-3
    model.save(tmp_path / "lm", tokenizer)
    assert (tmp_path / "lm" / "adapter" / "adapter_model.safetensors").is_file()
    with torch.no_grad():
        merged = LanguageModel(load_causal(ModelSettings(path=str(tmp_path / "lm")))).logp(sequences)
        torch.testing.assert_close(merged, after, atol=1e-5, rtol=0)
        from peft import PeftModel

        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        adapted = LanguageModel(PeftModel.from_pretrained(base, str(tmp_path / "lm" / "adapter"))).logp(sequences)
        torch.testing.assert_close(adapted, after, atol=1e-5, rtol=0)
