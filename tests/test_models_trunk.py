"""Four roles on one frozen trunk."""

import pytest
import torch

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models import (
    LanguageModel,
    Lora,
    ModelSettings,
    NewModel,
    OneTrunk,
    ScalarModel,
    load_causal,
    load_tokenizer,
    new_model,
    new_tokenizer,
)

torch.set_num_threads(1)
LORA = Lora(rank=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = new_tokenizer(["have you seen it"] * 9, 280)
    path = tmp_path_factory.mktemp("base") / "model"
    hf = new_model(NewModel(hidden=32, layers=2, heads=2, context=64), tokenizer)
    for p in hf.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.1)
    LanguageModel(hf).save(path, tokenizer)
    return str(path)


def shaken(model, seed=0):
    """Every trained parameter moved away from its start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters().values():
            p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def reward(base, tmp_path_factory):
    torch.manual_seed(1)
    model = shaken(ScalarModel.from_causal(load_causal(ModelSettings(path=base, lora=LORA)), "normal"))
    model.mean, model.std = 0.4, 0.5
    path = tmp_path_factory.mktemp("reward") / "model"
    model.save(path, load_tokenizer(ModelSettings(path=base)))
    return str(path)


def some() -> Sequences:
    g = torch.Generator().manual_seed(0)
    return Sequences.of(
        [tuple(torch.randint(0, 250, (n,), generator=g).tolist() for n in pair) for pair in ((5, 7), (1, 9), (12, 1), (20, 20))]
    )


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_roles_start_as_separate_models_would(base, reward, shared):
    torch.manual_seed(2)
    trunk, sequences = OneTrunk.load(ModelSettings(path=base, lora=LORA), reward, shared), some()
    separate = LanguageModel(load_causal(ModelSettings(path=base)))
    scorer = ScalarModel.load(ModelSettings(path=reward))
    assert torch.equal(trunk.policy.logp(sequences, 0.7), trunk.reference.logp(sequences, 0.7))
    torch.testing.assert_close(trunk.policy.logp(sequences, 0.7), separate.logp(sequences, 0.7), atol=1e-5, rtol=0)
    torch.testing.assert_close(trunk.reward.score(sequences), scorer.score(sequences), atol=1e-5, rtol=0)
    if shared:
        assert (trunk.critic.values(sequences)[0] == 0).all()
    else:
        torch.testing.assert_close(trunk.critic.values(sequences)[1], scorer.score(sequences), atol=1e-5, rtol=0)


def test_training_moves_policy_and_critic_only(base, reward):
    trunk, sequences = OneTrunk.load(ModelSettings(path=base, lora=LORA), reward), some()
    before = {n: p.clone() for n, p in trunk.hf.named_parameters()}
    with torch.no_grad():
        logp_ref, score = trunk.reference.logp(sequences), trunk.reward.score(sequences)
    policy, critic = trunk.policy.parameters(), trunk.critic.parameters()
    assert not {id(p) for p in policy.values()} & {id(p) for p in critic.values()}
    assert trunk.reference.parameters() == {} == trunk.reward.parameters()
    optimizer = torch.optim.SGD([*policy.values(), *critic.values()], lr=0.1)
    for _ in range(2):  # an adapter's first half has no gradient until the second has moved
        (trunk.policy.logp(sequences).sum() + (trunk.critic.values(sequences)[0] ** 2).sum()).backward()
        assert all(p.grad is not None for p in (*policy.values(), *critic.values()))
        optimizer.step()
        optimizer.zero_grad()
    moved = {n for n, p in trunk.hf.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if ".policy." in n or ".critic." in n}
    with torch.no_grad():
        assert torch.equal(trunk.reference.logp(sequences), logp_ref)
        assert torch.equal(trunk.reward.score(sequences), score)
        assert not torch.allclose(trunk.policy.logp(sequences), logp_ref)


def test_gradients_under_recomputation_belong_to_the_right_adapter(base, reward):
    def gradients(checkpointing):
        torch.manual_seed(3)
        settings = ModelSettings(path=base, lora=LORA, gradient_checkpointing=checkpointing)
        trunk, sequences = OneTrunk.load(settings, reward), some()
        shaken(trunk.policy), shaken(trunk.critic)
        loss = trunk.policy.logp(sequences).sum() + trunk.critic.values(sequences)[0].sum()
        loss.backward()  # after the critic's forward: the policy's layers must run again under the policy's adapter
        return [p.grad for p in (*trunk.policy.parameters().values(), *trunk.critic.parameters().values())]

    for a, b in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_shared_trunk_gives_both_from_one_forward(base, reward):
    trunk, sequences = OneTrunk.load(ModelSettings(path=base, lora=LORA), reward, shared=True), some()
    shaken(trunk.policy), shaken(trunk.critic)
    assert [n for n in trunk.critic.parameters()] == ["score.weight"]
    calls = []
    trunk.hf.model.register_forward_pre_hook(lambda *a: calls.append(1))
    logp, entropy, values = trunk.policy.logp_entropy_values(sequences, 0.7)
    forwards = len(calls)
    with torch.no_grad():
        expected, expected_entropy = trunk.policy.logp_and_entropy(sequences, 0.7)
        assert len(calls) == 2 * forwards
        assert torch.equal(logp, expected) and torch.equal(entropy, expected_entropy)
        torch.testing.assert_close(values, trunk.critic.values(sequences)[0], atol=1e-6, rtol=0)
    values.sum().backward()
    assert any(p.grad.abs().max() > 0 for p in trunk.policy.parameters().values())
    with pytest.raises(ModelError, match="without a critic"):
        trunk.reference.logp_entropy_values(sequences)


@torch.no_grad()
def test_state_holds_what_is_trained_and_goes_round(base, reward):
    trunk, sequences = OneTrunk.load(ModelSettings(path=base, lora=LORA), reward), some()
    shaken(trunk.policy), shaken(trunk.critic)
    state = {n: t.clone() for n, t in trunk.state().items()}
    assert all(".policy." in n or ".critic." in n or n.endswith("score.weight") for n in state)
    other = OneTrunk.load(ModelSettings(path=base, lora=LORA), reward)
    other.load_state(state)
    assert torch.equal(other.policy.logp(sequences), trunk.policy.logp(sequences))
    assert torch.equal(other.critic.values(sequences)[0], trunk.critic.values(sequences)[0])


@torch.no_grad()
def test_generation_from_the_backbone_meets_the_policy_and_what_is_saved_is_it(base, reward, tmp_path):
    trunk, sequences = OneTrunk.load(ModelSettings(path=base, lora=LORA), reward), some()
    shaken(trunk.policy)
    trunk.reference.logp(sequences), trunk.reward.score(sequences), trunk.critic.values(sequences)
    ids = sequences.ids[3:4]
    direct = trunk.policy.hf(ids).logits[0].log_softmax(-1)[19:39].gather(1, ids[0, 20:, None])[:, 0]
    torch.testing.assert_close(trunk.policy.logp(sequences)[3], direct, atol=1e-5, rtol=0)
    trunk.policy.save(tmp_path / "policy", load_tokenizer(ModelSettings(path=base)))
    saved = LanguageModel(load_causal(ModelSettings(path=str(tmp_path / "policy"))))
    torch.testing.assert_close(saved.logp(sequences), trunk.policy.logp(sequences), atol=1e-5, rtol=0)
    continued = OneTrunk.load(ModelSettings(path=base), reward, start=str(tmp_path / "policy" / "adapter"))
    torch.testing.assert_close(continued.reference.logp(sequences), trunk.policy.logp(sequences), atol=1e-5, rtol=0)


def test_a_reward_model_of_another_base_or_without_adapter_is_refused(base, reward, tmp_path):
    tokenizer = load_tokenizer(ModelSettings(path=base))
    other = shaken(LanguageModel(load_causal(ModelSettings(path=base))))
    other.save(tmp_path / "other", tokenizer)
    with pytest.raises(ModelError, match="another model"):
        OneTrunk.load(ModelSettings(path=str(tmp_path / "other")), reward)
    ScalarModel.from_causal(other.hf, "normal").save(tmp_path / "plain", tokenizer)
    with pytest.raises(ModelError, match="without an adapter"):
        OneTrunk.load(ModelSettings(path=base), str(tmp_path / "plain"))


@torch.no_grad()
def test_without_a_reward_model_the_critic_starts_at_zero(base):
    trunk = OneTrunk.load(ModelSettings(path=base))
    assert trunk.reward is None and (trunk.critic.values(some())[0] == 0).all()
