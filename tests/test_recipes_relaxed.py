"""The differentiated reward as it is run."""

import pytest
import torch

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models import LanguageModel, ModelSettings, ScalarModel, relaxed_score, token_logits
from handrail.recipes import relaxed
from recipe_runs import World, make_world, metrics


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def responses() -> Sequences:
    generator = torch.Generator().manual_seed(0)
    return Sequences.of(
        [
            (torch.randint(5, 500, (p,), generator=generator).tolist(), torch.randint(5, 500, (r,), generator=generator).tolist())
            for p, r in ((7, 5), (3, 1), (9, 12))
        ]
    )


def test_one_hot_mixtures_score_as_the_tokens_themselves(world):
    model = ScalarModel.load(ModelSettings(path=str(world.folder / "reward"))).freeze()
    sequences = responses()
    choice = torch.nn.functional.one_hot(sequences.tokens, model.hf.config.vocab_size).float()
    torch.testing.assert_close(relaxed_score(model, sequences, choice), model.score(sequences), rtol=1e-4, atol=1e-5)
    choice[~sequences.mask] = float("nan")
    assert relaxed_score(model, sequences, choice).isfinite().all(), "what stands beyond a response is never read"
    moved = choice.clone()
    moved[0, 2] = torch.full_like(moved[0, 2], 1 / moved.shape[-1])
    assert (relaxed_score(model, sequences, moved) != relaxed_score(model, sequences, choice)).tolist() == [True, False, False]
    with pytest.raises(ModelError, match="one vocabulary for both"):
        relaxed_score(model, sequences, torch.zeros(*choice.shape[:2], choice.shape[2] + 1))


def test_the_logits_are_those_of_the_log_probabilities(world):
    policy = LanguageModel.load(ModelSettings(path=str(world.folder / "sft"))).freeze()
    sequences = responses()
    law = token_logits(policy, sequences, 0.7).log_softmax(-1)
    found = torch.where(sequences.mask, law.gather(-1, sequences.tokens[..., None])[..., 0], 0)
    torch.testing.assert_close(found, policy.logp(sequences, 0.7), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", ["straight_through", "expected"])
def test_it_raises_the_reward_and_moves_no_other_model(world, tmp_path, choice):
    cfg = world.relaxed(tmp_path / choice, {"choice": choice, "steps": 12, "batch_size": 32, "beta": 0.0, "rows": 0})
    lines = metrics(relaxed.run(cfg))
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5) and lines[-1]["kl"] > 0.1
    assert lines[-1]["reward_relaxed"] > lines[0]["reward_relaxed"] + 0.3
    if choice == "straight_through":
        assert lines[0]["reward_relaxed"] == pytest.approx(lines[0]["reward"], abs=1e-3), "in value it is the sampled response"


def test_slices_change_nothing_but_memory(world, tmp_path):
    found = []
    for rows in (8, 1, 3):
        cfg = world.relaxed(tmp_path / f"rows-{rows}", {"rows": rows})
        parts, _ = relaxed.build(cfg)
        parts.policy.hf.eval()
        parts.engine.sync(parts.policy)
        rollout = parts.engine.generate(parts.prompt_ids[:8], list(range(8)), cfg.sampling)
        relaxed.gradient(cfg, parts, rollout.sequences, 0)
        assert all(p.grad is None for p in parts.model.hf.parameters())
        found.append([p.grad.clone() for p in parts.policy.parameters().values()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_price_of_distance_holds_it_near(world, tmp_path):
    over = {"steps": 10, "batch_size": 16}
    free, held = (metrics(relaxed.run(world.relaxed(tmp_path / str(beta), over | {"beta": beta})))[-1]["kl"] for beta in (0.0, 5.0))
    assert held < 0.5 * free


def test_filtered_sampling_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="full distribution"):
        world.relaxed(tmp_path / "run", {"sampling": {"top_p": 0.9}})
