"""Best of n and weighted regression as they are run: who samples when, what is imitated, and that nothing is lost."""

import math
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from handrail.batch import Rollout
from handrail.errors import NonFiniteError
from handrail.inspector.folders import read_round, read_trace
from handrail.inspector.report import render
from handrail.models import LanguageModel, ModelSettings
from handrail.pipeline import Round, stage_settings
from handrail.recipes import best_of_n
from handrail.recipes.best_of_n_parts import BestOfN, Judged, Parts
from handrail.recipes.parts import Optimizer
from killing import assert_same_run
from recipe_runs import World, in_child, make_world, metrics

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def vowels(tmp_path_factory) -> dict:
    """A reward that a tiny model can raise in a few steps: the share of its characters that are an e."""
    file = tmp_path_factory.mktemp("reward") / "rewards.py"
    file.write_text("def score(prompts, responses):\n    return [10 * r.count('e') / max(1, len(r)) for r in responses]\n")
    return {"model": "", "function": f"{file}:score", "end_penalty": 0.0}


def weights(model: LanguageModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys() and a
    return all(torch.equal(a[name], b[name]) for name in a)


def watched(monkeypatch, cfg: BestOfN) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]], Parts]:
    """The policy's and the sampler's weights at the moment in which each step samples, and the parts afterwards."""
    policies, samplers, kept = [], [], []
    act = best_of_n.act

    def noting(cfg, parts, step):
        policies.append(weights(parts.policy))
        samplers.append(weights(parts.sampler.model))
        kept.append(parts)
        return act(cfg, parts, step)

    monkeypatch.setattr(best_of_n, "act", noting)
    best_of_n.run(cfg)
    return policies, samplers, kept[-1]


# --- it learns ---


@pytest.mark.parametrize(
    "over",
    [
        {"weighting": "best", "rounds": 1},
        {"weighting": "best", "rounds": 4},
        {"weighting": "best", "rounds": 12},
        {"weighting": "reward", "beta": 0.3, "rounds": 12},
        {"weighting": "advantage", "beta": 0.3, "rounds": 12},
    ],
    ids=lambda over: f"{over['weighting']}-{over['rounds']}",
)
def test_it_raises_a_simple_reward(world, tmp_path, vowels, over):
    sizes = {"steps": 12, "n": 8, "batch_size": 8, "lr": 1e-2, "eval_every": 11, "eval_responses": 128, "run": {"trace_every": 0}}
    lines = metrics(best_of_n.run(world.best_of_n(tmp_path / "best", {"reward": vowels} | sizes | over)))
    assert lines[-1]["reward"] > lines[0]["reward"] + 0.3
    assert lines[-1]["kl"] > 0.05 and abs(lines[0]["kl"]) < 1e-5
    assert all(line["best_reward"] > line["sampled_reward"] and line["target_reward"] > line["sampled_reward"] for line in lines)


# --- who samples ---


@pytest.mark.parametrize("policy", [{}, {"lora": LORA}])
def test_a_round_samples_from_the_policy_that_it_began_with(world, tmp_path, monkeypatch, policy):
    policies, samplers, _ = watched(monkeypatch, world.best_of_n(tmp_path / "best", {"rounds": 2, "steps": 6, "policy": policy}))
    assert [same(sampler, policies[0]) for sampler in samplers] == [True] * 3 + [False] * 3
    assert [same(sampler, policies[3]) for sampler in samplers] == [False] * 3 + [True] * 3
    assert not same(policies[0], policies[1]) and not same(policies[3], policies[4])


@pytest.mark.parametrize("policy", [{}, {"lora": LORA}])
def test_in_the_only_round_the_start_samples(world, tmp_path, monkeypatch, policy):
    cfg = world.best_of_n(tmp_path / "best", {"rounds": 1, "steps": 3, "policy": policy})
    policies, samplers, parts = watched(monkeypatch, cfg)
    assert parts.sampler.model is parts.reference
    start = LanguageModel.load(cfg.policy.model_copy(update={"lora": None}))
    assert all(same(sampler, weights(start)) for sampler in samplers) and not same(policies[0], policies[2])


def test_with_as_many_rounds_as_steps_the_policy_samples_itself_and_every_step_is_seen(world, tmp_path, monkeypatch):
    cfg = world.best_of_n(tmp_path / "best", {"rounds": 4, "steps": 4})
    _, _, parts = watched(monkeypatch, cfg)
    assert parts.sampler.model is parts.policy
    lines = metrics(Path(cfg.out))
    assert all(line["reward"] == line["sampled_reward"] and line["length"] == line["sampled_length"] for line in lines)
    assert all(line["engine_difference"] < 1e-5 for line in lines) and abs(lines[0]["kl"]) < 1e-5
    assert [line["round"] for line in lines] == [0, 1, 2, 3]


def test_where_another_samples_the_policy_is_looked_at_now_and_then_and_at_the_end(world, tmp_path):
    lines = metrics(best_of_n.run(world.best_of_n(tmp_path / "best", {"eval_every": 3})))
    assert [step for step, line in enumerate(lines) if "reward" in line] == [0, 3, 5]
    assert all({"sampled_reward", "best_reward", "target_reward", "loss", "kl_bound"} <= line.keys() for line in lines)
    assert abs(lines[0]["kl"]) < 1e-5 and lines[0]["engine_difference"] < 1e-5
    bounds = [math.log(3) - 2 / 3] * 3 + [math.log(9) - 8 / 9] * 3  # the best of 3, then of 9
    assert [line["kl_bound"] for line in lines] == pytest.approx(bounds)


def test_looking_more_often_changes_nothing_that_is_learned(world, tmp_path):
    runs = [best_of_n.run(world.best_of_n(tmp_path / f"{n}", {"eval_every": n})) for n in (1, 5)]
    models = [weights(LanguageModel.load(ModelSettings(path=str(run.folder)))) for run in runs]
    assert same(*models)


# --- what is imitated ---


def one_step(world: World, out: Path, over: dict | None = None) -> tuple[BestOfN, Parts, Judged, Tensor]:
    cfg = world.best_of_n(out, over)
    parts, _ = best_of_n.build(cfg)
    parts.eval()
    sampled = best_of_n.act(cfg, parts, 0)
    return cfg, parts, sampled, parts.weighting(sampled.score, parts.group)


def test_responses_to_one_prompt_stand_together_and_differ(world, tmp_path):
    _, parts, sampled, _ = one_step(world, tmp_path / "best")
    assert len(sampled.score) == 12 and parts.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for start in range(0, 12, 3):
        assert len({p.text for p in sampled.prompts[start : start + 3]}) == 1
        assert len({tuple(r) for r in sampled.rollout.responses()[start : start + 3]}) == 3
    assert len({p.text for p in sampled.prompts}) == 4


def by_hand(weighting: str, score: list[float]) -> list[float]:
    """Weights of four prompts' three responses each, with beta 0.5 and no weight above 2."""
    found = []
    for start in range(0, 12, 3):
        three = score[start : start + 3]
        mean = sum(three) / 3
        found += {
            "best": [float(r == max(three)) for r in three],
            "reward": [math.exp(r / 0.5) for r in three],
            "advantage": [min(math.exp((r - mean) / 0.5), 2.0) for r in three],
        }[weighting]
    return found


@pytest.mark.parametrize("weighting", ["best", "reward", "advantage"])
def test_the_loss_of_a_step_is_the_weighted_mean_over_tokens(world, tmp_path, weighting):
    """Against a model read one row at a time, and weights written out."""
    over = {"steps": 1, "rounds": 1, "epochs": 1, "minibatches": 1, "sampling": {"temperature": 0.7}}
    over |= {"weighting": weighting, "beta": 0.5, "max_weight": 2.0}
    cfg, parts, sampled, _ = one_step(world, tmp_path / "best", over)
    weight = by_hand(weighting, sampled.score.tolist())
    total, tokens, rollout = 0.0, 0.0, sampled.rollout
    for row, (start, stop) in enumerate(zip(rollout.prompt_lengths.tolist(), rollout.lengths.tolist(), strict=True)):
        ids = rollout.ids[row : row + 1, :stop]
        with torch.no_grad():
            law = (parts.policy.hf(input_ids=ids).logits[0].double() / 0.7).log_softmax(-1)
        total -= weight[row] * sum(float(law[t - 1, ids[0, t]]) for t in range(start, stop))
        tokens += weight[row] * (stop - start)
    (line,) = metrics(best_of_n.run(cfg))
    assert line["loss"] == pytest.approx(total / tokens, rel=1e-5) and line["updates"] == 1
    aimed_at = sum(w * r for w, r in zip(weight, sampled.score.tolist(), strict=True)) / sum(weight)
    assert line["target_reward"] == pytest.approx(aimed_at, rel=1e-5)
    assert line["effective_share"] == pytest.approx(sum(weight) ** 2 / sum(w * w for w in weight) / 12, rel=1e-5)


@pytest.mark.parametrize("weighting", ["best", "reward", "advantage"])
def test_minibatches_share_the_gradient_of_the_whole_by_their_weights(world, tmp_path, weighting):
    """The mean of the minibatches' gradients is the gradient of all, however the weights fall."""
    found = []
    for minibatches in (1, 3):
        over = {"minibatches": minibatches, "epochs": 1, "weighting": weighting, "beta": 0.5}
        cfg, parts, sampled, weight = one_step(world, tmp_path / f"{minibatches}", over)
        total: dict[str, Tensor] = {}
        with pytest.MonkeyPatch.context() as patch:

            def keep(self, share, total=total):
                for name, p in self._named():
                    total[name] = total.get(name, 0) + p.grad.clone()
                self.clear()

            patch.setattr(Optimizer, "step", keep)
            patch.setattr(Optimizer, "clip", lambda self: {})
            stats = best_of_n.improve(cfg, parts, sampled.rollout, weight, 0, best_of_n.Guard(3))
        assert stats["updates"] == minibatches
        found.append((stats["loss"], {name: g / minibatches for name, g in total.items()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, g in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], g, atol=1e-5, rtol=1e-4)


def test_each_imitated_response_is_used_once_an_epoch_and_every_epoch_has_its_own_order(world, tmp_path):
    cfg = world.best_of_n(tmp_path / "best", {"epochs": 3, "minibatches": 2})
    used = [index.tolist() for index in best_of_n.minibatches(cfg, 7, 0)]
    assert [len(index) for index in used] == [4, 3] * 3
    epochs = [used[i] + used[i + 1] for i in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_responses_without_a_weight_leave_no_trace_in_the_gradient(world, tmp_path):
    cfg, parts, sampled, weight = one_step(world, tmp_path / "best", {"epochs": 1, "minibatches": 1})
    rollout, lost = sampled.rollout, weight == 0
    spoilt = rollout.ids.clone()
    spoilt[lost] = 5  # whatever they say
    other = Rollout(spoilt, rollout.prompt_lengths, rollout.lengths, rollout.ended, rollout.logp)
    losses = [best_of_n.improve(cfg, parts, r, weight, 0, best_of_n.Guard(3))["loss"] for r in (rollout,)]
    parts.policy.load_state(weights(parts.reference))
    losses += [best_of_n.improve(cfg, parts, r, weight, 0, best_of_n.Guard(3))["loss"] for r in (other,)]
    assert int(lost.sum()) == 8 and losses[0] == losses[1]


def test_a_cut_response_pays_and_a_monitor_only_watches(world, tmp_path):
    over = {"reward": {"end_penalty": 50.0, "monitor": "handrail.tasks.movie_night:gold_parts"}, "steps": 2, "rounds": 2}
    _, _, sampled, _ = one_step(world, tmp_path / "first", over)
    torch.testing.assert_close(sampled.score, sampled.components["reward_model"] - 50.0 * (~sampled.rollout.ended).float())
    assert not sampled.rollout.ended.all()
    lines = metrics(best_of_n.run(world.best_of_n(tmp_path / "best", over)))
    assert all("gold" in line and any(name.startswith("gold.") for name in line) for line in lines)
    without = {"reward": {"end_penalty": 50.0}, "steps": 2, "rounds": 2}
    best_of_n.run(world.best_of_n(tmp_path / "unwatched", without))
    models = [weights(LanguageModel.load(ModelSettings(path=str(tmp_path / name)))) for name in ("best", "unwatched")]
    assert same(*models)


# --- nothing is lost ---


@pytest.mark.parametrize(
    "step, save_every, saved",
    [
        (2, 3, None),  # before the first checkpoint
        (3, 3, 3),  # at the boundary: the checkpoint is the end of a round, what follows begins the next
        (4, 2, 4),  # within the second round, whose sampler is neither the start nor the policy
        (2, 2, 2),  # within the first, whose sampler is the start
    ],
)
def test_killed_around_the_boundary_of_a_round_it_ends_the_same(world, tmp_path, step, save_every, saved):
    over = {"rounds": 2, "run": {"save_every": save_every}}
    whole, out = tmp_path / "whole", tmp_path / "killed"
    best_of_n.run(world.best_of_n(whole, over))
    work = world.work("best_of_n", out, over)
    assert in_child(work, f"best_of_n:{step}") == -signal.SIGKILL
    assert in_child(work) == 0
    assert_same_run(out, whole)
    said = (out / "log.txt").read_text()
    assert f"restored step-{saved:08d}" in said if saved else "restored" not in said


def test_a_checkpoint_holds_the_samplers_weights_only_where_nothing_else_does(world, tmp_path):
    cfg = world.best_of_n(tmp_path / "best", {"rounds": 2})
    parts, _ = best_of_n.build(cfg)
    holds = [bool(parts.sampler.state(step)) for step in range(1, 7)]
    assert holds == [False, False, False, True, True, False]


def test_a_reward_that_is_infinite_makes_no_update(world, tmp_path, monkeypatch):
    taken, original = [], Optimizer.step
    monkeypatch.setattr(Optimizer, "step", lambda self, share: (taken.append(1), original(self, share)))
    act = best_of_n.act

    def spoilt(cfg, parts, step):
        sampled = act(cfg, parts, step)
        sampled.score[3] = float("inf")
        return sampled

    monkeypatch.setattr(best_of_n, "act", spoilt)
    with pytest.raises(NonFiniteError, match="3 such steps in a row"):
        best_of_n.run(world.best_of_n(tmp_path / "best"))
    assert not taken and len(list((tmp_path / "best/bad-batches").glob("*.safetensors"))) == 3


# --- what a reader sees ---


def test_the_report_shows_its_curves_and_a_response_with_both_probabilities(world, tmp_path):
    run = best_of_n.run(world.best_of_n(tmp_path / "anything", {"reward": {"monitor": "handrail.tasks.movie_night:gold_parts"}}))
    found = read_round(run.folder)
    (kept,) = found.last.runs
    assert kept.kind == "best_of_n" and len(kept.traces) == 6
    page = render(found)
    for caption in (
        "Best of n",
        "KL to the reference",
        "target reward",
        "kl bound",
        "log p",
        "Effective share",
        "imitated with weight",
    ):
        assert caption in page, caption
    assert "Coloured by advantage" not in page
    rows = read_trace(kept.traces[3])  # the first step of the second round: the policy is the one that sampled
    assert len(rows) == 4 and [row["weight"] for row in rows[:3]].count(1.0) == 1
    best = max(rows[:3], key=lambda row: row["score"])
    assert best["weight"] == 1.0
    for row in rows:
        assert row["logp"] == pytest.approx(row["logp_old"], abs=1e-5)
        assert row["kl"] == pytest.approx([a - b for a, b in zip(row["logp_old"], row["logp_ref"], strict=True)], abs=1e-6)
    later = read_trace(kept.traces[5])
    assert any(abs(a - b) > 1e-3 for row in later for a, b in zip(row["logp"], row["logp_old"], strict=True))


@pytest.mark.parametrize(
    "over, said",
    [
        ({"steps": 7, "rounds": 2}, "steps 7 does not divide by rounds 2"),
        ({"n": 1}, "n 1 leaves weighting best nothing to compare"),
        ({"minibatches": 5}, "minibatches 5 are more than the 4 prompts"),
        ({"sampling": {"top_p": 0.9}}, "samples the full distribution"),
        ({"reward": {"cut": "bootstrap"}}, "needs a critic"),
        ({"beta": 0.0}, "greater than 0"),
        ({"max_weight": 0.5}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_say_so(world, tmp_path, over, said):
    with pytest.raises(ValidationError, match=said):
        world.best_of_n(tmp_path / "best", over)


def test_of_a_rounds_file_the_verb_takes_its_section_and_what_follows_from_the_round():
    whole = {"task": {"name": "movie-night"}, "labels": "simulated", "seed": 3, "best_of_n": {"n": 16, "rounds": 5}}
    first = stage_settings(Round.model_validate(whole), Path("runs/whole"), "best_of_n")[0]
    cfg, ppo = first["best_of_n"], first["ppo"]
    assert isinstance(cfg, BestOfN) and (cfg.n, cfg.rounds, cfg.seed) == (16, 5, 3)
    assert cfg.out == "runs/whole/round-1/best_of_n"
    assert (cfg.policy, cfg.prompts, cfg.reward, cfg.sampling) == (ppo.policy, ppo.prompts, ppo.reward, ppo.sampling)


def test_reward_weighting_needs_no_second_response(world, tmp_path):
    over = {"weighting": "reward", "n": 1, "steps": 1, "rounds": 1, "batch_size": 8}
    (line,) = metrics(best_of_n.run(world.best_of_n(tmp_path / "best", over)))
    assert line["target_reward"] > line["sampled_reward"] and "kl_bound" not in line
