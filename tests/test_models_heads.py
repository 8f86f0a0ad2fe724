"""Several heads on one trunk: normalised, combined, saved, turned into a critic, put on a shared trunk."""

import json
import math

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from handrail.errors import ConfigError, ModelError
from handrail.models import (
    Combine,
    Heads,
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
from test_models_trunk import shaken, some

torch.set_num_threads(1)
LORA = Lora(rank=2)
TWO = ("concise", "helpful")


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


def outputs(seed: int, heads: int, rows: int = 50) -> Tensor:
    """What the heads said of the reference's responses: different means, different spreads."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, heads, generator=g) * torch.linspace(0.5, 3, heads) + torch.linspace(-2, 4, heads)


def made(base: str, criteria: tuple[str, ...] = ("",), members: int = 1, combine: Combine | None = None, lora: Lora | None = None):
    """A reward model, shaken and normalised."""
    torch.manual_seed(1)
    heads = Heads(criteria, members, combine)
    model = shaken(ScalarModel.from_causal(load_causal(ModelSettings(path=base, lora=lora)), "normal", heads=heads))
    model.normalise(outputs(2, heads.count))
    return model.freeze()


def by_hand(raw: list[float], reference: list[list[float]], members: int, rule: str, k: float, weights: list[float]) -> float:
    """The unnormalised score of one response by plain arithmetic, from the heads' outputs."""

    def moments(values: list[float]) -> tuple[float, float]:
        mean = sum(values) / len(values)
        return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))

    def combined(z: list[float]) -> float:
        mean, std = moments(z)
        return {"mean": mean, "minimum": min(z), "mean_minus_std": mean - k * std}[rule]

    scale = [moments([row[h] for row in reference]) for h in range(len(raw))]

    def criteria(row: list[float]) -> list[float]:
        z = [(x - m) / s for x, (m, s) in zip(row, scale, strict=True)]
        return [combined(z[c * members : (c + 1) * members]) for c in range(len(weights))]

    each = [criteria(row) for row in reference]
    total = 0.0
    for c, weight in enumerate(weights):
        mean, std = moments([row[c] for row in each])
        total += weight * (criteria(raw)[c] - mean) / std
    return total


@torch.no_grad()
@pytest.mark.parametrize("rule", ["mean", "minimum", "mean_minus_std"])
@pytest.mark.parametrize(("criteria", "weights"), [(("",), [1.0]), (TWO, [0.5, -2.0])])
def test_the_score_is_the_rule_and_the_weighted_sum_normalised(base, rule, criteria, weights):
    members = 3
    named = dict(zip(criteria, weights, strict=True)) if len(criteria) > 1 else {}
    model = made(base, criteria, members, Combine(rule=rule, k=0.7, weights=named))
    reference = outputs(2, model.heads.count).double().tolist()
    totals = torch.tensor([by_hand(row, reference, members, rule, 0.7, weights) for row in reference])
    wanted = []
    for row in outputs(3, model.heads.count, 5).double().tolist():
        wanted.append((by_hand(row, reference, members, rule, 0.7, weights) - float(totals.mean())) / float(totals.std(correction=0)))
    scores = model.heads.normalised(outputs(3, model.heads.count, 5))
    torch.testing.assert_close(model.combined(scores), torch.tensor(wanted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["mean", "minimum", "mean_minus_std"])
def test_heads_criteria_and_score_have_mean_0_and_deviation_1_on_the_reference(base, rule):
    model = made(base, TWO, 3, Combine(rule=rule))
    scores = model.heads.normalised(model.heads.reference)
    for each in (scores, model.by_criterion(scores), model.combined(scores)[:, None]):
        assert float(each.mean(0).abs().max()) < 1e-5 and float((each.std(0, correction=0) - 1).abs().max()) < 1e-5
    parts = model.heads.components(scores)
    assert list(parts) == ["reward_spread", "reward.concise", "reward.helpful"]
    torch.testing.assert_close(parts["reward.helpful"], model.by_criterion(scores)[:, 1])
    torch.testing.assert_close(parts["reward_spread"], scores.unflatten(1, (2, 3)).std(-1, correction=0).mean(1))


@torch.no_grad()
def test_units_lead_back_to_what_the_heads_were_trained_in(base):
    """Of heads with one deviation, a difference of scores times the unit is the mean difference of the outputs."""
    model = made(base, TWO, 3)
    alike = model.heads.normalised(outputs(2, 6)) * torch.tensor([2.0, 2, 2, 0.5, 0.5, 0.5]) + torch.arange(6)
    model.normalise(alike)
    scores = model.by_criterion(model.heads.normalised(alike))
    found = (scores[1:] - scores[:-1]) * model.units()
    torch.testing.assert_close(found, (alike[1:] - alike[:-1]).unflatten(1, (2, 3)).mean(-1), rtol=1e-4, atol=1e-4)
    single = made(base)
    raw = single.heads.normalised(outputs(2, 1))
    gap = (single.by_criterion(raw)[1:] - single.by_criterion(raw)[:-1]) * single.units()
    torch.testing.assert_close(gap, raw[1:] - raw[:-1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_head_starts_from_its_own_draw():
    torch.manual_seed(0)
    wide = new_model(NewModel(hidden=512, layers=1, heads=2, vocabulary=360), new_tokenizer(["some text"] * 9, 360))
    weight = ScalarModel.from_causal(wide, "normal", heads=Heads(members=4)).head.weight
    assert weight.shape == (4, 512)
    for head in weight:
        assert float(head.std()) == pytest.approx(513**-0.5, rel=0.1)
    assert float(torch.corrcoef(weight).sub(torch.eye(4)).abs().max()) < 0.2


@torch.no_grad()
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize(("criteria", "members"), [(("",), 3), (TWO, 1), (TWO, 2), (("helpful",), 1)])
def test_saved_and_loaded_it_is_the_same_and_transformers_reads_its_logits(base, tmp_path, criteria, members, lora):
    combine = Combine(rule="mean_minus_std" if members > 1 else "mean", weights={"concise": 1.0, "helpful": 3.0} if criteria == TWO else {})
    model, sequences = made(base, criteria, members, combine, lora), some()
    model.save(tmp_path / "rm", load_tokenizer(ModelSettings(path=base)))
    loaded = ScalarModel.load(ModelSettings(path=str(tmp_path / "rm")))
    assert loaded.heads.criteria == criteria and loaded.heads.members == members and loaded.heads.combine == combine
    torch.testing.assert_close(loaded.head_scores(sequences), model.head_scores(sequences), atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.score(sequences), model.score(sequences), atol=1e-5, rtol=0)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert plain.config.num_labels == model.heads.count
    for row, length in enumerate(sequences.lengths.tolist()):
        logits = plain(input_ids=sequences.ids[row : row + 1, :length]).logits[0]
        raw = model.head_scores(sequences[row : row + 1])[0] * model.heads.std + model.heads.mean
        torch.testing.assert_close(logits, raw, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_head_is_kept_as_ever(base, tmp_path):
    model = made(base)
    model.save(tmp_path / "rm", load_tokenizer(ModelSettings(path=base)))
    kept = json.loads((tmp_path / "rm/config.json").read_text())["handrail"]
    assert kept == {"mean": model.mean, "std": model.std}
    assert [p.name for p in (tmp_path / "rm").glob("*.safetensors")] == ["model.safetensors"]
    raw = outputs(2, 1)
    assert (model.mean, model.std) == (float(raw.mean()), float(raw.std(correction=0)))


@torch.no_grad()
@pytest.mark.parametrize("rule", ["mean", "minimum"])
@pytest.mark.parametrize(("criteria", "members"), [(("",), 3), (TWO, 2)])
def test_a_critic_has_one_head_that_starts_as_the_mean(base, tmp_path, criteria, members, rule):
    weights = {"concise": -1.0, "helpful": 3.0} if criteria == TWO else {}
    model, sequences = made(base, criteria, members, Combine(rule=rule, weights=weights)), some()
    critic = ScalarModel.from_scalar(model)
    mean = model.score(sequences) if rule == "mean" else made(base, criteria, members, Combine(weights=weights)).score(sequences)
    assert critic.head.weight.shape == (1, 32) and critic.heads.count == 1 and "score.weight" in critic.parameters()
    torch.testing.assert_close(critic.values(sequences)[1], mean, atol=1e-5, rtol=1e-5)
    assert rule == "mean" or not torch.allclose(model.score(sequences), mean, atol=1e-2)
    critic.save(tmp_path / "critic", load_tokenizer(ModelSettings(path=base)))
    torch.testing.assert_close(ScalarModel.load(ModelSettings(path=str(tmp_path / "critic"))).score(sequences), mean, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_on_one_trunk_it_scores_as_by_itself(base, tmp_path, shared):
    model, sequences = made(base, TWO, 2, Combine(rule="minimum"), LORA), some()
    model.save(tmp_path / "rm", load_tokenizer(ModelSettings(path=base)))
    trunk = OneTrunk.load(ModelSettings(path=base, lora=LORA), str(tmp_path / "rm"), shared)
    torch.testing.assert_close(trunk.reward.score(sequences), model.score(sequences), atol=1e-4, rtol=0)
    torch.testing.assert_close(trunk.reward.head_scores(sequences), model.head_scores(sequences), atol=1e-4, rtol=0)
    assert trunk.critic.head.weight.shape == (1, 32)
    other = Combine(weights={"concise": 0.0, "helpful": 1.0})
    trunk = OneTrunk.load(ModelSettings(path=base, lora=LORA), str(tmp_path / "rm"), shared, combine=other)
    model.combine_by(other)
    torch.testing.assert_close(trunk.reward.score(sequences), model.score(sequences), atol=1e-4, rtol=0)
    if not shared:
        torch.testing.assert_close(trunk.critic.values(sequences)[1], model.score(sequences), atol=1e-4, rtol=0)
        shaken(trunk.critic)
        assert not torch.allclose(trunk.critic.score(sequences), model.score(sequences), atol=1e-2)


@torch.no_grad()
def test_another_way_to_combine_gives_what_training_with_it_would(base):
    given = Combine(rule="mean_minus_std", k=2.0, weights={"concise": 1.0, "helpful": 0.1})
    model, other, sequences = made(base, TWO, 3), made(base, TWO, 3, given), some()
    assert not torch.allclose(model.score(sequences), other.score(sequences), atol=1e-2)
    assert torch.equal(model.combine_by(given).score(sequences), other.score(sequences))


@pytest.mark.parametrize(
    ("criteria", "members", "combine", "said"),
    [
        (("",), 1, {"rule": "minimum"}, "no ensemble"),
        (TWO, 1, {"rule": "mean_minus_std"}, "no ensemble"),
        (("",), 2, {"weights": {"helpful": 1.0}}, "none: the reward model has one criterion"),
        (TWO, 1, {"weights": {"helpful": 1.0}}, "one for each criterion: concise, helpful"),
        (TWO, 1, {"weights": {"helpful": 1.0, "concise": 1.0, "kind": 1.0}}, "one for each criterion"),
        (TWO, 1, {"weights": {"helpful": 0.0, "concise": 0.0}}, "all of them are 0"),
    ],
)
def test_a_combination_that_does_not_fit_is_refused(base, criteria, members, combine, said):
    with pytest.raises(ConfigError, match=said):
        made(base, criteria, members).combine_by(Combine(**combine))


def test_a_classifier_of_several_outputs_that_is_none_of_ours_is_refused(base, tmp_path):
    model = made(base, TWO, 2)
    model.save(tmp_path / "rm", load_tokenizer(ModelSettings(path=base)))
    (tmp_path / "rm/reference.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        ScalarModel.load(ModelSettings(path=str(tmp_path / "rm")))
    config = json.loads((tmp_path / "rm/config.json").read_text())
    del config["handrail"]
    (tmp_path / "rm/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="with 4 outputs"):
        ScalarModel.load(ModelSettings(path=str(tmp_path / "rm")))
