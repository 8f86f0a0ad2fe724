"""Direct preference learning as it is run: labels, the reference, the loop, and what each loss learns from."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from typer.testing import CliRunner

from handrail.batch import Sequences
from handrail.cli import app
from handrail.cli.results import learnt
from handrail.config import dump
from handrail.data import write_records
from handrail.errors import ConfigError, NonFiniteError
from handrail.inspector import write_report
from handrail.models import LanguageModel, ScalarModel
from handrail.pipeline.settings import of_round
from handrail.recipes import dpo
from handrail.recipes.dpo_exam import by_prompt
from handrail.recipes.dpo_sources import best_against_worst, bradley_terry, every_pair, of_ranking, strangers
from handrail.recipes.parts import Optimizer
from handrail.records import Prompt, Ranking, Rating
from killing import assert_same_run
from recipe_runs import World, in_child, make_world, metrics

LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def counts_e(tmp_path_factory) -> str:
    """A reward of one's own: how many times the letter e stands in the response."""
    file = tmp_path_factory.mktemp("reward") / "rewards.py"
    file.write_text("def score(prompts, responses):\n    return [float(r.count('e')) for r in responses]\n")
    return f"{file}:score"


@pytest.fixture(scope="module")
def ratings(world) -> Path:
    """Each response of the rankings by itself: 1 for the first, less for the others; two labellers for some."""
    rows = [json.loads(line) for line in (world.folder / "rankings.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [
        Rating(prompt=Prompt.model_validate(row["prompt"]), response=text, score=2.0 - place)
        for row in rows
        for text, place in zip(row["responses"], row["places"], strict=True)
    ]
    path = world.folder / "ratings.jsonl"
    write_records(path, records)
    return path


def disturb(parts: dpo.Parts, scale: float = 0.05) -> None:
    """Move the policy away from the reference."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parts.policy.parameters().values():
            parameter += scale * torch.randn(parameter.shape)


def prepared(cfg: dpo.DPO) -> dpo.Parts:
    parts, _ = dpo.build(cfg)
    parts.source.prepare()
    parts.exam.prepare()
    return parts


def alone(model: LanguageModel, ids: list[int], start: int) -> float:
    """log pi of what follows `start`, by the plain model on one sequence."""
    with torch.no_grad():
        law = model.hf(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(law[t - 1, ids[t]]) for t in range(start, len(ids)))


# --- labels ---


def test_pairs_of_scores_are_counted_once_and_ties_half_each_way():
    wins = every_pair(torch.tensor([[3.0, 1.0, 3.0], [0.0, 5.0, -1.0]]))
    third = 1 / 3
    expected = [[[0, third, third / 2], [0, 0, 0], [third / 2, third, 0]], [[0, 0, third], [third, 0, third], [0, 0, 0]]]
    torch.testing.assert_close(wins, torch.tensor(expected))


def test_the_best_against_the_worst_and_equal_scores_half_each_way():
    wins = best_against_worst(torch.tensor([[3.0, 1.0, 7.0], [2.0, 2.0, 2.0]]))
    assert wins[0].nonzero().tolist() == [[2, 1]] and wins[0, 2, 1] == 1
    assert float(wins[1].sum()) == 1 and sorted(wins[1].flatten().tolist())[-2:] == [0.5, 0.5]


def test_bradley_terry_labels_are_what_people_with_that_reward_would_say():
    wins = bradley_terry(torch.tensor([[1.0, -0.5]]))
    torch.testing.assert_close(wins[0], torch.tensor([[0, 1 / (1 + math.exp(-1.5))], [1 / (1 + math.exp(1.5)), 0]]))
    assert float(bradley_terry(torch.randn(1, 5)).sum()) == pytest.approx(1)


def test_a_ranking_becomes_its_pairs_with_its_weight(world):
    parts, _ = dpo.build(world.dpo(world.folder / "unused"))
    ranking = Ranking(prompt=Prompt.of("A film?"), responses=("one", "two", "three"), places=(2, 1, 2), weight=0.5)
    item = of_ranking(parts.codec, ranking)
    torch.testing.assert_close(item.labels.wins[0] * 3 / 0.5, torch.tensor([[0, 0, 0.5], [1, 0, 1], [0.5, 0, 0]]))
    torch.testing.assert_close(item.labels.desirable[0] * 6, torch.tensor([0.5, 2.0, 0.5]))
    torch.testing.assert_close(item.labels.undesirable[0] * 6, torch.tensor([1.5, 0.0, 1.5]))
    assert [parts.codec.decode(response) for _, response in item.rows] == ["one", "two", "three"]


def test_strangers_are_responses_to_other_prompts_that_fit(world):
    parts = prepared(world.dpo(world.folder / "unused", {"loss": {"name": "kto"}}))
    items = parts.source.items
    own = {item.prompt.text: [response for _, response in item.rows] for item in items}
    found = strangers(items, parts.policy.context)
    assert len(found) == len(items) == len(parts.source.others)
    for item, (prompt_ids, response) in zip(items, found, strict=True):
        assert prompt_ids == item.rows[0][0] and response not in own[item.prompt.text]
    narrow = sorted(len(p) + len(r) for p, r in found)[len(found) // 2]
    tight = strangers(items, narrow)
    assert tight != found
    for item, (prompt_ids, response) in zip(items, tight, strict=True):
        assert len(prompt_ids) + len(response) <= narrow or response == item.rows[0][1]


def test_ratings_of_one_prompt_become_a_ranking_by_their_mean():
    prompt, other = Prompt.of("a"), Prompt.of("b")
    given = [(prompt, "x", 1.0), (prompt, "y", 4.0), (prompt, "x", 5.0), (prompt, "z", 4.0), (other, "x", 1.0)]
    (ranking,) = by_prompt([Rating(prompt=p, response=r, score=s) for p, r, s in given])
    assert dict(zip(ranking.responses, ranking.places, strict=True)) == {"x": 2, "y": 1, "z": 1}


# --- the reference ---


def test_what_the_reference_said_once_is_what_it_would_say_again(world):
    cfg = world.dpo(world.folder / "unused", {"loss": {"name": "kto"}})
    parts = prepared(cfg)
    start = LanguageModel.load(cfg.policy).freeze()
    assert parts.source.reference is None and parts.exam.reference is None, "it is let go"
    disturb(parts)
    for step in range(3):
        drawn = parts.source.draw(step)
        batch = drawn.batch
        torch.testing.assert_close(batch.logp_ref, start.logp(batch.sequences), atol=2e-5, rtol=0)
        rows = [batch.sequences.ids[m, : batch.sequences.lengths[m]].tolist() for m in range(len(batch.sequences))]
        prompts = batch.sequences.prompt_lengths.tolist()
        expected = [alone(start, ids, first) for ids, first in zip(rows, prompts, strict=True)]
        assert batch.logp_ref.sum(1).tolist() == pytest.approx(expected, abs=1e-3)
    sequences = parts.exam.batch.sequences
    torch.testing.assert_close(parts.exam.logp_ref, start.logp(sequences).sum(1), atol=1e-4, rtol=0)


def test_kto_measures_the_divergence_on_responses_to_other_prompts(world):
    cfg = world.dpo(world.folder / "unused", {"loss": {"name": "kto"}})
    parts = prepared(cfg)
    assert abs(float(parts.source.draw(0).kl)) < 1e-4
    disturb(parts)
    start = LanguageModel.load(cfg.policy).freeze()
    drawn = parts.source.draw(1)
    chosen = [i for i, item in enumerate(parts.source.items) if item.prompt in drawn.prompts]
    assert len(chosen) == len(drawn.prompts)
    rows = [parts.source.others[i] for i in chosen]
    ratio = [alone(parts.policy, p + r, len(p)) - alone(start, p + r, len(p)) for p, r in rows]
    assert abs(sum(ratio)) > 1
    assert float(drawn.kl) == pytest.approx(sum(ratio) / len(rows), abs=1e-3) == drawn.seen["kl_estimate"]


@pytest.mark.parametrize("name", LOSSES)
def test_only_losses_that_compare_with_a_reference_load_one(world, tmp_path, monkeypatch, name):
    loaded, load = [], LanguageModel.load.__func__
    monkeypatch.setattr(LanguageModel, "load", classmethod(lambda cls, settings: loaded.append(settings.path) or load(cls, settings)))
    dpo.build(world.dpo(tmp_path / "dpo", {"loss": {"name": name}}))
    assert len(loaded) == (1 if name in ("orpo", "simpo") else 2)


def test_with_adapters_the_reference_is_the_model_without_them(world, tmp_path):
    cfg = world.dpo(tmp_path / "dpo", {"policy": {"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.5}}, "epochs": 1})
    lines = metrics(dpo.run(cfg))
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-6) and lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[-1]["margin"] != 0, "and the adapters learn"


# --- the loop ---


def test_step_0_knows_nothing_and_the_training_pairs_are_learnt(world, tmp_path):
    run = dpo.run(world.dpo(tmp_path / "dpo", {"epochs": 16, "lr": 4e-3}))
    lines = metrics(run)
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-5) and lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert sum(line["accuracy"] for line in lines[-3:]) / 3 > 0.9 and lines[-1]["margin"] > 1
    assert all({"logp_chosen", "logp_rejected", "reward_chosen", "reward_rejected"} <= line.keys() for line in lines)
    assert lines[-1]["margin"] == pytest.approx(lines[-1]["reward_chosen"] - lines[-1]["reward_rejected"], abs=1e-4)
    tested = json.loads((run.folder / "summary.json").read_text())
    assert tested["accuracy"]["low"] <= tested["accuracy"]["value"] <= tested["accuracy"]["high"]
    assert tested["length_baseline"]["rule"] in ("longer", "shorter") and tested["accuracy"]["n"] == tested["length_baseline"]["n"]
    assert lines[1]["eval_accuracy"] >= 0 and "eval_accuracy" not in lines[0]
    assert lines[-1]["eval_accuracy"] == pytest.approx(tested["accuracy"]["value"])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_widens_the_margin_of_what_it_is_trained_on(world, tmp_path, name):
    run = dpo.run(world.dpo(tmp_path / "dpo", {"loss": {"name": name, "odds_weight": 2.0}, "epochs": 8}))
    lines = metrics(run)
    first, last = ([sum(line[key] for line in part) / len(part) for key in ("margin", "loss")] for part in (lines[:3], lines[-3:]))
    assert last[0] > first[0] + 0.05 and last[1] < first[1]


def test_the_logged_margin_is_that_of_the_models_read_one_row_at_a_time(world, tmp_path):
    cfg = world.dpo(tmp_path / "dpo", {"loss": {"beta": 0.25}})
    parts, start = prepared(cfg), LanguageModel.load(cfg.policy).freeze()
    disturb(parts)
    drawn = parts.source.draw(0)
    logged, _ = dpo.gradient(cfg, parts, drawn.batch, drawn.kl)
    sequences, total, margin, chosen = drawn.batch.sequences, 0.0, 0.0, 0.0
    rows = [(sequences.ids[m, : sequences.lengths[m]].tolist(), int(sequences.prompt_lengths[m])) for m in range(len(sequences))]
    logp = [alone(parts.policy, *row) for row in rows]
    reward = [0.25 * (a - alone(start, *row)) for a, row in zip(logp, rows, strict=True)]
    for n, i, j in drawn.batch.labels.wins.nonzero().tolist():
        weight, a, b = float(drawn.batch.labels.wins[n, i, j]), int(drawn.batch.index[n, i]), int(drawn.batch.index[n, j])
        total, margin, chosen = total + weight, margin + weight * (reward[a] - reward[b]), chosen + weight * logp[a]
    assert total == pytest.approx(len(drawn.prompts)) and abs(margin) > 0.1
    assert logged["margin"] == pytest.approx(margin / total, abs=1e-4)
    assert logged["logp_chosen"] == pytest.approx(chosen / total, abs=1e-3)


def test_dropout_is_off(world, tmp_path):
    cfg = world.dpo(tmp_path / "dpo", {"policy": {"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.5}}, "epochs": 1})
    parts, inputs = dpo.build(cfg)
    disturb(parts)  # a fresh adapter is zero, with dropout or without
    parts.policy.hf.train()
    with dpo.open_run(cfg.out, "dpo", cfg, cfg.run, inputs) as run:
        dpo.train(cfg, parts, run)
    batch = parts.source.draw(0).batch
    assert torch.equal(parts.reads(batch.sequences), parts.reads(batch.sequences))


def first_gradient(cfg: dpo.DPO, monkeypatch) -> dict[str, Tensor]:
    """Gradients at the first step that is taken from a policy which differs from the reference."""

    class Enough(Exception):
        pass

    found: dict[str, Tensor] = {}

    def step(self, share):
        found.update({name: p.grad.clone() for name, p in self._named() if p.grad is not None})
        raise Enough

    parts, inputs = dpo.build(cfg)
    disturb(parts, 0.02)
    with monkeypatch.context() as patch, dpo.open_run(cfg.out, "dpo", cfg, cfg.run, inputs) as run, pytest.raises(Enough):
        patch.setattr(Optimizer, "step", step)
        dpo.train(cfg, parts, run)
    return found


@pytest.mark.parametrize("source", ["offline", "online"])
@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_change_nothing(world, tmp_path, monkeypatch, counts_e, name, source):
    over = {"max_grad_norm": 1e9, "loss": {"name": name}} | (world.online(counts_e) if source == "online" else {})
    grads = [first_gradient(world.dpo(tmp_path / f"{n}", over | {"micro_tokens": n}), monkeypatch) for n in (40, 100_000)]
    assert grads[0].keys() == grads[1].keys() and grads[0]
    biggest = max(float(g.abs().max()) for g in grads[1].values())
    assert biggest > 1e-3
    for key in grads[0]:
        assert float((grads[0][key] - grads[1][key]).abs().max()) < 2e-5 * max(1.0, biggest), key


def test_a_trace_holds_what_the_loss_saw(world, tmp_path):
    cfg = world.dpo(tmp_path / "dpo", {"epochs": 1, "run": {"trace_rows": 6}})
    parts = prepared(cfg)
    disturb(parts)
    drawn = parts.source.draw(0)
    _, read = dpo.gradient(cfg, parts, drawn.batch, drawn.kl)
    rows = dpo.trace(cfg, parts, drawn, read)
    assert {len(column) for column in rows.values()} == {len(rows["group"])} and 4 <= len(rows["group"]) <= 6
    for row, length in enumerate(rows["length"]):
        tokens, logp, logp_ref, kl = (rows[name][row] for name in ("tokens", "logp", "logp_ref", "kl"))
        assert len(tokens) == len(logp) == len(logp_ref) == len(kl) == length and "".join(tokens).startswith(rows["response"][row][:10])
        assert rows["implicit_reward"][row] == pytest.approx(0.1 * sum(kl), abs=1e-4)
        start = int(drawn.batch.sequences.prompt_lengths[row])
        ids = drawn.batch.sequences.ids[row, : start + length].tolist()
        assert sum(logp) == pytest.approx(alone(parts.policy, ids, start), abs=1e-3), "the policy's own, not that of another row"
    count = len(rows["group"])
    assert rows["wins"] == drawn.batch.labels.desirable[drawn.batch.mask][:count].tolist()
    assert rows["prompt"][0] == drawn.prompts[0].text
    for group, place, beats in zip(rows["group"], rows["place"], rows["beats"], strict=True):
        assert beats == drawn.batch.labels.wins[group, place].tolist()
    bare = prepared(world.dpo(tmp_path / "simpo", {"loss": {"name": "simpo"}}))
    without = dpo.trace(cfg, bare, drawn, dpo.gradient(cfg, bare, drawn.batch, drawn.kl)[1])
    assert "kl" not in without and "logp_ref" not in without


# --- ratings ---


def test_kto_learns_from_ratings_by_themselves(world, ratings, tmp_path):
    over = {"data": {"path": str(ratings)}, "threshold": 0.5, "loss": {"name": "kto"}, "epochs": 8, "batch_size": 8}
    run = dpo.run(world.dpo(tmp_path / "dpo", over))
    lines = metrics(run)
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert lines[-1]["reward_chosen"] > lines[-1]["reward_rejected"] + 0.1
    tested = json.loads((run.folder / "summary.json").read_text())
    assert "desirable" in tested["data"] and tested["accuracy"]["n"] > 1


def test_scores_at_the_threshold_are_left_out_and_counted(world, ratings, tmp_path):
    cfg = world.dpo(tmp_path / "dpo", {"data": {"path": str(ratings)}, "threshold": 1.0, "loss": {"name": "kto"}})
    parts, _ = dpo.build(cfg)
    assert "0 desirable" in parts.described and "a score of 1" in parts.described
    assert all(float(item.labels.undesirable.sum()) == 1 for item in parts.source.items)
    lines = metrics(dpo.run(cfg))
    assert "logp_chosen" not in lines[0] and "logp_rejected" in lines[0], "no number stands for responses that are not there"


# --- online ---


@pytest.mark.parametrize("pairs", ["best_worst", "all", "bradley_terry"])
def test_online_raises_the_reward_of_a_function(world, tmp_path, counts_e, pairs):
    over = world.online(counts_e)
    over["online"] |= {"pairs": pairs, "responses": 4, "steps": 24, "sampling": {"max_new_tokens": 16}}
    lines = metrics(dpo.run(world.dpo(tmp_path / "dpo", over | {"batch_size": 12, "lr": 6e-3})))
    first, last = (sum(line["reward"] for line in part) / 4 for part in (lines[:4], lines[-4:]))
    assert last > first + 1
    assert abs(lines[0]["kl"]) < 1e-5 < lines[-1]["kl"] and lines[0]["engine_difference"] < 1e-5
    assert "reward_function" in lines[0] and "eval_accuracy" not in lines[-1]


def test_online_is_judged_by_a_reward_model_and_tested_on_other_rankings(world, tmp_path):
    run = dpo.run(world.dpo(tmp_path / "dpo", world.online() | {"test": {"path": str(world.folder / "rankings.jsonl")}}))
    lines = metrics(run)
    assert len(lines) == 6 and {"reward", "reward_model", "kl", "margin", "logp_chosen", "entropy"} <= lines[0].keys()
    tested = json.loads((run.folder / "summary.json").read_text())
    assert tested["test_rankings"] > 10 and tested["reward"] == lines[-1]["reward"]


def test_online_divergence_and_pairs_are_those_of_the_fresh_responses(world, tmp_path, counts_e):
    over = world.online(counts_e)
    over["online"] |= {"pairs": "best_worst", "sampling": {"max_new_tokens": 8, "temperature": 0.7}}
    cfg = world.dpo(tmp_path / "dpo", over)
    parts, start = prepared(cfg), LanguageModel.load(cfg.policy).freeze()
    disturb(parts)
    drawn = parts.source.draw(3)
    batch, score = drawn.batch, drawn.about["score"].view(-1, 3)
    rows = [(batch.sequences.ids[m, : batch.sequences.lengths[m]].tolist(), int(batch.sequences.prompt_lengths[m])) for m in range(15)]
    total = 0.0
    for ids, first in rows:
        with torch.no_grad():
            laws = [(m.hf(input_ids=torch.tensor([ids])).logits[0].double() / 0.7).log_softmax(-1) for m in (parts.policy, start)]
        total += sum(float(laws[0][t - 1, ids[t]] - laws[1][t - 1, ids[t]]) for t in range(first, len(ids)))
    assert drawn.seen["kl"] == pytest.approx(total / 15, abs=1e-3) and abs(total) > 1
    for n, i, j in batch.labels.wins.nonzero().tolist():
        assert score[n, i] == score[n].max() and score[n, j] == score[n].min()
    assert int(batch.mask.sum()) == 10, "the middle one of three is in no pair and is not trained on"


# --- killed and started again ---


@pytest.mark.parametrize("kind", ["kto", "online"])
@pytest.mark.parametrize("step", [1, 4])
def test_killed_and_started_again_it_ends_the_same(world, tmp_path, counts_e, kind, step):
    over = {"loss": {"name": "kto"}} if kind == "kto" else world.online(counts_e)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_child(world.work("dpo", whole, over)) == 0
    assert in_child(world.work("dpo", killed, over), f"dpo:{step}") == -signal.SIGKILL
    assert in_child(world.work("dpo", killed, over | {"micro_tokens": 300})) == 0
    assert_same_run(killed, whole)
    assert len((killed / "metrics.jsonl").read_text().splitlines()) == 6


def test_a_reward_that_is_nan_makes_no_update_and_three_in_a_row_end_the_run(world, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(ScalarModel, "judged", lambda self, sequences: (self.score(sequences) * float("nan"), {}))
    monkeypatch.setattr(Optimizer, "step", lambda self, share: taken.append(share))
    with pytest.raises(NonFiniteError, match="3 such steps in a row"):
        dpo.run(world.dpo(tmp_path / "dpo", world.online()))
    assert not taken and len(list((tmp_path / "dpo/bad-batches").glob("*.safetensors"))) == 3


# --- as a user meets it ---


def test_the_verb_says_what_came_of_it_and_the_report_shows_it(world, tmp_path):
    settings = world.dpo(tmp_path / "dpo", {"epochs": 1})
    (tmp_path / "dpo.yaml").write_text(dump(settings))
    told = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["--json", "dpo", str(tmp_path / "dpo.yaml"), "loss.name=ipo"])
    assert told.exit_code == 0, told.stderr
    result = json.loads(told.stdout)
    assert result["stage"] == "dpo" and result["summary"]["accuracy"]["n"] == result["summary"]["length_baseline"]["n"]
    said = learnt("dpo", tmp_path / "dpo")
    assert "ahead of the others" in said and "length alone would reach" in said
    page = write_report(tmp_path / "dpo", tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f"<figcaption>{caption}</figcaption>" in page for caption in ("Margin", "Accuracy", "Log-probability", "Implicit reward"))
    assert '<th class="n">log p ref</th>' in page and "logp rejected" in page


def test_of_a_whole_rounds_file_it_takes_what_the_round_would_give_it(tmp_path):
    settings = {"task": {"name": "movie-night"}, "labels": "simulated", "out": str(tmp_path / "round")}
    offline = of_round(settings, "dpo", tmp_path / "round.yaml", [])
    assert offline.policy.path == str(tmp_path / "round/round-1/sft")
    assert offline.data.path == str(tmp_path / "round/round-1/labels/rankings.jsonl") and offline.online is None
    online = of_round(settings | {"dpo": {"online": {"steps": 3}}}, "dpo", tmp_path / "round.yaml", [])
    assert online.data is None and online.online.reward.model == str(tmp_path / "round/round-1/reward")
    assert online.online.prompts.path == str(tmp_path / "round/round-1/data/prompts.jsonl") and online.online.steps == 3


# --- what cannot be used ---


@pytest.mark.parametrize(
    "over, said",
    [
        ({"data": None}, "exactly one of data and online; neither"),
        ({"threshold": 1.0}, "loss.name kto"),
        ({"loss": {"name": "ipo", "smoothing": 0.1}}, "no place in ipo"),
        ({"loss": {"smoothing": 0.5}}, "less than 0.5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(world, tmp_path, over, said):
    with pytest.raises(ValidationError, match=said):
        world.dpo(tmp_path / "dpo", over)


@pytest.mark.parametrize(
    "over, said",
    [
        ({"sampling": {"top_p": 0.9}}, "the policy's own law"),
        ({"reward": {"cut": "bootstrap"}}, "needs a critic"),
        ({"responses": 1}, "greater than or equal to 2"),
    ],
)
def test_online_settings_that_cannot_be_are_refused(world, tmp_path, over, said):
    online = world.online()
    for key, value in over.items():
        online["online"][key] = {**online["online"][key], **value} if isinstance(value, dict) else value
    with pytest.raises(ValidationError, match=said):
        world.dpo(tmp_path / "dpo", online)


def test_data_and_online_together_are_refused(world, tmp_path):
    with pytest.raises(ValidationError, match="both are given"):
        world.dpo(tmp_path / "dpo", {"online": world.online()["online"]})


def test_rankings_that_say_nothing_are_refused(world, tmp_path):
    rows = [json.loads(line) | {"weight": 0.0} for line in (world.folder / "rankings.jsonl").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "mute.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    over = {"data": {"path": str(tmp_path / "mute.jsonl")}, "test": {"path": str(world.folder / "rankings.jsonl")}}
    with pytest.raises(ConfigError, match="records to train on"):
        dpo.build(world.dpo(tmp_path / "dpo", over))


def test_sequences_of_a_reference_that_is_absent_are_zero(world, tmp_path):
    parts = prepared(world.dpo(tmp_path / "dpo", {"loss": {"name": "orpo"}}))
    batch = parts.source.draw(0).batch
    assert isinstance(batch.sequences, Sequences) and float(batch.logp_ref.abs().sum()) == 0
