"""Tokenizer, log-probabilities, scalar models, grouping, the machine."""

import shutil
import subprocess
import sys
import weakref

import pytest
import torch
from transformers import AutoTokenizer

from handrail.batch import Sequences
from handrail.config import validate
from handrail.errors import ConfigError, ModelError
from handrail.models import (
    LanguageModel,
    Lora,
    ModelSettings,
    NewModel,
    ScalarModel,
    best_matmul,
    count_parameters,
    load_causal,
    new_model,
    new_tokenizer,
    same_vocabulary,
)
from handrail.models.forward import recompute_layers
from handrail.models.grouping import families, groups, joined, padded
from handrail.models.tokenizer import pad_id

torch.set_num_threads(1)
TEXTS = ["Have you seen The Quiet River? Please say yes.", "I have seen it, sorry. Have a look at The Quiet Hill."] * 30
SMALL = NewModel(hidden=32, layers=2, heads=2, vocabulary=360, context=64)


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer(TEXTS, 360)


@pytest.fixture
def hf(tokenizer):
    torch.manual_seed(0)
    return new_model(SMALL, tokenizer).eval()


def some(pairs=((5, 7), (1, 9), (12, 1), (20, 20), (3, 0)), seed=0) -> Sequences:
    g = torch.Generator().manual_seed(seed)
    return Sequences.of([tuple(torch.randint(0, 300, (n,), generator=g).tolist() for n in pair) for pair in pairs])


# -- tokenizer


@pytest.mark.parametrize("text", ["Have you", " a  b ", "é日本🎬\n\t x", "<|end|> typed", "", "a\u2028b"])
def test_decoding_gives_the_text_back(tokenizer, tmp_path, text):
    tokenizer.save_pretrained(tmp_path)
    for t in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = t(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert t.decode(ids, skip_special_tokens=True) == text
        assert not set(ids) & set(t.all_special_ids)


def test_a_word_is_one_token_first_or_within(tokenizer):
    first = tokenizer("Have", add_special_tokens=False).input_ids
    assert len(first) == 1 and first[0] in tokenizer("sorry. Have a", add_special_tokens=False).input_ids
    chat = [{"role": "user", "content": "Have you"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "ĠHave", "Ġyou", "<|end|>", "<|assistant|>"]


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = new_tokenizer(TEXTS, 360)
    assert again.get_vocab() == tokenizer.get_vocab() and len(again) <= 360
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    same_vocabulary(again, tokenizer)
    with pytest.raises(ModelError, match="different vocabularies"):
        same_vocabulary(new_tokenizer(["other words here"] * 9, 300), tokenizer)


def test_padding_token_is_never_the_end(tokenizer):
    assert pad_id(tokenizer, 360) == tokenizer.pad_token_id != tokenizer.eos_token_id
    without = new_tokenizer(TEXTS, 360)
    without.pad_token = without.eos_token
    assert pad_id(without, 360) == 359


# -- grouping


def test_groups_hold_every_sequence_once_within_their_size_and_half_full():
    lengths = torch.tensor([5, 9, 2, 30, 7, 7, 1, 16])
    found = [lengths[g].tolist() for g in groups(lengths, 24)]
    assert found == [[30], [16], [9, 7, 7], [5, 2, 1]]  # 16 + 9 > 24; 9 + 7 + 7 + 5 > 24
    assert [lengths[g].tolist() for g in groups(lengths, 100)] == [[30, 16, 9, 7], [7, 5, 2, 1]]  # 69 of 5 x 30 were less than half
    assert list(groups(lengths[:0], 24)) == []


def test_gradients_over_a_shared_prompt_have_the_same_bits_each_time(tokenizer):
    torch.manual_seed(0)
    hf = new_model(NewModel(hidden=256, layers=1, heads=4, vocabulary=360), tokenizer)
    g = torch.Generator().manual_seed(2)
    prompt = torch.randint(2, 300, (20,), generator=g).tolist()
    sequences = Sequences.of([(prompt, torch.randint(2, 300, (1,), generator=g).tolist()) for _ in range(150)])
    model, found, threads = LanguageModel(hf), [], torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for _ in range(5):
            hf.zero_grad()
            model.logp(sequences).sum().backward()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters().values()]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)


def test_many_answers_to_a_long_prompt_are_not_one_rectangle():
    long = list(range(2, 102))
    sequences = Sequences.of([(long, [i]) for i in range(200)] + [([1], [2])])
    found = [m.tolist() for m in families(sequences, 300)]
    assert sorted(i for m in found for i in m) == list(range(201))
    for members in found:
        lengths = sequences.lengths[members]
        assert len(members) * int(lengths.max()) <= 4 * 300 and 2 * int(lengths.sum()) >= len(members) * int(lengths.max())


def test_nothing_and_no_prompt(hf):
    model, scalar, nothing = LanguageModel(hf), ScalarModel.from_causal(hf, "normal"), some()[:0]
    assert model.logp(nothing).shape == (0, 0) and scalar.score(nothing).shape == (0,) and scalar.values(nothing)[1].shape == (0,)
    for call in (model.logp, scalar.values):
        with pytest.raises(ModelError, match="without a prompt"):
            call(Sequences.of([([], [3, 4])]))


def test_sequences_one_behind_another_and_one_a_row_read_the_right_tokens():
    sequences = Sequences.of([([10, 11, 12], [13, 14]), ([20], [21, 22, 23]), ([30], [31])])
    given = sequences, torch.tensor([0, 1]), sequences.prompt_lengths - 1, sequences.lengths
    for together in (joined(*given), padded(*given)):
        assert together.ids.flatten()[together.at].tolist() == [12, 13, 14, 20, 21, 22, 23]
        assert together.positions.flatten()[together.at].tolist() == [2, 3, 4, 0, 1, 2, 3]
        assert together.rows.tolist() == [0, 0, 0, 1, 1, 1, 1] and together.columns.tolist() == [2, 3, 4, 0, 1, 2, 3]
    assert padded(*given).ids.tolist() == [[10, 11, 12, 13, 14], [20, 21, 22, 23, 0]]
    together = joined(*given)
    assert together.ids.tolist() == [[10, 11, 12, 13, 14, 20, 21, 22, 23] + [0] * 55]
    assert together.layout.grid.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 63]] and together.layout.own is None
    assert together.layout.grid.flatten()[together.layout.back].tolist() == list(range(9))


def test_a_prompt_in_common_stands_in_the_row_once():
    sequences = Sequences.of([([1, 2], [3]), ([1, 9], [3]), ([1, 2], [4, 5]), ([1, 2], [6])])
    (members,) = families(sequences, 100)
    assert members.tolist() == [2, 0, 3, 1]
    assert [m.tolist() for m in families(sequences, 5)] == [[2], [0], [3], [1]]
    together = joined(sequences, members, sequences.prompt_lengths - 1, sequences.lengths)
    assert together.ids[0, :9].tolist() == [1, 2, 4, 5, 3, 6, 1, 9, 3] and not together.ids[0, 9:].any()
    assert together.positions[0, :9].tolist() == [0, 1, 2, 3, 2, 2, 0, 1, 2]
    assert together.layout.grid.tolist() == [[0, 1, 2, 3], [0, 1, 4, 63], [0, 1, 5, 63], [6, 7, 8, 63]]
    assert together.layout.own.tolist() == [[0, 1, 2, 3], [63, 63, 4, 63], [63, 63, 5, 63], [6, 7, 8, 63]]
    assert together.at.tolist() == [1, 2, 3, 1, 4, 1, 5, 7, 8]


def test_sharing_a_prompt_changes_neither_output_nor_gradient(hf):
    g = torch.Generator().manual_seed(1)

    def words(n):
        return torch.randint(2, 300, (n,), generator=g).tolist()

    prompts = [words(9), words(4)]
    sequences = Sequences.of([(prompts[i % 2], words(n)) for i, n in enumerate((5, 3, 8, 1, 6, 12))])
    model, found = LanguageModel(hf), []
    for joins in (True, False):
        hf.zero_grad()
        model.forward.joins = joins
        logp = model.logp(sequences)
        (logp * torch.arange(1, 1 + logp.numel()).view_as(logp)).sum().backward()
        found.append([logp.detach(), *(p.grad.clone() for p in model.parameters().values())])
    for shared, alone in zip(*found, strict=True):
        torch.testing.assert_close(shared, alone, atol=2e-3, rtol=1e-4)


@torch.no_grad()
def test_rows_side_by_side_equal_one_row_at_a_time(hf, monkeypatch):
    sequences = some()
    model, scalar = LanguageModel(hf), ScalarModel.from_causal(hf, "normal")
    monkeypatch.setattr("handrail.models.forward.CPU_TOKENS", 1)
    logp, score = model.logp(sequences), scalar.score(sequences)
    monkeypatch.setattr("handrail.models.forward.CPU_TOKENS", 16 * 32)
    torch.testing.assert_close(model.logp(sequences), logp, atol=1e-5, rtol=0)
    torch.testing.assert_close(scalar.score(sequences), score, atol=1e-5, rtol=0)
    model.forward.joins = False
    torch.testing.assert_close(model.logp(sequences), logp, atol=1e-5, rtol=0)


def test_a_model_in_which_neighbours_meet_has_a_row_for_each(hf):
    layer = hf.model.layers[0].self_attn
    original = layer.forward
    layer.forward = lambda *a, **k: original(*a, **(k | {"layout": None}))  # attends to everything before
    model = LanguageModel(hf)
    assert not model.forward.joins
    sequences = some()
    with torch.no_grad():
        law = torch.log_softmax(hf(sequences.ids[3:4]).logits[0], -1)
        expected = law[19:39].gather(1, sequences.ids[3, 20:, None])[:, 0]
        torch.testing.assert_close(model.logp(sequences)[3], expected, atol=1e-5, rtol=0)


def test_a_model_that_does_more_than_its_head_takes_the_whole_path(hf):
    original = hf.forward

    def capped(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits = 2.0 * torch.tanh(output.logits / 2.0)
        return output

    hf.forward = capped
    for p in hf.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model, sequences = LanguageModel(hf), some()
    assert not model.splits
    with torch.no_grad():
        law = torch.log_softmax(hf(sequences.ids[3:4]).logits[0], -1)
        expected = law[19:39].gather(1, sequences.ids[3, 20:, None])[:, 0]
        torch.testing.assert_close(model.logp(sequences)[3], expected, atol=1e-5, rtol=0)


# -- log-probabilities


def test_the_padding_token_being_the_end_token_changes_nothing(hf):
    end, sequences = 1, some()
    ids = sequences.ids.clone()
    beyond = torch.arange(ids.shape[1]) >= sequences.lengths[:, None]
    last = torch.arange(ids.shape[1]) == sequences.lengths[:, None] - 1
    ids[last] = end
    ended = Sequences(ids, sequences.prompt_lengths, sequences.lengths)
    padded = Sequences(torch.where(beyond, end, ids), sequences.prompt_lengths, sequences.lengths)
    model, scalar = LanguageModel(hf), ScalarModel.from_causal(hf, "normal")
    with torch.no_grad():
        assert torch.equal(model.logp(ended), model.logp(padded))
        assert torch.equal(scalar.score(ended), scalar.score(padded))
        assert (model.logp(ended)[torch.arange(4), ended.response_lengths[:4] - 1] < 0).all()  # the end is scored


def test_gradients_of_log_probability_and_entropy_are_exact(hf):
    hf = hf.double()
    model, sequences = LanguageModel(hf), some(((2, 3), (1, 4)))
    from handrail.models.language import TokenLaw

    logits = torch.randn(5, 7, dtype=torch.float32, requires_grad=True)
    tokens, weight = torch.tensor([0, 3, 6, 2, 2]), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    logp, entropy = TokenLaw.apply(logits, tokens, 0.7, True)
    (found,) = torch.autograd.grad((weight * logp).sum() + (weight.flip(0) * entropy).sum(), logits)
    law = torch.log_softmax(logits.double() / 0.7, -1)
    exact_logp, exact_entropy = law.gather(1, tokens[:, None])[:, 0], -(law.exp() * law).sum(-1)
    (wanted,) = torch.autograd.grad((weight * exact_logp).sum() + (weight.flip(0) * exact_entropy).sum(), logits)
    torch.testing.assert_close(found, wanted.float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(entropy, exact_entropy.float(), atol=1e-6, rtol=0)
    assert model.logp(sequences).requires_grad


@torch.no_grad()
def test_probabilities_of_all_continuations_sum_to_one(hf):
    model = LanguageModel(hf)
    every = Sequences.of([([5, 6], [token]) for token in range(hf.config.vocab_size)])
    for temperature in (0.5, 1.0, 2.0):
        assert float(model.logp(every, temperature).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_micro_batches_and_recomputation_give_the_same_gradient(hf, monkeypatch):
    sequences, model = some(), LanguageModel(hf)

    def gradient(parts):
        hf.zero_grad()
        for part in parts:
            model.logp(part).sum().backward()
        return [p.grad.clone() for p in model.parameters().values()]

    whole = gradient([sequences])
    halves = gradient([sequences[:2], sequences[2:]])
    recompute_layers(hf)
    model = LanguageModel(hf)
    assert len(model.forward.recomputed) == 2
    calls = []
    monkeypatch.setattr("handrail.models.forward.CPU_TOKENS", 1)  # a sequence at a time
    hf.model.layers[0].mlp.register_forward_pre_hook(lambda *a: calls.append(1))
    again = gradient([sequences])
    assert len(calls) == 2 * len(sequences)  # each sequence forward and again
    for a, b, c in zip(whole, halves, again, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a, c, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_likeliest_are_those_of_the_law_and_whole_laws_are_not_kept(hf, monkeypatch):
    policy, sequences, alive, most = LanguageModel(hf), some([(5, 40)] * 10), weakref.WeakSet(), []
    made = torch.log_softmax

    def counted(*given):
        alive.add(law := made(*given))
        most.append(len(alive))
        return law

    monkeypatch.setattr(torch, "log_softmax", counted)
    logp, ids = policy.likeliest(sequences, 3, temperature=0.5)
    assert len(most) > 4 and max(most) <= 2
    for row in range(10):
        law = made(hf(input_ids=sequences.ids[row : row + 1]).logits[0, 4:44] / 0.5, -1)
        best = law.topk(3)
        torch.testing.assert_close(logp[row, :40], best.values, rtol=1e-4, atol=1e-5)
        assert (ids[row, :40] == best.indices).float().mean() > 0.98  # but for ties up to rounding


def test_autocast_rounds_to_bfloat16_and_returns_float32(hf):
    sequences = some()
    exact, rounded = LanguageModel(hf).logp(sequences), LanguageModel(hf, autocast=True).logp(sequences)
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, atol=1e-2, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_gives_the_same_output_and_gradient(hf):
    sequences, found = some(), []
    for compiled in (False, True):
        hf.zero_grad()
        model = LanguageModel(hf, compiled=compiled)
        assert model.forward.joins
        logp = model.logp(sequences)
        logp.sum().backward()
        found.append([logp.detach(), *(p.grad.clone() for p in model.parameters().values())])
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-4, rtol=1e-4)


# -- scalar models


@torch.no_grad()
def test_heads_start_as_they_should(hf):
    sequences = some()
    critic = ScalarModel.from_causal(hf, "zero")
    assert (critic.values(sequences)[0] == 0).all() and (critic.score(sequences) == 0).all()
    torch.manual_seed(0)
    wide = new_model(NewModel(hidden=512, layers=1, heads=2, vocabulary=360), new_tokenizer(TEXTS, 360))
    head = ScalarModel.from_causal(wide, "normal").head.weight
    assert float(head.std()) == pytest.approx(513**-0.5, rel=0.1) and head.shape == (1, 512)


@torch.no_grad()
def test_a_critic_from_a_reward_model_starts_as_its_score(hf):
    sequences = some()
    reward = ScalarModel.from_causal(hf, "normal").freeze()
    reward.mean, reward.std = 0.7, 0.2
    critic = ScalarModel.from_scalar(reward)
    torch.testing.assert_close(critic.values(sequences)[1], reward.score(sequences), atol=1e-5, rtol=0)
    assert critic.parameters() and not reward.parameters()
    critic.head.weight += 1
    assert not torch.allclose(critic.score(sequences), reward.score(sequences))


def test_from_causal_copies_the_trunk(hf):
    critic = ScalarModel.from_causal(hf, "normal")
    critic.score(some()).sum().backward()
    assert all(p.grad is None for p in hf.parameters())
    assert count_parameters(critic.hf) == count_parameters(hf) + 32  # the output head is tied, the new one has 32


# -- state


def test_state_goes_round_bit_for_bit(hf, tokenizer):
    sequences, model = some(), LanguageModel(hf)
    with torch.no_grad():
        state = {n: t.clone() for n, t in model.state().items()}
        before = model.logp(sequences)
        for p in model.parameters().values():
            p.add_(0.1)
        assert not torch.equal(model.logp(sequences), before)
        model.load_state(state)
        assert torch.equal(model.logp(sequences), before)
    with pytest.raises(ModelError, match="does not fit"):
        model.load_state({})


def test_frozen_models_have_nothing_to_train(hf):
    model = LanguageModel(hf).freeze()
    assert model.parameters() == {} and not model.logp(some()).requires_grad and not hf.training


@torch.no_grad()
def test_bfloat16_weights(hf, tokenizer, tmp_path):
    LanguageModel(hf).save(tmp_path / "m", tokenizer)
    half = LanguageModel(load_causal(ModelSettings(path=str(tmp_path / "m"), dtype="bfloat16")))
    assert half.forward.joins and half.splits
    torch.testing.assert_close(half.logp(some()), LanguageModel(hf).logp(some()), atol=1e-2, rtol=1e-2)


def test_saving_over_a_model_replaces_it_whole(hf, tokenizer, tmp_path):
    model = LanguageModel(hf)
    model.save(tmp_path / "m", tokenizer)
    (tmp_path / "m" / "left-over.txt").write_text("x")
    model.save(tmp_path / "m", tokenizer)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"] and not (tmp_path / "m" / "left-over.txt").exists()


# -- settings and machine


@pytest.mark.parametrize(
    "given, word",
    [
        ({}, "exactly one"),
        ({"path": "x", "new": {}}, "exactly one"),
        ({"new": {"hidden": 30, "heads": 4}}, "multiple"),
        ({"pth": "x"}, "path"),
    ],
)
def test_settings_say_what_is_wrong(given, word):
    with pytest.raises(ConfigError, match=word):
        validate(ModelSettings, given, "test")


def test_a_new_model_has_the_sizes_that_were_asked_for(tokenizer):
    settings = NewModel(hidden=64, layers=3, heads=4, vocabulary=360, context=128, tie_embeddings=False)
    model = new_model(settings, tokenizer)
    assert (model.config.num_hidden_layers, model.config.intermediate_size, model.config.vocab_size) == (3, 192, len(tokenizer))
    assert LanguageModel(model).context == 128
    torch.manual_seed(1)
    a = new_model(settings, tokenizer)
    torch.manual_seed(1)
    b = new_model(settings, tokenizer)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_best_matmul_keeps_float32(tmp_path):
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        best_matmul()
        a, b = torch.randn(300, 200), torch.randn(200, 400)
        exact = a.double() @ b.double()
        assert float((a @ b - exact).abs().max() / exact.abs().max()) < 1e-5
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
        assert "default" in best_matmul(limit=0.0) and torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_settings_are_imported_without_torch():
    code = "import sys, handrail.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lora_settings():
    assert validate(Lora, {"rank": 4, "targets": ["q_proj"]}, "test").targets == ["q_proj"]
