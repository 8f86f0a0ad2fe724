"""The engine against Transformers' own generate and forward, on every architecture."""

import pytest
import torch

from handrail.models import LanguageModel, Lora
from handrail.models.adapters import add_adapter, lora_config
from handrail.models.trunk import OneTrunk
from handrail.rollout import NativeEngine, Sampling
from rollout_models import CONFIGS, ENDS, greedy_by_transformers, law_after, random_model, random_prompts

SEEDS = list(range(11))


def engine_for(policy: LanguageModel, slots: int = 3) -> NativeEngine:
    engine = NativeEngine(None, ENDS, slots)
    engine.sync(policy)
    return engine


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_tokens_are_those_of_generate_with_fewer_slots_than_prompts(name):
    hf, prompts = random_model(name, torch.float64), random_prompts()
    rollout = engine_for(LanguageModel(hf)).generate(prompts, SEEDS, Sampling(temperature=0.0, max_new_tokens=20))
    for prompt, response, ended in zip(prompts, rollout.responses(), rollout.ended.tolist(), strict=True):
        expected = greedy_by_transformers(hf, prompt, 20)
        assert response == expected
        assert ended == (expected[-1] in ENDS)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_sampled_log_probabilities_are_those_of_a_plain_forward_and_of_the_trainer(name):
    hf, prompts = random_model(name), random_prompts()
    policy = LanguageModel(hf)
    for temperature in (1.0, 0.7):
        rollout = engine_for(policy).generate(prompts, SEEDS, Sampling(max_new_tokens=20, temperature=temperature))
        trainer = policy.logp(rollout.sequences, temperature).detach()
        assert torch.equal(rollout.logp != 0, rollout.mask)
        torch.testing.assert_close(rollout.logp, trainer, atol=1e-4, rtol=0)
        for i, (prompt, response) in enumerate(zip(prompts, rollout.responses(), strict=True)):
            law = torch.log_softmax(law_after(hf, prompt, response) / temperature, -1)
            expected = law.gather(1, torch.tensor(response)[:, None])[:, 0]
            torch.testing.assert_close(rollout.logp[i, : len(response)], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral-window"])
def test_a_row_depends_on_its_prompt_and_seed_alone(name):
    policy, prompts = LanguageModel(random_model(name, torch.float64)), random_prompts()
    sampling = Sampling(max_new_tokens=20, temperature=0.8, top_p=0.95)
    expected = engine_for(policy, 1).generate(prompts, SEEDS, sampling)
    for slots in (2, 4, 64):
        rollout = engine_for(policy, slots).generate(prompts, SEEDS, sampling)
        assert torch.equal(rollout.ids, expected.ids)
        torch.testing.assert_close(rollout.logp, expected.logp, atol=1e-6, rtol=0)
    order = [7, 2, 9, 3, 0]
    rollout = engine_for(policy).generate([prompts[i] for i in order], order, sampling)
    assert rollout.responses() == [expected.responses()[i] for i in order]


def test_other_seeds_give_other_responses_to_one_prompt():
    policy = LanguageModel(random_model("llama", scale=0.2))
    rollout = engine_for(policy).generate([[7, 8, 9]] * 8, [*range(7), 6], Sampling(max_new_tokens=12))
    responses = [tuple(response) for response in rollout.responses()]
    assert responses[6] == responses[7] and len(set(responses)) == 7


def test_prompts_longer_than_a_prefill_may_hold_go_in_several(monkeypatch):
    policy, prompts = LanguageModel(random_model("llama", torch.float64)), random_prompts()
    sampling = Sampling(max_new_tokens=8)
    expected = engine_for(policy, 64).generate(prompts, SEEDS, sampling)
    monkeypatch.setattr("handrail.rollout.native.PREFILL_TOKENS", 25)
    assert torch.equal(engine_for(policy, 64).generate(prompts, SEEDS, sampling).ids, expected.ids)


def test_adapters_are_at_work_and_each_role_on_one_trunk_has_its_own():
    hf = random_model("llama", torch.float64)
    trunk = OneTrunk(hf, Lora(rank=2))
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if ".policy." in name:
                parameter.normal_(std=0.5)
    prompts, said = random_prompts(), {}
    for role in ("policy", "reference"):
        policy = LanguageModel(hf, adapter=role)
        rollout = engine_for(policy).generate(prompts, SEEDS, Sampling(max_new_tokens=10))
        torch.testing.assert_close(rollout.logp, policy.logp(rollout.sequences).detach().float(), atol=1e-4, rtol=0)
        said[role] = rollout.responses()
    assert said["policy"] != said["reference"]
    assert trunk.policy.adapter == "policy"


def test_a_lora_policy_samples_with_its_adapter():
    hf = random_model("qwen2", torch.float64)
    plain = engine_for(LanguageModel(hf)).generate(random_prompts(), SEEDS, Sampling(temperature=0.0, max_new_tokens=10))
    add_adapter(hf, lora_config(Lora(rank=2), ""), "default")
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.5)
    rollout = engine_for(LanguageModel(hf)).generate(random_prompts(), SEEDS, Sampling(temperature=0.0, max_new_tokens=10))
    assert rollout.responses() == [greedy_by_transformers(hf, prompt, 10) for prompt in random_prompts()]
    assert rollout.responses() != plain.responses()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_products_in_bfloat16_stay_near_the_trainers(name):
    policy = LanguageModel(random_model(name, scale=0.1), autocast=True)
    rollout = engine_for(policy).generate(random_prompts(), SEEDS, Sampling(max_new_tokens=10))
    difference = (rollout.logp - policy.logp(rollout.sequences).detach())[rollout.mask]
    assert difference.abs().mean() < 1e-2
