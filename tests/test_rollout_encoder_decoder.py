"""Sampling from encoder-decoders, against Transformers' own generate and forward."""

import pytest
import torch

from encoder_decoder_models import BEGIN, CONFIGS, CONTEXT, END, V, by_definition, law_of, new_tokenizer, random_model, write_model
from handrail.errors import InputError, NonFiniteError
from handrail.models import LanguageModel, Lora, ModelSettings, OneTrunk
from handrail.rollout import NativeEngine, Sampling

SEEDS, ENDS = list(range(11)), [END, 7, 8]
TWO = ["t5", "bart"]


def engine_for(policy: LanguageModel, slots: int = 3) -> NativeEngine:
    engine = NativeEngine(None, ENDS, slots)
    engine.sync(policy)
    return engine


def random_prompts() -> list[list[int]]:
    """Prompts of mixed lengths, two of them equal."""
    g = torch.Generator().manual_seed(1)
    prompts = [torch.randint(4, V, (n,), generator=g).tolist() for n in (3, 19, 1, 8, 12, 12, 5, 8, 2, 17, 6)]
    prompts[3] = prompts[7]
    return prompts


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_tokens_are_those_of_generate_with_fewer_slots_than_prompts(name):
    hf, prompts = random_model(name, torch.float64), random_prompts()
    rollout = engine_for(LanguageModel(hf)).generate(prompts, SEEDS, Sampling(temperature=0.0, max_new_tokens=20))
    given = {"num_beams": 1, "do_sample": False, "max_new_tokens": 20, "eos_token_id": ENDS, "forced_eos_token_id": None}
    for prompt, response, ended in zip(prompts, rollout.responses(), rollout.ended.tolist(), strict=True):
        expected = hf.generate(torch.tensor([prompt]), **given)[0, 1:].tolist()  # without the decoder's start
        assert response == expected
        assert ended == (expected[-1] in ENDS)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_sampled_log_probabilities_are_those_of_a_plain_forward_and_of_the_trainer(name):
    hf, prompts = random_model(name), random_prompts()
    policy, plain = LanguageModel(hf), by_definition(hf)
    rollout = engine_for(policy).generate(prompts, SEEDS, Sampling(max_new_tokens=20, temperature=0.7))
    assert torch.equal(rollout.logp != 0, rollout.mask)
    torch.testing.assert_close(rollout.logp, policy.logp(rollout.sequences, 0.7).detach(), atol=1e-4, rtol=0)
    for i, (prompt, response) in enumerate(zip(prompts, rollout.responses(), strict=True)):
        with torch.no_grad():
            law = torch.log_softmax(law_of(plain, prompt, response) / 0.7, -1)
        expected = law.gather(1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(rollout.logp[i, : len(response)], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TWO)
def test_a_row_depends_on_its_prompt_and_seed_alone(name):
    policy, prompts = LanguageModel(random_model(name, torch.float64, 0.1)), random_prompts()
    sampling = Sampling(max_new_tokens=20, temperature=0.8, top_p=0.95)
    expected = engine_for(policy, 1).generate(prompts, SEEDS, sampling)
    assert len(set(expected.response_lengths.tolist())) > 1  # some finish before others, and leave
    for slots in (2, 4, 64):
        rollout = engine_for(policy, slots).generate(prompts, SEEDS, sampling)
        assert torch.equal(rollout.ids, expected.ids) and torch.equal(rollout.ended, expected.ended)
        torch.testing.assert_close(rollout.logp, expected.logp, atol=1e-6, rtol=0)
    order = [7, 2, 9, 3, 0]
    rollout = engine_for(policy).generate([prompts[i] for i in order], order, sampling)
    assert rollout.responses() == [expected.responses()[i] for i in order]


@pytest.mark.parametrize("name", TWO)
def test_rows_that_have_finished_leave_and_a_prompt_is_encoded_once(name):
    hf, fed, encoded = random_model(name, scale=0.1), [], []
    hf.get_decoder().register_forward_pre_hook(lambda _, __, given: fed.append(len(given["input_ids"])), with_kwargs=True)
    hf.get_encoder().register_forward_pre_hook(lambda _, __, given: encoded.append(tuple(given["input_ids"].shape)), with_kwargs=True)
    policy = LanguageModel(hf)
    fed.clear(), encoded.clear()  # of the trial when it was wrapped
    told: list[int] = []
    engine = NativeEngine(None, list(range(4, 24)), 64)
    engine.sync(policy)
    rollout = engine.generate([[9, 5, 6]] * 32 + [[4, 4]] * 16, list(range(48)), Sampling(max_new_tokens=60), told.append)
    lengths = rollout.response_lengths
    assert encoded == [(2, 3)] and fed[0] == 2  # the first token's law is the same for all who answer a prompt
    standing = [int((lengths > place).sum()) for place in range(1, len(fed))]
    assert all(n <= rows <= max(n + 1, n * 4 / 3) for n, rows in zip(standing, fed[1:], strict=True)) and fed[-1] < 12
    assert told == sorted(set(told)) and told[-1] == 48


def test_prompts_longer_than_the_encoder_may_hold_go_in_several(monkeypatch):
    for name in TWO:
        policy, prompts = LanguageModel(random_model(name, torch.float64)), random_prompts()
        expected = engine_for(policy, 64).generate(prompts, SEEDS, Sampling(max_new_tokens=8))
        with monkeypatch.context() as patch:
            patch.setattr("handrail.rollout.encoder_decoder.ENCODE_TOKENS", 25)
            assert torch.equal(engine_for(policy, 64).generate(prompts, SEEDS, Sampling(max_new_tokens=8)).ids, expected.ids)


@pytest.mark.parametrize("name", TWO)
def test_the_law_is_the_policys_own_whatever_its_generation_config_wishes(name, tmp_path):
    policy = LanguageModel.load(ModelSettings(path=str(write_model(name, tmp_path, ["a quiet river"]))))
    wishes = policy.causal.generation_config
    assert (wishes.num_beams, wishes.forced_bos_token_id, wishes.no_repeat_ngram_size, wishes.min_length) == (4, BEGIN, 2, 6)
    rollout = engine_for(policy, 64).generate([[9, 5, 6]] * 200, list(range(200)), Sampling(max_new_tokens=12))
    firsts = rollout.ids[:, 3]
    assert len(firsts.unique()) > 100 and (firsts == BEGIN).sum() < 10  # no token is forced
    assert (rollout.ended & (rollout.response_lengths < 6)).any() and not rollout.ended.all()  # no length either
    with torch.no_grad():
        torch.testing.assert_close(rollout.logp, policy.logp(rollout.sequences), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "temperature"), [("t5", 0.2), ("bart", 1.0)])
def test_the_first_token_comes_from_the_law_at_the_decoders_start(name, temperature):
    hf, count = random_model(name), 4000
    sampling = Sampling(max_new_tokens=1, temperature=temperature)
    rollout = engine_for(LanguageModel(hf), count).generate([[9, 5, 6]] * count, list(range(count)), sampling)
    with torch.no_grad():
        law = torch.softmax(law_of(by_definition(hf), [9, 5, 6], [4])[0].double() / temperature, -1)
    seen = torch.bincount(rollout.ids[:, 3], minlength=V).double()
    likely = law * count > 5
    observed = torch.cat([seen[likely], seen[~likely].sum()[None]])
    expected = torch.cat([law[likely], law[~likely].sum()[None]]) * count
    freedom = len(expected) - 1
    assert freedom > 20 and expected.max() > 5 * expected.median() and expected.min() > 0
    chi = float(((observed - expected) ** 2 / expected).sum())
    assert abs(chi - freedom) < 4 * (2 * freedom) ** 0.5


def test_stop_strings_cuts_and_the_context():
    tokenizer = new_tokenizer("bart", ["the cat sat on the mat and the dog sat on the log"])
    policy = LanguageModel(random_model("bart", scale=0.1))
    engine = NativeEngine(tokenizer, [END], 8)
    engine.sync(policy)
    stopped = engine.generate([[9]] * 64, list(range(64)), Sampling(max_new_tokens=20, stop=["a", "o"]))
    for response, ended in zip(stopped.responses(), stopped.ended.tolist(), strict=True):
        texts = [tokenizer.decode(response[: n + 1]) for n in range(len(response))]
        found = [any(stop in text for stop in "ao") for text in texts]
        assert not any(found[:-1]) and ended == (found[-1] or response[-1] == END)
    assert stopped.ended.any()
    endless = NativeEngine(None, [], 4)
    endless.sync(policy)
    rollout = endless.generate([[7] * (CONTEXT - 1), [7] * (CONTEXT - 5), [7]], [0, 1, 2], Sampling(max_new_tokens=100))
    assert rollout.response_lengths.tolist() == [1, 5, CONTEXT - 1] and not rollout.ended.any()
    with pytest.raises(InputError, match=f"1 to {CONTEXT - 1}"):
        endless.generate([[7] * CONTEXT], [0], Sampling())
    assert len(endless.generate([], [], Sampling())) == 0


@pytest.mark.parametrize("name", TWO)
def test_weights_are_read_as_they_are_and_dropout_is_off(name):
    hf = random_model(name)
    policy, prompts = LanguageModel(hf), random_prompts()
    engine, sampling = engine_for(policy), Sampling(max_new_tokens=8)
    before = engine.generate(prompts, SEEDS, sampling)
    hf.train()
    again = engine.generate(prompts, SEEDS, sampling)
    assert torch.equal(again.ids, before.ids) and torch.equal(again.logp, before.logp) and hf.training and hf.get_decoder().training
    with torch.no_grad():
        hf.get_encoder().get_input_embeddings().weight.mul_(-1)
    moved = engine.generate(prompts, SEEDS, sampling)
    torch.testing.assert_close(moved.logp, LanguageModel(hf.eval()).logp(moved.sequences).detach(), atol=1e-4, rtol=0)
    assert not torch.equal(moved.logp[:, :1], before.logp[:, :1])


def test_logits_that_are_not_finite_are_an_error():
    hf = random_model("t5")
    policy = LanguageModel(hf)
    with torch.no_grad():
        hf.get_decoder().block[0].layer[-1].DenseReluDense.wo.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="token 0 of response"):
        engine_for(policy).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=4))


@pytest.mark.parametrize("name", TWO)
def test_each_role_on_one_trunk_samples_with_its_own_adapter(name):
    hf = random_model(name, torch.float64)
    trunk = OneTrunk(hf, Lora(rank=2))
    with torch.no_grad():
        for parameter in trunk.policy.parameters().values():
            parameter.normal_(std=0.5)
    said = {}
    for role in (trunk.policy, trunk.reference):
        rollout = engine_for(role).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=10))
        torch.testing.assert_close(rollout.logp, role.logp(rollout.sequences).detach().float(), atol=1e-4, rtol=0)
        said[role.adapter] = rollout.responses()
    assert said["policy"] != said["reference"]


@pytest.mark.parametrize("name", TWO)
def test_products_in_bfloat16_stay_near_the_trainers(name):
    policy = LanguageModel(random_model(name, scale=0.1), autocast=True)
    rollout = engine_for(policy).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=10))
    difference = (rollout.logp - policy.logp(rollout.sequences).detach())[rollout.mask]
    assert difference.abs().mean() < 1e-2
