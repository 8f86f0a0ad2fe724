"""Ends, cuts, stop strings, fresh weights, and what the engine leaves behind."""

import pytest
import torch

from handrail.errors import InputError, ModelError, NonFiniteError, RunError
from handrail.models import LanguageModel, new_tokenizer
from handrail.rollout import NativeEngine, Sampling
from rollout_models import CONTEXT, ENDS, random_model, random_prompts

SEEDS = list(range(11))


def engine_for(policy: LanguageModel, slots: int = 4) -> NativeEngine:
    engine = NativeEngine(None, ENDS, slots)
    engine.sync(policy)
    return engine


def test_an_end_token_ends_and_stays_and_a_cut_is_no_end():
    rollout = engine_for(LanguageModel(random_model("llama", scale=0.2))).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=15))
    for response, ended in zip(rollout.responses(), rollout.ended.tolist(), strict=True):
        assert not set(response[:-1]) & set(ENDS)
        assert ended == (response[-1] in ENDS)
        assert ended or len(response) == 15
    assert rollout.ended.any() and not rollout.ended.all()


def test_an_end_token_in_the_last_place_is_an_end():
    policy, seeds = LanguageModel(random_model("llama", scale=0.2)), list(range(64))
    full = engine_for(policy).generate([[9]] * 64, seeds, Sampling(max_new_tokens=15))
    row = next(i for i in range(64) if full.ended[i] and full.response_lengths[i] > 2)
    length = int(full.response_lengths[row])
    exact = engine_for(policy).generate([[9]], [row], Sampling(max_new_tokens=length))
    short = engine_for(policy).generate([[9]], [row], Sampling(max_new_tokens=length - 1))
    assert exact.ended.item() and exact.responses()[0] == full.responses()[row]
    assert not short.ended.item() and short.responses()[0] == full.responses()[row][:-1]


def test_the_context_cuts_a_response():
    engine = NativeEngine(None, [], 4)
    engine.sync(LanguageModel(random_model("gpt2")))
    prompts = [[7] * (CONTEXT - 1), [7] * (CONTEXT - 5), [7]]
    rollout = engine.generate(prompts, [0, 1, 2], Sampling(max_new_tokens=100))
    assert rollout.lengths.tolist() == [CONTEXT] * 3 and not rollout.ended.any()
    assert rollout.response_lengths.tolist() == [1, 5, CONTEXT - 1]


def test_the_record_holds_prompts_then_responses_and_nothing_beyond():
    prompts = random_prompts()
    rollout = engine_for(LanguageModel(random_model("llama"))).generate(prompts, SEEDS, Sampling(max_new_tokens=15))
    assert [row[:n] for row, n in zip(rollout.ids.tolist(), rollout.prompt_lengths.tolist(), strict=True)] == prompts
    assert rollout.ids.shape[1] == int(rollout.lengths.max()) and rollout.logp.shape[1] == int(rollout.response_lengths.max())
    assert (rollout.logp[~rollout.mask] == 0).all() and (rollout.logp[rollout.mask] <= 0).all()
    assert len(engine_for(LanguageModel(random_model("llama"))).generate([], [], Sampling())) == 0


def test_a_stop_string_ends_with_the_token_that_completes_it():
    tokenizer = new_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 4, 300)
    torch.manual_seed(0)
    hf = random_model("llama", scale=0.1)
    hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    engine = NativeEngine(tokenizer, [tokenizer.eos_token_id], 5)
    engine.sync(LanguageModel(hf))
    prompts, seeds = [[4, 5, 6]] * 40, list(range(40))
    free = engine.generate(prompts, seeds, Sampling(max_new_tokens=40))
    spans = [tokenizer.decode(whole[n : n + 4]) for whole in free.responses() for n in range(len(whole) - 4)]
    over_four_tokens = next(text for text in spans if text.isascii() and "<|" not in text)
    for stops, least in ((["e", "at ", "<|user|>"], 6), ([over_four_tokens], 1)):
        stopped = engine.generate(prompts, seeds, Sampling(max_new_tokens=40, stop=stops))
        hits = 0
        for whole, ended, cut, cut_ended in zip(free.responses(), free.ended, stopped.responses(), stopped.ended, strict=True):
            first = next((n for n in range(1, len(whole) + 1) if any(s in tokenizer.decode(whole[:n]) for s in stops)), None)
            assert cut == whole[:first]
            assert bool(cut_ended) == (first is not None or bool(ended))
            hits += first is not None
        assert hits >= least


def test_after_the_weights_change_nothing_old_is_used():
    policy, prompts, sampling = LanguageModel(random_model("llama")), random_prompts(), Sampling(max_new_tokens=15)
    engine = engine_for(policy)
    before = engine.generate(prompts, SEEDS, sampling)
    with torch.no_grad():
        for parameter in policy.hf.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    after = engine.generate(prompts, SEEDS, sampling)
    fresh = engine_for(policy).generate(prompts, SEEDS, sampling)
    assert torch.equal(after.ids, fresh.ids) and torch.equal(after.logp, fresh.logp)
    assert not torch.equal(after.logp[:, :1], before.logp[:, :1])


def test_what_an_earlier_call_left_in_the_buffers_is_never_read():
    policy, sampling = LanguageModel(random_model("llama")), Sampling(max_new_tokens=15)
    engine = engine_for(policy)
    engine.generate(random_prompts(longest=30, seed=2), SEEDS, Sampling(max_new_tokens=30))
    cache = engine._cache
    with torch.inference_mode():
        for kept in cache.buffers:
            for buffer in kept:
                buffer.fill_(torch.nan)
    rollout = engine.generate(random_prompts(), SEEDS, sampling)
    assert engine._cache is cache  # the same memory
    fresh = engine_for(policy).generate(random_prompts(), SEEDS, sampling)
    assert torch.equal(rollout.ids, fresh.ids) and torch.equal(rollout.logp, fresh.logp)


def test_an_engine_goes_from_one_model_to_another():
    engine, prompts, sampling = engine_for(LanguageModel(random_model("llama"))), random_prompts(), Sampling(max_new_tokens=9)
    for name in ("llama", "gpt2", "gemma", "llama"):
        policy = LanguageModel(random_model(name))
        engine.sync(policy)
        assert torch.equal(engine.generate(prompts, SEEDS, sampling).ids, engine_for(policy).generate(prompts, SEEDS, sampling).ids)


def test_dropout_is_off_inside_and_every_mode_is_restored():
    hf = random_model("gpt2")
    policy, sampling = LanguageModel(hf), Sampling(max_new_tokens=9)
    expected = engine_for(policy).generate(random_prompts(), SEEDS, sampling)
    hf.train()
    hf.transformer.h[0].eval()
    modes = [module.training for module in hf.modules()]
    assert torch.equal(engine_for(policy).generate(random_prompts(), SEEDS, sampling).ids, expected.ids)
    assert [module.training for module in hf.modules()] == modes


def test_training_goes_on_after_sampling():
    policy = LanguageModel(random_model("llama"))
    rollout = engine_for(policy).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=9))
    policy.logp(rollout.sequences).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in policy.hf.parameters())


def test_the_global_random_state_is_left_alone():
    engine = engine_for(LanguageModel(random_model("llama")))
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    engine.generate(random_prompts(), SEEDS, Sampling(max_new_tokens=9))
    assert torch.equal(torch.rand(4), expected)


def test_progress_counts_finished_rows():
    seen: list[int] = []
    engine_for(LanguageModel(random_model("llama", scale=0.2))).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=9), seen.append)
    assert seen == sorted(set(seen)) and seen[-1] == 11 and len(seen) > 2


def test_equal_prompts_are_run_once():
    policy, widths = LanguageModel(random_model("llama")), []
    policy.hf.model.embed_tokens.register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape)))
    engine = engine_for(policy, 8)
    engine.generate([[7, 8, 9]] * 4 + [[3, 4, 5]] * 4, list(range(8)), Sampling(max_new_tokens=3))
    assert widths[0] == (2, 3)


def test_a_diverged_policy_is_told():
    policy = LanguageModel(random_model("llama"))
    engine = engine_for(policy)
    with torch.no_grad():
        policy.hf.lm_head.weight.fill_(torch.nan)
    for sampling in (Sampling(), Sampling(temperature=0.0), Sampling(top_k=3), Sampling(top_p=0.5)):
        with pytest.raises(NonFiniteError, match="diverged"):
            engine.generate([[3]], [0], sampling)


def test_what_cannot_be_sampled_is_refused_before_anything_runs():
    engine = engine_for(LanguageModel(random_model("llama")))
    with pytest.raises(InputError, match="prompt 1 has 0 tokens"):
        engine.generate([[3], []], [0, 1], Sampling())
    with pytest.raises(InputError, match=f"1 to {CONTEXT - 1}"):
        engine.generate([[3] * CONTEXT], [0], Sampling())
    with pytest.raises(InputError, match="one seed a prompt"):
        engine.generate([[3]], [], Sampling())
    with pytest.raises(RunError, match="no policy"):
        NativeEngine(None, ENDS).generate([[3]], [0], Sampling())
    policy = LanguageModel(random_model("llama"))
    policy.hf.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="sdpa"):
        engine_for(policy).generate([[3]], [0], Sampling())
